//! Rejections: why the session refused a command. Deterministic, typed, and safe to show to the client.

use super::{MemberName, NodeId, TaskId};

/// Why a command was refused. The state is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// The role does not allow the operation.
    #[error("your role ({role}) may not do this")]
    Forbidden {
        /// The author's role.
        role: &'static str,
    },
    /// No such node.
    #[error("there is no node {0:?}")]
    NoSuchNode(NodeId),
    /// No such parent.
    #[error("there is no node {0:?} to be the parent")]
    NoSuchParent(NodeId),
    /// No such task.
    #[error("there is no task {0:?}")]
    NoSuchTask(TaskId),
    /// The author has not joined.
    #[error("{0:?} is not in the session")]
    NotJoined(MemberName),
    /// Somebody of that name is online with another client.
    #[error("somebody called {0:?} is already in the session: choose another name")]
    NameTaken(MemberName),
    /// Names beginning with `~` are the server's.
    #[error("names that begin with ~ are reserved: choose another name")]
    NameReserved,
    /// Another member has locked the node.
    #[error("{id:?} is locked by {owner:?}")]
    Locked {
        /// Which node.
        id: NodeId,
        /// Whose it is.
        owner: MemberName,
    },
    /// The node has children and the removal was not recursive.
    #[error("{0:?} has children: remove them first, or ask for a recursive removal")]
    HasChildren(NodeId),
    /// The new parent lies below the node.
    #[error("{0:?} cannot hang below itself")]
    Circle(NodeId),
    /// The revision is not the one the client expected.
    #[error("the revision is {current}, not the expected one")]
    RevisionConflict {
        /// The current revision; 0 if it does not exist.
        current: u64,
    },
    /// Something of that identity exists already.
    #[error("{0} exists already")]
    Exists(String),
    /// A patch on a payload that is not JSON.
    #[error("{0:?} has no JSON payload to patch")]
    NotJson(NodeId),
    /// A delta for a payload that is not bytes.
    #[error("{0:?} has a JSON payload: nothing can be appended to it")]
    NotBytes(NodeId),
    /// A patch on a payload that is in a format of Blender's Multi-User add-on.
    #[error("{0:?} holds what Blender's Multi-User put there: its payload cannot be patched")]
    BlenderPayload(NodeId),
    /// Only the server itself may do it.
    #[error("{0} is reserved for the server itself")]
    Reserved(String),
    /// A field breaks a rule; says which and why.
    #[error("{field}: {why}")]
    Invalid {
        /// The field at fault.
        field: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A limit would be exceeded; says which.
    #[error("{what} would exceed the limit of {limit}")]
    LimitExceeded {
        /// What there would be too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// The edit's number is older than the 1,024 remembered ones: whether it was applied is not known any more.
    #[error("this operation is too old to tell whether it was applied")]
    OpExpired,
}

impl Rejection {
    /// The stable name of the reason, as it appears in the protocol.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Forbidden { .. } => "forbidden",
            Self::NoSuchNode(_) | Self::NoSuchTask(_) => "not_found",
            Self::NoSuchParent(_) => "no_such_parent",
            Self::NotJoined(_) => "not_joined",
            Self::NameTaken(_) => "name_taken",
            Self::NameReserved => "name_reserved",
            Self::Locked { .. } => "locked",
            Self::HasChildren(_) => "has_children",
            Self::Circle(_) => "circle",
            Self::RevisionConflict { .. } => "revision_conflict",
            Self::Exists(_) => "exists",
            Self::NotJson(_) => "not_json",
            Self::NotBytes(_) => "not_bytes",
            Self::BlenderPayload(_) => "blender_payload",
            Self::Reserved(_) => "reserved",
            Self::Invalid { .. } => "invalid",
            Self::LimitExceeded { .. } => "limit_exceeded",
            Self::OpExpired => "op_expired",
        }
    }
}
