//! The durable view: what a session's state is without the events that are not on disk yet. Memory runs ahead of the
//! disk; whoever comes while the disk is in trouble must not see by how much.
//!
//! Keeping the state before every batch would make each edit copy what it touches. So an older state is kept, with the
//! events since: it is brought up to date when somebody asks, which is rare, and replaced now and then.

use super::tail;
use crate::session::{Event, Session};
use std::collections::VecDeque;
use std::sync::Arc;

/// Events after which the older state is replaced. Replaying as many is quick, and so is dropping it: that frees, in a
/// scene of 100,000 nodes, three nodes of the tree for each event, with 64 references in each.
const EVENTS_MAX: usize = 32;

/// Work of events, in bytes read, after which it is replaced.
const WORK_MAX: u64 = 4 << 20;

/// Memory of events after which it is replaced.
const COST_MAX: usize = 4 << 20;

pub(super) struct DurableView {
    /// Everything in it is durable.
    state: Session,
    /// All events after it, durable or not.
    since: VecDeque<Arc<Event>>,
    cost: usize,
    /// What it took to apply those that came after `next` was kept, or all of them; large patches are small events.
    work: u64,
    /// Takes the place of `state` when everything in it is durable.
    next: Option<Session>,
}

impl DurableView {
    /// Begins with a state of which everything is durable.
    pub(super) fn new(state: Session) -> Self {
        Self { state, since: VecDeque::new(), cost: 0, work: 0, next: None }
    }

    /// An event was accepted.
    pub(super) fn event(&mut self, event: Arc<Event>) {
        self.cost += tail::cost(&event);
        self.since.push_back(event);
    }

    /// The newest event took so much work, in bytes read.
    pub(super) fn worked(&mut self, work: u64) {
        self.work = self.work.saturating_add(work);
    }

    /// A turn has ended with this state, and everything up to `durable` is on disk.
    pub(super) fn turned(&mut self, current: &Session, durable: u64) {
        if self.next.as_ref().is_some_and(|next| next.seq() <= durable)
            && let Some(next) = self.next.take()
            && next.seq() > self.state.seq()
        {
            self.state = next;
            while self.since.front().is_some_and(|event| event.seq <= self.state.seq()) {
                self.pop();
            }
        }
        let much = self.since.len() >= EVENTS_MAX || self.cost >= COST_MAX || self.work >= WORK_MAX;
        if self.next.is_none() && much {
            self.work = 0;
            self.next = Some(current.clone());
        }
    }

    /// The newest state of which everything is durable.
    pub(super) fn state(&mut self, durable: u64) -> &Session {
        while self.since.front().is_some_and(|event| event.seq <= durable) {
            if let Some(event) = self.pop() {
                self.state.evolve(&event);
            }
        }
        &self.state
    }

    fn pop(&mut self) -> Option<Arc<Event>> {
        let event = self.since.pop_front()?;
        self.cost -= tail::cost(&event);
        Some(event)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Author, ChatDraft, ChatKind, ClientId, Command, Decision, Limits, MemberName, Operation};
    use crate::session::{Role, Timestamp};

    fn decided(state: &mut Session, command: &Command) -> Arc<Event> {
        let author = Author { name: MemberName::new("alice").unwrap(), role: Role::Member };
        let Ok(Decision::New(event)) = state.decide(command, &author, Timestamp(1), &Limits::default()) else {
            panic!("it was not accepted")
        };
        state.evolve(&event);
        Arc::new(event)
    }

    #[test]
    fn at_every_durable_seq_the_view_is_the_state_that_was_there_then() {
        let mut state = Session::new();
        let mut view = DurableView::new(state.clone());
        let mut history = vec![state.clone()];
        let post = ChatDraft { id: None, kind: ChatKind::Text, text: "hello".into() };
        let chat = Command::Edit { op: None, operations: vec![Operation::ChatPost(post)] };
        let mut durable = 0;
        for turn in 0..1_000_u64 {
            let command = if turn == 0 { &Command::Join { client: ClientId(1) } } else { &chat };
            view.event(decided(&mut state, command));
            history.push(state.clone());
            // The disk is up to 300 events behind, and somebody asks now and then.
            durable = durable.max(turn.saturating_sub(turn * 7 % 300));
            view.turned(&state, durable);
            if turn % 400 < 13 {
                assert_eq!(*view.state(durable), history[usize::try_from(durable).unwrap()], "turn {turn}");
            }
            assert!(view.since.len() <= 2 * EVENTS_MAX + 300, "it does not grow");
        }
    }
}
