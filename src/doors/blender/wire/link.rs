//! Links: one connection of a client that has said who it is, to read messages from and to write them to.

use super::{Channel, PeerId, Transport, WireError, WireLimits};

use bytes::Bytes;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpStream;

/// A connection whose client has said who it is.
#[derive(Debug)]
pub(in crate::doors::blender) struct Link {
    peer: PeerId,
    channel: Channel,
    transport: Transport,
    address: SocketAddr,
    reader: LinkReader,
    writer: LinkWriter,
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
        (self.reader, self.writer)
    }
}

/// Reads messages.
#[derive(Debug)]
pub(in crate::doors::blender) struct LinkReader {
    stream: Arc<TcpStream>,
}

impl LinkReader {
    /// The next message; `None` when the client has closed. Cancelling it loses nothing.
    pub(in crate::doors::blender) async fn next(&mut self) -> Result<Option<Vec<Bytes>>, WireError> {
        self.stream.readable().await?;
        Err(WireError::Malformed("not read yet"))
    }

    /// Sets how many bytes a message may have from now on; fewer suffice for those who have not logged in.
    pub(in crate::doors::blender) fn set_message_bytes(&mut self, _message_bytes: u64) {}
}

/// Writes messages. What is queued is written in order, whole, also if a `flush` or `write` is cancelled in between.
#[derive(Debug)]
pub(in crate::doors::blender) struct LinkWriter {
    stream: Arc<TcpStream>,
}

impl LinkWriter {
    /// Queues pieces that [`super::frame`] made: whole messages.
    pub(in crate::doors::blender) fn queue(&mut self, _frames: &[Bytes]) {}

    /// How many bytes wait to be written.
    pub(in crate::doors::blender) fn queued_bytes(&self) -> usize {
        0
    }

    /// Writes what the socket takes at once; whether that was everything.
    pub(in crate::doors::blender) fn try_flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    /// Writes all that is queued. Cancelling it loses nothing: the rest stays queued.
    pub(in crate::doors::blender) async fn flush(&mut self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// Queues whole messages and writes all that is queued. If it is cancelled, the messages stay queued.
    pub(in crate::doors::blender) async fn write(&mut self, frames: &[Bytes]) -> io::Result<()> {
        self.queue(frames);
        self.flush().await
    }

    /// Queues whole messages and writes what the socket takes at once; whether that was everything.
    pub(in crate::doors::blender) fn try_write(&mut self, frames: &[Bytes]) -> io::Result<bool> {
        self.queue(frames);
        self.try_flush()
    }

    /// Tells the client that nothing more comes. What is queued should have been flushed.
    pub(in crate::doors::blender) fn close(&self) {
        // A connection that is gone needs no telling.
        let _ = rustix::net::shutdown(&*self.stream, rustix::net::Shutdown::Write);
    }
}

/// Learns who has connected, and prepares the connection. `port` is the channel of the ZMTP port on which it came;
/// clients of the TCP transport name theirs.
pub(in crate::doors::blender) async fn greet(
    stream: TcpStream,
    _port: Channel,
    _limits: WireLimits,
) -> Result<Link, WireError> {
    stream.readable().await?;
    Err(WireError::GreetingTimeout)
}
