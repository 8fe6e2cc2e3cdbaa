//! The connection's stream: tungstenite reads from it; everything that is written goes through one outbox, so that
//! pongs, answers and events leave in the same system call.

use super::frame::Format;
use super::outbox::Outbox;
use bytes::{Buf, Bytes};
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

/// Bytes read in one turn before others get theirs.
const READ_BUDGET: usize = 256 << 10;

/// Bytes of an unfinished message that count as nothing: small messages pass however much others hold.
const FREE_BYTES: usize = 64 << 10;

/// Bytes of unfinished messages that all connections of the daemon hold together.
#[derive(Debug)]
pub struct InFlight {
    bytes: AtomicUsize,
    max: usize,
}

impl InFlight {
    /// Allows `max` bytes.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { bytes: AtomicUsize::new(0), max })
    }

    fn charge(&self, bytes: usize) -> bool {
        self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= self.max
    }

    fn release(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes before the data of a control frame: two, and the mask.
const CONTROL_HEADER: usize = 6;

/// A socket with an outbox.
pub(super) struct Stream {
    tcp: OwnedReadHalf,
    outbox: Arc<Outbox>,
    reader: Waker,
    /// What the HTTP server had read already.
    leftover: Bytes,
    budget: usize,
    starved: bool,
    /// Bytes read of messages that are not finished; of them, those that are charged; and how many there may be.
    unfinished: usize,
    charged: usize,
    unfinished_max: usize,
    /// Messages that came in whole.
    messages: u64,
    in_flight: Arc<InFlight>,
    own: Vec<u8>,
    /// The message that was queued last has more to come: nothing else may be said before.
    within_message: bool,
}

impl Stream {
    pub(super) fn new(tcp: TcpStream, format: Format, leftover: Bytes, in_flight: Arc<InFlight>) -> Self {
        let (tcp, write) = tcp.into_split();
        Self {
            outbox: Arc::new(Outbox::new(write, format)),
            tcp,
            reader: Waker::noop().clone(),
            leftover,
            budget: READ_BUDGET,
            starved: false,
            unfinished: 0,
            charged: 0,
            unfinished_max: usize::MAX,
            messages: 0,
            in_flight,
            own: Vec::new(),
            within_message: false,
        }
    }

    /// A new turn: it may read again.
    pub(super) fn refill(&mut self) {
        self.budget = READ_BUDGET;
    }

    /// Whether the last turn stopped reading although there was more; asking takes note of it.
    pub(super) fn take_starved(&mut self) -> bool {
        std::mem::take(&mut self.starved)
    }

    /// A message has been taken in: its bytes are no longer those of an unfinished one.
    pub(super) fn settle(&mut self) {
        self.messages += 1;
        self.unfinished = 0;
        self.release();
    }

    /// A control frame with this much data has been taken in, perhaps between fragments of a message.
    pub(super) fn settle_control(&mut self, data: usize) {
        self.unfinished = self.unfinished.saturating_sub(CONTROL_HEADER + data);
        self.release();
    }

    /// Gives back what is charged for more than is unfinished.
    fn release(&mut self) {
        let charged = self.unfinished.saturating_sub(FREE_BYTES);
        if charged < self.charged {
            self.in_flight.release(self.charged - charged);
            self.charged = charged;
        }
    }

    /// Messages that came in whole, and bytes that are charged for the one that has not.
    pub(super) fn incoming(&self) -> (u64, usize) {
        (self.messages, self.charged)
    }

    /// Holds at most as much as belongs to one message of so many bytes, to its frames, and to what comes right after it.
    pub(super) fn take_messages_of(&mut self, bytes: usize) {
        self.unfinished_max = bytes.saturating_add(bytes / 64 + 2 * READ_BUDGET);
    }

    /// Takes note of bytes read.
    fn charge(&mut self, got: usize) -> io::Result<usize> {
        self.unfinished += got;
        if self.unfinished > self.unfinished_max {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let charged = self.unfinished.saturating_sub(FREE_BYTES);
        if charged <= self.charged {
            return Ok(got);
        }
        let more = charged - std::mem::replace(&mut self.charged, charged);
        if self.in_flight.charge(more) { Ok(got) } else { Err(io::ErrorKind::OutOfMemory.into()) }
    }

    /// Whether there may be something to read; registers for when there is.
    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.leftover.is_empty() { self.tcp.as_ref().poll_read_ready(context).map(drop) } else { Poll::Ready(()) }
    }

    /// Who is woken when a read that found nothing could find something.
    pub(super) fn reads_for(&mut self, waker: &Waker) {
        if !self.reader.will_wake(waker) {
            self.reader.clone_from(waker);
        }
    }

    /// Where small frames are written.
    pub(super) fn own(&mut self) -> &mut Vec<u8> {
        &mut self.own
    }

    /// Queues whole frames that are shared with other connections.
    pub(super) fn push(&mut self, frames: impl Iterator<Item = Bytes>) {
        self.close_own();
        self.outbox.push(frames);
    }

    /// Queues a message, or what follows in it; `more` = it does not end here.
    pub(super) fn push_piece(&mut self, piece: Vec<Bytes>, more: bool) {
        self.push(piece.into_iter());
        self.within_message = more;
    }

    /// What is written to the socket, and what the session may write itself.
    pub(super) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Queues our own small frames, unless a message has to end first: what is queued next comes after them.
    pub(super) fn close_own(&mut self) {
        if !self.own.is_empty() && !self.within_message {
            let own = Bytes::from(std::mem::take(&mut self.own));
            self.outbox.push(std::iter::once(own));
        }
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.outbox.bytes() + self.own.len()
    }

    /// Bytes that can be written: our own small frames cannot while a message is not queued to its end.
    pub(super) fn writable(&self) -> usize {
        self.outbox.bytes() + if self.within_message { 0 } else { self.own.len() }
    }

    /// Writes what waits, as far as the socket takes it. Ready when nothing is left; `Pending` remembers to wake when
    /// the socket takes more.
    pub(super) fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.close_own();
        self.outbox.poll_write(self.tcp.as_ref(), context)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.outbox.retire();
        self.settle();
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.budget == 0 {
            self.starved = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let most = buffer.len().min(self.budget);
        let buffer = &mut buffer[..most];
        let got = if self.leftover.is_empty() {
            // Polling, not trying: after a short read it knows that the socket is empty without asking the kernel.
            let mut into = ReadBuf::new(buffer);
            match Pin::new(&mut self.tcp).poll_read(&mut Context::from_waker(&self.reader), &mut into) {
                Poll::Ready(read) => read.map(|()| into.filled().len())?,
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            }
        } else {
            let got = most.min(self.leftover.len());
            self.leftover.copy_to_slice(&mut buffer[..got]);
            got
        };
        self.budget -= got;
        self.charge(got)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.own.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::Socket;
    use super::*;
    use std::future::poll_fn;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

    async fn pair(in_flight: &Arc<InFlight>) -> (Socket, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let tcp = listener.accept().await.unwrap().0;
        let stream = Stream::new(tcp, Format::Binary, Bytes::new(), Arc::clone(in_flight));
        let context = WebSocketContext::new(Role::Server, Some(WebSocketConfig::default()));
        (Socket { context, stream, format: Format::Binary, drained: false }, client)
    }

    /// A masked frame of up to 64 KiB, with this first byte.
    fn frame(first: u8, len: u16) -> Vec<u8> {
        let mut frame = vec![first, 0xfe];
        if len <= 125 {
            frame[1] = 0x80 | u8::try_from(len).unwrap();
        } else {
            frame.extend_from_slice(&len.to_be_bytes());
        }
        frame.resize(frame.len() + 4 + usize::from(len), 0);
        frame
    }

    async fn next(socket: &mut Socket) -> Option<Message> {
        socket.stream.refill();
        poll_fn(|context| {
            socket.stream.refill();
            socket.poll_message(context)
        })
        .await
        .ok()
    }

    #[tokio::test]
    async fn a_ping_between_fragments_does_not_settle_what_is_unfinished() {
        let in_flight = InFlight::new(1 << 20);
        let (mut socket, mut client) = pair(&in_flight).await;
        let charged = || in_flight.bytes.load(Ordering::Relaxed);
        client.write_all(&[frame(0x02, 60_000), frame(0x00, 60_000), frame(0x89, 100)].concat()).await.unwrap();
        assert!(matches!(next(&mut socket).await, Some(Message::Ping(_))));
        assert_eq!(charged(), 2 * (8 + 60_000) - FREE_BYTES);
        client.write_all(&frame(0x80, 10)).await.unwrap();
        assert!(matches!(next(&mut socket).await, Some(Message::Binary(_))));
        assert_eq!((charged(), socket.stream.incoming()), (0, (1, 0)));
        for _ in 0..1_000 {
            client.write_all(&frame(0x8a, 100)).await.unwrap();
            assert!(matches!(next(&mut socket).await, Some(Message::Pong(_))));
        }
        assert_eq!((socket.stream.messages, socket.stream.unfinished), (1, 0), "control frames are no messages");
    }

    #[tokio::test]
    async fn small_messages_pass_however_much_others_hold() {
        let in_flight = InFlight::new(100_000);
        let (mut holder, mut holding) = pair(&in_flight).await;
        holding.write_all(&[frame(0x02, 60_000), frame(0x00, 60_000), frame(0x89, 1)].concat()).await.unwrap();
        assert!(matches!(next(&mut holder).await, Some(Message::Ping(_))));
        assert!(in_flight.charge(100_000 - in_flight.bytes.load(Ordering::Relaxed)), "now it is full");
        let (mut other, mut client) = pair(&in_flight).await;
        client.write_all(&frame(0x82, 60_000)).await.unwrap();
        assert!(matches!(next(&mut other).await, Some(Message::Binary(_))));
        client.write_all(&[frame(0x02, 60_000), frame(0x80, 60_000)].concat()).await.unwrap();
        assert!(next(&mut other).await.is_none(), "a large one does not");
    }

    #[tokio::test]
    async fn nobody_holds_much_more_than_one_message() {
        let in_flight = InFlight::new(usize::MAX);
        let (mut socket, mut client) = pair(&in_flight).await;
        socket.stream.take_messages_of(64 << 10);
        let fragments = [frame(0x02, 1), frame(0x00, 1).repeat(100_000)].concat();
        // It is closed before everything is written.
        let writing = tokio::spawn(async move { client.write_all(&fragments).await });
        assert!(next(&mut socket).await.is_none());
        drop(socket);
        assert!(in_flight.bytes.load(Ordering::Relaxed) == 0);
        _ = writing.await;
    }
}
