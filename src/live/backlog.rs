//! Sharing a session's time: how long a turn may take, and the edits that wait for their turn. Connections take turns,
//! one edit each, so nobody waits for all that somebody else has asked for.

use super::request::{Edit, Work};
use super::subscriber::Subscriber;
use crate::ops::clock;
use crate::session::Operation;
use crate::storage::Early;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// CPU time after which a turn takes no more edits.
const TURN: Duration = Duration::from_micros(250);

/// Work, in bytes read, from which an edit is worth a look at the clock. It costs as much as a small edit.
const HEAVY: u64 = 16 << 10;

/// Small edits between looks at the clock: each takes 10 µs, and five times as much while a save shares the scene.
const LOOK_EVERY: u32 = 4;

/// Work that may wait for one connection, in bytes read: as much as the largest edit.
const WORK_MAX: u64 = 64 << 20;

/// Edits that may wait before nothing more is taken: as many as fit into the inbox.
const EDITS_MAX: usize = 64 << 10;

/// Bytes of edits likewise: four of the largest.
const BYTES_MAX: usize = 256 << 20;

/// How much of its time a turn has used.
#[derive(Debug, Default)]
pub(super) struct Budget {
    begun: Option<Duration>,
    edits: u32,
    spent: bool,
}

impl Budget {
    /// An edit of so much work begins.
    pub(super) fn before(&mut self, work: u64) {
        self.edits += 1;
        if self.begun.is_none() && self.looks(work) {
            self.begun = Some(clock::thread_cpu());
        }
    }

    /// It has ended.
    pub(super) fn after(&mut self, work: u64) {
        if self.looks(work)
            && let Some(begun) = self.begun
        {
            self.spent = clock::thread_cpu().saturating_sub(begun) >= TURN;
        }
    }

    fn looks(&self, work: u64) -> bool {
        work >= HEAVY || self.edits.is_multiple_of(LOOK_EVERY)
    }

    /// Whether the turn should end.
    pub(super) fn is_spent(&self) -> bool {
        self.spent
    }
}

/// Edits that wait for their turn.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// Who is next comes first. Nobody is in it twice, or without an edit, or in `parked` as well.
    ring: VecDeque<Waiting>,
    /// Those whose next edit has large parts on their way to the disk.
    parked: Vec<Waiting>,
    edits: usize,
    bytes: usize,
    /// Nobody waits for the disk: what waits is to be refused.
    lets_all_pass: bool,
}

#[derive(Debug)]
struct Waiting {
    subscriber: Arc<Subscriber>,
    edits: VecDeque<Queued>,
    work: u64,
}

/// An edit that waits.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) edit: Edit,
    /// Bytes that it takes to read.
    pub(super) work: u64,
    /// Its large parts, which are to be on disk first.
    pub(super) early: Vec<Arc<Early>>,
}

impl Queued {
    /// What it holds, whether or not that is written before.
    fn bytes(&self) -> usize {
        match &self.edit.work {
            Work::Operations(operations) => operations.iter().map(Operation::size_hint).sum(),
            Work::Save => 0,
        }
    }
}

/// Whether nothing needs to be waited for.
pub(super) fn is_durable(early: &[Arc<Early>]) -> bool {
    early.iter().all(|early| early.is_durable())
}

impl Waiting {
    fn is_ready(&self) -> bool {
        self.edits.front().is_none_or(|next| is_durable(&next.early))
    }
}

impl Backlog {
    /// Adds an edit behind those of the same connection. `Err` with its number: too much waits already.
    pub(super) fn push(&mut self, subscriber: &Arc<Subscriber>, queued: Queued) -> Result<(), u64> {
        let mut waiting = self.ring.iter_mut().chain(&mut self.parked);
        let bytes = queued.bytes();
        match waiting.find(|waiting| waiting.subscriber.connection == subscriber.connection) {
            Some(waiting) if waiting.work > 0 && waiting.work + queued.work > WORK_MAX => return Err(queued.edit.op),
            Some(waiting) => {
                waiting.work += queued.work;
                waiting.edits.push_back(queued);
            }
            None => {
                let work = queued.work;
                self.wait(Waiting { subscriber: Arc::clone(subscriber), edits: VecDeque::from([queued]), work });
            }
        }
        self.edits += 1;
        self.bytes += bytes;
        Ok(())
    }

    fn wait(&mut self, waiting: Waiting) {
        if self.lets_all_pass || waiting.is_ready() {
            self.ring.push_back(waiting);
        } else {
            self.parked.push(waiting);
        }
    }

    /// The next edit of whoever is next; then it is somebody else's turn.
    pub(super) fn next(&mut self) -> Option<(Arc<Subscriber>, Queued)> {
        let mut waiting = self.ring.pop_front()?;
        let queued = waiting.edits.pop_front()?;
        self.edits -= 1;
        self.bytes -= queued.bytes();
        waiting.work -= queued.work;
        let subscriber = Arc::clone(&waiting.subscriber);
        if !waiting.edits.is_empty() {
            self.wait(waiting);
        }
        Some((subscriber, queued))
    }

