//! The three lines to one client: messages that come in, and what waits to go out.

use super::wire::{Channel, Link, LinkReader, LinkWriter, Transport, WireError, frame};
use bytes::Bytes;
use std::any::Any;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// All channels, in the order in which they are looked at.
const CHANNELS: [Channel; 3] = [Channel::Command, Channel::Data, Channel::Ttl];

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
    /// Which channel is read first next time.
    turn: usize,
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
    /// Takes a link in; an earlier one of the same channel is dropped. Says whether there was one.
    pub(super) fn connect(&mut self, arrival: Arrival, message_bytes: u64) -> bool {
        let Arrival { link, place } = arrival;
        let (slot, address) = (index(link.channel()), link.address());
        self.transport = Some(link.transport());
        let (mut reader, writer) = link.split();
        reader.set_message_bytes(message_bytes);
        self.ends[slot].replace(Ends { reader, writer, address, _place: place }).is_some()
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

    /// Writes what waits, and reads one message. Unless `read`, only signs of life are read.
    pub(super) fn poll(&mut self, context: &mut Context<'_>, read: bool) -> Poll<LineEvent> {
        if let Poll::Ready(ended) = self.poll_flush(context) {
            return Poll::Ready(ended);
        }
        if self.thirsty && self.waiting() < WRITE_AHEAD / 2 {
            self.thirsty = false;
            return Poll::Ready(LineEvent::Drained);
        }
        for step in 0..CHANNELS.len() {
            let slot = (self.turn + step) % CHANNELS.len();
            if (read || CHANNELS[slot] == Channel::Ttl)
                && let Poll::Ready(event) = self.poll_read(slot, context)
            {
                self.turn = slot + 1;
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<LineEvent> {
        for (channel, slot) in CHANNELS.into_iter().zip(&mut self.ends) {
            let Some(ends) = slot.as_mut().filter(|ends| ends.writer.queued_bytes() > 0) else { continue };
            if let Poll::Ready(Err(error)) = pin!(ends.writer.flush()).poll(context) {
                *slot = None;
                return Poll::Ready(LineEvent::Ended(channel, Some(error.into())));
            }
        }
        Poll::Pending
    }

    fn poll_read(&mut self, slot: usize, context: &mut Context<'_>) -> Poll<LineEvent> {
        let Some(ends) = &mut self.ends[slot] else { return Poll::Pending };
        let channel = CHANNELS[slot];
        let why = match pin!(ends.reader.next()).poll(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(Some(message))) => return Poll::Ready(LineEvent::Message(channel, message)),
            Poll::Ready(Ok(None)) => None,
            Poll::Ready(Err(error)) => Some(error),
        };
        self.ends[slot] = None;
        Poll::Ready(LineEvent::Ended(channel, why))
    }

    /// Writes what waits, for as long as the client takes it, and closes.
    pub(super) async fn close(mut self) {
        for ends in self.ends.iter_mut().flatten() {
            if ends.writer.queued_bytes() > 0 {
                // Whoever does not read will not read the rest either.
                _ = ends.writer.flush().await;
            }
            ends.writer.close();
        }
    }
}
