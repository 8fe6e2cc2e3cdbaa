//! STORED: never change a released struct; add V2. Events, as the journal keeps them.

use super::node::{node_ids, texts};
use super::{BadStored, ChatKindV1, NodePatchV1, NodePutV1, RoleV1, TaskPatchV1, TaskPutV1};
use crate::session::{Change, ChatDraft, ChatId, ClientId, Event, MemberName, NodeId, OpKey, TaskId, Timestamp};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// STORED. An event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `Event`")]
pub struct EventV1 {
    pub seq: u64,
    pub at: i64,
    pub author: Arc<str>,
    pub op: Option<OpKeyV1>,
    pub changes: Vec<ChangeV1>,
}

/// STORED. An idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `OpKey`")]
pub struct OpKeyV1 {
    pub client: u128,
    pub op: u64,
}

/// STORED. A change. Variants keep their places: new ones are added at the end, in a V2 if V1 was released.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the variants are those of `Change`")]
pub enum ChangeV1 {
    NodePut(NodePutV1),
    NodePatched { id: Arc<str>, patch: NodePatchV1 },
    NodesRemoved { ids: Vec<Arc<str>> },
    NodeLocked { id: Arc<str>, owner: Arc<str> },
    NodesUnlocked { ids: Vec<Arc<str>> },
    TaskPut(TaskPutV1),
    TaskPatched { id: Arc<str>, patch: TaskPatchV1 },
    TaskRemoved { id: Arc<str> },
    ChatPosted(ChatDraftV1),
    MemberJoined { client: u128, role: RoleV1 },
    MemberLeft { name: Arc<str> },
    MemberSet { metadata: Bytes },
    Restored { source: Arc<str> },
    Forgotten { messages: u64, members: Vec<Arc<str>>, clients: Vec<u128> },
    SettingChanged { key: Arc<str>, value: Option<Bytes> },
    SessionCleared { archive: Arc<str> },
}

/// STORED. Something said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `ChatDraft`")]
pub struct ChatDraftV1 {
    pub id: Option<Arc<str>>,
    pub kind: ChatKindV1,
    pub text: Arc<str>,
}

impl From<&Event> for EventV1 {
    fn from(event: &Event) -> Self {
        Self {
            seq: event.seq,
            at: event.at.0,
            author: event.author.shared(),
            op: event.op.map(|key| OpKeyV1 { client: key.client.0, op: key.op }),
            changes: event.changes.iter().map(ChangeV1::from).collect(),
        }
    }
}

impl TryFrom<EventV1> for Event {
    type Error = BadStored;

    fn try_from(event: EventV1) -> Result<Self, BadStored> {
        Ok(Self {
            seq: event.seq,
            at: Timestamp(event.at),
            author: MemberName::from_shared(event.author)?,
            op: event.op.map(|key| OpKey { client: ClientId(key.client), op: key.op }),
            changes: event.changes.into_iter().map(Change::try_from).collect::<Result<_, _>>()?,
        })
    }
}

impl From<&Change> for ChangeV1 {
    fn from(change: &Change) -> Self {
        match change {
            Change::NodePut(put) => Self::NodePut(put.into()),
            Change::NodePatched { id, patch } => Self::NodePatched { id: id.shared(), patch: patch.into() },
            Change::NodesRemoved { ids } => Self::NodesRemoved { ids: texts(ids) },
            Change::NodeLocked { id, owner } => Self::NodeLocked { id: id.shared(), owner: owner.shared() },
            Change::NodesUnlocked { ids } => Self::NodesUnlocked { ids: texts(ids) },
            Change::TaskPut(put) => Self::TaskPut(put.into()),
            Change::TaskPatched { id, patch } => Self::TaskPatched { id: id.shared(), patch: patch.into() },
            Change::TaskRemoved { id } => Self::TaskRemoved { id: id.shared() },
            Change::ChatPosted(draft) => Self::ChatPosted(ChatDraftV1 {
                id: draft.id.as_ref().map(ChatId::shared),
                kind: draft.kind.into(),
                text: Arc::clone(&draft.text),
            }),
            Change::MemberJoined { client, role } => Self::MemberJoined { client: client.0, role: (*role).into() },
            Change::MemberLeft { name } => Self::MemberLeft { name: name.shared() },
            Change::MemberSet { metadata } => Self::MemberSet { metadata: metadata.clone() },
            Change::Restored { source } => Self::Restored { source: Arc::clone(source) },
            Change::Forgotten { messages, members, clients } => Self::Forgotten {
                messages: *messages,
                members: members.iter().map(MemberName::shared).collect(),
                clients: clients.iter().map(|id| id.0).collect(),
            },
            Change::SettingChanged { key, value } => {
                Self::SettingChanged { key: Arc::clone(key), value: value.clone() }
            }
            Change::SessionCleared { archive } => Self::SessionCleared { archive: Arc::clone(archive) },
        }
    }
}

impl TryFrom<ChangeV1> for Change {
    type Error = BadStored;

    fn try_from(change: ChangeV1) -> Result<Self, BadStored> {
        Ok(match change {
            ChangeV1::NodePut(put) => Self::NodePut(put.try_into()?),
            ChangeV1::NodePatched { id, patch } => {
                Self::NodePatched { id: NodeId::from_shared(id)?, patch: patch.try_into()? }
            }
            ChangeV1::NodesRemoved { ids } => Self::NodesRemoved { ids: node_ids(ids)? },
            ChangeV1::NodeLocked { id, owner } => {
                Self::NodeLocked { id: NodeId::from_shared(id)?, owner: MemberName::from_shared(owner)? }
            }
            ChangeV1::NodesUnlocked { ids } => Self::NodesUnlocked { ids: node_ids(ids)? },
            ChangeV1::TaskPut(put) => Self::TaskPut(put.try_into()?),
            ChangeV1::TaskPatched { id, patch } => {
                Self::TaskPatched { id: TaskId::from_shared(id)?, patch: patch.try_into()? }
            }
            ChangeV1::TaskRemoved { id } => Self::TaskRemoved { id: TaskId::from_shared(id)? },
            ChangeV1::ChatPosted(draft) => Self::ChatPosted(ChatDraft {
                id: draft.id.map(ChatId::from_shared).transpose()?,
                kind: draft.kind.into(),
                text: draft.text,
            }),
            ChangeV1::MemberJoined { client, role } => {
                Self::MemberJoined { client: ClientId(client), role: role.into() }
            }
            ChangeV1::MemberLeft { name } => Self::MemberLeft { name: MemberName::from_shared(name)? },
            ChangeV1::MemberSet { metadata } => Self::MemberSet { metadata },
            ChangeV1::Restored { source } => Self::Restored { source },
            ChangeV1::Forgotten { messages, members, clients } => Self::Forgotten {
                messages,
                members: members.into_iter().map(MemberName::from_shared).collect::<Result<_, _>>()?,
                clients: clients.into_iter().map(ClientId).collect(),
            },
            ChangeV1::SettingChanged { key, value } => Self::SettingChanged { key, value },
            ChangeV1::SessionCleared { archive } => Self::SessionCleared { archive },
        })
    }
}
