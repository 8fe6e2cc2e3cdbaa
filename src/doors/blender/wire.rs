//! The two transports of Multi-User clients, ZMTP and plain TCP, as one: links that carry messages of chunks.
//!
//! Bytes become messages without any I/O in `zmtp` (its opening and commands), `framing` (TCP's opening, and the frames
//! of both) and `assembly` (chunks, charged as they arrive); `greet`, `link` and `queue` do the reading and writing.

use crate::session::ClientId;

use bytes::Bytes;
use std::fmt;
use std::io;
use std::time::Duration;

/// What a link is for: a client opens one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Channel {
    /// Everything but nodes and commits.
    Command,
    /// Nodes and commits.
    Data,
    /// Signs of life, from a helper process of the client.
    Ttl,
}

/// How messages lie in the stream of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Transport {
    /// ZMTP 3.x, mechanism NULL: replication 0.9.10.
    Zmtp,
    /// Counted chunks: replication 0.9.12 and 0.10.x.
    Tcp,
}

/// A client on all its links: the 16 bytes of a random UUID. Whoever knows them could pretend to be that client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PeerId([u8; 16]);

impl PeerId {
    /// The identity that a client gave; `None` if it is none of 16 bytes.
    pub(super) fn new(identity: &[u8]) -> Option<Self> {
        identity.try_into().ok().map(Self)
    }

    /// Whether it is one of those that the add-on makes: a random UUID (RFC 9562, version 4). Native clients' are not.
    pub(super) fn is_random(self) -> bool {
        self.0[6] >> 4 == 4 && self.0[8] >> 6 == 2
    }

    /// The same identity in the session's words.
    pub(super) fn client(self) -> ClientId {
        ClientId(u128::from_be_bytes(self.0))
    }
}

impl From<ClientId> for PeerId {
    fn from(client: ClientId) -> Self {
        Self(client.0.to_be_bytes())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PeerId(…)")
    }
}

/// What a link may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WireLimits {
    /// Bytes of the chunks of one message. Memory is taken only as they arrive.
    pub(super) message_bytes: u64,
    /// Chunks of one message.
    pub(super) chunks: usize,
    /// How long a client may take to say who it is.
    pub(super) greeted_within: Duration,
    /// How long the kernel waits for what was written to be taken; zero = as long as it likes.
    pub(super) taken_within: Duration,
}

impl Default for WireLimits {
    fn default() -> Self {
        Self {
            message_bytes: 256 << 20,
            chunks: 64,
            greeted_within: Duration::from_secs(5),
            taken_within: Duration::from_secs(30),
        }
    }
}

/// Why a link cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum WireError {
    /// The connection itself failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It did not say who it is in time.
    #[error("it did not say who it is in time")]
    GreetingTimeout,
    /// The first byte belongs to no Multi-User client.
    #[error("this is no Multi-User client: its first byte is 0x{0:02x}")]
    NotMultiUser(u8),
    /// The bytes break the rules of the transport.
    #[error("{0}")]
    Malformed(&'static str),
    /// A message has more than is allowed.
    #[error("a message of more than {max} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The most allowed.
        max: u64,
    },
    /// It closed in the middle of something.
    #[error("closed in the middle of a message")]
    Cut,
}

/// A message as it goes over the wire, in pieces that all peers of that transport can share. Large chunks are not copied.
pub(super) fn frame(transport: Transport, chunks: &[Bytes]) -> Vec<Bytes> {
    framing::frame(transport, chunks)
}

#[cfg(test)]
mod tests;

mod assembly;
mod framing;
mod greet;
mod link;
mod queue;
mod zmtp;

pub(super) use greet::greet;
pub(super) use link::{Link, LinkReader, LinkWriter};
#[cfg(test)]
pub(super) use tests::{in_pieces, unframe};
