//! The session task: the only place where a session's state changes. Takes requests in batches, decides and evolves
//! each, hands the events to the journal, and shows them when they are durable.

mod archiving;
mod membership;
mod preparing;
mod restoring;
mod saving;

use self::preparing::DaemonEdit;
use self::restoring::Restoring;
use self::saving::{SaveAwaited, Whom};
use super::backlog::{Backlog, Budget, Queued};
use super::durable_view::DurableView;
use super::ear::Ear;
use super::handle::Counts;
use super::machine::EventRecord;
use super::pending::{Pending, PendingAnswer};
use super::request::{ArchiveError, Archived, Edit, EditError, JoinError, Request, Work};
use super::saves::SavePlan;
use super::subscriber::{Closing, Mode, Note, Refusal, Subscriber};
use super::{LiveSettings, Shared};
use crate::ops::clock;
use crate::session::{Author, Command, Decision, Event, MemberName, OpKey, Rejection, Session, SessionName, Timestamp};
use crate::storage::{Early, Record, SaveOutcome, Store};
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
    /// Edits that the last turn had no time for.
    backlog: Backlog,
    /// Large edits by the daemon.
    daemon_edits: Vec<DaemonEdit>,
    /// Bytes of large edits that were written, or are, since the last save, and that are in no event.
    unused: usize,
    /// Some may have gone of whom edits still wait.
    departing: bool,
    plan: SavePlan,
    saves_awaited: Vec<SaveAwaited>,
    /// Members online in the state of whom no connection is known (after a restart), and until when they may return.
    awaited: BTreeMap<MemberName, Instant>,
    /// The connection that is online under each name: the newest of its client. Nobody else edits under that name, and
    /// when it goes the name leaves.
    holders: BTreeMap<MemberName, Arc<Subscriber>>,
    /// Connections that came while nothing could be written: they see, and join when it can be written again.
    guests: Vec<Arc<Subscriber>>,
    /// Why this session is never written again in this run of the daemon.
    sealed: Option<Arc<str>>,
    draining: bool,
    /// Who waits for the session to begin anew. Until then edits wait, too.
    archiving: Option<oneshot::Sender<Result<Archived, ArchiveError>>>,
    /// As long as another state is being put in place, edits wait as well.
    restoring: Restoring,
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
            backlog: Backlog::default(),
            daemon_edits: Vec::new(),
            unused: 0,
            departing: false,
            plan: SavePlan::new(interval, origin.saved, now),
            saves_awaited: Vec::new(),
            awaited,
            holders: BTreeMap::new(),
            guests: Vec::new(),
            sealed: origin.sealed,
            draining: false,
            archiving: None,
            restoring: Restoring::default(),
        }
    }

    /// Runs until every handle is gone, or another task goes on and nobody is here any more.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Request>) {
        let mut batch = Vec::with_capacity(BATCH);
        let mut timer = std::pin::pin!(tokio::time::sleep_until(self.wake_at().into()));
        loop {
            let wake_at = self.wake_at().into();
            if timer.deadline() != wake_at {
                timer.as_mut().reset(wake_at);
            }
            let may_decide = self.may_decide();
            tokio::select! {
                biased;
                () = self.ear.listen() => {}
                taken = inbox.recv_many(&mut batch, BATCH), if may_decide && !self.backlog.is_full() => if taken == 0 { break },
                () = &mut timer => {}
                changed = self.settings.changed() => if changed.is_err() { break },
                // After everybody else's tasks had their turn.
                () = tokio::task::yield_now(), if may_decide && self.has_work() => {}
            }
            // Whatever has woken it, whoever asks now is to have a turn among those who wait.
            while self.backlog.has_next()
                && !self.backlog.is_full()
                && batch.len() < BATCH
                && let Ok(request) = inbox.try_recv()
            {
                batch.push(request);
            }
            let joins = batch.iter().any(|request| matches!(request, Request::Join { .. }));
            let watch = self.shared.meter.begin(joins);
            self.turn(&mut batch);
            self.shared.meter.end(&watch);
            if self.is_over() && self.shared.subscribers.count() == 0 {
                // Freeing a large state takes a while.
                _ = tokio::task::spawn_blocking(move || drop(self));
                break;
            }
        }
    }

    /// While nothing can be written, edits are refused and hence take no memory: nobody has to wait.
    fn may_decide(&self) -> bool {
        self.pending.cost() < PENDING_BYTES_MAX || self.ear.current_trouble().is_some()
    }

    /// Whether edits wait that may be made.
    fn has_work(&self) -> bool {
        self.backlog.has_next() && !self.holds_edits()
    }

    /// Whether edits wait for what becomes of the session.
    fn holds_edits(&self) -> bool {
        self.archiving.is_some() || self.is_restoring()
    }

    /// One turn: everything that was heard and, as far as there is time, asked, without waiting for anything.
    fn turn(&mut self, batch: &mut Vec<Request>) {
        self.hear_restored();
        if self.is_over() {
            return self.turn_away(batch);
        }
        self.hear_trouble();
        let at = Timestamp(clock::now_ms());
        self.hear_archived(at);
        let mut budget = Budget::default();
        self.go_on_with_large_edits(&mut budget, at);
        for request in batch.drain(..) {
            self.take(request, &mut budget, at);
        }
        while !budget.is_spent()
            && self.may_decide()
            && self.has_work()
            && let Some((subscriber, queued)) = self.backlog.next()
        {
            self.edit(&subscriber, queued, &mut budget, at);
        }
        self.departing |= self.ear.take_departures();
        if !self.is_restoring() {
            self.notice_all_departures(at);
        }
        self.hand_to_journal();
        self.release();
        self.hear_saved();
        if !self.is_restoring() {
            self.save_if_due(at);
        }
        self.restore_when_quiet(at);
    }

    fn take(&mut self, request: Request, budget: &mut Budget, at: Timestamp) {
        let Some(request) = self.defer(request) else { return };
        match request {
            Request::Join { subscriber, token, reply } => self.join(subscriber, token, reply, at),
            Request::Edits { subscriber, edits } => self.take_edits(&subscriber, edits, budget, at),
            Request::DaemonEdit { operations, by, reply } => {
                if let Some(edit) = self.take_daemon_edit(operations, by, reply) {
                    self.daemon_edit(edit, budget, at);
                }
            }
            Request::Archive { reply } => self.archive(reply, at),
            Request::Restore { chosen, reply } => self.restore(chosen, reply),
            Request::State { reply } => {
                // Whoever asked may have gone.
                _ = reply.send(self.durable.state(self.ear.durable_seq()).clone());
            }
            Request::Save { reason, also_backup, reply } => self.save_requested(reason, also_backup, reply, at),
            Request::Drain { save, reply } => self.drain(save, reply),
        }
    }

    fn decide(&mut self, command: &Command, author: &Author, at: Timestamp) -> Result<u64, Rejection> {
        self.decide_prepared(command, author, at, Vec::new())
    }

    /// Decides on a command of which large parts are on disk.
    fn decide_prepared(
        &mut self,
        command: &Command,
        author: &Author,
        at: Timestamp,
        early: Vec<Arc<Early>>,
    ) -> Result<u64, Rejection> {
        let decision = self.state.decide(command, author, at, &self.settings.borrow().limits)?;
        Ok(match decision {
            Decision::Repeat { seq } => seq,
            Decision::New(event) => self.accept(event, early),
        })
    }

    fn accept(&mut self, event: Event, early: Vec<Arc<Early>>) -> u64 {
        let event = Arc::new(event);
        self.unused = self.unused.saturating_sub(early.iter().map(|early| early.bytes().len()).sum());
        self.state.evolve(&event);
        self.records.push(Record { early, ..Record::new(event.seq, Arc::new(EventRecord(Arc::clone(&event)))) });
        self.pending.event(Arc::clone(&event));
        self.durable.event(Arc::clone(&event));
        event.seq
    }

    fn edit(&mut self, subscriber: &Arc<Subscriber>, queued: Queued, budget: &mut Budget, at: Timestamp) {
        let Queued { edit: Edit { op, work }, early, .. } = queued;
        let operations = match work {
            Work::Operations(operations) => operations,
            Work::Save => return self.save_operation(subscriber, op),
        };
        if let Some(why) = self.refuses_writes() {
            subscriber.leave(Note::Reject { op, why: Refusal::ReadOnly(why) });
            return subscriber.wake();
        }
        if subscriber.is_retired() {
            return Self::refuse_retired(subscriber, op);
        }
        if !self.holds_name(subscriber) {
            return self.refuse(subscriber, op, Rejection::NotJoined(subscriber.name.clone()));
        }
        if self.is_of_before(subscriber, op) {
            return self.refuse_as_of_before(subscriber, op);
        }
        let key = OpKey { client: subscriber.client, op };
        let author = Author { name: subscriber.name.clone(), role: subscriber.role };
        let work = self.state.work_of(Some(key), &operations);
        budget.before(work);
        match self.decide_prepared(&Command::Edit { op: Some(key), operations }, &author, at, early) {
            Ok(seq) => {
                self.durable.worked(work);
                self.pending.note(self.state.seq(), subscriber, Note::Ack { op, seq });
            }
            Err(rejection) => self.refuse(subscriber, op, rejection),
        }
        budget.after(work);
    }

    fn daemon_edit(&mut self, edit: DaemonEdit, budget: &mut Budget, at: Timestamp) {
        let DaemonEdit { operations, reply, early, .. } = edit;
        let work = self.state.work_of(None, &operations);
        budget.before(work);
        let author = Author::daemon();
        let decided = self.decide_prepared(&Command::Edit { op: None, operations }, &author, at, early);
        match &decided {
            Ok(_) => self.durable.worked(work),
            Err(rejection) => self.shared.meter.rejected(rejection.code()),
        }
        self.pending.answer(self.state.seq(), PendingAnswer { reply, decided });
        budget.after(work);
    }

    /// A refusal shows the state it was decided on, so it waits for that state like everything else.
    fn refuse(&mut self, subscriber: &Arc<Subscriber>, op: u64, rejection: Rejection) {
        self.shared.meter.rejected(rejection.code());
        let note = Note::Reject { op, why: Refusal::Rejected(rejection) };
        self.pending.note(self.state.seq(), subscriber, note);
    }

    fn refuses_writes(&self) -> Option<Arc<str>> {
        match self.shared.mode() {
            Mode::ReadOnly(why) => Some(why),
            Mode::Live if self.draining => Some("the server is stopping: come back in a moment".into()),
            Mode::Live => None,
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
        for answer in released.answers {
            // Whoever asked may have gone.
            _ = answer.reply.send(answer.decided.map_err(EditError::from));
        }
        for join in released.joins {
            if join.decided.is_ok() {
                if !self.holds_name(&join.subscriber) {
                    // The same client was faster elsewhere.
                    _ = join.reply.send(Err(JoinError::Replaced));
                    continue;
                }
                tracing::info!(session = %self.name, "{} joined as {:?}", join.subscriber.name, join.subscriber.role);
            }
            self.welcome(join);
        }
        if let Some(chunk) = chunk {
            self.shared.set_unsaved(!self.plan.is_clean(self.state.seq()));
            self.shared.subscribers.bring(&chunk);
        }
    }

    fn hear_trouble(&mut self) {
        if self.sealed.is_some() || self.is_restoring() {
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

    fn wake_at(&self) -> Instant {
        if self.is_restoring() {
            return clock::instant() + restoring::IDLE;
        }
        let missing = self.awaited.values().min().copied();
        let save = self.plan.wake_at();
        missing.map_or(save, |at| at.min(save))
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
        self.plan.hurry();
        self.saves_awaited.push(SaveAwaited { seq, whom: Whom::Request(answer) });
        tokio::spawn(async move { reply.send(outcome.await.ok()) });
    }
}
