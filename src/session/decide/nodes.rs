//! Decides what is asked of nodes.

use super::{Deciding, expect_revision, invalid, text, within};
use crate::formats::json::{self, Bounds, JsonError};
use crate::session::limits::{LOCKS_PER_MEMBER, NODE_WORK, STORED_NODE_BYTES};
use crate::session::scene::{Node, content_bytes};
use crate::session::{Change, Deltas, NodeId, NodePatch, NodePut, Payload, PayloadChange, Rejection, Role};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Most bytes of a kind.
const KIND_BYTES: usize = 64;
/// Most bytes of a name.
const NAME_BYTES: usize = 256;
/// Most bytes of a media type.
const MEDIA_TYPE_BYTES: usize = 128;

impl Deciding<'_> {
    pub(super) fn node_put(&self, put: &NodePut) -> Result<Change, Rejection> {
        let old = self.session.node(&put.id);
        expect_revision(put.if_revision, old.map_or(0, |old| old.revision))?;
        match old {
            Some(old) => self.unlocked_for_author(old)?,
            None => within("nodes", self.session.scene.nodes.len() as u64 + 1, self.limits.nodes)?,
        }
        check_kind(&put.kind)?;
        text("name", &put.name, 0, NAME_BYTES)?;
        check_order(put.order)?;
        self.check_dependencies(&put.dependencies)?;
        self.check_payload(&put.payload)?;
        self.check_total(old, &put.payload, &put.dependencies)?;
        if old.is_none_or(|old| old.parent != put.parent) {
            self.check_parent(&put.id, old, put.parent.as_ref())?;
        }
        Ok(Change::NodePut(put.clone()))
    }

    pub(super) fn node_patch(
        &self,
        id: &NodeId,
        patch: &NodePatch,
        if_revision: Option<u64>,
    ) -> Result<Change, Rejection> {
        if let Some(PayloadChange::Fold { deltas, base }) = &patch.payload {
            return self.node_fold(id, patch, *deltas, base, if_revision);
        }
        let node = self.existing_node(id, if_revision)?;
        self.unlocked_for_author(node)?;
        patch.kind.as_ref().map_or(Ok(()), check_kind)?;
        patch.name.as_ref().map_or(Ok(()), |name| text("name", name, 0, NAME_BYTES))?;
        patch.order.map_or(Ok(()), check_order)?;
        if let Some(dependencies) = &patch.dependencies {
            self.check_dependencies(dependencies)?;
        }
        let payload = patch.payload.as_ref().map(|change| self.changed_payload(node, change)).transpose()?;
        let payload = payload.as_ref().unwrap_or(&node.payload);
        self.check_total(Some(node), payload, patch.dependencies.as_ref().unwrap_or(&node.dependencies))?;
        if let Some(parent) = &patch.parent
            && node.parent != *parent
        {
            self.check_parent(id, Some(node), parent.as_ref())?;
        }
        Ok(Change::NodePatched { id: id.clone(), patch: patch.clone() })
    }

    pub(super) fn node_remove(
        &self,
        id: &NodeId,
        recursive: bool,
        if_revision: Option<u64>,
    ) -> Result<Change, Rejection> {
        let node = self.existing_node(id, if_revision)?;
        self.unlocked_for_author(node)?;
        if self.session.children(id).next().is_none() {
            return Ok(Change::NodesRemoved { ids: vec![node.id.clone()] });
        }
        if !recursive {
            return Err(Rejection::HasChildren(id.clone()));
        }
        let ids = self.session.scene.subtree(&node.id);
        self.work(NODE_WORK * ids.len() as u64)?;
        // Only others' locks matter, and usually there are few: look at them only if there are any at all.
        if !self.session.scene.locked.is_empty() {
            for node in ids.iter().filter_map(|id| self.session.node(id)) {
                self.unlocked_for_author(node)?;
            }
        }
        Ok(Change::NodesRemoved { ids })
    }

    pub(super) fn node_lock(&self, id: &NodeId) -> Result<Change, Rejection> {
        let node = self.existing_node(id, None)?;
        self.unlocked_for_author(node)?;
        let owner = self.author.name.clone();
        if node.owner.as_ref() != Some(&owner) {
            let locks = self.session.scene.locks_of(&owner) + 1;
            within("nodes locked by one member", locks as u64, LOCKS_PER_MEMBER as u64)?;
        }
        Ok(Change::NodeLocked { id: node.id.clone(), owner })
    }

    pub(super) fn node_unlock(&self, id: &NodeId) -> Result<Change, Rejection> {
        let node = self.existing_node(id, None)?;
        self.unlocked_for_author(node)?;
        Ok(Change::NodesUnlocked { ids: vec![node.id.clone()] })
    }

    fn existing_node(&self, id: &NodeId, if_revision: Option<u64>) -> Result<&Arc<Node>, Rejection> {
        let node = self.session.node(id).ok_or_else(|| Rejection::NoSuchNode(id.clone()))?;
        expect_revision(if_revision, node.revision)?;
        Ok(node)
    }

    /// Refuses if somebody else has locked the node, unless the author is an admin.
    fn unlocked_for_author(&self, node: &Node) -> Result<(), Rejection> {
        match &node.owner {
            Some(owner) if *owner != self.author.name && self.author.role != Role::Admin => {
                Err(Rejection::Locked { id: node.id.clone(), owner: owner.clone() })
            }
            _ => Ok(()),
        }
    }

    fn check_dependencies(&self, dependencies: &[NodeId]) -> Result<(), Rejection> {
        within("dependencies of one node", dependencies.len() as u64, self.limits.dependencies)?;
        let mut seen = BTreeSet::new();
        match dependencies.iter().find(|id| !seen.insert(*id)) {
            Some(twice) => Err(invalid("dependencies", format!("{twice:?} is there twice"))),
            None => Ok(()),
        }
    }

    fn check_payload(&self, payload: &Payload) -> Result<(), Rejection> {
        within("bytes of one payload", payload.len() as u64, self.limits.payload_bytes)?;
        match payload {
            Payload::Json(text) => {
                json::valid(text, self.json_depth()).map_err(|error| invalid("payload", error.to_string()))
            }
            Payload::Bytes { media_type, .. } => {
                text("media_type", media_type, 1, MEDIA_TYPE_BYTES)?;
                let printable = media_type.bytes().all(|byte| (b' '..=b'~').contains(&byte));
                if printable { Ok(()) } else { Err(invalid("media_type", "must be printable ASCII")) }
            }
            Payload::Layered { .. } => Err(invalid("payload", "deltas are appended, not put")),
        }
    }

    pub(super) fn json_depth(&self) -> usize {
        usize::try_from(self.limits.json_depth).unwrap_or(usize::MAX)
    }

    fn changed_payload(&self, node: &Node, change: &PayloadChange) -> Result<Payload, Rejection> {
        let bounds = Bounds::new(self.limits.payload_bytes, self.limits.json_depth);
        if let PayloadChange::Merge(patch) | PayloadChange::Patch(patch) = change {
            self.work((node.payload.len() + patch.len()) as u64)?;
        }
        if node.payload.is_blender() && !matches!(change, PayloadChange::Append(_)) {
            return Err(Rejection::BlenderPayload(node.id.clone()));
        }
        let result = match (change, &node.payload) {
            (PayloadChange::Replace(payload), _) => return self.check_payload(payload).map(|()| payload.clone()),
            (PayloadChange::Append(delta), _) => return self.appended_payload(node, delta),
            (_, Payload::Bytes { .. } | Payload::Layered { .. }) | (PayloadChange::Fold { .. }, _) => {
                return Err(Rejection::NotJson(node.id.clone()));
            }
            (PayloadChange::Merge(patch), Payload::Json(text)) => json::merge(text, patch, &bounds),
            (PayloadChange::Patch(patch), Payload::Json(text)) => json::patch(text, patch, &bounds),
        };
        result.map(|text| Payload::Json(text.into())).map_err(|error| {
            if let JsonError::TooLarge { max } = error {
                return Rejection::LimitExceeded { what: "bytes of one patched payload", limit: max as u64 };
            }
            invalid("payload", error.to_string())
        })
    }

    fn appended_payload(&self, node: &Node, delta: &Bytes) -> Result<Payload, Rejection> {
        let deltas = node.payload.deltas().map_or(0, Deltas::len);
        within("deltas of one node", deltas as u64 + 1, self.limits.deltas)?;
        let bytes = node.payload.len() + delta.len();
        within("bytes of one payload", bytes as u64, self.limits.payload_bytes)?;
        node.payload.appended(delta, self.seq).ok_or_else(|| Rejection::NotBytes(node.id.clone()))
    }

    /// Decides on a new base for a node. It means what the node means already, so neither locks nor those limits
    /// count that stop a node from growing.
    fn node_fold(
        &self,
        id: &NodeId,
        patch: &NodePatch,
        deltas: u32,
        base: &Bytes,
        if_revision: Option<u64>,
    ) -> Result<Change, Rejection> {
        if !self.author.name.is_daemon() {
            return Err(Rejection::Reserved("folding a payload".to_owned()));
        }
        let NodePatch { kind, name, parent, order, dependencies, payload: _ } = patch;
        let alone = (kind, name, parent, order, dependencies) == (&None, &None, &None, &None, &None);
        if !alone || deltas == 0 {
            return Err(invalid("payload", "folding takes at least one delta, and changes nothing else"));
        }
        let node = self.existing_node(id, None)?;
        let last = usize::try_from(deltas).unwrap_or(usize::MAX) - 1;
        let chain = node.payload.deltas();
        let revision = |index| chain.and_then(|chain| chain.get(index)).map(|delta| delta.revision);
        let current = revision(last).unwrap_or(0);
        if if_revision != Some(current) {
            return Err(Rejection::RevisionConflict { current });
        }
        // The next fold could not tell which of them are gone: all have the same `seq`.
        if revision(last.saturating_add(1)) == Some(current) {
            return Err(invalid("payload", "the deltas of one edit are folded together"));
        }
        let payload = node.payload.folded(last + 1, base).ok_or_else(|| Rejection::NotBytes(id.clone()))?;
        within("bytes of one node", content_bytes(&payload, &node.dependencies), STORED_NODE_BYTES as u64)?;
        Ok(Change::NodePatched { id: node.id.clone(), patch: patch.clone() })
    }

    /// Checks what the node would take, alone and together with all others.
    fn check_total(
        &self,
        old: Option<&Arc<Node>>,
        payload: &Payload,
        dependencies: &[NodeId],
    ) -> Result<(), Rejection> {
        let bytes = content_bytes(payload, dependencies);
        within("bytes of one node", bytes, STORED_NODE_BYTES as u64)?;
        let total = self.session.scene.bytes - old.map_or(0, |old| old.bytes()) + bytes;
        // What does not grow the scene is allowed even if the limit was lowered meanwhile.
        if total > self.session.scene.bytes {
            within("bytes of all payloads", total, self.limits.payload_bytes_total)?;
        }
        Ok(())
    }

    /// Checks that the node may hang below `parent`: it exists, is not below the node, and not too deep.
    fn check_parent(&self, id: &NodeId, old: Option<&Arc<Node>>, parent: Option<&NodeId>) -> Result<(), Rejection> {
        let Some(parent) = parent else { return Ok(()) };
        let mut depth = 0;
        let mut next = Some(parent);
        while let Some(above) = next {
            if above == id {
                return Err(Rejection::Circle(id.clone()));
            }
            depth += 1;
            within("nodes above a node", depth, self.limits.depth)?;
            let node = self.session.node(above).ok_or_else(|| Rejection::NoSuchParent(parent.clone()))?;
            next = node.parent.as_ref();
        }
        let deeper = old.is_some_and(|old| depth > self.depth(old));
        if deeper { within("nodes above a node", depth + self.height(id)?, self.limits.depth) } else { Ok(()) }
    }

    /// How many nodes are above this one.
    fn depth(&self, node: &Node) -> u64 {
        let mut depth = 0;
        let mut next = node.parent.as_ref();
        while let Some(node) = next.and_then(|id| self.session.node(id))
            && depth <= self.limits.depth
        {
            depth += 1;
            next = node.parent.as_ref();
        }
        depth
    }

    /// How many levels of nodes are below this one. Looks at all of them: needed only when they move further down.
    fn height(&self, id: &NodeId) -> Result<u64, Rejection> {
        let mut level: Vec<&NodeId> = self.session.children(id).collect();
        let mut height = 0;
        while !level.is_empty() && height <= self.limits.depth {
            self.work(NODE_WORK * level.len() as u64)?;
            height += 1;
            level = level.into_iter().flat_map(|id| self.session.children(id)).collect();
        }
        Ok(height)
    }
}

fn check_kind(kind: &Arc<str>) -> Result<(), Rejection> {
    text("kind", kind, 1, KIND_BYTES)
}

fn check_order(order: Option<f64>) -> Result<(), Rejection> {
    match order {
        Some(order) if !order.is_finite() => Err(invalid("order", "must be finite")),
        _ => Ok(()),
    }
}
