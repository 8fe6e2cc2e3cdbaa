//! Links: one connection of a client that has said who it is, to read messages from and to write them to.

use super::assembly::{Assembly, Item};
use super::queue::Queue;
use super::zmtp::{self, Wish};
use super::{Channel, PeerId, Transport, WireError};

use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes that are received at once, unless they belong to a large chunk.
const RECEIVE_BYTES: usize = 32 << 10;

/// A connection whose client has said who it is.
#[derive(Debug)]
pub(in crate::doors::blender) struct Link {
    pub(super) peer: PeerId,
    pub(super) channel: Channel,
    pub(super) transport: Transport,
    pub(super) address: SocketAddr,
    pub(super) reader: LinkReader,
}

impl Link {
    /// Whose it is.
    pub(in crate::doors::blender) fn peer(&self) -> PeerId {
        self.peer
    }

    /// What it is for.
    pub(in crate::doors::blender) fn channel(&self) -> Channel {
        self.channel
    }

    /// How messages lie on it.
    pub(in crate::doors::blender) fn transport(&self) -> Transport {
        self.transport
    }

    /// Where it comes from.
    pub(in crate::doors::blender) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its two directions. The connection is closed when both are dropped.
    pub(in crate::doors::blender) fn split(self) -> (LinkReader, LinkWriter) {
        let writer = LinkWriter { pipe: Arc::clone(&self.reader.inlet.pipe) };
        (self.reader, writer)
    }
}

/// A connection, and what waits to be written to it. Reader and writer share it, because the reader answers a PING.
#[derive(Debug)]
pub(super) struct Pipe {
    stream: TcpStream,
    queue: Mutex<Queue>,
}

impl Pipe {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_flush(&self) -> io::Result<bool> {
        self.queue().try_flush(&self.stream)
    }

    pub(super) async fn flush(&self) -> io::Result<()> {
        while !self.try_flush()? {
            self.stream.writable().await?;
        }
        Ok(())
    }

    pub(super) async fn write(&self, bytes: Bytes) -> io::Result<()> {
        self.queue().push(&[bytes]);
        self.flush().await
    }
}

/// What has been received and not been used.
#[derive(Debug)]
pub(super) struct Inlet {
    pipe: Arc<Pipe>,
    received: Vec<u8>,
    used: usize,
}

impl Inlet {
    pub(super) fn new(stream: TcpStream) -> Self {
        let pipe = Pipe { stream, queue: Mutex::default() };
        Self { pipe: Arc::new(pipe), received: Vec::new(), used: 0 }
    }

    pub(super) fn pipe(&self) -> &Pipe {
        &self.pipe
    }

    /// What has not been used.
    pub(super) fn rest(&self) -> &[u8] {
        self.received.get(self.used..).unwrap_or_default()
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.used += count;
        if self.used >= self.received.len() {
            self.received.clear();
            self.used = 0;
        }
    }

    /// Receives more; `false` at the end. Cancelling it loses nothing.
    pub(super) async fn receive(&mut self) -> io::Result<bool> {
        self.make_room();
        loop {
            self.readable().await?;
            if self.received.capacity() < RECEIVE_BYTES {
                self.received.reserve_exact(RECEIVE_BYTES);
            }
            match self.pipe.stream.try_read_buf(&mut self.received) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return result.map(|count| count > 0),
            }
        }
    }

    /// Receives into `bytes`, at most `most`; `false` at the end. Cancelling it loses nothing.
    async fn receive_into(&self, assembly: &mut Assembly) -> io::Result<bool> {
        loop {
            self.readable().await?;
            let Some((bytes, most)) = assembly.direct() else { return Ok(true) };
            match self.pipe.stream.try_read_buf(&mut bytes::BufMut::limit(bytes, most)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => {
                    let count = result?;
                    assembly.put_directly(count);
                    return Ok(count > 0);
                }
            }
        }
    }

    /// A link that is idle holds no buffer; what little is left of one is moved to its beginning.
    fn make_room(&mut self) {
        if self.received.is_empty() {
            self.received = Vec::new();
        } else {
            self.received.drain(..self.used);
        }
        self.used = 0;
    }

    /// Waits for bytes, or for room if a PONG could not be written.
    async fn readable(&self) -> io::Result<()> {
        loop {
            if !self.pipe.queue().owes_pong() {
                return self.pipe.stream.readable().await;
            }
            let ready = self.pipe.stream.ready(Interest::READABLE | Interest::WRITABLE).await?;
            if ready.is_writable() {
                self.pipe.try_flush()?;
            }
            if ready.is_readable() {
                return Ok(());
            }
        }
    }
}

