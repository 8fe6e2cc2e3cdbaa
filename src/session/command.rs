//! Commands: what a client, or the daemon itself, asks the session to do.

use super::event::ids_size;
use super::{ChatDraft, ClientId, MemberName, Node, NodeId, OpKey, Payload, Role, TaskId, TaskStatus};

use bytes::Bytes;
use std::sync::Arc;

/// Who asks. Set by the server from the connection, never taken from a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Author {
    /// The member's name.
    pub name: MemberName,
    /// What the member may do.
    pub role: Role,
}

impl Author {
    /// The daemon itself, which may do everything.
    pub fn daemon() -> Self {
        Self { name: MemberName::daemon(), role: Role::Admin }
    }
}

/// What is asked. It becomes one event, or none of it happens.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// The author comes online.
    Join {
        /// The client program; a client that joins again under its name takes its old place over.
        client: ClientId,
    },
    /// The author goes offline: locks of theirs are released.
    Leave,
    /// One or several operations, applied all together or not at all, in order.
    Edit {
        /// Makes a resent edit harmless. `None` for edits by the daemon itself (an import).
        op: Option<OpKey>,
        /// At least one, at most `Limits::batch_operations`.
        operations: Vec<Operation>,
    },
}

/// One change that a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Operation {
    /// `node.put`: creates the node or replaces all of it but its lock.
    NodePut(NodePut),
    /// `node.patch`: changes only the fields that are given.
    NodePatch {
        /// Which node.
        id: NodeId,
        /// What changes.
        patch: NodePatch,
        /// Refuse unless the node's revision is this one.
        if_revision: Option<u64>,
    },
    /// `node.remove`: removes the node; with `recursive` also everything below it, else refused if it has children.
    NodeRemove {
        /// Which node.
        id: NodeId,
        /// Remove what lies below it as well.
        recursive: bool,
        /// Refuse unless the node's revision is this one.
        if_revision: Option<u64>,
    },
    /// `node.lock`: makes the author the node's owner, if nobody else is.
    NodeLock {
        /// Which node.
        id: NodeId,
    },
    /// `node.unlock`: gives the node back to everyone. Admins may unlock what others locked.
    NodeUnlock {
        /// Which node.
        id: NodeId,
    },
    /// `task.put`: creates the task, or replaces what its author wrote.
    TaskPut(TaskPut),
    /// `task.patch`: changes only the fields that are given.
    TaskPatch {
        /// Which task.
        id: TaskId,
        /// What changes.
        patch: TaskPatch,
        /// Refuse unless the task's revision is this one.
        if_revision: Option<u64>,
    },
    /// `task.remove`.
    TaskRemove {
        /// Which task.
        id: TaskId,
        /// Refuse unless the task's revision is this one.
        if_revision: Option<u64>,
    },
    /// `chat.post`.
    ChatPost(ChatDraft),
    /// `member.set`: merges (RFC 7396) into the author's own remembered metadata.
    MemberSet {
        /// A JSON object; a `null` value removes its key.
        metadata: Bytes,
    },
    /// `session.set`: sets or removes a setting of the session. Admins only; the server's own are its own.
    SettingSet {
        /// 1 to 64 bytes.
        key: Arc<str>,
        /// JSON text; `None` removes it.
        value: Option<Bytes>,
    },
    /// Ends a project: nodes, tasks, chat and settings are gone, members stay. Only the daemon itself asks for it, once
    /// all of that is in a file.
    SessionClear {
        /// The file, relative to the data directory: 1 to 256 bytes.
        archive: Arc<str>,
    },
}

/// A whole node, as put.
#[derive(Debug, Clone, PartialEq)]
pub struct NodePut {
    /// The node's identity.
    pub id: NodeId,
    /// What sort of thing it is, for example `mesh`: 1 to 64 bytes.
    pub kind: Arc<str>,
    /// What people call it: 0 to 256 bytes.
    pub name: Arc<str>,
    /// The node it hangs below; must exist, and must not make a circle.
    pub parent: Option<NodeId>,
    /// Its place among its siblings, smallest first; finite.
    pub order: Option<f64>,
    /// Nodes it refers to; they need not exist (yet).
    pub dependencies: Vec<NodeId>,
    /// Its content.
    pub payload: Payload,
    /// Refuse unless the node has this revision; 0 = unless it does not exist.
    pub if_revision: Option<u64>,
}

