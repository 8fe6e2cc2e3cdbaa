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

/// A socket with an outbox.
pub(super) struct Stream {
    tcp: OwnedReadHalf,
    outbox: Arc<Outbox>,
    reader: Waker,
    /// What the HTTP server had read already.
    leftover: Bytes,
    budget: usize,
    starved: bool,
    charged: usize,
    in_flight: Arc<InFlight>,
    own: Vec<u8>,
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
            charged: 0,
            in_flight,
            own: Vec::new(),
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
        self.in_flight.release(std::mem::take(&mut self.charged));
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

    /// What is written to the socket, and what the session may write itself.
    pub(super) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    /// Queues our own small frames: what is queued next comes after them.
    pub(super) fn close_own(&mut self) {
        if !self.own.is_empty() {
            let own = Bytes::from(std::mem::take(&mut self.own));
            self.outbox.push(std::iter::once(own));
        }
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.outbox.bytes() + self.own.len()
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
        self.charged += got;
        if self.in_flight.charge(got) { Ok(got) } else { Err(io::ErrorKind::OutOfMemory.into()) }
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
