//! Deciding: checks a command against the state and says what event it becomes, without changing anything.

mod chat;
mod members;
mod nodes;
mod settings;
mod tasks;

use super::limits::{EDIT_WORK, STORED_EVENT_BYTES};
use super::tasks::Stamp;
use super::{Author, Change, Command, Event, Limits, OpKey, Operation, Rejection, Role, Session, Timestamp};
use std::cell::Cell;
use std::collections::BTreeSet;

/// The highest operation number: the largest integer that JavaScript counts exactly.
const OP_MAX: u64 = (1 << 53) - 1;

/// What becomes of a command that is not refused.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It is new: this event, once applied.
    New(Event),
    /// The same operation was applied already.
    Repeat {
        /// By the event with this `seq`.
        seq: u64,
    },
}

/// Everything that a single operation is decided from.
struct Deciding<'a> {
    /// The state, with the operations before this one applied.
    session: &'a Session,
    author: &'a Author,
    limits: &'a Limits,
    /// The `seq` of the event to be.
    seq: u64,
    /// The operation's place in a batch, from 0; `None` if it is the only one.
    place: Option<usize>,
    /// What the whole edit has worked so far.
    work: &'a Cell<u64>,
}

impl Session {
    /// Says what event the command becomes, or why it is refused. The session is not changed: [`Session::evolve`]
    /// does that. A command becomes one event, whose `seq` is the session's plus one.
    pub fn decide(
        &self,
        command: &Command,
        author: &Author,
        at: Timestamp,
        limits: &Limits,
    ) -> Result<Decision, Rejection> {
        let work = Cell::new(0);
        let deciding = Deciding { session: self, author, limits, seq: self.seq + 1, place: None, work: &work };
        let (op, changes) = match command {
            Command::Join { client } => (None, deciding.join(*client)?),
            Command::Leave => (None, deciding.leave()?),
            Command::Edit { op, operations } => {
                if let Some(seq) = op.map_or(Ok(None), |key| self.repeated(key))? {
                    return Ok(Decision::Repeat { seq });
                }
                (*op, deciding.edit(*op, operations, at)?)
            }
        };
        Ok(Decision::New(Event { seq: self.seq + 1, at, author: author.name.clone(), op, changes }))
    }

    /// The `seq` at which the operation was applied, if it was.
    fn repeated(&self, key: OpKey) -> Result<Option<u64>, Rejection> {
        if !(1..=OP_MAX).contains(&key.op) {
            return Err(invalid("op", format!("must be 1 to {OP_MAX}")));
        }
        self.applied.find(key)
    }
}