/// Changes to a node; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodePatch {
    /// A new kind.
    pub kind: Option<Arc<str>>,
    /// A new name.
    pub name: Option<Arc<str>>,
    /// A new parent, or `Some(None)` for the top level.
    pub parent: Option<Option<NodeId>>,
    /// A new place among its siblings, or `Some(None)` for none.
    pub order: Option<Option<f64>>,
    /// New dependencies, all of them.
    pub dependencies: Option<Vec<NodeId>>,
    /// A change of the content.
    pub payload: Option<PayloadChange>,
}

/// How a payload changes.
#[derive(Debug, Clone, PartialEq)]
pub enum PayloadChange {
    /// By another payload.
    Replace(Payload),
    /// By a JSON merge patch (RFC 7396) on a JSON payload.
    Merge(Bytes),
    /// By a JSON patch (RFC 6902) on a JSON payload.
    Patch(Bytes),
    /// By one more delta on a payload of bytes, which the session does not look into.
    Append(Bytes),
    /// By a new base of equal meaning, instead of the old one and its first deltas. Only the daemon does it, with
    /// nothing else in the patch; the node keeps its revision. `if_revision` must be given and means something else
    /// here: the revision of the last delta that is folded, so that a base put meanwhile is never replaced.
    Fold {
        /// How many deltas are in the new base; at least one.
        deltas: u32,
        /// The new base.
        base: Bytes,
    },
}

impl Operation {
    /// Folds all deltas that the node has into `base`, if it has any.
    pub fn fold(node: &Node, base: Bytes) -> Option<Self> {
        let deltas = node.payload.deltas()?;
        let if_revision = deltas.last().map(|delta| delta.revision);
        let payload = Some(PayloadChange::Fold { deltas: u32::try_from(deltas.len()).ok()?, base });
        Some(Self::NodePatch { id: node.id.clone(), patch: NodePatch { payload, ..NodePatch::default() }, if_revision })
    }
}

/// A task, as put. Author and time are the server's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskPut {
    /// The task's identity.
    pub id: TaskId,
    /// 1 to 256 bytes.
    pub title: Arc<str>,
    /// 0 to 16 KiB.
    pub description: Arc<str>,
    /// Whom it is for: free text, empty for nobody, at most 64 bytes.
    pub assignee: Arc<str>,
    /// How far it is.
    pub status: TaskStatus,
    /// The node it is about; need not exist.
    pub node: Option<NodeId>,
    /// Refuse unless the task has this revision; 0 = unless it does not exist.
    pub if_revision: Option<u64>,
}

/// Changes to a task; `None` leaves a field as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskPatch {
    /// A new title.
    pub title: Option<Arc<str>>,
    /// A new description.
    pub description: Option<Arc<str>>,
    /// A new assignee.
    pub assignee: Option<Arc<str>>,
    /// A new status.
    pub status: Option<TaskStatus>,
    /// A new linked node, or `Some(None)` for none.
    pub node: Option<Option<NodeId>>,
}

impl Operation {
    /// About how many bytes it holds.
    pub fn size_hint(&self) -> usize {
        64 + match self {
            Self::NodePut(put) => put.size_hint(),
            Self::NodePatch { patch, .. } => patch.size_hint(),
            Self::TaskPut(put) => put.title.len() + put.description.len() + 320,
            Self::TaskPatch { patch, .. } => patch.description.as_ref().map_or(0, |text| text.len()) + 640,
            Self::ChatPost(draft) => draft.text.len(),
            Self::MemberSet { metadata } => metadata.len(),
            Self::SettingSet { value, .. } => value.as_ref().map_or(0, Bytes::len),
            Self::NodeRemove { .. }
            | Self::NodeLock { .. }
            | Self::NodeUnlock { .. }
            | Self::TaskRemove { .. }
            | Self::SessionClear { .. } => 0,
        }
    }
}

impl NodePut {
    /// About how many bytes it takes in the journal.
    pub(super) fn size_hint(&self) -> usize {
        let parent = self.parent.as_ref().map_or(0, |id| id.as_str().len());
        let texts = self.id.as_str().len() + self.kind.len() + self.name.len() + parent;
        texts + ids_size(&self.dependencies) + self.payload.len() + 160
    }
}

impl NodePatch {
    /// About how many bytes it takes in the journal.
    pub(super) fn size_hint(&self) -> usize {
        let payload = match &self.payload {
            None => 0,
            Some(PayloadChange::Replace(payload)) => payload.len() + 128,
            Some(PayloadChange::Merge(bytes) | PayloadChange::Patch(bytes) | PayloadChange::Append(bytes)) => {
                bytes.len()
            }
            Some(PayloadChange::Fold { base, .. }) => base.len(),
        };
        self.dependencies.as_deref().map_or(0, ids_size) + payload + 480
    }
}
