//! Saves of one session: who asked for them, when they are handed over, and who is told how they ended.

use super::SessionTask;
use crate::live::machine::SessionMachine;
use crate::live::subscriber::{Note, Refusal, Subscriber};
use crate::ops::clock;
use crate::session::{Rejection, Role, Timestamp};
use crate::storage::{SaveJob, SaveOutcome, Saved};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Somebody who waits for a save that holds at least `seq`.
pub(super) struct SaveAwaited {
    pub(super) seq: u64,
    pub(super) whom: Whom,
}

pub(super) enum Whom {
    Operation { subscriber: Arc<Subscriber>, op: u64 },
    Request(oneshot::Sender<SaveOutcome>),
}

impl SessionTask {
    pub(super) fn save_operation(&mut self, subscriber: &Arc<Subscriber>, op: u64) {
        if let Some(why) = self.refuses_writes() {
            subscriber.leave(Note::Reject { op, why: Refusal::ReadOnly(why) });
            return subscriber.wake();
        }
        if !self.holds_name(subscriber) {
            return self.refuse(subscriber, op, Rejection::NotJoined(subscriber.name.clone()));
        }
        if subscriber.role == Role::Viewer {
            return self.refuse(subscriber, op, Rejection::Forbidden { role: subscriber.role.as_str() });
        }
        let seq = self.state.seq();
        if self.plan.is_clean(seq) {
            return self.pending.note(seq, subscriber, Note::Ack { op, seq });
        }
        self.plan.requested(format!("request:{}", subscriber.name), seq);
        let whom = Whom::Operation { subscriber: Arc::clone(subscriber), op };
        self.saves_awaited.push(SaveAwaited { seq, whom });
    }

    pub(super) fn save_requested(
        &mut self,
        reason: String,
        also_backup: bool,
        reply: Option<oneshot::Sender<SaveOutcome>>,
        at: Timestamp,
    ) {
        let seq = self.state.seq();
        if also_backup {
            return self.back_up(reason, reply, at);
        }
        if self.plan.is_clean(seq) {
            if let Some(reply) = reply {
                let none =
                    Saved { seq, at, reasons: vec![], bytes: 0, file: String::new(), published: true, backup: None };
                let before = self.shared.last_save().saved.filter(|saved| saved.seq == seq).unwrap_or(none);
                _ = reply.send(Ok(Saved { reasons: Vec::new(), backup: None, ..before }));
            }
            return;
        }
        if let Some(why) = self.refuses_saves() {
            tracing::error!(session = %self.name, "Failed to save: {why}");
            let outcome = Err(why.to_string());
            self.shared.note_save(&outcome);
            if let Some(reply) = reply {
                _ = reply.send(outcome);
            }
            return;
        }
        self.plan.requested(reason, seq);
        self.saves_awaited.extend(reply.map(|reply| SaveAwaited { seq, whom: Whom::Request(reply) }));
    }

    fn back_up(&mut self, reason: String, reply: Option<oneshot::Sender<SaveOutcome>>, at: Timestamp) {
        let shared = Arc::clone(&self.shared);
        let done = move |outcome: SaveOutcome| {
            shared.note_save(&outcome);
            if let Some(reply) = reply {
                _ = reply.send(outcome);
            }
        };
        self.store.save(SaveJob {
            session: self.name.clone(),
            state: Box::new(SessionMachine::from(self.state.clone())),
            reasons: vec![reason],
            at,
            also_backup: true,
            done: Box::new(done),
        });
    }

    pub(super) fn save_if_due(&mut self, at: Timestamp) {
        if let Some(why) = self.refuses_saves() {
            return self.refuse_saves(&why);
        }
        let now = clock::instant();
        self.plan.set_interval(self.settings.borrow().save_interval, now);
        let reasons = self.plan.due(self.state.seq(), now);
        if !reasons.is_empty() {
            self.save(reasons, at);
        }
    }

    /// Why there can be no save at the moment.
    pub(super) fn refuses_saves(&self) -> Option<Arc<str>> {
        self.sealed.clone().or_else(|| self.ear.current_trouble().map(|trouble| trouble.message.into()))
    }

    /// Tells everybody who waits for a save that has not begun.
    fn refuse_saves(&mut self, why: &str) {
        if self.plan.is_saving() {
            return;
        }
        self.plan.refused();
        if self.saves_awaited.is_empty() {
            return;
        }
        let outcome = Err(why.to_owned());
        self.shared.note_save(&outcome);
        for awaited in self.saves_awaited.drain(..) {
            answer(awaited, &outcome);
        }
    }

    fn save(&mut self, reasons: Vec<String>, at: Timestamp) {
        let watch = self.shared.meter.begin(true);
        let state = SessionMachine::from(self.state.clone());
        self.shared.meter.captured(&watch);
        let ear = Arc::clone(&self.ear);
        self.plan.started();
        self.shared.meter.saving(true);
        self.store.save(SaveJob {
            session: self.name.clone(),
            state: Box::new(state),
            reasons,
            at,
            also_backup: false,
            done: Box::new(move |outcome| ear.save_ended(outcome)),
        });
    }

    pub(super) fn hear_saved(&mut self) {
        let Some(outcome) = self.ear.take_saved() else { return };
        self.shared.meter.saving(false);
        let saved = outcome.as_ref().ok().map(|saved| saved.seq);
        self.plan.ended(saved);
        self.shared.note_save(&outcome);
        if saved.is_some() {
            self.shared.set_unsaved(false);
            self.shared.set_unsaved(!self.plan.is_clean(self.state.seq()));
        }
        if let Ok(saved) = &outcome {
            self.unused = 0;
            self.shared.subscribers.tell_all(&Note::Saved(Arc::new(saved.clone())));
        }
        let reached = saved.unwrap_or(u64::MAX);
        let (answered, waiting): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.saves_awaited).into_iter().partition(|awaited| awaited.seq <= reached);
        self.saves_awaited = waiting;
        for awaited in answered {
            answer(awaited, &outcome);
        }
    }
}

pub(super) fn answer(awaited: SaveAwaited, outcome: &SaveOutcome) {
    match awaited.whom {
        Whom::Request(reply) => _ = reply.send(outcome.clone()),
        Whom::Operation { subscriber, op } => {
            subscriber.leave(match outcome {
                Ok(_) => Note::Ack { op, seq: awaited.seq },
                Err(why) => Note::Reject { op, why: Refusal::SaveFailed(why.as_str().into()) },
            });
            subscriber.wake();
        }
    }
}
