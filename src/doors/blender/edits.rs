//! Edits: what a client does to nodes, and whose they are, in the session's words.

use super::desk::Asked;
use super::dialect::Ear;
use super::farewell::Farewell;
use super::lines::Lines;
use super::objects::{Commit, NodeObject, Owner, Right, right};
use super::room::owner_text;
use super::visit::{Stage, Visit};
use super::wire::Channel;
use crate::formats::delta::Delta;
use crate::session::{NodeId, NodePatch, NodePut, Operation, Payload, PayloadChange, Session};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The media type of a node that Blender clients read: the pickle of its data.
pub(super) const NODE_MEDIA_TYPE: &str = "application/vnd.multi-user.node+pickle";

/// Most bytes of a name; what is longer is cut.
const NAME_BYTES_MAX: usize = 256;

/// Most bytes of a kind.
const KIND_BYTES_MAX: usize = 64;

/// Nodes that change hands in one edit.
const RIGHTS_AT_ONCE: usize = 1_000;

impl Visit {
    /// Whether the client has something that it could edit.
    fn may_edit(&self) -> bool {
        matches!(self.stage, Stage::Opening(_) | Stage::Syncing(_) | Stage::Active)
    }

    /// A whole node, new or replaced.
    pub(super) async fn node(&mut self, node: NodeObject) -> Result<(), Farewell> {
        if self.may_edit() { self.put(node).await } else { Ok(()) }
    }

    /// Puts a node into the session. What others have said of its place in the tree stays.
    pub(super) async fn put(&mut self, node: NodeObject) -> Result<(), Farewell> {
        let state = self.state().await?;
        let NodeObject { id, owner, dependencies, data, type_id, name } = node;
        let old = state.node(&id);
        let dependencies = self.living(&id, dependencies, &state);
        let is_own = matches!(&owner, Owner::Member(owner) if owner == self.name());
        let lock = is_own && old.is_none() && !self.desk.is_putting(&id);
        let bytes = data.len();
        let name = name.unwrap_or_default();
        let kind = if type_id.is_empty() { "unknown".into() } else { type_id };
        let put = NodePut {
            id: id.clone(),
            kind: fitting(&kind, KIND_BYTES_MAX),
            name: fitting(&name, NAME_BYTES_MAX),
            parent: old.and_then(|old| old.parent.clone()),
            order: old.and_then(|old| old.order),
            dependencies,
            payload: Payload::Bytes { media_type: NODE_MEDIA_TYPE.into(), data },
            if_revision: None,
        };
        let mut operations = vec![Operation::NodePut(put)];
        if lock {
            operations.push(Operation::NodeLock { id: id.clone() });
        }
        self.ask(Asked::Node(id), operations, bytes).await
    }

    /// A change of a node.
    pub(super) async fn commit(&mut self, commit: Commit) -> Result<(), Farewell> {
        if !self.may_edit() {
            return Ok(());
        }
        let Commit { id, dependencies, delta } = commit;
        match Delta::read(&delta) {
            Ok(delta) => self.hears_as(Ear::of(delta.dialect())),
            Err(error) => {
                tracing::warn!("{}: a change of {id} cannot be read: {error}", self.name());
                return Err(Farewell::Told(format!("your change of {id} cannot be read ({error}): connect again")));
            }
        }
        let state = self.state().await?;
        let bytes = delta.len();
        let patch = NodePatch {
            dependencies: Some(self.living(&id, dependencies, &state)),
            payload: Some(PayloadChange::Append(delta)),
            ..NodePatch::default()
        };
        let patch = Operation::NodePatch { id: id.clone(), patch, if_revision: None };
        self.ask(Asked::Commit(id), vec![patch], bytes).await
    }

    /// The client writes so, hence it reads so.
    fn hears_as(&mut self, ear: Ear) {
        if self.ear == Ear::Unknown {
            self.ear = ear;
        }
    }

