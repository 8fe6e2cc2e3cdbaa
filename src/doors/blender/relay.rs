//! The relay: what events are to Blender clients, encoded once for all clients of a transport.

use super::dialect::Speech;
use super::objects::{commit, delete, node, right};
use super::room::{Room, living_dependencies, owner_text};
use super::wire::{Transport, frame};
use crate::live::Chunk;
use crate::session::{
    Change, ClientId, Event, MemberName, NodeId, NodePatch, NodePut, Payload, PayloadChange, Session,
};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Chunks that are kept encoded: nearly everybody reads the newest.
const ENCODED_MAX: usize = 8;

/// One event, as Blender clients are told of it.
pub(super) struct RelayedEvent {
    /// Its place in the log.
    pub(super) seq: u64,
    /// The client that asked for it.
    pub(super) author: Option<ClientId>,
    /// What to tell.
    pub(super) parts: Vec<Part>,
}

/// One message.
pub(super) enum Part {
    /// A whole node; not for its author.
    Node(NodeId, Vec<Bytes>),
    /// A change of a node, in the words of one version of the library; not for its author.
    Commit(NodeId, Speech),
    /// A node is gone; its author waits for this, too.
    Delete(NodeId, Vec<Bytes>),
    /// Nodes have changed hands; likewise.
    Right(Vec<Bytes>),
    /// An older or foreign state was put in place: what the clients have is no part of it.
    Restored(Arc<str>),
}

struct Encoded {
    first: u64,
    transport: Transport,
    events: Arc<Vec<RelayedEvent>>,
}

/// Encodes chunks once for each transport.
#[derive(Default)]
pub(super) struct Encoder {
    recent: Mutex<VecDeque<Encoded>>,
}

impl Encoder {
    /// The events of a chunk.
    pub(super) fn encode(&self, chunk: &Chunk, transport: Transport, room: &Room) -> Arc<Vec<RelayedEvent>> {
        let first = chunk.events().first().map_or(0, |event| event.seq);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.iter().find(|encoded| encoded.first == first && encoded.transport == transport);
        if let Some(encoded) = known {
            return Arc::clone(&encoded.events);
        }
        // The state may be newer than the events. What has gone meanwhile may as well be left out at once.
        let encode = |state: Option<&Session>| {
            let encode = |event: &Arc<Event>| relayed(event, transport, state);
            Arc::new(chunk.events().iter().map(encode).collect::<Vec<_>>())
        };
        let events = room.peek(|state| encode(Some(state))).unwrap_or_else(|| encode(None));
        if recent.len() >= ENCODED_MAX {
            recent.pop_front();
        }
        recent.push_back(Encoded { first, transport, events: Arc::clone(&events) });
        events
    }
}

fn relayed(event: &Event, transport: Transport, state: Option<&Session>) -> RelayedEvent {
    let mut parts = Vec::new();
    for (index, change) in event.changes.iter().enumerate() {
        part(event, index, change, transport, state, &mut parts);
    }
    RelayedEvent { seq: event.seq, author: event.op.map(|key| key.client), parts }
}

fn part(
    event: &Event,
    index: usize,
    change: &Change,
    transport: Transport,
    state: Option<&Session>,
    parts: &mut Vec<Part>,
) {
    let framed = |chunks: &[Bytes]| frame(transport, chunks);
    match change {
        Change::NodePut(put) => {
            if let Some(chunks) = put_chunks(put, owner_put(event, index, &put.id), state) {
                parts.push(Part::Node(put.id.clone(), framed(&chunks)));
            }
        }
        Change::NodePatched { id, patch } => {
            parts.extend(commit_speech(id, patch, state, transport).map(|speech| Part::Commit(id.clone(), speech)));
        }
        Change::NodesRemoved { ids } => {
            parts.extend(ids.iter().map(|id| Part::Delete(id.clone(), framed(&delete(id.as_str())))));
        }
        // The node that was put just before carries its owner itself.
        Change::NodeLocked { id, .. } if is_put_before(event, index, id) => {}
        Change::NodeLocked { id, owner } => lock_part(id, owner, transport, event, index, parts),
        Change::NodesUnlocked { .. } if index > 0 && unlocked_at(event, index - 1).is_some() => {}
        Change::NodesUnlocked { .. } => {
            let ids = (index..).map_while(|index| unlocked_at(event, index)).flatten().map(NodeId::as_str);
            parts.push(Part::Right(framed(&right(ids, owner_text(None)))));
        }
        Change::Restored { source } => parts.push(Part::Restored(Arc::clone(source))),
        // All who were there are sent away by the session itself, also those who are not told of events yet.
        Change::SessionCleared { .. } => {}
        Change::TaskPut(_) | Change::TaskPatched { .. } | Change::TaskRemoved { .. } | Change::ChatPosted(_) => {}
        Change::MemberJoined { .. } | Change::MemberLeft { .. } | Change::MemberSet { .. } => {}
        Change::SettingChanged { .. } | Change::Forgotten { .. } => {}
    }
}

fn unlocked_at(event: &Event, index: usize) -> Option<&[NodeId]> {
    if let Some(Change::NodesUnlocked { ids }) = event.changes.get(index) { Some(ids) } else { None }
}

