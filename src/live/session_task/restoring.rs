//! A restore while the session is served: nothing more is decided, what was decided becomes durable, and the store puts the
//! restored state in place. Then everybody is told, and another task goes on with that state; this one only turns away
//! whoever still comes. What was asked for meanwhile has waited: it is refused then, or made if the restore has failed.

use super::SessionTask;
use super::saving;
use crate::live::handle::SessionOrigin;
use crate::live::machine::SessionMachine;
use crate::live::request::{ArchiveError, EditError, JoinError, Renewed, Request, RestoreFailed, Restored};
use crate::live::subscriber::{Closing, Note, Refusal, Subscriber};
use crate::session::{Event, Session, Timestamp};
use crate::storage::restore::Chosen;
use crate::storage::{Machine as _, Record, RestoreJob, RestoreOutcome, Saved, Switched};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Why nothing is changed at the moment.
const UNDER_WAY: &str = "the session is being restored: try again in a moment";

/// Why what was asked for meanwhile is not done.
const RESTORED: &str = "the session has been restored to a backup: this was not done";

/// Why what a client sends that came with a state of before the restore is not done.
const OF_BEFORE: &str =
    "the session has been restored to a backup since: what was meant for the state before is not done";

/// How long a task waits that has nothing to do but to hear.
pub(super) const IDLE: Duration = Duration::from_hours(1);

type Reply = oneshot::Sender<Result<Renewed, RestoreFailed>>;

/// How far a restore is.
#[derive(Default)]
pub(super) enum Restoring {
    /// There is none.
    #[default]
    No,
    /// What was decided is becoming durable, and a save may be under way.
    Quieting(Box<Chosen<SessionMachine>>, Reply),
    /// The store is at it.
    Switching(Box<Next>, Reply),
    /// Another task goes on.
    Over,
}

/// What the session goes on with.
pub(super) struct Next {
    state: Session,
    mark: Arc<Event>,
    restored: Restored,
}

impl SessionTask {
    /// Whether nothing may be decided because of a restore.
    pub(super) fn is_restoring(&self) -> bool {
        !matches!(self.restoring, Restoring::No)
    }

