//! The outbox of a connection: what waits to be written, and how far its reader has got in the session's log.
//!
//! The connection's own task writes from it. New events need not wait for that task: to a reader who waits for nothing
//! else the session writes them at once, which spares a wake for each of many readers.

use super::encode;
use super::frame::Format;
use super::replies::Outgoing;
use crate::live::{Carried, Chunk, Courier, EncodeEvents, Following, Note, Tail, WireFormat};
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

/// Parts written in one system call.
const PARTS_PER_WRITE: usize = 64;

/// Larger frames are left to the connection's task: the session must not spend its time encoding and copying them.
const CARRIED_BYTES_MAX: usize = 16 << 10;

/// What waits to be written to one connection.
#[derive(Debug)]
pub(super) struct Outbox {
    format: Format,
    waiting: Mutex<Waiting>,
    /// Operations taken in and not answered yet.
    unanswered: AtomicUsize,
}

#[derive(Debug, Default)]
struct Waiting {
    queue: VecDeque<Bytes>,
    bytes: usize,
    /// Everything up to this event has been queued or written.
    cursor: u64,
    /// The reader follows the log; nothing else has to come before the next event.
    following: bool,
    /// How often the socket has taken something.
    progress: u64,
    /// By which the session writes, until the connection ends.
    tcp: Option<OwnedWriteHalf>,
}

/// Where the events of a connection's format lie in a chunk, and how they come there.
fn encoding(format: Format) -> (WireFormat, EncodeEvents) {
    match format {
        Format::Json => (WireFormat::NATIVE_JSON, encode::events_json),
        Format::Binary => (WireFormat::NATIVE_BINARY, encode::events_binary),
    }
}

impl Outbox {
    pub(super) fn new(tcp: OwnedWriteHalf, format: Format) -> Self {
        let waiting = Waiting { tcp: Some(tcp), ..Waiting::default() };
        Self { format, waiting: Mutex::new(waiting), unanswered: AtomicUsize::new(0) }
    }

    /// An operation has been taken in.
    pub(super) fn taken(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// So many operations have been answered.
    pub(super) fn answered(&self, count: usize) {
        // Never below none, whatever is answered.
        _ = self.unanswered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |some| Some(some.saturating_sub(count)));
    }

