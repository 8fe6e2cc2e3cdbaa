//! STORED: never change a released struct; add V2. The forms in which a session's parts lie on disk.
//!
//! They are frozen and apart from the live types, so that those may change. Converting shares texts and payloads
//! instead of copying them. `tests/golden/` holds the bytes of every version, which must decode for ever.

mod event;
mod load;
mod node;
mod snapshot;

pub use event::{ChangeV1, ChatDraftV1, EventV1, OpKeyV1};
pub use load::Loading;
pub use node::{DeltaV1, NodePatchV1, NodePutV1, NodeRefV1, NodeV1, PayloadChangeV1, PayloadV1};
pub use snapshot::{
    ClientOpsV1, MemberV1, MessageV1, MetaV1, RemovedTaskV1, SettingV1, TaskPatchV1, TaskPutV1, TaskV1,
};

use super::{ChatKind, InvalidId, Role, TaskStatus};
use serde::{Deserialize, Serialize};

/// Why stored parts do not make a session, although their checksums were right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadStored {
    /// A text that is no identity.
    #[error("a stored identity {0}")]
    Id(#[from] InvalidId),
    /// A value that cannot have been stored.
    #[error("{0}")]
    Value(String),
}

fn bad(what: impl Into<String>) -> BadStored {
    BadStored::Value(what.into())
}

/// STORED. A role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RoleV1 {
    /// Sees and chats.
    Viewer,
    /// Edits.
    Member,
    /// Edits what others have locked.
    Admin,
}

impl From<Role> for RoleV1 {
    fn from(role: Role) -> Self {
        match role {
            Role::Viewer => Self::Viewer,
            Role::Member => Self::Member,
            Role::Admin => Self::Admin,
        }
    }
}

impl From<RoleV1> for Role {
    fn from(role: RoleV1) -> Self {
        match role {
            RoleV1::Viewer => Self::Viewer,
            RoleV1::Member => Self::Member,
            RoleV1::Admin => Self::Admin,
        }
    }
}

/// STORED. A chat message's sort.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChatKindV1 {
    /// Plain text.
    Text,
    /// An address.
    Link,
    /// Program text.
    Code,
}

impl From<ChatKind> for ChatKindV1 {
    fn from(kind: ChatKind) -> Self {
        match kind {
            ChatKind::Text => Self::Text,
            ChatKind::Link => Self::Link,
            ChatKind::Code => Self::Code,
        }
    }
}

impl From<ChatKindV1> for ChatKind {
    fn from(kind: ChatKindV1) -> Self {
        match kind {
            ChatKindV1::Text => Self::Text,
            ChatKindV1::Link => Self::Link,
            ChatKindV1::Code => Self::Code,
        }
    }
}

/// STORED. How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskStatusV1 {
    /// Not begun.
    Todo,
    /// Being worked on.
    InProgress,
    /// Finished.
    Done,
}

impl From<TaskStatus> for TaskStatusV1 {
    fn from(status: TaskStatus) -> Self {
        match status {
            TaskStatus::Todo => Self::Todo,
            TaskStatus::InProgress => Self::InProgress,
            TaskStatus::Done => Self::Done,
        }
    }
}

impl From<TaskStatusV1> for TaskStatus {
    fn from(status: TaskStatusV1) -> Self {
        match status {
            TaskStatusV1::Todo => Self::Todo,
            TaskStatusV1::InProgress => Self::InProgress,
            TaskStatusV1::Done => Self::Done,
        }
    }
}
