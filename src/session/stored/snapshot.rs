//! STORED: never change a released struct; add V2. A snapshot's parts but for nodes, and what events say about tasks.

use super::node::node_id;
use super::{BadStored, ChatKindV1, RoleV1, TaskStatusV1};
use crate::session::{
    ChatId, ChatMessage, ClientId, Member, MemberName, NodeId, Online, Session, Setting, Task, TaskId, TaskPatch,
    TaskPut, Timestamp,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// STORED. What a snapshot holds; checked against what was loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetaV1 {
    /// The `seq` of the newest event.
    pub seq: u64,
    /// Nodes.
    pub nodes: u64,
    /// What their payloads and dependencies count for.
    pub payload_bytes: u64,
    /// Tasks.
    pub tasks: u64,
    /// Chat messages in the live state.
    pub messages: u64,
    /// Chat messages that the live state has forgotten.
    pub messages_forgotten: u64,
    /// Members, online or remembered.
    pub members: u64,
    /// Members online.
    pub online: u64,
    /// Client programs whose applied operations are remembered.
    pub clients: u64,
}

/// STORED. A task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `Task`")]
pub struct TaskV1 {
    pub id: Arc<str>,
    pub title: Arc<str>,
    pub description: Arc<str>,
    pub assignee: Arc<str>,
    pub status: TaskStatusV1,
    pub node: Option<Arc<str>>,
    pub author: Arc<str>,
    pub created: i64,
    pub changed: i64,
    pub revision: u64,
}

/// STORED. A task that was put.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `TaskPut`")]
pub struct TaskPutV1 {
    pub id: Arc<str>,
    pub title: Arc<str>,
    pub description: Arc<str>,
    pub assignee: Arc<str>,
    pub status: TaskStatusV1,
    pub node: Option<Arc<str>>,
    pub if_revision: Option<u64>,
}

/// STORED. Changed fields of a task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `TaskPatch`")]
pub struct TaskPatchV1 {
    pub title: Option<Arc<str>>,
    pub description: Option<Arc<str>>,
    pub assignee: Option<Arc<str>>,
    pub status: Option<TaskStatusV1>,
    pub node: Option<Option<Arc<str>>>,
}

/// STORED. A task that was removed lately.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RemovedTaskV1 {
    /// The task.
    pub id: Arc<str>,
    /// The `seq` of the event that removed it.
    pub seq: u64,
}

/// STORED. A setting of the session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `Setting`")]
pub struct SettingV1 {
    pub key: Arc<str>,
    pub value: Bytes,
}

/// STORED. A chat message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `ChatMessage`")]
pub struct MessageV1 {
    pub id: Arc<str>,
    pub kind: ChatKindV1,
    pub text: Arc<str>,
    pub author: Arc<str>,
    pub at: i64,
    pub seq: u64,
}

/// STORED. A member; `online` holds the client program and the role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `Member`")]
pub struct MemberV1 {
    pub name: Arc<str>,
    pub metadata: Bytes,
    pub online: Option<(u128, RoleV1)>,
    pub seen: i64,
    pub seen_seq: u64,
}

/// STORED. The applied operations of one client program.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientOpsV1 {
    /// The client program.
    pub client: u128,
    /// The `seq` of the newest of them.
    pub last: u64,
    /// Operation number and `seq`, by number.
    pub ops: Vec<(u64, u64)>,
}

impl From<&Session> for MetaV1 {
    fn from(session: &Session) -> Self {
        let totals = session.totals();
        Self {
            seq: session.seq(),
            nodes: totals.nodes,
            payload_bytes: totals.payload_bytes,
            tasks: totals.tasks,
            messages: totals.messages,
            messages_forgotten: totals.messages_forgotten,
            members: totals.members,
            online: totals.online,
            clients: totals.clients,
        }
    }
}

impl Session {
    /// The tasks that were removed lately, longest gone first, in their stored form.
    pub fn stored_removed_tasks(&self) -> impl Iterator<Item = RemovedTaskV1> {
        self.tasks.removals.iter().map(|(seq, id)| RemovedTaskV1 { id: id.shared(), seq: *seq })
    }

    /// The applied operations of every client program, in their stored form.
    pub fn stored_operations(&self) -> impl Iterator<Item = ClientOpsV1> {
        self.applied.clients.iter().map(|(id, client)| ClientOpsV1 {
            client: id.0,
            last: client.last,
            ops: client.ops.iter().map(|(op, seq)| (*op, *seq)).collect(),
        })
    }
}