    /// Whether another task goes on.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.restoring, Restoring::Over)
    }

    /// Begins: from here on edits wait.
    pub(super) fn restore(&mut self, chosen: Box<Chosen<SessionMachine>>, reply: Reply) {
        let refused = if self.archiving.is_some() || self.is_restoring() {
            Some(RestoreFailed::Busy)
        } else if self.draining {
            Some(RestoreFailed::Stopping)
        } else {
            self.refuses_writes().map(|why| RestoreFailed::ReadOnly(why.to_string()))
        };
        match refused {
            // Whoever asked may have gone.
            Some(why) => _ = reply.send(Err(why)),
            None => self.restoring = Restoring::Quieting(chosen, reply),
        }
    }

    /// Hands over to the store as soon as all that was ever decided is durable and shown.
    pub(super) fn restore_when_quiet(&mut self, at: Timestamp) {
        if !matches!(self.restoring, Restoring::Quieting(..)) {
            return;
        }
        let trouble = self.ear.current_trouble();
        let is_quiet = self.ear.durable_seq() >= self.state.seq() && self.pending.is_empty() && !self.plan.is_saving();
        let refused = if self.draining {
            Some(RestoreFailed::Stopping)
        } else {
            trouble.map(|trouble| RestoreFailed::ReadOnly(trouble.message))
        };
        if refused.is_none() && !is_quiet {
            return;
        }
        let Restoring::Quieting(chosen, reply) = std::mem::take(&mut self.restoring) else { return };
        match refused {
            Some(why) => {
                _ = reply.send(Err(why));
                // What has waited, and the trouble itself, are for the next turn.
                self.ear.again();
            }
            None => self.hand_over(*chosen, reply, at),
        }
    }

    fn hand_over(&mut self, chosen: Chosen<SessionMachine>, reply: Reply, at: Timestamp) {
        let source = chosen.source();
        let Chosen { mut machine, header, .. } = chosen;
        let left = SessionMachine::from(self.state.clone());
        machine.answers_for(&left);
        let seq = header.seq.max(self.state.seq()) + 1;
        let body = machine.restored(seq, at, &source);
        let summary = header.summary;
        let restored =
            Restored { seq, of: header.at, source: source.clone(), summary, left: self.state.seq(), kept: None };
        let state = machine.session().clone();
        let mark = Arc::new(Event::restored(seq, at, &source));
        self.restoring = Restoring::Switching(Box::new(Next { state, mark, restored }), reply);
        let ear = Arc::clone(&self.ear);
        self.store.restore(RestoreJob {
            session: self.name.clone(),
            left: Box::new(left),
            restored: Box::new(machine),
            mark: Record::new(seq, body),
            of: header,
            at,
            done: Box::new(move |outcome| ear.restore_ended(outcome)),
        });
    }

    /// Ends: another task is to go on, or this one does.
    pub(super) fn hear_restored(&mut self) {
        let Some(outcome) = self.ear.take_restored() else { return };
        let Restoring::Switching(next, reply) = std::mem::take(&mut self.restoring) else { return };
        self.end_restore(*next, reply, outcome);
    }

    fn end_restore(&mut self, next: Next, reply: Reply, outcome: RestoreOutcome) {
        let Next { state, mark, mut restored } = next;
        let Switched { kept, saved } = match outcome {
            Ok(switched) => switched,
            Err(why) => return drop(reply.send(Err(RestoreFailed::Failed(why)))),
        };
        restored.kept = kept;
        self.restoring = Restoring::Over;
        self.shared.end();
        self.backlog.unpark(true);
        while let Some((subscriber, queued)) = self.backlog.next() {
            Self::refuse_as_restored(&subscriber, queued.edit.op, RESTORED);
        }
        for edit in std::mem::take(&mut self.daemon_edits) {
            _ = edit.reply.send(Err(EditError::ReadOnly(RESTORED.into())));
        }
        for awaited in std::mem::take(&mut self.saves_awaited) {
            saving::answer(awaited, &Err(RESTORED.to_owned()));
        }
        let closing = Closing::Restored(restored.source.as_str().into());
        self.shared.subscribers.tell_all(&Note::Closing(closing));
        let origin = self.origin_of(state, mark, &saved);
        // Whoever is to start the next task never goes before it is answered.
        _ = reply.send(Ok(Renewed { origin, saved, restored }));
    }

    fn origin_of(&self, state: Session, mark: Arc<Event>, saved: &Saved) -> SessionOrigin {
        SessionOrigin { name: self.name.clone(), state, recent: vec![mark], saved: saved.seq, sealed: None }
    }

    /// One turn of a task after which another one goes on.
    pub(super) fn turn_away(&mut self, batch: &mut Vec<Request>) {
        for request in batch.drain(..) {
            match self.defer(request) {
                Some(Request::Edits { subscriber, edits }) => {
                    for edit in edits {
                        Self::refuse_as_restored(&subscriber, edit.op, RESTORED);
                    }
                }
                // Whoever still has a visitor to see off may look at what was there.
                Some(Request::State { reply }) => _ = reply.send(self.state.clone()),
                Some(Request::Drain { reply, .. }) => _ = reply.send(None),
                Some(_) | None => {}
            }
        }
        self.ear.take_departures();
        self.shared.subscribers.remove_gone(|_| false);
    }

    /// Answers what cannot be done during a restore; gives back the rest.
    pub(super) fn defer(&mut self, request: Request) -> Option<Request> {
        if !self.is_restoring() {
            return Some(request);
        }
        match request {
            Request::Join { reply, .. } => _ = reply.send(Err(JoinError::Restoring)),
            Request::DaemonEdit { reply, .. } if self.is_over() => {
                _ = reply.send(Err(EditError::ReadOnly(RESTORED.into())));
            }
            Request::Archive { reply } => _ = reply.send(Err(ArchiveError::Busy)),
            Request::Restore { reply, .. } => _ = reply.send(Err(RestoreFailed::Busy)),
            Request::Save { reply, .. } => {
                if let Some(reply) = reply {
                    _ = reply.send(Err(UNDER_WAY.to_owned()));
                }
            }
            Request::Edits { .. } | Request::DaemonEdit { .. } | Request::State { .. } | Request::Drain { .. } => {
                return Some(request);
            }
        }
        None
    }

    /// What a client asks for that came with a state of before a restore, under a number of before, is not done: it
    /// was meant for that state. What was accepted before is answered as it was.
    pub(super) fn is_of_before(&self, subscriber: &Subscriber, op: u64) -> bool {
        subscriber.is_of_before(op) && !self.state.has_accepted(crate::session::OpKey { client: subscriber.client, op })
    }

    pub(super) fn refuse_as_of_before(&self, subscriber: &Subscriber, op: u64) {
        self.shared.meter.rejected("restored");
        Self::refuse_as_restored(subscriber, op, OF_BEFORE);
    }

    fn refuse_as_restored(subscriber: &Subscriber, op: u64, why: &'static str) {
        subscriber.leave(Note::Reject { op, why: Refusal::Restored(why) });
        subscriber.wake();
    }
}
