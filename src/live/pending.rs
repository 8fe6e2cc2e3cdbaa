//! What waits for the disk: events, answers and joins, each until the `seq` they depend on is durable.

use super::handle::Counts;
use super::request::{EditError, JoinError, Joined, ResumeToken};
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
    answers: VecDeque<(u64, PendingAnswer)>,
    /// What the session holds at the end of each batch.
    counts: VecDeque<Counts>,
}

/// A join, granted or refused, whose grounds are not durable yet.
pub(super) struct PendingJoin {
    pub(super) subscriber: Arc<Subscriber>,
    pub(super) token: Option<ResumeToken>,
    pub(super) reply: oneshot::Sender<Result<Joined, JoinError>>,
    /// The state with the join in it, or why there is none.
    pub(super) decided: Result<Session, Rejection>,
}

/// What became of an edit by the daemon itself.
pub(super) struct PendingAnswer {
    pub(super) reply: oneshot::Sender<Result<u64, EditError>>,
    pub(super) decided: Result<u64, Rejection>,
}

/// What may be shown now.
pub(super) struct Released {
    pub(super) events: Vec<Arc<Event>>,
    pub(super) notes: Vec<(Arc<Subscriber>, Note)>,
    pub(super) joins: Vec<PendingJoin>,
    pub(super) answers: Vec<PendingAnswer>,
    /// What the session held after the newest batch that is durable now.
    pub(super) counts: Option<Counts>,
}

impl Pending {
    /// An event was decided.
    pub(super) fn event(&mut self, event: Arc<Event>) {
        self.cost += tail::cost(&event);
        self.events.push_back(event);
    }

    /// A batch has been handed to the journal, and the session holds so much with it.
    pub(super) fn batch(&mut self, counts: Counts) {
        self.counts.push_back(counts);
    }

    /// An answer that shows the state at `barrier`.
    pub(super) fn note(&mut self, barrier: u64, subscriber: &Arc<Subscriber>, note: Note) {
        self.notes.push_back((barrier, Arc::clone(subscriber), note));
    }

    /// A join that shows the state at `barrier`.
    pub(super) fn join(&mut self, barrier: u64, join: PendingJoin) {
        self.joins.push_back((barrier, join));
    }

    /// An answer to the daemon itself that shows the state at `barrier`.
    pub(super) fn answer(&mut self, barrier: u64, answer: PendingAnswer) {
        self.answers.push_back((barrier, answer));
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty() && self.notes.is_empty() && self.joins.is_empty() && self.answers.is_empty()
    }

    /// About how much memory waits for the disk.
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// How many events wait for the disk.
    pub(super) fn events(&self) -> usize {
        self.events.len()
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
        let durable_answers = self.answers.partition_point(|(barrier, _)| *barrier <= durable);
        let answers = self.answers.drain(..durable_answers).map(|(_, answer)| answer).collect();
        let durable_batches = self.counts.partition_point(|counts| counts.seq <= durable);
        let counts = self.counts.drain(..durable_batches).next_back();
        Released { events, notes, joins, answers, counts }
    }
}
