//! The truth about a node: all of it, as a Blender client is given it. What deltas have made of it is worked out off the
//! tasks that must not wait.

use super::objects::{node as node_message, right};
use super::room::{living_dependencies, owner_text};
use crate::session::{Node, Payload, Session};
use bytes::Bytes;
use std::sync::Arc;

/// Two messages that put one node right.
pub(super) struct Messages {
    /// The node, for the data line. Clients that know it keep its owner.
    pub(super) node: Vec<Bytes>,
    /// Its owner, for the command line.
    pub(super) right: Vec<Bytes>,
}

/// Both messages about a node; `None` if Blender clients cannot read it.
pub(super) async fn about(node: &Arc<Node>, state: &Session) -> Option<Messages> {
    let message = chunks(node, state).await?;
    let right = right([node.id.as_str()], owner_text(node.owner.as_ref()));
    Some(Messages { node: message, right })
}

/// A node's chunks; `None` if Blender clients cannot read it.
pub(super) async fn chunks(node: &Arc<Node>, state: &Session) -> Option<Vec<Bytes>> {
    let data = content(node).await?;
    let owner = owner_text(node.owner.as_ref());
    Some(node_message(node.id.as_str(), owner, living_dependencies(&node.dependencies, state), data))
}

/// The pickle of a node's data, with all deltas applied.
async fn content(node: &Arc<Node>) -> Option<Bytes> {
    if !node.payload.is_blender() {
        return None;
    }
    match &node.payload {
        Payload::Json(_) => None,
        Payload::Bytes { data, .. } => Some(data.clone()),
        Payload::Layered { .. } => folded(node).await,
    }
}

async fn folded(node: &Arc<Node>) -> Option<Bytes> {
    let node = Arc::clone(node);
    tokio::task::spawn_blocking(move || fold_payload(&node)).await.ok().flatten()
}

fn fold_payload(node: &Node) -> Option<Bytes> {
    let Payload::Layered { base, deltas, .. } = &node.payload else { return None };
    match crate::formats::delta::fold(base, deltas.iter()) {
        Ok(data) => Some(data),
        Err(error) => {
            tracing::error!("Node {} cannot be worked out: {error}. It is shown as it was before its changes", node.id);
            Some(base.clone())
        }
    }
}
