//! The whole state of a session, and how others read it.

use super::applied::Applied;
use super::chat::{Chat, ChatMessage};
use super::members::{Member, Members};
use super::scene::{Node, Scene};
use super::settings::{Setting, Settings};
use super::tasks::{Task, Tasks};
use super::{ChatId, MemberName, NodeId, OpKey, TaskId};
use bytes::Bytes;
use std::ops::Bound;
use std::sync::Arc;

/// The state of one session. Cloning takes the same short time however large it is, and the clone shares everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Session {
    pub(super) seq: u64,
    pub(super) scene: Scene,
    pub(super) tasks: Tasks,
    pub(super) chat: Chat,
    pub(super) members: Members,
    pub(super) applied: Applied,
    pub(super) settings: Settings,
}

/// How much a session holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Nodes.
    pub nodes: u64,
    /// Bytes of all payloads and dependencies together.
    pub payload_bytes: u64,
    /// Locked nodes.
    pub locked: u64,
    /// Tasks.
    pub tasks: u64,
    /// Chat messages in the live state.
    pub messages: u64,
    /// Bytes of their texts.
    pub chat_bytes: u64,
    /// Chat messages that the live state has forgotten.
    pub messages_forgotten: u64,
    /// Members online.
    pub online: u64,
    /// Members online or remembered.
    pub members: u64,
    /// Client programs whose applied operations are remembered.
    pub clients: u64,
    /// Settings of the session.
    pub settings: u64,
}

impl Totals {
    /// Whether there is nothing that belongs to a project. Members do not.
    pub fn is_empty(&self) -> bool {
        [self.nodes, self.tasks, self.messages, self.settings] == [0; 4]
    }
}

impl Session {
    /// A session in which nothing has happened.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes over which operations were accepted in a state that a restore leaves. They are not undone by it in the eyes of
    /// those who asked for them: sent again, they are answered as they were.
    pub fn answers_for(&mut self, left: &Self) {
        self.applied.answers_for(&left.applied);
    }

    /// Whether an operation was accepted, as far as that is remembered.
    pub fn has_accepted(&self, key: OpKey) -> bool {
        matches!(self.applied.find(key), Ok(Some(_)))
    }

    /// The `seq` of the newest event; 0 before the first.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// A node, if it exists.
    pub fn node(&self, id: &NodeId) -> Option<&Arc<Node>> {
        self.scene.nodes.get(id)
    }

    /// All nodes, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.scene.nodes.values()
    }

    /// The nodes whose ids are greater than `after` (all for `None`), by id: to go through them in parts.
    pub fn nodes_after<'a>(&'a self, after: Option<&NodeId>) -> impl Iterator<Item = &'a Arc<Node>> + use<'a> {
        self.scene.nodes.range::<_, NodeId>(beyond(after)).map(|(_, node)| node)
    }

    /// The ids of the nodes directly below this one, by id.
    pub fn children<'a>(&'a self, parent: &NodeId) -> impl Iterator<Item = &'a NodeId> + use<'a> {
        self.scene.children(parent)
    }

    /// The ids of the nodes that this member has locked, by id.
    pub fn locked_by<'a>(&'a self, owner: &MemberName) -> impl Iterator<Item = &'a NodeId> + use<'a> {
        self.scene.locked.get(owner).into_iter().flatten()
    }

    /// A task, if it exists.
    pub fn task(&self, id: &TaskId) -> Option<&Arc<Task>> {
        self.tasks.by_id.get(id)
    }

    /// All tasks, by id.
    pub fn tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.by_id.values()
    }

    /// The tasks whose ids are greater than `after` (all for `None`), by id: to go through them in parts.
    pub fn tasks_after<'a>(&'a self, after: Option<&TaskId>) -> impl Iterator<Item = &'a Arc<Task>> + use<'a> {
        self.tasks.by_id.range::<_, TaskId>(beyond(after)).map(|(_, task)| task)
    }

    /// Whether a task of this id was removed lately, and not put again: it was among the last 1,024 of those.
    pub fn task_was_removed(&self, id: &TaskId) -> bool {
        self.tasks.removed.contains_key(id)
    }

    /// A setting of the session: JSON text.
    pub fn setting(&self, key: &str) -> Option<&Bytes> {
        self.settings.by_key.get(key).map(|setting| &setting.value)
    }

    /// All settings of the session, by key.
    pub fn settings(&self) -> impl Iterator<Item = &Arc<Setting>> {
        self.settings.by_key.values()
    }

    /// The settings whose keys are greater than `after` (all for `None`), by key: to go through them in parts.
    pub fn settings_after<'a>(&'a self, after: Option<&Arc<str>>) -> impl Iterator<Item = &'a Arc<Setting>> + use<'a> {
        self.settings.by_key.range::<_, Arc<str>>(beyond(after)).map(|(_, setting)| setting)
    }

    /// A chat message of the live state.
    pub fn message(&self, id: &ChatId) -> Option<&Arc<ChatMessage>> {
        self.chat.ids.get(id).and_then(|position| self.chat.messages.get(position))
    }

    /// The chat messages of the live state, oldest first. They can be gone through from both ends.
    pub fn messages(&self) -> impl DoubleEndedIterator<Item = &Arc<ChatMessage>> {
        self.chat.messages.values()
    }

    /// The chat messages after the one with this id, oldest first: to go through them in parts. All of them for
    /// `None` or an id that is not in the live state.
    pub fn messages_after<'a>(
        &'a self,
        after: Option<&ChatId>,
    ) -> impl Iterator<Item = &'a Arc<ChatMessage>> + use<'a> {
        let position = after.and_then(|id| self.chat.ids.get(id));
        self.chat.messages.range::<_, u64>(beyond(position)).map(|(_, message)| message)
    }

    /// A member, online or remembered.
    pub fn member(&self, name: &MemberName) -> Option<&Arc<Member>> {
        self.members.by_name.get(name)
    }

    /// All members, online or remembered, by name.
    pub fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.by_name.values()
    }

    /// The members whose names are greater than `after` (all for `None`), by name: to go through them in parts.
    pub fn members_after<'a>(&'a self, after: Option<&MemberName>) -> impl Iterator<Item = &'a Arc<Member>> + use<'a> {
        self.members.by_name.range::<_, MemberName>(beyond(after)).map(|(_, member)| member)
    }

    /// The members online, by name.
    pub fn online(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.members.online.iter().filter_map(|name| self.members.by_name.get(name))
    }

    /// How much it holds. Takes no longer for a larger session.
    pub fn totals(&self) -> Totals {
        Totals {
            nodes: self.scene.nodes.len() as u64,
            payload_bytes: self.scene.bytes,
            locked: self.scene.locked.values().map(|nodes| nodes.len() as u64).sum(),
            tasks: self.tasks.by_id.len() as u64,
            messages: self.chat.len(),
            chat_bytes: self.chat.bytes,
            messages_forgotten: self.chat.forgotten,
            online: self.members.online.len() as u64,
            members: self.members.by_name.len() as u64,
            clients: self.applied.clients.len() as u64,
            settings: self.settings.by_key.len() as u64,
        }
    }
}

fn beyond<T>(after: Option<&T>) -> (Bound<&T>, Bound<&T>) {
    (after.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}
