//! The proofreader: applies every change that a client makes, off the tasks that must not wait. It knows a node's data as
//! it is, folds long chains of deltas, and finds changes that do not apply.

use super::edits::NODE_MEDIA_TYPE;
use super::room::Room;
use crate::formats::delta::{Delta, DeltaError};
use crate::formats::pickle::{Policy, Value, read, write};
use crate::ops::metrics::BlenderMetrics;
use crate::session::{MemberName, Node, NodeId, NodePut, Operation, Payload};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use tokio::sync::mpsc;

/// Changes that may wait to be read. Beyond them some are read later, with those that follow.
const WAITING_MAX: usize = 1_024;

/// Deltas of one node before they are folded into its base.
const DELTAS_MAX: usize = 64;

/// Bytes of deltas that are never too many.
const DELTA_BYTES_MIN: usize = 16 << 10;

/// Nodes whose data is kept at hand.
const KEPT_MAX: usize = 64;

/// Bytes of their pickles; in memory they are some times larger.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Where changes to be read are left.
pub(super) struct Proofreader {
    sender: mpsc::Sender<Check>,
}

/// A change of a node, and whose it is.
struct Check {
    node: NodeId,
    author: MemberName,
}

/// What waits to be read, and what is at hand.
pub(super) struct Checks {
    receiver: mpsc::Receiver<Check>,
}

impl Proofreader {
    pub(super) fn new() -> (Self, Checks) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        (Self { sender }, Checks { receiver })
    }

    /// The author has changed the node.
    pub(super) fn check(&self, node: NodeId, author: &MemberName) {
        // Where too many wait, one that follows finds what this one would have found.
        _ = self.sender.try_send(Check { node, author: author.clone() });
    }
}

impl Checks {
    /// Reads for as long as there is a room.
    pub(super) async fn run(mut self, room: Weak<Room>, metrics: BlenderMetrics) {
        let mut shelf = Shelf::default();
        while let Some(Check { node, author }) = self.receiver.recv().await {
            let Some(room) = room.upgrade() else { return };
            let Ok(state) = room.state().await else { return };
            let Some(node) = state.node(&node).map(Arc::clone) else { continue };
            drop(state);
            let reading = tokio::task::spawn_blocking(move || {
                let found = shelf.check(&node);
                (shelf, node, found)
            });
            let Ok((kept, node, found)) = reading.await else { return };
            shelf = kept;
            let operation = match found {
                Found::Nothing => continue,
                Found::Long(operation) => operation,
                Found::Wrong(operation, error) => {
                    metrics.suspect_nodes.inc();
                    tracing::error!("A change of {} by {author} does not apply: {error}", node.id);
                    let why =
                        format!("your change of {} does not apply to what the server has: connect again", node.id);
                    room.roster.send_away(author.as_str(), &why);
                    operation
                }
            };
            // Somebody may have changed it meanwhile; the next change is read like this one.
            if let Err(error) = room.handle.edit_as_daemon(vec![operation]).await {
                tracing::debug!("{} was not folded: {error}", node.id);
            }
        }
    }
}

/// What was found.
enum Found {
    Nothing,
    /// It is time to fold.
    Long(Operation),
    /// A change does not apply; so the node is put as it is without it, for everybody.
    Wrong(Operation, DeltaError),
}

/// Data at hand, oldest first.
#[derive(Default)]
struct Shelf {
    kept: VecDeque<Kept>,
}

struct Kept {
    node: NodeId,
    /// The base that it began with: another one means another beginning.
    base: Bytes,
    /// The newest delta in it.
    revision: u64,
    value: Value,
}

impl Shelf {
    fn check(&mut self, node: &Node) -> Found {
        let Payload::Layered { base, deltas, .. } = &node.payload else { return Found::Nothing };
        let Some((mut value, after)) = self.take(&node.id, base) else {
            // What cannot be read at all was not put through this door.
            return Found::Nothing;
        };
        let mut wrong = None;
        let newer = (0..deltas.len()).filter_map(|index| deltas.get(index)).filter(|delta| delta.revision > after);
        for delta in newer {
            match Delta::read(&delta.data).and_then(|delta| delta.apply(&value)) {
                Ok(changed) => value = changed,
                Err(error) => wrong = Some(error),
            }
        }
        let found = match wrong {
            Some(error) => write(&value).map_or(Found::Nothing, |data| Found::Wrong(whole(node, data.into()), error)),
            None if deltas.len() >= DELTAS_MAX || deltas.bytes() > base.len().max(DELTA_BYTES_MIN) => {
                return self.fold(node, value);
            }
            None => Found::Nothing,
        };
        let revision = deltas.last().map_or(after, |delta| delta.revision);
        self.keep(Kept { node: node.id.clone(), base: base.clone(), revision, value });
        found
    }

    fn fold(&mut self, node: &Node, value: Value) -> Found {
        let Ok(base) = write(&value).map(Bytes::from) else { return Found::Nothing };
        let Some(operation) = Operation::fold(node, base.clone()) else { return Found::Nothing };
        self.keep(Kept { node: node.id.clone(), base, revision: node.revision, value });
        Found::Long(operation)
    }

    /// The data of the node, as far as it is known, and the newest delta in it.
    fn take(&mut self, id: &NodeId, base: &Bytes) -> Option<(Value, u64)> {
        if let Some(index) = self.kept.iter().position(|kept| kept.node == *id)
            && let Some(kept) = self.kept.remove(index)
            && (kept.base.as_ptr(), kept.base.len()) == (base.as_ptr(), base.len())
        {
            return Some((kept.value, kept.revision));
        }
        read(base, &Policy::DATA_ONLY).ok().map(|value| (value, 0))
    }

    fn keep(&mut self, kept: Kept) {
        self.kept.push_back(kept);
        let mut bytes: usize = self.kept.iter().map(|kept| kept.base.len()).sum();
        while self.kept.len() > KEPT_MAX || bytes > KEPT_BYTES_MAX {
            let Some(oldest) = self.kept.pop_front() else { return };
            bytes -= oldest.base.len();
        }
    }
}

/// The node as it is, with this data; only if nobody has changed it meanwhile.
fn whole(node: &Node, data: Bytes) -> Operation {
    Operation::NodePut(NodePut {
        id: node.id.clone(),
        kind: Arc::clone(&node.kind),
        name: Arc::clone(&node.name),
        parent: node.parent.clone(),
        order: node.order,
        dependencies: node.dependencies.clone(),
        payload: Payload::Bytes { media_type: NODE_MEDIA_TYPE.into(), data },
        if_revision: Some(node.revision),
    })
}