    /// Operations taken in and not answered yet.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// The notes as frames, before these. `None` if any is not an acknowledgement: others say more than a courier knows.
    fn with_notes(&self, notes: &[Note], frames: Bytes) -> Option<Bytes> {
        if notes.is_empty() {
            return Some(frames);
        }
        let mut all = Vec::with_capacity(64 * notes.len() + frames.len());
        for note in notes {
            let Note::Ack { op, seq } = *note else { return None };
            encode::small(&mut all, self.format, &Outgoing::Ack { op, seq });
        }
        all.extend_from_slice(&frames);
        Some(all.into())
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing under the lock can leave it half-changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader has, or is about to be sent, everything up to this event. Until it is [`follow`](Self::follow)ed up,
    /// no event is written.
    pub(super) fn begin_after(&self, seq: u64) {
        let mut waiting = self.lock();
        waiting.cursor = seq;
        waiting.following = false;
    }

    /// No event is written any more, and the socket is closed as soon as the connection lets go of it.
    pub(super) fn retire(&self) {
        let mut waiting = self.lock();
        waiting.following = false;
        if let Some(tcp) = waiting.tcp.take() {
            // Dropping it would end the stream before goodbye is said.
            tcp.forget();
        }
    }

    /// Queues frames.
    pub(super) fn push(&self, frames: impl Iterator<Item = Bytes>) {
        self.lock().push(frames);
    }

    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Bytes that wait, and how often the socket has taken something.
    pub(super) fn progress(&self) -> (usize, u64) {
        let waiting = self.lock();
        (waiting.bytes, waiting.progress)
    }

    /// Queues what follows in the log, until about `budget` bytes wait. Says whether there is more; `Err` = the reader
    /// has fallen off the tail.
    pub(super) fn follow(&self, tail: &Tail, budget: usize) -> Result<bool, Behind> {
        let (slot, encode) = encoding(self.format);
        let mut waiting = self.lock();
        while waiting.bytes < budget {
            match tail.after(waiting.cursor) {
                Following::Nothing => {
                    waiting.following = true;
                    return Ok(false);
                }
                Following::Gone => {
                    waiting.following = false;
                    return Err(Behind);
                }
                Following::Chunk { chunk, newest } => {
                    let frames = chunk.bytes_after(waiting.cursor, slot, encode);
                    waiting.push(frames);
                    waiting.cursor = chunk.last_seq();
                    if newest {
                        waiting.following = true;
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    /// Writes what waits, as far as the socket takes it. Ready when nothing is left; `Pending` remembers to wake when
    /// the socket takes more.
    pub(super) fn poll_write(&self, tcp: &TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut waiting = self.lock();
        while !waiting.queue.is_empty() {
            match waiting.write_to(tcp) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => waiting.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(tcp.poll_write_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The reader has fallen off the tail.
#[derive(Debug)]
pub(super) struct Behind;

impl Courier for Outbox {
    fn carry(&self, notes: &[Note], chunk: &Chunk) -> Carried {
        let mut waiting = match self.waiting.try_lock() {
            Ok(waiting) => waiting,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Carried::Nothing,
        };
        if !waiting.following || !waiting.queue.is_empty() {
            return Carried::Nothing;
        }
        let (slot, encode) = encoding(self.format);
        let events = match chunk.only_part(waiting.cursor, CARRIED_BYTES_MAX, slot, encode) {
            Some(events) => events,
            None if chunk.last_seq() <= waiting.cursor => Bytes::new(),
            None => return Carried::Nothing,
        };
        let Some(frames) = self.with_notes(notes, events) else { return Carried::Nothing };
        if frames.is_empty() {
            return Carried::All;
        }
        // An error, whatever it is: the connection's task will meet it too.
        let written = waiting.tcp.as_ref().and_then(|tcp| tcp.try_write(&frames).ok()).unwrap_or(0);
        if written == 0 {
            return Carried::Nothing;
        }
        self.answered(notes.len());
        waiting.progress += 1;
        waiting.cursor = waiting.cursor.max(chunk.last_seq());
        if written == frames.len() {
            return Carried::All;
        }
        waiting.push(std::iter::once(frames.slice(written..)));
        Carried::Begun
    }
}

impl Waiting {
    fn push(&mut self, frames: impl Iterator<Item = Bytes>) {
        for part in frames.filter(|part| !part.is_empty()) {
            self.bytes += part.len();
            self.queue.push_back(part);
        }
    }

    fn write_to(&self, tcp: &TcpStream) -> io::Result<usize> {
        if let (Some(only), 1) = (self.queue.front(), self.queue.len()) {
            return tcp.try_write(only);
        }
        let mut slices = [IoSlice::new(&[]); PARTS_PER_WRITE];
        let mut parts = 0;
        for (slice, part) in slices.iter_mut().zip(&self.queue) {
            *slice = IoSlice::new(part);
            parts += 1;
        }
        tcp.try_write_vectored(&slices[..parts])
    }

    fn advance(&mut self, mut written: usize) {
        self.progress += 1;
        self.bytes -= written;
        while let Some(front) = self.queue.front_mut() {
            if written < front.len() {
                front.advance(written);
                return;
            }
            written -= front.len();
            self.queue.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::TailLimits;
    use crate::session::{Event, MemberName, Timestamp};
    use std::future::poll_fn;
    use std::sync::Arc;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::net::tcp::OwnedReadHalf;

    struct Pair {
        outbox: Outbox,
        tcp: OwnedReadHalf,
        client: TcpStream,
        tail: Tail,
        seq: u64,
    }

    impl Pair {
        async fn new() -> Self {
            let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (tcp, write) = listener.accept().await.unwrap().0.into_split();
            let tail = Tail::new(0, TailLimits::default());
            Self { outbox: Outbox::new(write, Format::Json), tcp, client, tail, seq: 0 }
        }

        /// The next event of the session.
        fn event(&mut self) -> Arc<Chunk> {
            self.seq += 1;
            let changes = Vec::new();
            let event = Event { seq: self.seq, at: Timestamp(0), author: MemberName::daemon(), op: None, changes };
            self.tail.release(vec![Arc::new(event)]).unwrap()
        }

        async fn settle(&self) {
            poll_fn(|context| self.outbox.poll_write(self.tcp.as_ref(), context)).await.unwrap();
        }

        /// Type and `seq` of everything that has arrived.
        async fn received(&mut self) -> Vec<(String, u64)> {
            let mut bytes = vec![0; 1 << 20];
            let mut got = 0;
            while let Ok(read) =
                tokio::time::timeout(std::time::Duration::from_millis(50), self.client.read(&mut bytes[got..])).await
            {
                match read.unwrap() {
                    0 => break,
                    read => got += read,
                }
            }
            let mut rest = &bytes[..got];
            let mut messages = Vec::new();
            while let [0x81, len, body @ ..] = rest {
                let (len, body) = match *len {
                    126 => (usize::from(u16::from_be_bytes([body[0], body[1]])), &body[2..]),
                    len => (usize::from(len), body),
                };
                let value: serde_json::Value = serde_json::from_slice(&body[..len]).unwrap();
                messages.push((value["type"].as_str().unwrap().to_owned(), value["seq"].as_u64().unwrap()));
                rest = &body[len..];
            }
            assert_eq!(rest, b"", "only whole frames");
            messages
        }
    }

    fn events(range: std::ops::RangeInclusive<u64>) -> Vec<(String, u64)> {
        range.map(|seq| ("event".to_owned(), seq)).collect()
    }

    #[tokio::test]
    async fn a_courier_serves_only_those_who_follow_the_log() {
        let mut pair = Pair::new().await;
        let chunk = pair.event();
        assert_eq!(pair.outbox.carry(&[], &chunk), Carried::Nothing, "nothing has begun");
        pair.outbox.begin_after(0);
        assert_eq!(pair.outbox.carry(&[], &chunk), Carried::Nothing, "the state may have to come first");
        assert!(!pair.outbox.follow(&pair.tail, usize::MAX).unwrap());
        let chunk = pair.event();
        assert_eq!(pair.outbox.carry(&[], &chunk), Carried::Nothing, "something waits before it");
        pair.settle().await;
        assert_eq!(pair.outbox.carry(&[], &chunk), Carried::All);
        assert_eq!(pair.outbox.carry(&[], &chunk), Carried::All, "once is enough");
        pair.event();
        let chunk = pair.event();
        assert_eq!(pair.outbox.carry(&[], &chunk), Carried::Nothing, "an event is missing before this one");
        assert!(!pair.outbox.follow(&pair.tail, usize::MAX).unwrap());
        pair.settle().await;
        pair.outbox.retire();
        let chunk = pair.event();
        assert_eq!(pair.outbox.carry(&[], &chunk), Carried::Nothing, "goodbye has been said");
        assert_eq!(pair.received().await, events(1..=4));
    }

    #[tokio::test]
    async fn acknowledgements_travel_with_the_event_and_other_notes_do_not() {
        let mut pair = Pair::new().await;
        pair.outbox.begin_after(0);
        assert!(!pair.outbox.follow(&pair.tail, usize::MAX).unwrap());
        pair.outbox.taken();
        pair.outbox.taken();
        let chunk = pair.event();
        let other = Note::Health(crate::live::Mode::Live);
        assert_eq!(pair.outbox.carry(&[Note::Ack { op: 1, seq: 1 }, other], &chunk), Carried::Nothing);
        assert_eq!(pair.outbox.unanswered(), 2);
        assert_eq!(pair.outbox.carry(&[Note::Ack { op: 1, seq: 1 }], &chunk), Carried::All);
        assert_eq!(pair.outbox.unanswered(), 1);
        let expected = [("ack".to_owned(), 1), ("event".to_owned(), 1)];
        assert_eq!(pair.received().await, expected);
    }

    #[tokio::test]
    async fn what_a_full_socket_does_not_take_waits_for_the_connection() {
        let mut pair = Pair::new().await;
        pair.outbox.begin_after(0);
        assert!(!pair.outbox.follow(&pair.tail, usize::MAX).unwrap());
        loop {
            let chunk = pair.event();
            match pair.outbox.carry(&[], &chunk) {
                Carried::All => assert!(pair.seq < 1_000_000, "the socket takes everything"),
                Carried::Begun | Carried::Nothing => break,
            }
        }
        let Pair { outbox, tcp, mut client, tail, seq: last } = pair;
        let reader = tokio::spawn(async move {
            let end = format!("\"seq\":{last},").into_bytes();
            let (mut newest, mut some) = (Vec::new(), vec![0; 1 << 16]);
            while !newest.windows(end.len()).any(|window| window == end) {
                let read = client.read(&mut some).await.unwrap();
                newest = [&newest[newest.len().saturating_sub(end.len())..], &some[..read]].concat();
            }
        });
        assert!(!outbox.follow(&tail, usize::MAX).unwrap());
        poll_fn(|context| outbox.poll_write(tcp.as_ref(), context)).await.unwrap();
        reader.await.unwrap();
        assert_eq!(outbox.bytes(), 0);
    }
}
