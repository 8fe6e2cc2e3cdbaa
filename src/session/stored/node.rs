//! STORED: never change a released struct; add V2. Nodes, and what events say about them.

use super::{BadStored, bad};
use crate::session::{Delta, MemberName, Node, NodeId, NodePatch, NodePut, Payload, PayloadChange};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// STORED. A payload, of texts and bytes that are its own or, to write it, the node's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PayloadV1<Text = Arc<str>, Data = Bytes> {
    /// JSON text.
    Json(Data),
    /// Bytes with a media type.
    Bytes {
        /// The media type.
        media_type: Text,
        /// The content.
        data: Data,
    },
    /// Bytes with a media type, and what was appended to them.
    Layered {
        /// The media type.
        media_type: Text,
        /// What the deltas were appended to.
        base: Data,
        /// Oldest first.
        deltas: Vec<DeltaV1<Data>>,
    },
}

/// STORED. What was appended to a payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `Delta`")]
pub struct DeltaV1<Data = Bytes> {
    pub revision: u64,
    pub data: Data,
}

/// STORED. A node in a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `Node`")]
pub struct NodeV1<Text = Arc<str>, Data = Bytes> {
    pub id: Text,
    pub kind: Text,
    pub name: Text,
    pub parent: Option<Text>,
    pub order: Option<f64>,
    pub owner: Option<Text>,
    pub dependencies: Vec<Text>,
    pub payload: PayloadV1<Text, Data>,
    pub revision: u64,
}

/// STORED. A node on its way into a snapshot. Nothing is counted as shared for it: with a million nodes that would take
/// 32 bytes for each payload that nobody shared before, and a look at memory that the session's task uses.
pub type NodeRefV1<'a> = NodeV1<&'a str, &'a Bytes>;

/// STORED. A node that was put.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `NodePut`")]
pub struct NodePutV1 {
    pub id: Arc<str>,
    pub kind: Arc<str>,
    pub name: Arc<str>,
    pub parent: Option<Arc<str>>,
    pub order: Option<f64>,
    pub dependencies: Vec<Arc<str>>,
    pub payload: PayloadV1,
    pub if_revision: Option<u64>,
}

/// STORED. Changed fields of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the fields are those of `NodePatch`")]
pub struct NodePatchV1 {
    pub kind: Option<Arc<str>>,
    pub name: Option<Arc<str>>,
    pub parent: Option<Option<Arc<str>>>,
    pub order: Option<Option<f64>>,
    pub dependencies: Option<Vec<Arc<str>>>,
    pub payload: Option<PayloadChangeV1>,
}

/// STORED. How a payload changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PayloadChangeV1 {
    /// It was replaced.
    Replace(PayloadV1),
    /// RFC 7396.
    Merge(Bytes),
    /// RFC 6902.
    Patch(Bytes),
    /// A delta was appended.
    Append(Bytes),
    /// The first deltas were folded into a new base.
    Fold {
        /// How many.
        deltas: u32,
        /// The new base.
        base: Bytes,
    },
}

impl From<&Payload> for PayloadV1 {
    fn from(payload: &Payload) -> Self {
        match payload {
            Payload::Json(text) => Self::Json(text.clone()),
            Payload::Bytes { media_type, data } => {
                Self::Bytes { media_type: Arc::clone(media_type), data: data.clone() }
            }
            Payload::Layered { media_type, base, deltas } => Self::Layered {
                media_type: Arc::clone(media_type),
                base: base.clone(),
                deltas: deltas.with_revisions().map(DeltaV1::from).collect(),
            },
        }
    }
}

impl From<PayloadV1> for Payload {
    fn from(payload: PayloadV1) -> Self {
        match payload {
            PayloadV1::Json(text) => Self::Json(text),
            PayloadV1::Bytes { media_type, data } => Self::Bytes { media_type, data },
            PayloadV1::Layered { media_type, base, deltas } => {
                Self::layered(media_type, base, deltas.into_iter().map(Delta::from))
            }
        }
    }
}

impl From<&Delta> for DeltaV1 {
    fn from(delta: &Delta) -> Self {
        Self { revision: delta.revision, data: delta.data.clone() }
    }
}

impl From<DeltaV1> for Delta {
    fn from(delta: DeltaV1) -> Self {
        Self { revision: delta.revision, data: delta.data }
    }
}

pub(super) fn texts(ids: &[NodeId]) -> Vec<Arc<str>> {
    ids.iter().map(NodeId::shared).collect()
}

pub(super) fn node_ids(texts: Vec<Arc<str>>) -> Result<Vec<NodeId>, BadStored> {
    texts.into_iter().map(|text| Ok(NodeId::from_shared(text)?)).collect()
}

pub(super) fn node_id(text: Option<Arc<str>>) -> Result<Option<NodeId>, BadStored> {
    Ok(text.map(NodeId::from_shared).transpose()?)
}