impl Deciding<'_> {
    fn edit(&self, op: Option<OpKey>, operations: &[Operation], at: Timestamp) -> Result<Vec<Change>, Rejection> {
        if !self.author.name.is_daemon() && self.session.members.get_online(&self.author.name).is_none() {
            return Err(Rejection::NotJoined(self.author.name.clone()));
        }
        within("operations of one batch", operations.len() as u64, self.limits.batch_operations)?;
        let mut changes = match operations {
            [] => return Err(invalid("operations", "must not be empty")),
            [operation] => self.single(operation)?,
            _ => self.batch(operations, at)?,
        };
        let clients = op.map_or_else(Vec::new, |key| {
            self.session.applied.excess(key.client, self.limits.clients_remembered, || self.online_clients())
        });
        forget_clients(&mut changes, clients);
        let bytes: usize = changes.iter().map(Change::size_hint).sum();
        within("bytes of one edit", bytes as u64, STORED_EVENT_BYTES as u64)?;
        Ok(changes)
    }

    fn single(&self, operation: &Operation) -> Result<Vec<Change>, Rejection> {
        let change = self.operation(operation)?;
        let more_bytes = if let Change::ChatPosted(draft) = &change { Some(draft.text.len() as u64) } else { None };
        let messages = more_bytes.map_or(0, |bytes| self.messages_over(1, bytes));
        Ok(with_forgotten(vec![change], messages))
    }

    /// Decides every operation against the state that those before it leave behind, on a scratch copy.
    fn batch(&self, operations: &[Operation], at: Timestamp) -> Result<Vec<Change>, Rejection> {
        let mut scratch = self.session.clone();
        let stamp = Stamp { seq: self.seq, at, author: &self.author.name };
        let mut changes = Vec::with_capacity(operations.len());
        for (place, operation) in operations.iter().enumerate() {
            let deciding = Deciding { session: &scratch, place: Some(place), ..*self };
            let change = deciding.operation(operation)?;
            scratch.apply(&change, stamp);
            changes.push(change);
        }
        let posted = changes.iter().any(|change| matches!(change, Change::ChatPosted(_)));
        let messages = if posted { Deciding { session: &scratch, ..*self }.messages_over(0, 0) } else { 0 };
        Ok(with_forgotten(changes, messages))
    }

    fn operation(&self, operation: &Operation) -> Result<Change, Rejection> {
        let everyone = matches!(operation, Operation::ChatPost(_) | Operation::MemberSet { .. });
        if self.author.role == Role::Viewer && !everyone {
            return Err(self.forbidden());
        }
        match operation {
            Operation::NodePut(put) => self.node_put(put),
            Operation::NodePatch { id, patch, if_revision } => self.node_patch(id, patch, *if_revision),
            Operation::NodeRemove { id, recursive, if_revision } => self.node_remove(id, *recursive, *if_revision),
            Operation::NodeLock { id } => self.node_lock(id),
            Operation::NodeUnlock { id } => self.node_unlock(id),
            Operation::TaskPut(put) => self.task_put(put),
            Operation::TaskPatch { id, patch, if_revision } => self.task_patch(id, patch, *if_revision),
            Operation::TaskRemove { id, if_revision } => self.task_remove(id, *if_revision),
            Operation::ChatPost(draft) => self.chat_post(draft),
            Operation::MemberSet { metadata } => self.member_set(metadata),
            Operation::SettingSet { key, value } => self.setting_set(key, value.as_ref()),
            Operation::SessionClear { archive } => self.session_clear(archive),
        }
    }

    /// Counts work before it is done.
    fn work(&self, amount: u64) -> Result<(), Rejection> {
        self.work.set(self.work.get().saturating_add(amount));
        within("work of one edit", self.work.get(), EDIT_WORK)
    }

    fn forbidden(&self) -> Rejection {
        Rejection::Forbidden { role: self.author.role.as_str() }
    }

    fn online_clients(&self) -> BTreeSet<super::ClientId> {
        self.session.online().filter_map(|member| member.online).map(|online| online.client).collect()
    }
}

/// The changes, and how many of the oldest messages go with them.
fn with_forgotten(mut changes: Vec<Change>, messages: u64) -> Vec<Change> {
    if messages > 0 {
        changes.push(Change::Forgotten { messages, members: Vec::new(), clients: Vec::new() });
    }
    changes
}

fn forget_clients(changes: &mut Vec<Change>, gone: Vec<super::ClientId>) {
    if gone.is_empty() {
        return;
    }
    if let Some(Change::Forgotten { clients, .. }) = changes.last_mut() {
        *clients = gone;
    } else {
        changes.push(Change::Forgotten { messages: 0, members: Vec::new(), clients: gone });
    }
}

fn invalid(field: &'static str, why: impl Into<String>) -> Rejection {
    Rejection::Invalid { field, why: why.into() }
}

fn within(what: &'static str, count: u64, limit: u64) -> Result<(), Rejection> {
    if count > limit { Err(Rejection::LimitExceeded { what, limit }) } else { Ok(()) }
}

/// Checks how many bytes a text has.
fn text(field: &'static str, text: &str, min: usize, max: usize) -> Result<(), Rejection> {
    if text.len() < min {
        return Err(invalid(field, "must not be empty"));
    }
    if text.len() > max {
        return Err(invalid(field, format!("must be at most {max} bytes long")));
    }
    Ok(())
}

