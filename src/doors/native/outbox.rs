//! The outbox of a connection: what waits to be written, and how far its reader has got in the session's log.
//!
//! The connection's own task writes from it. New events need not wait for that task: to a reader who waits for nothing
//! else the session writes them at once, which spares a wake for each of many readers.

use super::encode;
use super::frame::Format;
use crate::live::{Chunk, Courier, Following, Frames, Tail, WireFormat};
use crate::session::Event;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::task::{Context, Poll, ready};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;

/// Parts written in one system call.
const PARTS_PER_WRITE: usize = 64;

/// Larger frames are left to the connection's task: the session must not spend its time copying them.
const CARRIED_BYTES_MAX: usize = 16 << 10;

/// What waits to be written to one connection.
#[derive(Debug)]
pub(super) struct Outbox {
    format: Format,
    waiting: Mutex<Waiting>,
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
fn encoding(format: Format) -> (WireFormat, fn(&[Arc<Event>]) -> Frames) {
    match format {
        Format::Json => (WireFormat::NATIVE_JSON, encode::events_json),
        Format::Binary => (WireFormat::NATIVE_BINARY, encode::events_binary),
    }
}

impl Outbox {
    pub(super) fn new(tcp: OwnedWriteHalf, format: Format) -> Self {
        Self { format, waiting: Mutex::new(Waiting { tcp: Some(tcp), ..Waiting::default() }) }
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
    fn carry(&self, chunk: &Chunk) -> bool {
        let mut waiting = match self.waiting.try_lock() {
            Ok(waiting) => waiting,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        if !waiting.following || !waiting.queue.is_empty() {
            return false;
        }
        if chunk.last_seq() <= waiting.cursor {
            return true;
        }
        let (slot, encode) = encoding(self.format);
        let Some(frames) = chunk.only_part(waiting.cursor, slot, encode) else { return false };
        if frames.len() > CARRIED_BYTES_MAX {
            return false;
        }
        let Some(tcp) = &waiting.tcp else { return false };
        match tcp.try_write(&frames) {
            Ok(written) if written == frames.len() => {
                waiting.cursor = chunk.last_seq();
                waiting.progress += 1;
                true
            }
            Ok(written) if written > 0 => {
                let rest = frames.slice(written..);
                waiting.push(std::iter::once(rest));
                waiting.cursor = chunk.last_seq();
                waiting.progress += 1;
                false
            }
            // Whatever it is, the connection's task will meet it too.
            Ok(_) | Err(_) => false,
        }
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