fn finite(order: Option<f64>) -> Result<Option<f64>, BadStored> {
    if order.is_some_and(|order| !order.is_finite()) { Err(bad("a stored order is not finite")) } else { Ok(order) }
}

impl<'a> From<&'a Node> for NodeRefV1<'a> {
    fn from(node: &'a Node) -> Self {
        Self {
            id: node.id.as_str(),
            kind: &node.kind,
            name: &node.name,
            parent: node.parent.as_ref().map(NodeId::as_str),
            order: node.order,
            owner: node.owner.as_ref().map(MemberName::as_str),
            dependencies: node.dependencies.iter().map(NodeId::as_str).collect(),
            payload: (&node.payload).into(),
            revision: node.revision,
        }
    }
}

impl<'a> From<&'a Payload> for PayloadV1<&'a str, &'a Bytes> {
    fn from(payload: &'a Payload) -> Self {
        let delta = |delta: &'a Delta| DeltaV1 { revision: delta.revision, data: &delta.data };
        match payload {
            Payload::Json(text) => Self::Json(text),
            Payload::Bytes { media_type, data } => Self::Bytes { media_type, data },
            Payload::Layered { media_type, base, deltas } => {
                Self::Layered { media_type, base, deltas: deltas.with_revisions().map(delta).collect() }
            }
        }
    }
}

impl TryFrom<NodeV1> for Node {
    type Error = BadStored;

    fn try_from(node: NodeV1) -> Result<Self, BadStored> {
        Ok(Self {
            id: NodeId::from_shared(node.id)?,
            kind: node.kind,
            name: node.name,
            parent: node_id(node.parent)?,
            order: finite(node.order)?,
            owner: node.owner.map(MemberName::from_shared).transpose()?,
            dependencies: node_ids(node.dependencies)?,
            payload: node.payload.into(),
            revision: node.revision,
        })
    }
}

impl From<&NodePut> for NodePutV1 {
    fn from(put: &NodePut) -> Self {
        Self {
            id: put.id.shared(),
            kind: Arc::clone(&put.kind),
            name: Arc::clone(&put.name),
            parent: put.parent.as_ref().map(NodeId::shared),
            order: put.order,
            dependencies: texts(&put.dependencies),
            payload: (&put.payload).into(),
            if_revision: put.if_revision,
        }
    }
}

impl TryFrom<NodePutV1> for NodePut {
    type Error = BadStored;

    fn try_from(put: NodePutV1) -> Result<Self, BadStored> {
        Ok(Self {
            id: NodeId::from_shared(put.id)?,
            kind: put.kind,
            name: put.name,
            parent: node_id(put.parent)?,
            order: finite(put.order)?,
            dependencies: node_ids(put.dependencies)?,
            payload: put.payload.into(),
            if_revision: put.if_revision,
        })
    }
}

impl From<&NodePatch> for NodePatchV1 {
    fn from(patch: &NodePatch) -> Self {
        Self {
            kind: patch.kind.clone(),
            name: patch.name.clone(),
            parent: patch.parent.as_ref().map(|parent| parent.as_ref().map(NodeId::shared)),
            order: patch.order,
            dependencies: patch.dependencies.as_deref().map(texts),
            payload: patch.payload.as_ref().map(|change| match change {
                PayloadChange::Replace(payload) => PayloadChangeV1::Replace(payload.into()),
                PayloadChange::Merge(patch) => PayloadChangeV1::Merge(patch.clone()),
                PayloadChange::Patch(patch) => PayloadChangeV1::Patch(patch.clone()),
                PayloadChange::Append(delta) => PayloadChangeV1::Append(delta.clone()),
                PayloadChange::Fold { deltas, base } => PayloadChangeV1::Fold { deltas: *deltas, base: base.clone() },
            }),
        }
    }
}

impl TryFrom<NodePatchV1> for NodePatch {
    type Error = BadStored;

    fn try_from(patch: NodePatchV1) -> Result<Self, BadStored> {
        Ok(Self {
            kind: patch.kind,
            name: patch.name,
            parent: patch.parent.map(node_id).transpose()?,
            order: patch.order.map(finite).transpose()?,
            dependencies: patch.dependencies.map(node_ids).transpose()?,
            payload: patch.payload.map(|change| match change {
                PayloadChangeV1::Replace(payload) => PayloadChange::Replace(payload.into()),
                PayloadChangeV1::Merge(patch) => PayloadChange::Merge(patch),
                PayloadChangeV1::Patch(patch) => PayloadChange::Patch(patch),
                PayloadChangeV1::Append(delta) => PayloadChange::Append(delta),
                PayloadChangeV1::Fold { deltas, base } => PayloadChange::Fold { deltas, base },
            }),
        })
    }
}
