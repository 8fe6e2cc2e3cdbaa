//! The session task: the only place where a session's state changes. Takes requests in batches, decides and evolves
//! each, hands the events to the journal, and shows them when they are durable.

use super::durable_view::DurableView;
use super::ear::Ear;
use super::handle::Counts;
use super::machine::{EventRecord, SessionMachine};
use super::pending::{Pending, PendingJoin};
use super::request::{Edit, JoinError, Joined, Request, ResumeToken, Start, Work};
use super::saves::SavePlan;
use super::subscriber::{Closing, Mode, Note, Refusal, Subscriber};
use super::{LiveSettings, Shared};
use crate::ops::clock;
use crate::session::{
    Author, ClientId, Command, Decision, Event, MemberName, OpKey, Rejection, Role, Session, SessionName, Timestamp,
};
use crate::storage::{Record, SaveJob, SaveOutcome, Saved, Store};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests taken at once.
const BATCH: usize = 256;

/// Memory that may wait for the disk before nothing more is taken.
const PENDING_BYTES_MAX: usize = 64 << 20;

/// How long members who were online before a restart may take to come back before their locks are released.
const RETURN_GRACE: Duration = Duration::from_secs(10);

pub(super) struct SessionTask {
    name: SessionName,
    state: Session,
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    ear: Arc<Ear>,
    settings: watch::Receiver<LiveSettings>,
    pending: Pending,
    durable: DurableView,
    /// Records decided in this turn, on their way to the journal.
    records: Vec<Record>,
    plan: SavePlan,
    saves_awaited: Vec<SaveAwaited>,
    /// Members online in the state of whom no connection is known (after a restart), and until when they may return.
    awaited: BTreeMap<MemberName, Instant>,
    /// Connections that came while nothing could be written: they see, and join when it can be written again.
    guests: Vec<Arc<Subscriber>>,
    /// Why this session is never written again in this run of the daemon.
    sealed: Option<Arc<str>>,
    draining: bool,
}

/// Somebody who waits for a save that holds at least `seq`.
struct SaveAwaited {
    seq: u64,
    whom: Whom,
}

enum Whom {
    Operation { subscriber: Arc<Subscriber>, op: u64 },
    Request(oneshot::Sender<SaveOutcome>),
}

pub(super) struct Origin {
    pub(super) name: SessionName,
    pub(super) state: Session,
    /// The newest `seq` in a snapshot file.
    pub(super) saved: u64,
    /// Why it must not be written, if so.
    pub(super) sealed: Option<Arc<str>>,
}

impl SessionTask {
    pub(super) fn new(
        origin: Origin,
        store: Arc<dyn Store>,
        shared: Arc<Shared>,
        ear: Arc<Ear>,
        settings: watch::Receiver<LiveSettings>,
    ) -> Self {
        let now = clock::instant();
        let interval = settings.borrow().save_interval;
        let durable = origin.state.clone();
        let awaited = origin.state.online().map(|member| (member.name.clone(), now + RETURN_GRACE)).collect();
        if let Some(why) = &origin.sealed {
            shared.set_mode(Mode::ReadOnly(Arc::clone(why)));
        }
        Self {
            name: origin.name,
            state: origin.state,
            store,
            shared,
            ear,
            settings,
            pending: Pending::default(),
            durable: DurableView::new(durable),
            records: Vec::new(),
            plan: SavePlan::new(interval, origin.saved, now),
            saves_awaited: Vec::new(),
            awaited,
            guests: Vec::new(),
            sealed: origin.sealed,
            draining: false,
        }
    }

