//! The three lines to one client: messages that come in, and what waits to go out.

use super::wire::{Channel, Link, LinkReader, LinkWriter, Transport, WireError, frame};
use bytes::Bytes;
use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

/// Bytes that may wait to be written on all lines before nothing more is taken from the tail.
const WRITE_AHEAD: usize = 512 << 10;

/// A link that has just been accepted.
pub(super) struct Arrival {
    /// The link.
    pub(super) link: Link,
    /// Kept for as long as the link lives: the listener counts by it.
    pub(super) place: Arc<dyn Any + Send + Sync>,
}

/// What has happened on a line.
pub(super) enum LineEvent {
    /// A message came.
    Message(Channel, Vec<Bytes>),
    /// The connection has ended: closed by the client, or for this reason.
    Ended(Channel, Option<WireError>),
    /// There is room again for what had to wait.
    Drained,
}

struct Ends {
    reader: LinkReader,
    writer: LinkWriter,
    address: SocketAddr,
    _place: Arc<dyn Any + Send + Sync>,
}

/// The lines that are there at the moment.
#[derive(Default)]
pub(super) struct Lines {
    ends: [Option<Ends>; 3],
    transport: Option<Transport>,
    /// Which channels there have been.
    had: [bool; 3],
    /// Somebody waits for [`LineEvent::Drained`].
    thirsty: bool,
    /// Bytes handed to the sockets since the beginning.
    queued: u64,
}

fn index(channel: Channel) -> usize {
    match channel {
        Channel::Command => 0,
        Channel::Data => 1,
        Channel::Ttl => 2,
    }
}

impl Lines {
    /// Takes a link in; an earlier one of the same channel is dropped. Says whether there has ever been one.
    pub(super) fn connect(&mut self, arrival: Arrival, message_bytes: u64) -> bool {
        let Arrival { link, place } = arrival;
        let (slot, address) = (index(link.channel()), link.address());
        self.transport = Some(link.transport());
        let (mut reader, writer) = link.split();
        reader.set_message_bytes(message_bytes);
        self.ends[slot] = Some(Ends { reader, writer, address, _place: place });
        std::mem::replace(&mut self.had[slot], true)
    }

    /// Sets how many bytes a message may have from now on.
    pub(super) fn take_messages_of(&mut self, bytes: u64) {
        self.ends.iter_mut().flatten().for_each(|ends| ends.reader.set_message_bytes(bytes));
    }

    /// How the client's messages lie on the wire.
    pub(super) fn transport(&self) -> Transport {
        self.transport.unwrap_or(Transport::Tcp)
    }

    /// Whether there is a connection for this channel.
    pub(super) fn has(&self, channel: Channel) -> bool {
        self.ends[index(channel)].is_some()
    }

    /// Whether there is any connection at all.
    pub(super) fn any(&self) -> bool {
        self.ends.iter().any(Option::is_some)
    }

