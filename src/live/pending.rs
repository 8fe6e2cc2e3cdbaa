//! What waits for the disk: events, answers and joins, each until the `seq` they depend on is durable.

use super::request::{JoinError, Joined, ResumeToken};
use super::subscriber::{Note, Subscriber};
use super::tail;
use crate::session::{Event, Rejection, Session};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Memory runs ahead of the disk; visibility does not. This is the part in between.
#[derive(Default)]
pub(super) struct Pending {
    events: VecDeque<Arc<Event>>,
    cost: usize,
    notes: VecDeque<(u64, Arc<Subscriber>, Note)>,
    joins: VecDeque<(u64, PendingJoin)>,
    /// The state before each batch that is not durable yet, with the batch's first `seq`.
    before: VecDeque<(u64, Session)>,
}

/// A join, granted or refused, whose grounds are not durable yet.
pub(super) struct PendingJoin {
    pub(super) subscriber: Arc<Subscriber>,
    pub(super) token: Option<ResumeToken>,
    pub(super) reply: oneshot::Sender<Result<Joined, JoinError>>,
    /// The state with the join in it, or why there is none.
    pub(super) decided: Result<Session, Rejection>,
}

/// What may be shown now.
pub(super) struct Released {
    pub(super) events: Vec<Arc<Event>>,
    pub(super) notes: Vec<(Arc<Subscriber>, Note)>,
    pub(super) joins: Vec<PendingJoin>,
}

impl Pending {
    /// An event was decided.
    pub(super) fn event(&mut self, event: Arc<Event>) {
        self.cost += tail::cost(&event);
        self.events.push_back(event);
    }

    /// A batch begins with this `seq`; `state` is what was before it.
    pub(super) fn batch_begins(&mut self, first_seq: u64, state: Session) {
        self.before.push_back((first_seq, state));
    }

    /// An answer that shows the state at `barrier`.
    pub(super) fn note(&mut self, barrier: u64, subscriber: &Arc<Subscriber>, note: Note) {
        self.notes.push_back((barrier, Arc::clone(subscriber), note));
    }

    /// A join that shows the state at `barrier`.
    pub(super) fn join(&mut self, barrier: u64, join: PendingJoin) {
        self.joins.push_back((barrier, join));
    }

    /// About how much memory waits for the disk.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// How many events wait for the disk.
    pub(super) fn events(&self) -> usize {
        self.events.len()
    }

    /// The newest state of which everything is durable, if `current` is not.
    pub(super) fn durable_state<'a>(&'a self, current: &'a Session) -> &'a Session {
        self.before.front().map_or(current, |(_, state)| state)
    }

    /// Hands out what is durable now.
    pub(super) fn release(&mut self, durable: u64) -> Released {
        let durable_events = self.events.partition_point(|event| event.seq <= durable);
        let events: Vec<_> = self.events.drain(..durable_events).collect();
        self.cost -= events.iter().map(|event| tail::cost(event)).sum::<usize>();
        let durable_notes = self.notes.partition_point(|(barrier, ..)| *barrier <= durable);
        let notes = self.notes.drain(..durable_notes).map(|(_, subscriber, note)| (subscriber, note)).collect();
        let durable_joins = self.joins.partition_point(|(barrier, _)| *barrier <= durable);
        let joins = self.joins.drain(..durable_joins).map(|(_, join)| join).collect();
        // A batch may become durable in parts; the state before it is still the newest that is durable as a whole.
        while self.before.len() > 1 && self.before[1].0 <= durable + 1 {
            self.before.pop_front();
        }
        if self.events.is_empty() {
            self.before.clear();
        }
        Released { events, notes, joins }
    }
}
