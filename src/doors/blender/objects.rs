//! What Multi-User clients and servers say to each other: each message typed, and scanned before anything in it is
//! believed.

#[cfg(test)]
mod tests;

mod outbound;
mod read;
mod values;

use crate::formats::pickle::{Value, Violation};
use crate::session::{MemberName, NodeId};

use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

pub(super) use outbound::{
    ServerInfo, UserRecord, auth_reply, clients, commit, delete, disconnect, metadata, node, ping, right, server_info,
    server_snapshot, snapshot_init, snapshot_removed, snapshot_set,
};
pub(super) use read::read;

/// A message to the server. Chunks that are passed on are held as they came.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Inbound {
    /// Command: asks for what can be known without logging in.
    RequestServerInfo,
    /// Command: wants to log in.
    Auth(Auth),
    /// Command: the first content of a session.
    ServerSnapshot(ServerSnapshot),
    /// Command: joining a session that has content.
    Snapshot(Snapshot),
    /// Command: a node is gone.
    Delete(NodeId),
    /// Command: nodes change hands.
    Right(Right),
    /// Command: someone shall leave.
    Kick(Arc<str>),
    /// Command: some of the sender's own metadata.
    Metadata(Metadata),
    /// Data: a node, new or replaced.
    Node(NodeObject),
    /// Data: a change of a node.
    Commit(Commit),
    /// Ttl: the first sign of life.
    TtlInit,
    /// Ttl: a sign of life.
    Pong,
}

/// Who wants to log in.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Auth {
    /// Whether it asks to be an administrator.
    pub(super) admin: bool,
    /// What it wants to be called; not checked.
    pub(super) name: Arc<str>,
    /// The server's password, as it was typed there; `None` = Python's `None`.
    pub(super) server_password: Option<Arc<str>>,
    /// The administrators' password.
    pub(super) admin_password: Option<Arc<str>>,
    /// Its version of the library, for example `0.9.10`.
    pub(super) version: Arc<str>,
}

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { admin, name, version, .. } = self;
        f.debug_struct("Auth")
            .field("admin", admin)
            .field("name", name)
            .field("version", version)
            .finish_non_exhaustive()
    }
}

/// The steps of giving a session its first content.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ServerSnapshot {
    /// It wants to, with these nodes.
    Init {
        /// Their ids, in the order in which they will come.
        nodes: Vec<NodeId>,
    },
    /// One of them.
    Set(NodeObject),
    /// That was all.
    End,
}

/// The steps of joining.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Snapshot {
    /// Asks for the catalogue.
    RequestInit,
    /// Asks for one node of it, which may be gone.
    Get(NodeId),
    /// Has everything.
    Done,
}

/// Who has the right to edit a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// `COMMON`: nobody in particular.
    Common,
    /// A user.
    Member(MemberName),
}

impl Owner {
    /// What the protocol calls nobody in particular.
    pub(super) const COMMON: &'static str = "COMMON";

    /// The owner as the protocol writes it.
    #[cfg(test)]
    pub(super) fn as_str(&self) -> &str {
        match self {
            Self::Common => Self::COMMON,
            Self::Member(name) => name.as_str(),
        }
    }
}

/// Nodes that change hands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Right {
    /// The nodes; they may be gone.
    pub(super) nodes: Vec<NodeId>,
    /// Who gets them.
    pub(super) owner: Owner,
}

/// Some of a user's metadata: a dict of which each entry replaces the one before.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Metadata {
    /// Whose it claims to be.
    pub(super) user: Arc<str>,
    /// The entries, each key once.
    pub(super) entries: Vec<(Arc<str>, Value)>,
    /// The pickle of the dict, as it came.
    pub(super) data: Bytes,
}

/// A whole node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NodeObject {
    /// Its id.
    pub(super) id: NodeId,
    /// Who owns it, if it is new.
    pub(super) owner: Owner,
    /// What it depends on.
    pub(super) dependencies: Vec<NodeId>,
    /// The pickle of its data, as it came.
    pub(super) data: Bytes,
    /// The data's `type_id`, for example `Mesh`.
    pub(super) type_id: Arc<str>,
    /// The data's `name`, if it is a text.
    pub(super) name: Option<Arc<str>>,
}

/// A change of a node.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Commit {
    /// The node's id.
    pub(super) id: NodeId,
    /// What the node depends on from now on.
    pub(super) dependencies: Vec<NodeId>,
    /// The delta's pickle, as it came. It was scanned; whether it applies is another question.
    pub(super) delta: Bytes,
}

/// How the server answers who gives a session its first content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InitState {
    /// Go on.
    Accepted,
    /// Somebody else is at it, or it is done already.
    Rejected,
    /// All announced nodes are here.
    Done,
}

/// What a message is about: the number in its first chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// 1.
    Commit,
    /// 2.
    Node,
    /// 4.
    Delete,
    /// 5.
    Right,
    /// 7.
    Snapshot,
    /// 8.
    ServerSnapshot,
    /// 9.
    Auth,
    /// 10, only to clients.
    Disconnect,
    /// 11, only to the server.
    Kick,
    /// 12, only to clients.
    UpdateClientsState,
    /// 13.
    UpdateUserMetadata,
    /// 14.
    RequestServerInfo,
}

/// Why a message is refused. Safe to log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) struct ObjectError {
    /// What it is about, as far as it says.
    pub(super) kind: Option<Kind>,
    /// In which chunk the fault lies.
    pub(super) chunk: usize,
    /// In which chunk of the node that lies in that chunk.
    pub(super) inner: Option<usize>,
    /// What is wrong.
    pub(super) fault: Fault,
}

impl fmt::Display for ObjectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(kind) = self.kind {
            write!(f, "{kind:?}, ")?;
        }
        write!(f, "chunk {}", self.chunk)?;
        if let Some(inner) = self.inner {
            write!(f, ", chunk {inner} of the node in it")?;
        }
        write!(f, ": {}", self.fault)
    }
}

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// A pickle holds what it must not: with opcode, offset and name.
    #[error(transparent)]
    Pickle(#[from] Violation),
    /// It does not belong here, or is not what it should be.
    #[error("{0}")]
    Shape(&'static str),
    /// A field of a dict is missing, or is of another type.
    #[error("there is no {0}, or it is of the wrong type")]
    Missing(&'static str),
    /// There is too much of something.
    #[error("more than {max} {what}")]
    TooMuch {
        /// What there is too much of.
        what: &'static str,
        /// The most allowed.
        max: u64,
    },
}

impl ObjectError {
    /// What the pickle firewall found, if it was that.
    pub(super) fn violation(&self) -> Option<&Violation> {
        if let Fault::Pickle(violation) = &self.fault { Some(violation) } else { None }
    }
}
