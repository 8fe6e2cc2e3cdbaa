//! Events: commands that were accepted. What happened, in the order it happened, and nothing that can be refused.

use super::{ChatId, ClientId, MemberName, NodeId, NodePatch, NodePut, Role, TaskId, TaskPatch, TaskPut, Timestamp};
use bytes::Bytes;
use std::sync::Arc;

/// One accepted command: all its changes share its `seq`.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Its place in the session's log: dense, from 1, rising across restores.
    pub seq: u64,
    /// When the server accepted it.
    pub at: Timestamp,
    /// Who asked for it.
    pub author: MemberName,
    /// The edit's idempotency key, if a client asked for it.
    pub op: Option<OpKey>,
    /// What changed, in order.
    pub changes: Vec<Change>,
}

/// Identifies one edit of one client program, also when it is sent again after a reconnect or a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpKey {
    /// Which client program.
    pub client: ClientId,
    /// The number the client gave the edit: 1 to 2^53 - 1, rising.
    pub op: u64,
}

/// One change of the state. Everything in it was checked when it was decided.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The node is now this (its lock stays).
    NodePut(NodePut),
    /// The node has these fields changed.
    NodePatched {
        /// Which node.
        id: NodeId,
        /// What changed.
        patch: NodePatch,
    },
    /// These nodes are gone: the one asked for first, then those below it.
    NodesRemoved {
        /// Parents before children.
        ids: Vec<NodeId>,
    },
    /// The node now belongs to `owner`.
    NodeLocked {
        /// Which node.
        id: NodeId,
        /// Whose it is now.
        owner: MemberName,
    },
    /// These nodes now belong to everyone.
    NodesUnlocked {
        /// Which nodes.
        ids: Vec<NodeId>,
    },
    /// The task is now this.
    TaskPut(TaskPut),
    /// The task has these fields changed.
    TaskPatched {
        /// Which task.
        id: TaskId,
        /// What changed.
        patch: TaskPatch,
    },
    /// The task is gone.
    TaskRemoved {
        /// Which task.
        id: TaskId,
    },
    /// Somebody said something. `draft.id` is always set.
    ChatPosted(ChatDraft),
    /// The author is online.
    MemberJoined {
        /// The client program.
        client: ClientId,
        /// What they may do.
        role: Role,
    },
    /// The named member is offline. Their locks are released by a `NodesUnlocked` in the same event.
    MemberLeft {
        /// Who left.
        name: MemberName,
    },
    /// The author's remembered metadata has this merged into it (RFC 7396).
    MemberSet {
        /// A JSON object.
        metadata: Bytes,
    },
    /// An older or foreign state was put in place: everybody is offline, every lock is released.
    Restored {
        /// What was restored, for people.
        source: Arc<str>,
    },
    /// The live state forgets what exceeds its limits. It is written down, so that replay does not depend on settings.
    /// Nothing that clients need to be told.
    Forgotten {
        /// How many of the oldest chat messages.
        messages: u64,
        /// Members longest offline.
        members: Vec<MemberName>,
        /// Client programs longest silent: their applied operations are not recognised any more.
        clients: Vec<ClientId>,
    },
    /// A setting of the session is now this.
    SettingChanged {
        /// Which setting.
        key: Arc<str>,
        /// JSON text; `None`: it is gone.
        value: Option<Bytes>,
    },
    /// A project has ended: nodes, tasks, chat and settings are gone, members stay.
    SessionCleared {
        /// The file that holds what was there, relative to the data directory.
        archive: Arc<str>,
    },
}

/// Something said in the chat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatDraft {
    /// The message's identity; the session gives one (`m<seq>` or `m<seq>.<n>` in a batch) if the client does not.
    pub id: Option<ChatId>,
    /// What sort of message it is.
    pub kind: ChatKind,
    /// 1 byte to 16 KiB.
    pub text: Arc<str>,
}

/// What sort of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChatKind {
    /// Plain text.
    Text,
    /// An http or https address.
    Link,
    /// Program text, shown as it is.
    Code,
}

impl ChatKind {
    /// Its stable name, as it appears in the protocol and in exports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Link => "link",
            Self::Code => "code",
        }
    }

    /// The kind of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Text, Self::Link, Self::Code].into_iter().find(|kind| kind.as_str() == name)
    }
}

impl Event {
    /// The event that marks a restore. It is the daemon's own, and its `seq` may skip numbers.
    pub fn restored(seq: u64, at: Timestamp, source: &str) -> Self {
        let changes = vec![Change::Restored { source: source.into() }];
        Self { seq, at, author: MemberName::daemon(), op: None, changes }
    }

    /// About how many bytes it takes in the journal; never less than half of the truth.
    pub fn size_hint(&self) -> usize {
        64 + self.author.as_str().len() + self.changes.iter().map(Change::size_hint).sum::<usize>()
    }
}

impl Change {
    /// About how many bytes it takes in the journal.
    pub(super) fn size_hint(&self) -> usize {
        16 + match self {
            Self::NodePut(put) => put.size_hint(),
            Self::NodePatched { id, patch } => id.as_str().len() + patch.size_hint(),
            Self::NodesRemoved { ids } | Self::NodesUnlocked { ids } => ids_size(ids),
            Self::NodeLocked { id, owner } => id.as_str().len() + owner.as_str().len(),
            Self::TaskPut(put) => put.id.as_str().len() + put.title.len() + put.description.len() + 320,
            Self::TaskPatched { id, patch } => {
                id.as_str().len() + patch.description.as_ref().map_or(0, |text| text.len()) + 640
            }
            Self::TaskRemoved { id } => id.as_str().len(),
            Self::ChatPosted(draft) => draft.text.len() + 144,
            Self::MemberJoined { .. } | Self::MemberLeft { .. } => 80,
            Self::MemberSet { metadata } => metadata.len(),
            Self::Restored { source } => source.len(),
            Self::Forgotten { members, clients, .. } => 80 * members.len() + 20 * clients.len(),
            Self::SessionCleared { archive } => archive.len(),
            Self::SettingChanged { key, value } => key.len() + value.as_ref().map_or(0, Bytes::len),
        }
    }
}

/// About how many bytes a list of ids takes when it is stored.
pub(super) fn ids_size(ids: &[NodeId]) -> usize {
    ids.iter().map(|id| id.as_str().len() + 3).sum()
}