    /// Where the client is.
    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.ends.iter().flatten().map(|ends| ends.address).next()
    }

    /// Sends one message; nothing happens without a connection.
    pub(super) fn send(&mut self, channel: Channel, chunks: &[Bytes]) {
        let frames = frame(self.transport(), chunks);
        self.send_framed(channel, &frames);
    }

    /// Sends whole messages that are framed already.
    pub(super) fn send_framed(&mut self, channel: Channel, frames: &[Bytes]) {
        if let Some(ends) = &mut self.ends[index(channel)] {
            self.queued += frames.iter().map(|part| part.len() as u64).sum::<u64>();
            ends.writer.queue(frames);
        }
    }

    /// Whether something waits to be written on this line.
    pub(super) fn is_busy(&self, channel: Channel) -> bool {
        self.ends[index(channel)].as_ref().is_some_and(|ends| ends.writer.queued_bytes() > 0)
    }

    /// How many bytes wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.ends.iter().flatten().map(|ends| ends.writer.queued_bytes()).sum()
    }

    /// How many bytes the sockets have taken since the beginning.
    pub(super) fn written(&self) -> u64 {
        self.queued.saturating_sub(self.waiting() as u64)
    }

    /// Whether more may be taken from the tail; if not, [`LineEvent::Drained`] says when.
    pub(super) fn has_room(&mut self) -> bool {
        let room = self.waiting() < WRITE_AHEAD;
        self.thirsty |= !room;
        room
    }

    /// Writes what waits, and reads one message. Unless `read`, only signs of life are read. Cancelling it loses nothing.
    pub(super) async fn next(&mut self, read: bool) -> LineEvent {
        loop {
            if self.thirsty && self.waiting() < WRITE_AHEAD / 2 {
                self.thirsty = false;
                return LineEvent::Drained;
            }
            let [command, data, ttl] = &mut self.ends;
            let (channel, news) = tokio::select! {
                news = watch(command, read) => (Channel::Command, news),
                news = watch(data, read) => (Channel::Data, news),
                news = watch(ttl, true) => (Channel::Ttl, news),
            };
            match news {
                Ok(News::Message(message)) => return LineEvent::Message(channel, message),
                Ok(News::Written) => {}
                Ok(News::Closed) => return self.ended(channel, None),
                Err(error) => return self.ended(channel, Some(error)),
            }
        }
    }

    fn ended(&mut self, channel: Channel, why: Option<WireError>) -> LineEvent {
        self.ends[index(channel)] = None;
        LineEvent::Ended(channel, why)
    }

    /// Writes what waits, for as long as the client takes it, and closes. One of the TCP transport that was told why
    /// closes first.
    pub(super) async fn close(mut self, is_told: bool) {
        for ends in self.ends.iter_mut().flatten() {
            if ends.writer.queued_bytes() > 0 {
                // Whoever does not read will not read the rest either.
                _ = ends.writer.flush().await;
            }
        }
        // Its helper process ends with the ttl line, and it looks at that before it reads what it is told.
        if is_told
            && self.transport() == Transport::Tcp
            && let Some(command) = &mut self.ends[index(Channel::Command)]
        {
            while let Ok(Some(_)) = command.reader.next().await {}
        }
        self.ends.iter_mut().flatten().for_each(|ends| ends.writer.close());
    }
}

/// What has happened at one end.
enum News {
    Message(Vec<Bytes>),
    Closed,
    Written,
}

async fn watch(ends: &mut Option<Ends>, read: bool) -> Result<News, WireError> {
    let Some(Ends { reader, writer, .. }) = ends else { return std::future::pending().await };
    let waits = writer.queued_bytes() > 0;
    tokio::select! {
        written = writer.flush(), if waits => Ok(written.map(|()| News::Written)?),
        message = reader.next(), if read => Ok(message?.map_or(News::Closed, News::Message)),
        else => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::super::wire::{WireLimits, greet};
    use super::*;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    const A_MOMENT: Duration = Duration::from_millis(100);

    /// A client's end of a line that is there.
    async fn client(lines: &mut Lines, channel: Channel, role: u8) -> TcpStream {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(&[b"\0\0\0\x10\0abcdefghijklmno", &[role][..]].concat()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        let link = greet(server, channel, WireLimits::default()).await.unwrap();
        assert_eq!(link.channel(), channel);
        lines.connect(Arrival { link, place: Arc::new(()) }, 1_000);
        client
    }

    #[tokio::test]
    async fn who_is_told_why_has_all_lines_until_it_closes() {
        for (is_told, stays) in [(true, true), (false, false)] {
            let mut lines = Lines::default();
            let mut command = client(&mut lines, Channel::Command, b'C').await;
            let mut ttl = client(&mut lines, Channel::Ttl, b'T').await;
            lines.send(Channel::Command, &[Bytes::from_static(b"why")]);
            let closing = tokio::spawn(lines.close(is_told));
            let mut read = vec![0; 32];
            assert!(command.read(&mut read).await.unwrap() > 0);
            assert_eq!(timeout(A_MOMENT, ttl.read(&mut read)).await.is_err(), stays);
            drop(command);
            timeout(50 * A_MOMENT, closing).await.unwrap().unwrap();
            assert_eq!(timeout(50 * A_MOMENT, ttl.read(&mut read)).await.unwrap().unwrap(), 0);
        }
    }
}
