//! The proofreader: applies every change that a client makes, off the tasks that must not wait. It knows a node's data as
//! it is, folds long chains of deltas, and finds changes that do not apply.

use super::edits::NODE_MEDIA_TYPE;
use super::room::Room;
use crate::formats::delta::{Delta, DeltaError};
use crate::formats::pickle::{Policy, Value, read, write};
use crate::ops::metrics::BlenderMetrics;
use crate::session::{MemberName, Node, NodeId, NodePut, Operation, Payload};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::mpsc;

/// Deltas of one node before they are folded into its base.
const DELTAS_MAX: usize = 64;

/// Bytes of deltas that are never too many.
const DELTA_BYTES_MIN: usize = 16 << 10;

/// Nodes whose data is kept at hand.
const KEPT_MAX: usize = 64;

/// Bytes of their pickles; in memory they are some times larger.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// Where changed nodes are left to be read.
pub(super) struct Proofreader {
    changed: Changed,
    /// Says that there is something. When it is dropped, so is the reader.
    news: mpsc::Sender<()>,
}

/// Nodes that were changed, and who did it last. Each once, so there are never more than the scene has.
type Changed = Arc<Mutex<BTreeMap<NodeId, MemberName>>>;

/// What waits to be read, and what is at hand.
pub(super) struct Checks {
    changed: Changed,
    news: mpsc::Receiver<()>,
}

impl Proofreader {
    pub(super) fn new() -> (Self, Checks) {
        let (sender, receiver) = mpsc::channel(1);
        let changed = Changed::default();
        (Self { changed: Arc::clone(&changed), news: sender }, Checks { changed, news: receiver })
    }

    /// The author has changed the node.
    pub(super) fn check(&self, node: NodeId, author: &MemberName) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).insert(node, author.clone());
        // If it is full, the reader knows.
        _ = self.news.try_send(());
    }
}

impl Checks {
    async fn next(&mut self) -> Option<(NodeId, MemberName)> {
        loop {
            let first = self.changed.lock().unwrap_or_else(PoisonError::into_inner).pop_first();
            if first.is_some() {
                return first;
            }
            self.news.recv().await?;
        }
    }

    /// Reads for as long as there is a room.
    pub(super) async fn run(mut self, room: Weak<Room>, metrics: BlenderMetrics) {
        let mut shelf = Shelf::default();
        while let Some((node, author)) = self.next().await {
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
        match wrong {
            // Not kept: if somebody has changed the node meanwhile, it must be found again.
            Some(error) => {
                return write(&value).map_or(Found::Nothing, |data| Found::Wrong(whole(node, data.into()), error));
            }
            None if deltas.len() >= DELTAS_MAX || deltas.bytes() > base.len().max(DELTA_BYTES_MIN) => {
                return self.fold(node, value);
            }
            None => {}
        }
        let revision = deltas.last().map_or(after, |delta| delta.revision);
        self.keep(Kept { node: node.id.clone(), base: base.clone(), revision, value });
        Found::Nothing
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Timestamp;
    use crate::session::{Author, Change, Command, Decision, Event, Limits, NodePatch, PayloadChange, Session};

    /// `{'a': n}`
    fn data(n: u8) -> Bytes {
        Bytes::from(vec![0x80, 4, b'}', 0x8c, 1, b'a', b'K', n, b's', b'.'])
    }

    /// Sets `root['a']`, or changes something in a list that is not there.
    fn delta(n: u8, applies: bool) -> Bytes {
        let mut values = Vec::new();
        let path = if applies { "root['a']" } else { "root['b']['c']" };
        let text = |text: &str| Value::text(text);
        let change = Value::Dict(Arc::new(vec![(text("new_value"), Value::Int(n.into()))]));
        values.push((text(path), change));
        let kind = if applies { "values_changed" } else { "iterable_items_added_at_indexes" };
        let pairs = vec![(text(kind), Value::Dict(Arc::new(values)))];
        write(&Value::Dict(Arc::new(pairs))).unwrap().into()
    }

    fn session(deltas: impl IntoIterator<Item = Bytes>) -> Session {
        let id = NodeId::new("n").unwrap();
        let put = NodePut {
            id: id.clone(),
            kind: "Mesh".into(),
            name: "".into(),
            parent: None,
            order: None,
            dependencies: Vec::new(),
            payload: Payload::Bytes { media_type: NODE_MEDIA_TYPE.into(), data: data(0) },
            if_revision: None,
        };
        let append = |delta| {
            let patch = NodePatch { payload: Some(PayloadChange::Append(delta)), ..NodePatch::default() };
            Change::NodePatched { id: id.clone(), patch }
        };
        let changes = std::iter::once(Change::NodePut(put)).chain(deltas.into_iter().map(append));
        let mut session = Session::new();
        for (seq, change) in (1..).zip(changes) {
            let (at, author) = (Timestamp(0), MemberName::daemon());
            session.evolve(&Event { seq, at, author, op: None, changes: vec![change] });
        }
        session
    }

    fn found(session: &Session) -> Found {
        let node = session.node(&NodeId::new("n").unwrap()).unwrap();
        Shelf::default().check(node)
    }

    fn after(mut session: Session, operation: Operation) -> Value {
        let author = Author::daemon();
        let command = Command::Edit { op: None, operations: vec![operation] };
        let decided = session.decide(&command, &author, Timestamp(1), &Limits::default());
        let Ok(Decision::New(event)) = decided else { panic!("{decided:?}") };
        session.evolve(&event);
        match &session.node(&NodeId::new("n").unwrap()).unwrap().payload {
            Payload::Bytes { data, .. } => read(data, &Policy::DATA_ONLY).unwrap(),
            Payload::Json(_) | Payload::Layered { .. } => panic!("it was not folded"),
        }
    }

    #[test]
    fn a_long_chain_is_folded_and_a_short_one_is_not() {
        assert!(matches!(found(&session((0..63).map(|n| delta(n, true)))), Found::Nothing));
        let long = session((0..64).map(|n| delta(n, true)));
        let Found::Long(operation) = found(&long) else { panic!("it is long") };
        assert_eq!(after(long, operation).get("a"), Some(&Value::Int(63)));
    }

    #[test]
    fn a_node_is_put_again_without_a_change_that_does_not_apply() {
        let wrong = session([delta(1, true), delta(2, false), delta(3, true)]);
        let Found::Wrong(operation, _) = found(&wrong) else { panic!("it does not apply") };
        assert_eq!(after(wrong, operation).get("a"), Some(&Value::Int(3)));
    }

    #[test]
    fn what_is_at_hand_is_not_read_again() {
        let mut shelf = Shelf::default();
        let first = session([delta(1, true)]);
        let node = Arc::clone(first.node(&NodeId::new("n").unwrap()).unwrap());
        shelf.check(&node);
        let Payload::Layered { base, .. } = &node.payload else { panic!("it has a delta") };
        assert_eq!(shelf.take(&node.id, base).unwrap().1, 2, "up to the delta of the second event");
        assert_eq!(shelf.take(&node.id, base).unwrap().1, 0, "it was taken");
    }
}