/// Reads messages.
#[derive(Debug)]
pub(in crate::doors::blender) struct LinkReader {
    pub(super) inlet: Inlet,
    pub(super) assembly: Assembly,
}

impl LinkReader {
    /// The next message; `None` when the client has closed. Cancelling it loses nothing. After an error there is no
    /// next one.
    pub(in crate::doors::blender) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, WireError> {
        loop {
            match self.next_item().await? {
                None => return Ok(None),
                Some(Item::Message(chunks)) => return Ok(Some(chunks)),
                Some(Item::Command(body)) => match zmtp::command(&body)? {
                    Wish::End => return Ok(None),
                    Wish::Nothing => {}
                    Wish::Pong(pong) => {
                        self.inlet.pipe.queue().push_pong(pong);
                        self.inlet.pipe.try_flush()?;
                    }
                },
            }
        }
    }

    pub(super) async fn next_item(&mut self) -> Result<Option<Item>, WireError> {
        loop {
            let mut rest = self.inlet.rest();
            let before = rest.len();
            let item = self.assembly.take(&mut rest)?;
            let used = before - rest.len();
            self.inlet.consume(used);
            if item.is_some() {
                return Ok(item);
            }
            let received = if self.assembly.direct().is_some() {
                self.inlet.receive_into(&mut self.assembly).await?
            } else {
                self.inlet.receive().await?
            };
            if !received {
                let whole = self.assembly.is_idle() && self.inlet.rest().is_empty();
                return if whole { Ok(None) } else { Err(WireError::Cut) };
            }
        }
    }

    /// Sets how many bytes a message may have from the next one on: few suffice for those who have not logged in.
    pub(in crate::doors::blender) fn set_message_bytes(&mut self, message_bytes: u64) {
        self.assembly.limits.message_bytes = message_bytes;
    }
}

/// Writes messages. What is queued is written in order, whole, also if a `flush` or `write` is cancelled in between.
#[derive(Debug)]
pub(in crate::doors::blender) struct LinkWriter {
    pipe: Arc<Pipe>,
}

impl LinkWriter {
    /// Queues pieces that [`super::frame`] made: whole messages.
    pub(in crate::doors::blender) fn queue(&mut self, frames: &[Bytes]) {
        self.pipe.queue().push(frames);
    }

    /// How many bytes wait to be written.
    pub(in crate::doors::blender) fn queued_bytes(&self) -> usize {
        self.pipe.queue().bytes()
    }

    /// Writes what the socket takes at once; whether that was everything.
    #[cfg(test)]
    pub(in crate::doors::blender) fn try_flush(&mut self) -> io::Result<bool> {
        self.pipe.try_flush()
    }

    /// Writes all that is queued. Cancelling it loses nothing: the rest stays queued.
    pub(in crate::doors::blender) async fn flush(&mut self) -> io::Result<()> {
        self.pipe.flush().await
    }

    /// Queues whole messages and writes all that is queued. If it is cancelled, the messages stay queued.
    #[cfg(test)]
    pub(in crate::doors::blender) async fn write(&mut self, frames: &[Bytes]) -> io::Result<()> {
        self.queue(frames);
        self.flush().await
    }

    /// Queues whole messages and writes what the socket takes at once; whether that was everything.
    #[cfg(test)]
    pub(in crate::doors::blender) fn try_write(&mut self, frames: &[Bytes]) -> io::Result<bool> {
        self.queue(frames);
        self.try_flush()
    }

    /// Tells the client that nothing more comes. What is queued should have been flushed.
    pub(in crate::doors::blender) fn close(&self) {
        // A connection that is gone needs no telling.
        let _ = rustix::net::shutdown(&self.pipe.stream, rustix::net::Shutdown::Write);
    }
}
