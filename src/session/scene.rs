//! The scene: nodes by id, what hangs below what, and who has locked what.

use super::{MemberName, NodeId, NodePatch, NodePut, Payload, PayloadChange};
use crate::formats::json;
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// A node, as the session keeps it.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its identity.
    pub id: NodeId,
    /// What sort of thing it is.
    pub kind: Arc<str>,
    /// What people call it.
    pub name: Arc<str>,
    /// The node it hangs below; `None` = top level.
    pub parent: Option<NodeId>,
    /// Its place among its siblings, smallest first.
    pub order: Option<f64>,
    /// The member who has locked it.
    pub owner: Option<MemberName>,
    /// Nodes it refers to; they need not exist.
    pub dependencies: Vec<NodeId>,
    /// Its content.
    pub payload: Payload,
    /// The `seq` of the event that last put or patched it. Neither locking nor folding changes it.
    pub revision: u64,
}

impl Node {
    /// What it counts for in `Limits::payload_bytes_total`: its payload, a little for each delta in it, and the ids it
    /// depends on.
    pub fn bytes(&self) -> u64 {
        content_bytes(&self.payload, &self.dependencies)
    }
}

/// What a node of this content counts for in the total.
pub(super) fn content_bytes(payload: &Payload, dependencies: &[NodeId]) -> u64 {
    let ids: usize = dependencies.iter().map(|id| id.as_str().len() + 16).sum();
    let deltas = payload.deltas().map_or(0, |deltas| 32 * deltas.len());
    (payload.len() + deltas + ids) as u64
}

/// The payload after a change that was checked when it was decided; one that does not apply leaves it as it is.
fn changed(payload: &Payload, change: &PayloadChange, seq: u64) -> Option<Payload> {
    let result = match (change, payload) {
        (PayloadChange::Replace(new), _) => return Some(new.clone()),
        (PayloadChange::Append(delta), _) => return payload.appended(delta, seq),
        (PayloadChange::Fold { deltas, base }, _) => return payload.folded(usize::try_from(*deltas).ok()?, base),
        (PayloadChange::Merge(patch), Payload::Json(text)) => json::merge(text, patch, &json::Bounds::STORED),
        (PayloadChange::Patch(patch), Payload::Json(text)) => json::patch(text, patch, &json::Bounds::STORED),
        (PayloadChange::Merge(_) | PayloadChange::Patch(_), Payload::Bytes { .. } | Payload::Layered { .. }) => {
            return None;
        }
    };
    result.ok().map(|text| Payload::Json(text.into()))
}

/// All nodes of a session, with the indexes that make removals and leaves cheap.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Scene {
    pub(super) nodes: OrdMap<NodeId, Arc<Node>>,
    /// (parent, child). The child is optional only so that `None` can begin a range.
    pub(super) edges: OrdSet<(NodeId, Option<NodeId>)>,
    pub(super) locked: OrdMap<MemberName, OrdSet<NodeId>>,
    /// The sum of [`Node::bytes`].
    pub(super) bytes: u64,
}

