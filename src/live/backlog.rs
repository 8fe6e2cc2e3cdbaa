//! Sharing a session's time: how long a turn may take, and the edits that wait for their turn. Connections take turns,
//! one edit each, so nobody waits for all that somebody else has asked for.

use super::request::Edit;
use super::subscriber::Subscriber;
use crate::ops::clock;
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
    /// Who is next comes first. Nobody is in it twice, or without an edit.
    ring: VecDeque<Waiting>,
    edits: usize,
}

#[derive(Debug)]
struct Waiting {
    subscriber: Arc<Subscriber>,
    edits: VecDeque<(Edit, u64)>,
    work: u64,
}

impl Backlog {
    /// Adds an edit of so much work behind those of the same connection, or gives it back: too much waits already.
    pub(super) fn push(&mut self, subscriber: &Arc<Subscriber>, edit: Edit, work: u64) -> Result<(), Edit> {
        let place = self.ring.iter_mut().find(|waiting| waiting.subscriber.connection == subscriber.connection);
        match place {
            Some(waiting) if waiting.work > 0 && waiting.work + work > WORK_MAX => return Err(edit),
            Some(waiting) => {
                waiting.work += work;
                waiting.edits.push_back((edit, work));
            }
            None => {
                let (subscriber, edits) = (Arc::clone(subscriber), VecDeque::from([(edit, work)]));
                self.ring.push_back(Waiting { subscriber, edits, work });
            }
        }
        self.edits += 1;
        Ok(())
    }

    /// The next edit of whoever is next; then it is somebody else's turn.
    pub(super) fn next(&mut self) -> Option<(Arc<Subscriber>, Edit)> {
        let mut waiting = self.ring.pop_front()?;
        let (edit, work) = waiting.edits.pop_front()?;
        self.edits -= 1;
        waiting.work -= work;
        let subscriber = Arc::clone(&waiting.subscriber);
        if !waiting.edits.is_empty() {
            self.ring.push_back(waiting);
        }
        Some((subscriber, edit))
    }

    /// Drops what waits for a connection that is closed.
    pub(super) fn forget(&mut self, subscriber: &Subscriber) {
        self.ring.retain(|waiting| waiting.subscriber.connection != subscriber.connection);
        self.edits = self.ring.iter().map(|waiting| waiting.edits.len()).sum();
    }

    /// Whether edits of this connection wait.
    pub(super) fn holds(&self, subscriber: &Subscriber) -> bool {
        self.ring.iter().any(|waiting| waiting.subscriber.connection == subscriber.connection)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Whether more should wait in the inbox instead.
    pub(super) fn is_full(&self) -> bool {
        self.edits >= EDITS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::Work;
    use crate::session::{ClientId, MemberName, Role};

    fn subscriber(name: &str) -> Arc<Subscriber> {
        Subscriber::new(MemberName::new(name).unwrap(), Role::Member, ClientId(1))
    }

    fn edit(op: u64) -> Edit {
        Edit { op, work: Work::Save }
    }

    fn order(backlog: &mut Backlog) -> Vec<(String, u64)> {
        std::iter::from_fn(|| backlog.next()).map(|(who, edit)| (who.name.to_string(), edit.op)).collect()
    }

    #[test]
    fn connections_take_turns_and_each_keeps_its_order() {
        let mut backlog = Backlog::default();
        let (alice, bob) = (subscriber("alice"), subscriber("bob"));
        for op in 1..=3 {
            backlog.push(&alice, edit(op), 0).unwrap();
        }
        backlog.push(&bob, edit(7), 0).unwrap();
        backlog.push(&alice, edit(4), 0).unwrap();
        let expected = [("alice", 1), ("bob", 7), ("alice", 2), ("alice", 3), ("alice", 4)];
        assert_eq!(order(&mut backlog), expected.map(|(name, op)| (name.to_owned(), op)));
        assert!(backlog.is_empty() && backlog.edits == 0);
    }

    #[test]
    fn one_connection_has_as_much_unfinished_work_as_one_edit_may_take() {
        let mut backlog = Backlog::default();
        let (alice, bob) = (subscriber("alice"), subscriber("bob"));
        backlog.push(&alice, edit(1), WORK_MAX + 1).expect("one always waits");
        assert_eq!(backlog.push(&alice, edit(2), 1).map_err(|edit| edit.op), Err(2));
        backlog.push(&bob, edit(1), WORK_MAX).expect("others are not concerned");
        backlog.push(&bob, edit(2), 0).expect("small ones pass");
        assert!(backlog.next().is_some());
        backlog.push(&alice, edit(3), 1).expect("the first has been done");
        backlog.forget(&bob);
        assert!(!backlog.holds(&bob) && backlog.holds(&alice));
        assert_eq!(order(&mut backlog), [("alice".to_owned(), 3)]);
    }
}