/// Checks the revision that a client expects against the current one; 0 = does not exist.
fn expect_revision(expected: Option<u64>, current: u64) -> Result<(), Rejection> {
    match expected {
        Some(expected) if expected != current => Err(Rejection::RevisionConflict { current }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{MemberName, NodeId, NodePatch, NodePut, Payload, PayloadChange};
    use bytes::Bytes;

    fn daemon() -> Author {
        Author::daemon()
    }

    fn edit(operations: Vec<Operation>) -> Command {
        Command::Edit { op: None, operations }
    }

    fn decided(session: &Session, operations: Vec<Operation>) -> Result<Event, Rejection> {
        match session.decide(&edit(operations), &daemon(), Timestamp(1), &Limits::default())? {
            Decision::New(event) => Ok(event),
            Decision::Repeat { seq } => panic!("nothing was numbered, but it repeats {seq}"),
        }
    }

    fn node_id(id: &str) -> NodeId {
        NodeId::new(id).expect("an id")
    }

    fn put(id: &str, payload: Payload) -> Operation {
        Operation::NodePut(NodePut {
            id: node_id(id),
            kind: "thing".into(),
            name: "".into(),
            parent: None,
            order: None,
            dependencies: Vec::new(),
            payload,
            if_revision: None,
        })
    }

    fn merge(id: &str) -> Operation {
        let payload = Some(PayloadChange::Merge(Bytes::from_static(b"{\"a\":1}")));
        Operation::NodePatch {
            id: node_id(id),
            patch: NodePatch { payload, ..NodePatch::default() },
            if_revision: None,
        }
    }

    #[test]
    fn one_batch_cannot_patch_large_payloads_for_minutes() {
        let mut session = Session::new();
        let large = format!("{{\"text\":\"{}\"}}", "x".repeat(14 << 20));
        session.evolve(&decided(&session, vec![put("n", Payload::Json(large.into()))]).expect("it fits"));
        assert!(decided(&session, vec![merge("n")]).is_ok());
        let refused = decided(&session, vec![merge("n"); 5]);
        assert_eq!(refused, Err(Rejection::LimitExceeded { what: "work of one edit", limit: EDIT_WORK }));
    }

    #[test]
    fn an_event_that_could_not_be_stored_is_refused() {
        let half = Payload::Bytes { media_type: "x".into(), data: Bytes::from(vec![0; 40 << 20]) };
        let session = Session::new();
        assert!(decided(&session, vec![put("a", half.clone())]).is_ok());
        let refused = decided(&session, vec![put("a", half.clone()), put("b", half)]);
        assert_eq!(
            refused,
            Err(Rejection::LimitExceeded { what: "bytes of one edit", limit: STORED_EVENT_BYTES as u64 })
        );
    }

    #[test]
    fn a_stored_patch_that_does_not_apply_changes_nothing() {
        let mut session = Session::new();
        session.evolve(&decided(&session, vec![put("n", Payload::null())]).expect("it fits"));
        let before = session.node(&node_id("n")).expect("it was put").payload.clone();
        for change in [
            PayloadChange::Patch(Bytes::from_static(b"[{\"op\":\"remove\",\"path\":\"/a\"}]")),
            PayloadChange::Merge(Bytes::from_static(b"{")),
        ] {
            let patch = NodePatch { payload: Some(change), ..NodePatch::default() };
            let changes = vec![Change::NodePatched { id: node_id("n"), patch }];
            let seq = session.seq() + 1;
            session.evolve(&Event { seq, at: Timestamp(1), author: MemberName::daemon(), op: None, changes });
            assert_eq!(session.node(&node_id("n")).expect("it is still there").payload, before);
        }
    }

    #[test]
    fn events_of_a_foreign_log_cannot_hang_the_session() {
        let mut session = Session::new();
        let below = |id: &str, parent: &str| {
            let Operation::NodePut(put) = put(id, Payload::null()) else { panic!("it is a put") };
            Change::NodePut(NodePut { parent: Some(node_id(parent)), ..put })
        };
        let changes = vec![below("a", "b"), below("b", "a"), below("c", "nowhere")];
        session.evolve(&Event { seq: 1, at: Timestamp(1), author: MemberName::daemon(), op: None, changes });
        let remove = Operation::NodeRemove { id: node_id("a"), recursive: true, if_revision: None };
        session.evolve(&decided(&session, vec![remove]).expect("it ends"));
        let gone = Change::NodesRemoved { ids: vec![node_id("c"), node_id("nothing")] };
        let author = MemberName::daemon();
        session.evolve(&Event { seq: 3, at: Timestamp(1), author, op: None, changes: vec![gone] });
        assert_eq!(session.totals(), crate::session::Totals::default());
    }

    #[test]
    fn parts_of_the_state_can_be_gone_through_from_anywhere() {
        let mut session = Session::new();
        let puts = ["a", "b", "c"].map(|id| put(id, Payload::null())).to_vec();
        session.evolve(&decided(&session, puts).expect("it fits"));
        let after = |id: Option<&str>| {
            let id = id.map(node_id);
            session.nodes_after(id.as_ref()).map(|node| node.id.to_string()).collect::<String>()
        };
        assert_eq!(
            (after(None), after(Some("a")), after(Some("aa")), after(Some("c"))),
            ("abc".into(), "bc".into(), "bc".into(), String::new())
        );
    }
}