/// Locks that follow each other in one event are one message.
fn lock_part(
    id: &NodeId,
    owner: &MemberName,
    transport: Transport,
    event: &Event,
    index: usize,
    parts: &mut Vec<Part>,
) {
    let lock_at = |index: usize| {
        let Some(Change::NodeLocked { id, owner: other }) = event.changes.get(index) else { return None };
        (other == owner).then_some(id)
    };
    if index > 0 && lock_at(index - 1).is_some_and(|before| !is_put_before(event, index - 1, before)) {
        return;
    }
    let more = (index + 1..).map_while(lock_at);
    let ids = std::iter::once(id).chain(more).map(NodeId::as_str);
    parts.push(Part::Right(frame(transport, &right(ids, owner.as_str()))));
}

fn is_put_before(event: &Event, index: usize, id: &NodeId) -> bool {
    let before = event.changes.get(..index).unwrap_or_default();
    before.iter().any(|change| matches!(change, Change::NodePut(put) if put.id == *id))
}

/// Whose the node is if it is new: a lock in the same event says so.
fn owner_put<'e>(event: &'e Event, index: usize, id: &NodeId) -> &'e str {
    let after = event.changes.get(index..).unwrap_or_default();
    let owner = after.iter().find_map(|change| {
        let Change::NodeLocked { id: locked, owner } = change else { return None };
        (locked == id).then_some(owner)
    });
    owner_text(owner)
}

fn put_chunks(put: &NodePut, owner: &str, state: Option<&Session>) -> Option<Vec<Bytes>> {
    if !put.payload.is_blender() {
        return None;
    }
    let Payload::Bytes { data, .. } = &put.payload else { return None };
    Some(node(put.id.as_str(), owner, dependencies(&put.dependencies, state), data.clone()))
}

fn commit_speech(id: &NodeId, patch: &NodePatch, state: Option<&Session>, transport: Transport) -> Option<Speech> {
    let (Some(PayloadChange::Append(delta)), Some(all)) = (&patch.payload, &patch.dependencies) else { return None };
    let dependencies = dependencies(all, state);
    Some(Speech::new(delta, |delta| frame(transport, &commit(id.as_str(), dependencies.iter().copied(), delta))))
}

/// A client that is told of a dependency which is not there leaves when it looks at it.
fn dependencies<'a>(all: &'a [NodeId], state: Option<&Session>) -> Vec<&'a str> {
    match state {
        Some(state) => living_dependencies(all, state).collect(),
        None => all.iter().map(NodeId::as_str).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::blender::edits::NODE_MEDIA_TYPE;
    use crate::session::Timestamp;

    fn id(id: &str) -> NodeId {
        NodeId::new(id).unwrap()
    }

    fn put(name: &str, payload: Payload) -> Change {
        Change::NodePut(NodePut {
            id: id(name),
            kind: "Mesh".into(),
            name: "".into(),
            parent: None,
            order: None,
            dependencies: vec![id("gone"), id("there")],
            payload,
            if_revision: None,
        })
    }

    fn blender() -> Payload {
        Payload::Bytes { media_type: NODE_MEDIA_TYPE.into(), data: Bytes::from_static(b"data") }
    }

    fn lock(name: &str) -> Change {
        Change::NodeLocked { id: id(name), owner: MemberName::new("alice").unwrap() }
    }

    /// What an event is to clients: one letter for each message, and all its bytes.
    fn told(changes: Vec<Change>, state: Option<&Session>) -> Vec<(char, String)> {
        let event = Event { seq: 1, at: Timestamp(0), author: MemberName::daemon(), op: None, changes };
        let text = |frames: &[Bytes]| String::from_utf8_lossy(&frames.concat()).into_owned();
        let part = |part: &Part| match part {
            Part::Node(_, frames) => ('n', text(frames)),
            Part::Commit(..) => ('c', String::new()),
            Part::Delete(_, frames) => ('d', text(frames)),
            Part::Right(frames) => ('r', text(frames)),
            Part::Restored(what) => ('!', what.to_string()),
        };
        relayed(&event, Transport::Tcp, state).parts.iter().map(part).collect()
    }

    #[test]
    fn a_new_node_carries_the_lock_that_came_with_it() {
        let told = told(vec![put("n", blender()), lock("n")], None);
        assert_eq!(told.iter().map(|(kind, _)| *kind).collect::<String>(), "n");
        assert!(told[0].1.contains("alice") && told[0].1.contains("gone"));
    }

    #[test]
    fn locks_of_one_event_are_one_message() {
        let told = told(vec![lock("a"), lock("b"), Change::NodesRemoved { ids: vec![id("c")] }], None);
        assert_eq!(told.iter().map(|(kind, _)| *kind).collect::<String>(), "rd");
        assert!(told[0].1.contains('a') && told[0].1.contains('b'));
    }

    #[test]
    fn what_is_not_there_is_no_dependency_and_what_is_not_blenders_is_not_told() {
        let mut state = Session::new();
        let changes = vec![put("there", Payload::null())];
        state.evolve(&Event { seq: 1, at: Timestamp(0), author: MemberName::daemon(), op: None, changes });
        let told = told(vec![put("n", blender()), put("json", Payload::null())], Some(&state));
        assert_eq!(told.len(), 1);
        assert!(told[0].1.contains("there") && !told[0].1.contains("gone"));
    }
}
