//! The handle of a live session: what connections, the console and the server hold of it.

use super::ear::Ear;
use super::machine::SessionMachine;
use super::meter::Meter;
use super::presence::PresenceBoard;
use super::request::{
    ArchiveError, Archived, Edit, EditError, JoinError, Joined, Renewed, Request, RestoreFailed, ResumeToken,
};
use super::session_task::{Origin, SessionTask};
use super::subscriber::{Mode, Subscriber};
use super::subscribers::Subscribers;
use super::tail::{Tail, TailLimits};
use crate::ops::clock;
use crate::session::{Event, Limits, Operation, Session, SessionName, Totals};
use crate::storage::restore::Chosen;
use crate::storage::{SaveOutcome, Saved, Store, Summary};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that may wait for a session task; more make their connections wait.
const INBOX: usize = 1_024;

/// Settings that a running session follows.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    /// How much a session may hold.
    pub limits: Limits,
    /// Between saves of a session that changes.
    pub save_interval: Duration,
    /// How much is kept in memory for readers that are behind.
    pub tail: TailLimits,
}

/// What a session holds, as last published: durable, and at most a moment old.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// The newest durable event.
    pub seq: u64,
    /// Users, nodes, tasks, messages.
    pub summary: Summary,
    /// Bytes of all payloads.
    pub payload_bytes: u64,
}

/// How the newest saves ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastSave {
    /// The newest that succeeded.
    pub saved: Option<Saved>,
    /// Why the newest failed, if it did.
    pub failed: Option<String>,
}

/// What a session task shares with everyone who holds its handle.
#[derive(Debug)]
pub struct Shared {
    /// Durable events, encoded once.
    pub tail: Tail,
    /// What members are doing.
    pub presence: PresenceBoard,
    /// The connections.
    pub subscribers: Subscribers,
    /// What the task costs.
    pub meter: Meter,
    mode: Mutex<Mode>,
    unsaved_since: Mutex<Option<Instant>>,
    counts: Mutex<Counts>,
    last_save: Mutex<LastSave>,
    /// The session goes on elsewhere, with a restored state.
    ended: AtomicBool,
}

impl Shared {
    /// Whether the session takes edits.
    pub fn mode(&self) -> Mode {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// What the session holds.
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish_counts(&self, counts: Counts) {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }

    /// Since when there is something that is in no snapshot file (it is in the journal, and safe).
    pub fn unsaved_since(&self) -> Option<Instant> {
        *self.unsaved_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_unsaved(&self, unsaved: bool) {
        let mut since = self.unsaved_since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = unsaved.then(|| since.unwrap_or_else(clock::instant));
    }

    /// How the newest saves ended.
    pub fn last_save(&self) -> LastSave {
        self.last_save.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the newest save found a snapshot that somebody had put in place, and left it for the next start.
    pub fn is_restore_pending(&self) -> bool {
        self.last_save().saved.is_some_and(|saved| !saved.published)
    }

    pub(super) fn note_save(&self, outcome: &SaveOutcome) {
        self.meter.save_ended(outcome.is_ok());
        let mut last = self.last_save.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(saved) => *last = LastSave { saved: Some(saved.clone()), failed: None },
            Err(why) => last.failed = Some(why.clone()),
        }
    }
}

impl Counts {
    pub(super) fn of(state: &Session) -> Self {
        let Totals { online: users, nodes, tasks, messages, payload_bytes, .. } = state.totals();
        Self { seq: state.seq(), summary: Summary { users, nodes, tasks, messages }, payload_bytes }
    }
}

/// What a session starts from.
pub struct SessionOrigin {
    /// Its name.
    pub name: SessionName,
    /// Its recovered state.
    pub state: Session,
    /// The newest events before it that the journal still has, for clients that resume.
    pub recent: Vec<Arc<Event>>,
    /// The newest `seq` in a snapshot file.
    pub saved: u64,
    /// Why it must not be written, if so.
    pub sealed: Option<Arc<str>>,
}

/// A live session. Cloning is cheap.
#[derive(Clone)]
pub struct SessionHandle {
    name: SessionName,
    inbox: mpsc::Sender<Request>,
    shared: Arc<Shared>,
    ear: Arc<Ear>,
}

impl SessionHandle {
    /// Starts the session's task.
    pub fn start(origin: SessionOrigin, store: Arc<dyn Store>, settings: watch::Receiver<LiveSettings>) -> Self {
        Self::start_with(origin, Meter::default(), store, settings)
    }

    /// Starts a task that goes on with a restored state. What has been counted so far counts.
    pub(super) fn go_on(
        &self,
        origin: SessionOrigin,
        saved: Saved,
        store: Arc<dyn Store>,
        settings: watch::Receiver<LiveSettings>,
    ) -> Self {
        let next = Self::start_with(origin, self.shared.meter.go_on(), store, settings);
        next.shared.note_save(&Ok(saved));
        next
    }

    fn start_with(
        origin: SessionOrigin,
        meter: Meter,
        store: Arc<dyn Store>,
        settings: watch::Receiver<LiveSettings>,
    ) -> Self {
        let SessionOrigin { name, state, recent, saved, sealed } = origin;
        let seq = state.seq();
        let tail = match recent.first() {
            Some(first) => Tail::new(first.seq - 1, settings.borrow().tail),
            None => Tail::new(seq, settings.borrow().tail),
        };
        tail.release(recent);
        let shared = Arc::new(Shared {
            tail,
            presence: PresenceBoard::default(),
            subscribers: Subscribers::default(),
            meter,
            mode: Mutex::default(),
            unsaved_since: Mutex::default(),
            counts: Mutex::new(Counts::of(&state)),
            last_save: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let ear = Arc::new(Ear::new(seq));
        store.listen(&name, Arc::<Ear>::clone(&ear));
        let (sender, inbox) = mpsc::channel(INBOX);
        let origin = Origin { name: name.clone(), state, saved, sealed };
        let task = SessionTask::new(origin, store, Arc::clone(&shared), Arc::clone(&ear), settings);
        tokio::spawn(task.run(inbox));
        Self { name, inbox: sender, shared, ear }
    }

    /// Its name.
    pub fn name(&self) -> &SessionName {
        &self.name
    }

    /// What it shares.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Joins; answered when the join is durable. The membership ends when the returned guard is dropped.
    pub async fn join(
        &self,
        subscriber: Arc<Subscriber>,
        token: Option<ResumeToken>,
    ) -> Result<(Joined, Membership), JoinError> {
        let membership = Membership { subscriber: Arc::clone(&subscriber), session: self.clone() };
        let (reply, answer) = oneshot::channel();
        self.send(Request::Join { subscriber, token, reply }).await?;
        let joined = answer.await.map_err(|_| self.gone())??;
        Ok((joined, membership))
    }

    /// The durable state.
    pub async fn state(&self) -> Result<Session, JoinError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::State { reply }).await?;
        answer.await.map_err(|_| self.gone())
    }

    /// Makes an edit in the daemon's own name, which may do everything; answered when it is durable, with its `seq`.
    pub async fn edit_as_daemon(&self, operations: Vec<Operation>) -> Result<u64, EditError> {
        self.daemon_edit(operations, None).await
    }

    async fn daemon_edit(&self, operations: Vec<Operation>, by: Option<Arc<Subscriber>>) -> Result<u64, EditError> {
        let (reply, answer) = oneshot::channel();
        let sent = self.send(Request::DaemonEdit { operations, by, reply }).await;
        sent.map_err(|_| EditError::Stopping)?;
        answer.await.map_err(|_| EditError::Stopping)?
    }

    /// Ends a project: all of the session becomes a kept backup, then nodes, tasks, chat and settings are gone. Answered
    /// when that is durable. No edit is lost between the two: those that come meanwhile wait, and are refused when the
    /// session has begun anew.
    pub async fn archive(&self) -> Result<Archived, ArchiveError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Archive { reply }).await.map_err(|_| ArchiveError::Stopping)?;
        answer.await.map_err(|_| ArchiveError::Stopping)?
    }

