//! The connection's stream: tungstenite reads from it; everything that is written goes through one outbox, so that
//! pongs, answers and events leave in the same system call.

use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;

/// Bytes read in one turn before others get theirs.
const READ_BUDGET: usize = 256 << 10;

/// Parts written in one system call.
const PARTS_PER_WRITE: usize = 64;

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
    tcp: TcpStream,
    reader: Waker,
    /// What the HTTP server had read already.
    leftover: Bytes,
    budget: usize,
    starved: bool,
    charged: usize,
    in_flight: Arc<InFlight>,
    own: Vec<u8>,
    queue: VecDeque<Bytes>,
    queued: usize,
}

impl Stream {
    pub(super) fn new(tcp: TcpStream, leftover: Bytes, in_flight: Arc<InFlight>) -> Self {
        Self {
            tcp,
            reader: Waker::noop().clone(),
            leftover,
            budget: READ_BUDGET,
            starved: false,
            charged: 0,
            in_flight,
            own: Vec::new(),
            queue: VecDeque::new(),
            queued: 0,
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
        if self.leftover.is_empty() { self.tcp.poll_read_ready(context).map(drop) } else { Poll::Ready(()) }
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
        for part in frames.filter(|part| !part.is_empty()) {
            self.queued += part.len();
            self.queue.push_back(part);
        }
    }

    fn close_own(&mut self) {
        if !self.own.is_empty() {
            let own = Bytes::from(std::mem::take(&mut self.own));
            self.queued += own.len();
            self.queue.push_back(own);
        }
    }

    /// Bytes that wait to be written.
    pub(super) fn waiting(&self) -> usize {
        self.queued + self.own.len()
    }

    /// Writes what waits, as far as the socket takes it. Ready with the number of bytes when nothing is left;
    /// `Pending` remembers to wake when the socket takes more, and counts what it took in `progress`.
    pub(super) fn poll_write_out(&mut self, context: &mut Context<'_>, progress: &mut usize) -> Poll<io::Result<()>> {
        self.close_own();
        while !self.queue.is_empty() {
            match self.try_write() {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => {
                    *progress += written;
                    self.advance(written);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.tcp.poll_write_ready(context))?;
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn try_write(&self) -> io::Result<usize> {
        if let (Some(only), 1) = (self.queue.front(), self.queue.len()) {
            return self.tcp.try_write(only);
        }
        let mut slices = [IoSlice::new(&[]); PARTS_PER_WRITE];
        let mut parts = 0;
        for (slice, part) in slices.iter_mut().zip(&self.queue) {
            *slice = IoSlice::new(part);
            parts += 1;
        }
        self.tcp.try_write_vectored(&slices[..parts])
    }

    fn advance(&mut self, mut written: usize) {
        self.queued -= written;
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

impl Drop for Stream {
    fn drop(&mut self) {
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