    /// Runs until every handle is gone.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut timer = std::pin::pin!(tokio::time::sleep_until(self.wake_at().into()));
        loop {
            let wake_at = self.wake_at().into();
            if timer.deadline() != wake_at {
                timer.as_mut().reset(wake_at);
            }
            // While nothing can be written, edits are refused and hence take no memory: nobody has to wait.
            let may_take = self.pending.cost() < PENDING_BYTES_MAX || self.ear.current_trouble().is_some();
            tokio::select! {
                biased;
                () = self.ear.listen() => {}
                taken = inbox.recv_many(&mut batch, BATCH), if may_take => if taken == 0 { break },
                () = &mut timer => {}
                changed = self.settings.changed() => if changed.is_err() { break },
            }
            let joins = batch.iter().any(|request| matches!(request, Request::Join { .. }));
            let watch = self.shared.meter.begin(joins);
            self.turn(&mut batch);
            self.shared.meter.end(&watch);
        }
    }

    /// One turn: everything that was asked and heard, without waiting for anything.
    fn turn(&mut self, batch: &mut Vec<Request>) {
        self.hear_trouble();
        let at = Timestamp(clock::now_ms());
        for request in batch.drain(..) {
            self.take(request, at);
        }
        if self.ear.take_departures() {
            self.notice_departures(at);
        }
        self.release_the_missing(at);
        self.hand_to_journal();
        self.release();
        self.hear_saved();
        self.save_if_due(at);
    }

    fn take(&mut self, request: Request, at: Timestamp) {
        match request {
            Request::Join { subscriber, token, reply } => self.join(subscriber, token, reply, at),
            Request::Edits { subscriber, edits } => {
                for edit in edits {
                    self.edit(&subscriber, edit, at);
                }
            }
            Request::State { reply } => {
                // Whoever asked may have gone.
                _ = reply.send(self.durable.state(self.ear.durable_seq()).clone());
            }
            Request::Save { reason, also_backup, reply } => self.save_requested(reason, also_backup, reply, at),
            Request::Drain { save, reply } => self.drain(save, reply),
        }
    }

    fn decide(&mut self, command: &Command, author: &Author, at: Timestamp) -> Result<u64, Rejection> {
        let decision = self.state.decide(command, author, at, &self.settings.borrow().limits)?;
        Ok(match decision {
            Decision::Repeat { seq } => seq,
            Decision::New(event) => self.accept(event),
        })
    }

    fn accept(&mut self, event: Event) -> u64 {
        let event = Arc::new(event);
        self.state.evolve(&event);
        self.records.push(Record { seq: event.seq, body: Arc::new(EventRecord(Arc::clone(&event))) });
        self.pending.event(Arc::clone(&event));
        self.durable.event(Arc::clone(&event));
        event.seq
    }

    fn edit(&mut self, subscriber: &Arc<Subscriber>, edit: Edit, at: Timestamp) {
        let Edit { op, work } = edit;
        let operations = match work {
            Work::Operations(operations) => operations,
            Work::Save => return self.save_operation(subscriber, op),
        };
        if let Some(why) = self.refuses_writes() {
            subscriber.leave(Note::Reject { op, why: Refusal::ReadOnly(why) });
            return subscriber.wake();
        }
        let key = OpKey { client: subscriber.client, op };
        let author = Author { name: subscriber.name.clone(), role: subscriber.role };
        let note = match self.decide(&Command::Edit { op: Some(key), operations }, &author, at) {
            Ok(seq) => Note::Ack { op, seq },
            Err(rejection) => {
                self.shared.meter.rejected(rejection.code());
                Note::Reject { op, why: Refusal::Rejected(rejection) }
            }
        };
        // A refusal shows the state it was decided on, so it waits for that state like everything else.
        self.pending.note(self.state.seq(), subscriber, note);
    }

    fn refuses_writes(&self) -> Option<Arc<str>> {
        match self.shared.mode() {
            Mode::ReadOnly(why) => Some(why),
            Mode::Live if self.draining => Some("the server is stopping: come back in a moment".into()),
            Mode::Live => None,
        }
    }

    fn join(
        &mut self,
        subscriber: Arc<Subscriber>,
        token: Option<ResumeToken>,
        reply: oneshot::Sender<Result<Joined, JoinError>>,
        at: Timestamp,
    ) {
        if self.draining {
            _ = reply.send(Err(JoinError::Stopping));
            return;
        }
        if self.refuses_writes().is_some() {
            return self.join_as_guest(subscriber, token, reply);
        }
        let joined = self.join_as_member(&subscriber, at);
        if let Err(rejection) = &joined {
            self.shared.meter.rejected(rejection.code());
        }
        let decided = joined.map(|_| self.state.clone());
        // Who is refused learns who else has joined, so a refusal waits for that state too.
        self.pending.join(self.state.seq(), PendingJoin { subscriber, token, reply, decided });
    }

    fn join_as_member(&mut self, subscriber: &Arc<Subscriber>, at: Timestamp) -> Result<u64, Rejection> {
        let author = Author { name: subscriber.name.clone(), role: subscriber.role };
        if self.awaited.contains_key(&author.name) && !self.is_online_as(&author.name, subscriber.client) {
            // Nobody is connected under that name any more: its earlier holder was lost with the last run.
            self.leave(&author.name, at);
        }
        let seq = self.decide(&Command::Join { client: subscriber.client }, &author, at)?;
        self.awaited.remove(&author.name);
        for earlier in self.shared.subscribers.remove_earlier(subscriber) {
            earlier.leave(Note::Closing(Closing::Replaced));
            earlier.wake();
        }
        Ok(seq)
    }

    fn is_online_as(&self, name: &MemberName, client: ClientId) -> bool {
        self.state.member(name).and_then(|member| member.online).is_some_and(|online| online.client == client)
    }

    fn join_as_guest(
        &mut self,
        subscriber: Arc<Subscriber>,
        token: Option<ResumeToken>,
        reply: oneshot::Sender<Result<Joined, JoinError>>,
    ) {
        for earlier in self.guests.extract_if(.., |other| subscriber.replaces(other)) {
            self.shared.subscribers.remove(&earlier);
            earlier.leave(Note::Closing(Closing::Replaced));
            earlier.wake();
        }
        let limit = self.settings.borrow().limits.members_online;
        let decided = if (self.guests.len() as u64) < limit {
            self.guests.push(Arc::clone(&subscriber));
            Ok(self.durable.state(self.ear.durable_seq()).clone())
        } else {
            Err(Rejection::LimitExceeded { what: "guests", limit })
        };
        self.welcome(PendingJoin { subscriber, token, reply, decided });
    }

    fn welcome(&self, join: PendingJoin) {
        let state = match join.decided {
            Ok(state) => state,
            Err(rejection) => return drop(join.reply.send(Err(rejection.into()))),
        };
        let resume = self.store.resume_point(&self.name);
        let head = self.shared.tail.head();
        let start = match join.token.filter(|token| self.can_resume(*token, &resume, head)) {
            Some(token) => Start::Resumed(token.seq),
            None => Start::State(Box::new(state)),
        };
        self.shared.subscribers.add(Arc::clone(&join.subscriber));
        let joined = Joined { resume, head, start, mode: self.shared.mode() };
        if join.reply.send(Ok(joined)).is_err() {
            // The connection ended while it waited.
            join.subscriber.set_gone();
            self.ear.departed();
        }
    }

    fn can_resume(&self, token: ResumeToken, point: &crate::storage::ResumePoint, head: u64) -> bool {
        let issued = point.runs.iter().position(|(run, _)| run.0 == token.run).is_some_and(|index| {
            // A run issued what was durable at its start, up to what was durable at the start of the next one.
            let until = point.runs.get(index + 1).map_or(head, |(_, first)| first - 1);
            token.seq <= until
        });
        token.branch == point.branch.0 && issued && self.shared.tail.reaches(token.seq)
    }

    fn leave(&mut self, name: &MemberName, at: Timestamp) {
        let author = Author { name: name.clone(), role: Role::Member };
        // Somebody who is not online any more has nothing to leave.
        if self.decide(&Command::Leave, &author, at).is_ok() {
            self.plan.left(name.as_str(), self.state.seq());
            self.shared.presence.set(name, None);
            self.shared.subscribers.wake_all();
            tracing::info!(session = %self.name, "{name} left");
        }
        self.awaited.remove(name);
    }

    fn notice_departures(&mut self, at: Timestamp) {
        for gone in self.shared.subscribers.remove_gone() {
            // Whoever has not joined cannot leave: a member of the same name is somebody else.
            let was_guest = self.guests.extract_if(.., |guest| guest.connection == gone.connection).count() > 0;
            // Who is sent away by a stop has not left: locks wait for them after the restart.
            if !was_guest && !self.draining {
                self.leave(&gone.name, at);
            }
        }
    }

    fn release_the_missing(&mut self, at: Timestamp) {
        if self.awaited.is_empty() || self.sealed.is_some() || self.draining {
            return;
        }
        let now = clock::instant();
        let missing: Vec<_> =
            self.awaited.iter().filter(|(_, until)| **until <= now).map(|(name, _)| name.clone()).collect();
        for name in missing {
            self.leave(&name, at);
        }
    }

    fn hand_to_journal(&mut self) {
        if self.records.is_empty() {
            return;
        }
        self.pending.batch(Counts::of(&self.state));
        self.store.append(&self.name, std::mem::take(&mut self.records));
    }

    fn release(&mut self) {
        let durable = self.ear.durable_seq();
        let released = self.pending.release(durable);
        self.durable.turned(&self.state, durable);
        let any = !released.events.is_empty();
        if let Some(counts) = released.counts {
            self.shared.publish_counts(counts);
        }
        self.shared.meter.released(released.events.len() as u64);
        self.shared.meter.waiting(self.pending.events() as u64);
        let chunk = self.shared.tail.release(released.events);
        for (subscriber, note) in released.notes {
            subscriber.leave(note);
            // With events there, both go in one write: below.
            if !any {
                subscriber.wake();
            }
        }
        for join in released.joins {
            tracing::info!(session = %self.name, "{} joined as {:?}", join.subscriber.name, join.subscriber.role);
            self.welcome(join);
        }
        if let Some(chunk) = chunk {
            self.shared.set_unsaved(!self.plan.is_clean(self.state.seq()));
            self.shared.subscribers.bring(&chunk);
        }
    }

    fn hear_trouble(&mut self) {
        if self.sealed.is_some() {
            return;
        }
        let mode = self.ear.current_trouble().map_or(Mode::Live, |trouble| Mode::ReadOnly(trouble.message.into()));
        if mode == self.shared.mode() {
            return;
        }
        match &mode {
            Mode::ReadOnly(why) => tracing::error!(session = %self.name, "Session is read-only: {why}"),
            Mode::Live => tracing::info!(session = %self.name, "Session is writable again"),
        }
        self.shared.set_mode(mode.clone());
        self.shared.subscribers.tell_all(&Note::Health(mode.clone()));
        if mode == Mode::Live {
            self.admit_guests();
        }
    }

    fn admit_guests(&mut self) {
        let at = Timestamp(clock::now_ms());
        for guest in std::mem::take(&mut self.guests) {
            if let Err(rejection) = self.join_as_member(&guest, at) {
                tracing::warn!(session = %self.name, "{} cannot stay: {rejection}", guest.name);
                self.shared.subscribers.remove(&guest);
                guest.leave(Note::Closing(Closing::Replaced));
                guest.wake();
            }
        }
        self.hand_to_journal();
    }

    // Saving.

    fn wake_at(&self) -> Instant {
        let missing = self.awaited.values().min().copied();
        let save = self.plan.wake_at();
        missing.map_or(save, |at| at.min(save))
    }

    fn save_operation(&mut self, subscriber: &Arc<Subscriber>, op: u64) {
        if let Some(why) = self.refuses_writes() {
            subscriber.leave(Note::Reject { op, why: Refusal::ReadOnly(why) });
            return subscriber.wake();
        }
        let seq = self.state.seq();
        if self.plan.is_clean(seq) {
            return self.pending.note(seq, subscriber, Note::Ack { op, seq });
        }
        self.plan.requested(format!("request:{}", subscriber.name), seq);
        let whom = Whom::Operation { subscriber: Arc::clone(subscriber), op };
        self.saves_awaited.push(SaveAwaited { seq, whom });
    }

    fn save_requested(
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

    fn save_if_due(&mut self, at: Timestamp) {
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
    fn refuses_saves(&self) -> Option<Arc<str>> {
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

    fn hear_saved(&mut self) {
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

    fn drain(&mut self, save: bool, reply: oneshot::Sender<Option<SaveOutcome>>) {
        if !self.draining {
            self.draining = true;
            self.shared.subscribers.tell_all(&Note::Closing(Closing::Stopping));
        }
        let seq = self.state.seq();
        if !save || self.sealed.is_some() || self.plan.is_clean(seq) {
            _ = reply.send(None);
            return;
        }
        if let Some(why) = self.refuses_saves() {
            _ = reply.send(Some(Err(why.to_string())));
            return;
        }
        let (answer, outcome) = oneshot::channel();
        self.plan.requested("shutdown".to_owned(), seq);
        self.saves_awaited.push(SaveAwaited { seq, whom: Whom::Request(answer) });
        tokio::spawn(async move { reply.send(outcome.await.ok()) });
    }
}

fn answer(awaited: SaveAwaited, outcome: &SaveOutcome) {
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