    /// Puts a restored state in place of the one that is there; everybody is told and disconnected. After an error
    /// everything is as it was. Whoever asks must start the task that goes on: nobody else can.
    pub(super) async fn restore(&self, chosen: Chosen<SessionMachine>) -> Result<Renewed, RestoreFailed> {
        let (reply, answer) = oneshot::channel();
        let unanswered = || if self.shared.has_ended() { RestoreFailed::Busy } else { RestoreFailed::Stopping };
        let request = Request::Restore { chosen: Box::new(chosen), reply };
        self.inbox.send(request).await.map_err(|_| unanswered())?;
        answer.await.map_err(|_| unanswered())?
    }

    /// Saves now, and says how it ended. Nothing is written if nothing has changed.
    pub async fn save(&self, reason: String, also_backup: bool) -> Result<SaveOutcome, JoinError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Save { reason, also_backup, reply: Some(reply) }).await?;
        answer.await.map_err(|_| self.gone())
    }

    /// Takes no more edits and tells everybody; with `save`, saves what has changed. Says how the save ended, if any.
    pub async fn drain(&self, save: bool) -> Option<SaveOutcome> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Drain { save, reply }).await.ok()?;
        answer.await.ok()?
    }

    async fn send(&self, request: Request) -> Result<(), JoinError> {
        self.inbox.send(request).await.map_err(|_| self.gone())
    }

    /// What it means that nobody answers.
    fn gone(&self) -> JoinError {
        if self.shared.has_ended() { JoinError::Restoring } else { JoinError::Stopping }
    }
}

/// A member's place in a session, held by their connection. Dropping it makes the member leave.
pub struct Membership {
    subscriber: Arc<Subscriber>,
    session: SessionHandle,
}

impl Membership {
    /// Hands edits to the session, in order. Waits while the session has too much to do.
    pub async fn edit(&self, edits: Vec<Edit>) -> Result<(), JoinError> {
        self.session.send(Request::Edits { subscriber: Arc::clone(&self.subscriber), edits }).await
    }

    /// As [`SessionHandle::edit_as_daemon`], on this member's account: refused once the session has begun anew under a
    /// client that keeps what it has.
    pub async fn edit_as_daemon(&self, operations: Vec<Operation>) -> Result<u64, EditError> {
        self.session.daemon_edit(operations, Some(Arc::clone(&self.subscriber))).await
    }

    /// Tells everybody what the member is doing; nobody, if the name is somebody else's by now.
    pub fn signal(&self, data: bytes::Bytes) {
        if self.session.shared.presence.signal(&self.subscriber.name, self.subscriber.connection, data) {
            self.session.shared.subscribers.wake_all();
        }
    }

    /// What the session shares.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.session.shared
    }

    /// The session.
    pub fn session(&self) -> &SessionHandle {
        &self.session
    }

    /// The connection, as the session sees it.
    pub fn subscriber(&self) -> &Arc<Subscriber> {
        &self.subscriber
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.subscriber.set_gone();
        self.session.ear.departed();
    }
}