impl Scene {
    pub(super) fn children<'a>(&'a self, parent: &NodeId) -> impl Iterator<Item = &'a NodeId> + use<'a> {
        let parent = parent.clone();
        self.edges
            .range((parent.clone(), None)..)
            .take_while(move |(above, _)| *above == parent)
            .filter_map(|(_, child)| child.as_ref())
    }

    /// The node and everything below it, parents before children.
    pub(super) fn subtree(&self, root: &NodeId) -> Vec<NodeId> {
        let mut ids = vec![root.clone()];
        let mut next = 0;
        // The second condition holds always, but for a scene from a foreign log that hangs below itself.
        while let Some(id) = ids.get(next)
            && ids.len() <= self.nodes.len()
        {
            let below: Vec<NodeId> = self.children(id).cloned().collect();
            ids.extend(below);
            next += 1;
        }
        ids
    }

    pub(super) fn locks_of(&self, owner: &MemberName) -> usize {
        self.locked.get(owner).map_or(0, OrdSet::len)
    }

    /// Adds a node that was loaded, but not its edge.
    pub(super) fn insert(&mut self, node: Arc<Node>) {
        self.bytes += node.bytes();
        if let Some(owner) = &node.owner {
            self.locked.entry(owner.clone()).or_default().insert(node.id.clone());
        }
        self.nodes.insert(node.id.clone(), node);
    }

    pub(super) fn put(&mut self, put: &NodePut, seq: u64) {
        let old = self.nodes.get(&put.id);
        let node = Node {
            id: put.id.clone(),
            kind: Arc::clone(&put.kind),
            name: Arc::clone(&put.name),
            parent: put.parent.clone(),
            order: put.order,
            owner: old.and_then(|old| old.owner.clone()),
            dependencies: put.dependencies.clone(),
            payload: put.payload.clone(),
            revision: seq,
        };
        self.bytes = self.bytes - old.map_or(0, |old| old.bytes()) + node.bytes();
        let old_parent = old.and_then(|old| old.parent.clone());
        self.hang(&node.id, old_parent, node.parent.as_ref());
        self.nodes.insert(node.id.clone(), Arc::new(node));
    }

    pub(super) fn patched(&mut self, id: &NodeId, patch: &NodePatch, seq: u64) {
        let Some(slot) = self.nodes.get_mut(id) else { return };
        let (old_parent, old_bytes) = (slot.parent.clone(), slot.bytes());
        let node = Arc::make_mut(slot);
        apply(node, patch, seq);
        if !matches!(patch.payload, Some(PayloadChange::Fold { .. })) {
            node.revision = seq;
        }
        let (id, parent) = (node.id.clone(), node.parent.clone());
        self.bytes = self.bytes - old_bytes + node.bytes();
        self.hang(&id, old_parent, parent.as_ref());
    }

    /// Moves the child's edge from the old parent to the new one.
    fn hang(&mut self, child: &NodeId, old: Option<NodeId>, new: Option<&NodeId>) {
        if old.as_ref() == new {
            return;
        }
        if let Some(old) = old {
            self.edges.remove(&(old, Some(child.clone())));
        }
        if let Some(new) = new {
            self.edges.insert((new.clone(), Some(child.clone())));
        }
    }

    pub(super) fn removed(&mut self, ids: &[NodeId]) {
        for id in ids {
            let Some(node) = self.nodes.remove(id) else { continue };
            self.bytes -= node.bytes();
            self.hang(id, node.parent.clone(), None);
            if let Some(owner) = &node.owner {
                self.disown(id, owner);
            }
        }
    }

    pub(super) fn locked(&mut self, id: &NodeId, owner: &MemberName) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        let before = Arc::make_mut(node).owner.replace(owner.clone());
        let id = node.id.clone();
        if let Some(before) = before {
            self.disown(&id, &before);
        }
        self.locked.entry(owner.clone()).or_default().insert(id);
    }

    pub(super) fn unlocked(&mut self, id: &NodeId) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        if node.owner.is_none() {
            return;
        }
        if let Some(before) = Arc::make_mut(node).owner.take() {
            self.disown(id, &before);
        }
    }

    pub(super) fn unlock_all(&mut self) {
        for id in self.locked.clone().values().flatten() {
            self.unlocked(id);
        }
    }

    fn disown(&mut self, id: &NodeId, owner: &MemberName) {
        let Some(nodes) = self.locked.get_mut(owner) else { return };
        nodes.remove(id);
        if nodes.is_empty() {
            self.locked.remove(owner);
        }
    }
}

fn apply(node: &mut Node, patch: &NodePatch, seq: u64) {
    if let Some(kind) = &patch.kind {
        node.kind = Arc::clone(kind);
    }
    if let Some(name) = &patch.name {
        node.name = Arc::clone(name);
    }
    if let Some(parent) = &patch.parent {
        node.parent.clone_from(parent);
    }
    if let Some(order) = patch.order {
        node.order = order;
    }
    if let Some(dependencies) = &patch.dependencies {
        node.dependencies.clone_from(dependencies);
    }
    if let Some(payload) = patch.payload.as_ref().and_then(|change| changed(&node.payload, change, seq)) {
        node.payload = payload;
    }
}