impl From<&Setting> for SettingV1 {
    fn from(setting: &Setting) -> Self {
        Self { key: Arc::clone(&setting.key), value: setting.value.clone() }
    }
}

impl From<&Task> for TaskV1 {
    fn from(task: &Task) -> Self {
        Self {
            id: task.id.shared(),
            title: Arc::clone(&task.title),
            description: Arc::clone(&task.description),
            assignee: Arc::clone(&task.assignee),
            status: task.status.into(),
            node: task.node.as_ref().map(NodeId::shared),
            author: task.author.shared(),
            created: task.created.0,
            changed: task.changed.0,
            revision: task.revision,
        }
    }
}

impl TryFrom<TaskV1> for Task {
    type Error = BadStored;

    fn try_from(task: TaskV1) -> Result<Self, BadStored> {
        Ok(Self {
            id: TaskId::from_shared(task.id)?,
            title: task.title,
            description: task.description,
            assignee: task.assignee,
            status: task.status.into(),
            node: node_id(task.node)?,
            author: MemberName::from_shared(task.author)?,
            created: Timestamp(task.created),
            changed: Timestamp(task.changed),
            revision: task.revision,
        })
    }
}

impl From<&TaskPut> for TaskPutV1 {
    fn from(put: &TaskPut) -> Self {
        Self {
            id: put.id.shared(),
            title: Arc::clone(&put.title),
            description: Arc::clone(&put.description),
            assignee: Arc::clone(&put.assignee),
            status: put.status.into(),
            node: put.node.as_ref().map(NodeId::shared),
            if_revision: put.if_revision,
        }
    }
}

impl TryFrom<TaskPutV1> for TaskPut {
    type Error = BadStored;

    fn try_from(put: TaskPutV1) -> Result<Self, BadStored> {
        Ok(Self {
            id: TaskId::from_shared(put.id)?,
            title: put.title,
            description: put.description,
            assignee: put.assignee,
            status: put.status.into(),
            node: node_id(put.node)?,
            if_revision: put.if_revision,
        })
    }
}

impl From<&TaskPatch> for TaskPatchV1 {
    fn from(patch: &TaskPatch) -> Self {
        Self {
            title: patch.title.clone(),
            description: patch.description.clone(),
            assignee: patch.assignee.clone(),
            status: patch.status.map(Into::into),
            node: patch.node.as_ref().map(|node| node.as_ref().map(NodeId::shared)),
        }
    }
}

impl TryFrom<TaskPatchV1> for TaskPatch {
    type Error = BadStored;

    fn try_from(patch: TaskPatchV1) -> Result<Self, BadStored> {
        Ok(Self {
            title: patch.title,
            description: patch.description,
            assignee: patch.assignee,
            status: patch.status.map(Into::into),
            node: patch.node.map(node_id).transpose()?,
        })
    }
}

impl From<&ChatMessage> for MessageV1 {
    fn from(message: &ChatMessage) -> Self {
        Self {
            id: message.id.shared(),
            kind: message.kind.into(),
            text: Arc::clone(&message.text),
            author: message.author.shared(),
            at: message.at.0,
            seq: message.seq,
        }
    }
}

impl TryFrom<MessageV1> for ChatMessage {
    type Error = BadStored;

    fn try_from(message: MessageV1) -> Result<Self, BadStored> {
        Ok(Self {
            id: ChatId::from_shared(message.id)?,
            kind: message.kind.into(),
            text: message.text,
            author: MemberName::from_shared(message.author)?,
            at: Timestamp(message.at),
            seq: message.seq,
        })
    }
}

impl From<&Member> for MemberV1 {
    fn from(member: &Member) -> Self {
        Self {
            name: member.name.shared(),
            metadata: member.metadata.clone(),
            online: member.online.map(|online| (online.client.0, online.role.into())),
            seen: member.seen.0,
            seen_seq: member.seen_seq,
        }
    }
}

impl TryFrom<MemberV1> for Member {
    type Error = BadStored;

    fn try_from(member: MemberV1) -> Result<Self, BadStored> {
        Ok(Self {
            name: MemberName::from_shared(member.name)?,
            metadata: member.metadata,
            online: member.online.map(|(client, role)| Online { client: ClientId(client), role: role.into() }),
            seen: Timestamp(member.seen),
            seen_seq: member.seen_seq,
        })
    }
}