    /// Gives those a turn whose next edit is on disk as far as it needs to be; with `all`, everybody, until the next call.
    pub(super) fn unpark(&mut self, all: bool) {
        self.lets_all_pass = all;
        self.ring.extend(self.parked.extract_if(.., |waiting| all || waiting.is_ready()));
    }

    /// Drops what waits for a connection that is closed.
    pub(super) fn forget(&mut self, subscriber: &Subscriber) {
        let others = |waiting: &Waiting| waiting.subscriber.connection != subscriber.connection;
        self.ring.retain(others);
        self.parked.retain(others);
        let left = || self.ring.iter().chain(&self.parked).flat_map(|waiting| &waiting.edits);
        (self.edits, self.bytes) = (left().count(), left().map(Queued::bytes).sum());
    }

    /// Whether edits of this connection wait.
    pub(super) fn holds(&self, subscriber: &Subscriber) -> bool {
        let mut waiting = self.ring.iter().chain(&self.parked);
        waiting.any(|waiting| waiting.subscriber.connection == subscriber.connection)
    }

    /// Whether this connection's edits wait for the disk, so that none may overtake them.
    pub(super) fn is_parked(&self, subscriber: &Subscriber) -> bool {
        self.parked.iter().any(|waiting| waiting.subscriber.connection == subscriber.connection)
    }

    /// Whether an edit waits only for its turn.
    pub(super) fn has_next(&self) -> bool {
        !self.ring.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty() && self.parked.is_empty()
    }

    /// Whether more should wait in the inbox instead.
    pub(super) fn is_full(&self) -> bool {
        self.edits >= EDITS_MAX || self.bytes >= BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{ClientId, MemberName, NodeId, NodePatch, PayloadChange, Role};
    use bytes::Bytes;

    fn subscriber(name: &str) -> Arc<Subscriber> {
        Subscriber::new(MemberName::new(name).unwrap(), Role::Member, ClientId(1))
    }

    fn edit(op: u64, work: u64) -> Queued {
        Queued { edit: Edit { op, work: Work::Save }, work, early: Vec::new() }
    }

    fn order(backlog: &mut Backlog) -> Vec<(String, u64)> {
        std::iter::from_fn(|| backlog.next()).map(|(who, queued)| (who.name.to_string(), queued.edit.op)).collect()
    }

    #[test]
    fn connections_take_turns_and_each_keeps_its_order() {
        let mut backlog = Backlog::default();
        let (alice, bob) = (subscriber("alice"), subscriber("bob"));
        for op in 1..=3 {
            backlog.push(&alice, edit(op, 0)).unwrap();
        }
        backlog.push(&bob, edit(7, 0)).unwrap();
        backlog.push(&alice, edit(4, 0)).unwrap();
        let expected = [("alice", 1), ("bob", 7), ("alice", 2), ("alice", 3), ("alice", 4)];
        assert_eq!(order(&mut backlog), expected.map(|(name, op)| (name.to_owned(), op)));
        assert!(backlog.is_empty() && backlog.edits == 0);
    }

    #[test]
    fn one_connection_has_as_much_unfinished_work_as_one_edit_may_take() {
        let mut backlog = Backlog::default();
        let (alice, bob) = (subscriber("alice"), subscriber("bob"));
        backlog.push(&alice, edit(1, WORK_MAX + 1)).expect("one always waits");
        assert_eq!(backlog.push(&alice, edit(2, 1)), Err(2));
        backlog.push(&bob, edit(1, WORK_MAX)).expect("others are not concerned");
        backlog.push(&bob, edit(2, 0)).expect("small ones pass");
        assert!(backlog.next().is_some());
        backlog.push(&alice, edit(3, 1)).expect("the first has been done");
        backlog.forget(&bob);
        assert!(!backlog.holds(&bob) && backlog.holds(&alice));
        assert_eq!(order(&mut backlog), [("alice".to_owned(), 3)]);
    }

    #[test]
    fn bytes_that_wait_count_whether_or_not_they_are_written_before() {
        let mut backlog = Backlog::default();
        let alice = subscriber("alice");
        let base = Bytes::from(vec![7; 1 << 20]);
        for op in 0..256 {
            assert!(!backlog.is_full());
            let patch = NodePatch { payload: Some(PayloadChange::Append(base.clone())), ..NodePatch::default() };
            let id = NodeId::new("chair").unwrap();
            let operation = Operation::NodePatch { id, patch, if_revision: None };
            let edit = Edit { op, work: Work::Operations(vec![operation]) };
            backlog.push(&alice, Queued { edit, work: 0, early: Vec::new() }).unwrap();
        }
        assert!(backlog.is_full());
        backlog.next().unwrap();
        assert!(!backlog.is_full());
        backlog.forget(&alice);
        assert_eq!(backlog.bytes, 0);
    }
}