    /// A node is to go.
    pub(super) async fn delete(&mut self, id: NodeId) -> Result<(), Farewell> {
        if !self.may_edit() {
            return Ok(());
        }
        let remove = Operation::NodeRemove { id: id.clone(), recursive: false, if_revision: None };
        self.ask(Asked::Delete(id), vec![remove], 0).await
    }

    /// Nodes are to change hands.
    pub(super) async fn right(&mut self, right: Right, lines: &mut Lines) -> Result<(), Farewell> {
        if !self.may_edit() {
            return Ok(());
        }
        let lock = match &right.owner {
            Owner::Common => false,
            Owner::Member(name) if name == self.name() => true,
            Owner::Member(other) => {
                tracing::debug!("{} cannot lock nodes for {other}", self.name());
                return self.tell_whose(&right.nodes, lines).await;
            }
        };
        self.ask_for_rights(right.nodes, lock, false).await
    }

    /// Tells the client whose nodes are that it has given to somebody.
    async fn tell_whose(&self, nodes: &[NodeId], lines: &mut Lines) -> Result<(), Farewell> {
        let state = self.state().await?;
        let mut owned: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for node in nodes.iter().filter_map(|id| state.node(id)) {
            owned.entry(owner_text(node.owner.as_ref())).or_default().insert(node.id.as_str());
        }
        for (owner, nodes) in owned {
            lines.send(Channel::Command, &right(nodes, owner));
        }
        Ok(())
    }

    /// Locks the nodes for the client, or unlocks them: those that are there, and not somebody else's.
    pub(super) async fn ask_for_rights(&mut self, nodes: Vec<NodeId>, lock: bool, again: bool) -> Result<(), Farewell> {
        let state = self.state().await?;
        let mut seen = BTreeSet::new();
        let mut taken = Vec::new();
        let mut free = Vec::new();
        for id in nodes.into_iter().filter(|id| seen.insert(id.clone())) {
            match state.node(&id) {
                Some(node) if node.owner.as_ref().is_some_and(|owner| owner != self.name()) => taken.push(id),
                Some(_) => free.push(id),
                None if !again && self.desk.is_putting(&id) => free.push(id),
                None => {}
            }
        }
        if self.admin && !again && !taken.is_empty() {
            self.release(&taken).await?;
            free.append(&mut taken);
        }
        for some in free.chunks(RIGHTS_AT_ONCE) {
            let operation = |id: &NodeId| {
                let id = id.clone();
                if lock { Operation::NodeLock { id } } else { Operation::NodeUnlock { id } }
            };
            let asked = Asked::Right { nodes: some.to_vec(), lock, again };
            self.ask(asked, some.iter().map(operation).collect(), 0).await?;
        }
        Ok(())
    }

    /// Administrators take nodes from others.
    async fn release(&self, nodes: &[NodeId]) -> Result<(), Farewell> {
        for some in nodes.chunks(RIGHTS_AT_ONCE) {
            let unlock = some.iter().map(|id| Operation::NodeUnlock { id: id.clone() }).collect();
            if let Err(error) = self.membership.edit_as_daemon(unlock).await {
                tracing::debug!("{}: {error}", self.name());
            }
        }
        Ok(())
    }

    /// The dependencies that are there, or are to come, each once.
    fn living(&self, id: &NodeId, dependencies: Vec<NodeId>, state: &Session) -> Vec<NodeId> {
        let mut seen = BTreeSet::new();
        let is_there = |id: &NodeId| self.is_opening() || state.node(id).is_some() || self.desk.is_putting(id);
        dependencies.into_iter().filter(|other| other != id && is_there(other) && seen.insert(other.clone())).collect()
    }
}

/// The text, cut if it is too long.
fn fitting(text: &Arc<str>, max: usize) -> Arc<str> {
    if text.len() <= max { Arc::clone(text) } else { text[..text.floor_char_boundary(max)].into() }
}
