//! The writer: one thread that owns the journal, and the handle by which everybody else reaches it.

use super::Settings;
use super::control::Control;
use super::early::Early;
use super::effect::Effect;
use super::frame::{FLAG_LAST, Kind};
use super::log::{Failure, KeptSegments, Log, Pending};
use super::queue::{Queue, Reply};
use super::start::{Start, StartError};
use crate::ops::clock;
use crate::session::SessionName;
use crate::storage::vfs::SharedVfs;
use crate::storage::{Branch, Durable, Record, Trouble};
use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What the journal has done since it was begun.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Syncs of batches and seals (those of segment changes are not counted).
    pub syncs: u64,
    /// Batches made durable, of every kind.
    pub batches: u64,
    /// Records made durable; divided by `syncs`: records per sync.
    pub records: u64,
    /// Bytes of these batches.
    pub bytes: u64,
    /// Segments begun.
    pub segments: u64,
    /// How often writing began to fail.
    pub troubles: u64,
    /// How long the last sync took.
    pub last_sync: Duration,
    /// How long the longest sync took.
    pub longest_sync: Duration,
}

impl Stats {
    pub(super) fn note_sync(&mut self, took: Duration) {
        self.syncs += 1;
        self.last_sync = took;
        self.longest_sync = self.longest_sync.max(took);
    }
}

/// The handle to the journal's thread. Dropping it closes the journal.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

pub(super) struct Shared {
    pub(super) vfs: SharedVfs,
    pub(super) kept: KeptSegments,
    settings: Settings,
    inbox: Mutex<Inbox>,
    wake: Condvar,
    listeners: Mutex<Listeners>,
    stats: Mutex<Stats>,
}

#[derive(Default)]
struct Inbox {
    early: Vec<(SessionName, Vec<Weak<Early>>)>,
    appended: Vec<(SessionName, Branch, Vec<Record>)>,
    controls: Vec<(Control, Reply)>,
    seals: Vec<Reply>,
    closing: bool,
    /// The thread has ended.
    ended: Option<Result<(), Trouble>>,
}

#[derive(Default)]
struct Listeners {
    sessions: BTreeMap<SessionName, Arc<dyn Durable>>,
    trouble: Option<Trouble>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Writer {
    /// Begins a new segment where `start` says, makes everything that was read but not proved durable again, and
    /// starts the thread. `epoch` must be higher than any before.
    pub fn open(vfs: SharedVfs, settings: Settings, start: Start, epoch: u64) -> Result<Self, StartError> {
        let log = Log::open(Arc::clone(&vfs), settings.clone(), start, epoch)?;
        let shared = Arc::new(Shared {
            vfs,
            kept: log.kept(),
            settings,
            inbox: Mutex::default(),
            wake: Condvar::new(),
            listeners: Mutex::default(),
            stats: Mutex::new(log.stats),
        });
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || Keeper::new(for_thread, log).run())
            .map_err(|source| StartError::Io { message: "cannot start its thread".into(), source })?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Queues records of one session on one branch. Never blocks; what is queued is bounded by the sessions. Records
    /// appended after [`Writer::close`] are dropped and never reported durable.
    pub fn append(&self, session: &SessionName, branch: Branch, records: Vec<Record>) {
        if records.is_empty() {
            return;
        }
        lock(&self.shared.inbox).appended.push((session.clone(), branch, records));
        self.shared.wake.notify_one();
    }

    /// Queues early bytes of one session, unless the journal is closed: then they never become durable. Never blocks; what
    /// is queued is bounded by the sessions.
    pub fn prepare(&self, session: &SessionName, early: &[Arc<Early>]) {
        if early.is_empty() {
            return;
        }
        let early = early.iter().map(Arc::downgrade).collect();
        lock(&self.shared.inbox).early.push((session.clone(), early));
        self.shared.wake.notify_one();
    }

    /// Registers who is told about a session's durable `seq`, in place of an earlier listener. If writing fails at the
    /// moment, it is told so at once.
    pub fn listen(&self, session: &SessionName, listener: Arc<dyn Durable>) {
        let mut listeners = lock(&self.shared.listeners);
        if let Some(trouble) = &listeners.trouble {
            listener.trouble(Some(trouble.clone()));
        }
        listeners.sessions.insert(session.clone(), listener);
    }

    /// Journals a control record, after everything that its session has appended before, and waits until it is durable. After an error it may have been
    /// journaled nevertheless (as after a crash).
    pub fn control(&self, control: Control) -> Result<(), Trouble> {
        self.ask(|inbox, reply| inbox.controls.push((control, reply)))
    }

    /// Makes everything appended before durable and protects it with a seal, and waits for that.
    pub fn seal(&self) -> Result<(), Trouble> {
        self.ask(|inbox, reply| inbox.seals.push(reply))
    }

    /// Makes everything durable, marks the journal as closed in order, and ends the thread. Closing again gives the
    /// same answer.
    pub fn close(&self) -> Result<(), Trouble> {
        let mut inbox = lock(&self.shared.inbox);
        inbox.closing = true;
        drop(inbox);
        self.shared.wake.notify_one();
        if let Some(thread) = lock(&self.thread).take() {
            thread.join().ok();
        }
        lock(&self.shared.inbox).ended.clone().unwrap_or(Err(ended()))
    }

    /// What the journal has done so far.
    pub fn stats(&self) -> Stats {
        *lock(&self.shared.stats)
    }

    fn ask(&self, put: impl FnOnce(&mut Inbox, Reply)) -> Result<(), Trouble> {
        let (reply, answer) = sync_channel(1);
        let mut inbox = lock(&self.shared.inbox);
        if inbox.closing || inbox.ended.is_some() {
            return Err(ended());
        }
        put(&mut inbox, reply);
        drop(inbox);
        self.shared.wake.notify_one();
        answer.recv().unwrap_or(Err(ended()))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close().ok();
    }
}

fn ended() -> Trouble {
    Trouble { disk_full: false, message: "the journal is closed".into() }
}

/// What runs on the thread.
struct Keeper {
    shared: Arc<Shared>,
    log: Log,
    queue: Queue,
    seals: Vec<Reply>,
    trouble: Option<Trouble>,
    next_probe: Instant,
    last_sync: Instant,
    closing: bool,
    /// How it ended; tells everybody even if the thread panics.
    ended: Result<(), Trouble>,
}

impl Keeper {
    fn new(shared: Arc<Shared>, log: Log) -> Self {
        let now = clock::instant();
        Self {
            shared,
            log,
            queue: Queue::default(),
            seals: Vec::new(),
            trouble: None,
            next_probe: now,
            last_sync: now,
            closing: false,
            ended: Err(Trouble { disk_full: false, message: "the journal's thread has died".into() }),
        }
    }

    fn run(mut self) {
        loop {
            self.wait();
            if self.trouble.is_some() && !self.closing && clock::instant() < self.next_probe {
                self.refuse();
                continue;
            }
            let done = self.write();
            match done {
                Ok(()) => self.recovered(),
                Err(failure) => self.failed(&failure),
            }
            if self.closing && (self.trouble.is_some() || (self.queue.is_empty() && !self.log.has_pending())) {
                break;
            }
        }
        self.ended = self.finish();
        self.log.settle_background();
    }

    /// Waits until there is something to do, and takes it.
    fn wait(&mut self) {
        let mut inbox = lock(&self.shared.inbox);
        while !inbox.closing && inbox.is_empty() {
            let now = clock::instant();
            let Some(left) = self.idle_until().map(|until| until.saturating_duration_since(now)) else {
                inbox = self.shared.wake.wait(inbox).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            if left.is_zero() {
                break;
            }
            inbox = self.shared.wake.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let spacing = (self.last_sync + self.shared.settings.sync_spacing).saturating_duration_since(clock::instant());
        if !spacing.is_zero() && !inbox.closing {
            drop(inbox);
            std::thread::sleep(spacing);
            inbox = lock(&self.shared.inbox);
        }
        for (session, early) in inbox.early.drain(..) {
            self.queue.push_early(session, early);
        }
        for (session, branch, records) in inbox.appended.drain(..) {
            self.queue.push_records(session, branch, records);
        }
        for (control, reply) in inbox.controls.drain(..) {
            self.queue.push_control(control, reply);
        }
        self.seals.append(&mut inbox.seals);
        self.closing = inbox.closing;
    }

    /// Until when nothing needs to be done unless somebody asks; `None` = for ever.
    fn idle_until(&self) -> Option<Instant> {
        if self.trouble.is_some() {
            return Some(self.next_probe);
        }
        if !self.queue.is_empty() || !self.seals.is_empty() || self.log.has_pending() {
            return Some(self.last_sync);
        }
        let seal_after = self.shared.settings.seal_after?;
        self.log.needs_seal().then(|| self.last_sync + seal_after)
    }

    fn write(&mut self) -> Result<(), Failure> {
        if !self.log.has_pending() {
            self.queue.stage(&mut self.log, &self.shared.settings);
        }
        if self.log.has_pending() {
            self.commit()?;
        }
        let idle = self.queue.is_empty() && !self.log.has_pending();
        if idle && !self.seals.is_empty() {
            self.log.seal(Kind::Seal)?;
            for reply in self.seals.drain(..) {
                reply.send(Ok(())).ok();
            }
            self.last_sync = clock::instant();
        } else if idle && self.seal_is_due() {
            self.log.seal(Kind::Seal)?;
            self.last_sync = clock::instant();
        }
        Ok(())
    }

    fn seal_is_due(&self) -> bool {
        let due = |after: Duration| clock::instant() >= self.last_sync + after;
        self.trouble.is_some() || (self.log.needs_seal() && self.shared.settings.seal_after.is_some_and(due))
    }

    fn commit(&mut self) -> Result<(), Failure> {
        let mut reached: BTreeMap<SessionName, u64> = BTreeMap::new();
        let (mut answered, mut whole) = (Vec::new(), Vec::new());
        let done = self.log.commit(&mut |pending: &Pending| match &pending.effect {
            Effect::Spans(spans) => {
                for span in spans {
                    reached.insert(span.session.clone(), span.last);
                }
            }
            Effect::Control(_) => answered.push(pending.batch_no),
            Effect::BlobBegun(_) | Effect::Nothing if pending.flags & FLAG_LAST != 0 => whole.push(pending.batch_no),
            Effect::BlobBegun(_) | Effect::Nothing => {}
        });
        self.last_sync = clock::instant();
        *lock(&self.shared.stats) = self.log.stats;
        for batch_no in answered {
            self.queue.answer(batch_no);
        }
        for (session, seq) in reached {
            if let Some(listener) = self.listener(&session) {
                listener.durable(seq);
            }
        }
        for batch_no in whole {
            let whose = self.queue.prepared(batch_no);
            if let Some(listener) = whose.and_then(|session| self.listener(&session)) {
                listener.prepared();
            }
        }
        done
    }

    fn listener(&self, session: &SessionName) -> Option<Arc<dyn Durable>> {
        lock(&self.shared.listeners).sessions.get(session).cloned()
    }

    fn failed(&mut self, failure: &Failure) {
        self.next_probe = clock::instant() + self.shared.settings.probe_every;
        let trouble = failure.to_trouble();
        let is_new = self.trouble.as_ref().is_none_or(|before| before.disk_full != trouble.disk_full);
        if self.trouble.is_none() {
            self.log.stats.troubles += 1;
        }
        self.trouble = Some(trouble);
        if is_new {
            self.tell_trouble();
        }
        self.refuse();
    }

    fn recovered(&mut self) {
        if self.trouble.take().is_some() {
            tracing::info!("The journal can be written again");
            self.tell_trouble();
        }
    }

    fn tell_trouble(&self) {
        if let Some(trouble) = &self.trouble {
            tracing::error!("The journal cannot be written: {}", trouble.message);
        }
        let mut listeners = lock(&self.shared.listeners);
        listeners.trouble.clone_from(&self.trouble);
        let all: Vec<_> = listeners.sessions.values().cloned().collect();
        drop(listeners);
        *lock(&self.shared.stats) = self.log.stats;
        for listener in all {
            listener.trouble(self.trouble.clone());
        }
    }

    /// Lets nobody wait for what cannot be done now.
    fn refuse(&mut self) {
        let Some(trouble) = &self.trouble else { return };
        self.queue.refuse_controls(trouble);
        for reply in self.seals.drain(..) {
            reply.send(Err(trouble.clone())).ok();
        }
    }

    fn finish(&mut self) -> Result<(), Trouble> {
        if let Some(trouble) = &self.trouble {
            return Err(trouble.clone());
        }
        self.log.seal(Kind::Close).map_err(|failure| failure.to_trouble())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        let mut inbox = lock(&self.shared.inbox);
        inbox.ended = Some(self.ended.clone());
        // Whoever waits for an answer gets one: their reply channels are dropped with these.
        inbox.controls.clear();
        inbox.seals.clear();
        let died = !inbox.closing;
        drop(inbox);
        if died {
            self.trouble = self.ended.clone().err();
            self.tell_trouble();
        }
    }
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.early.is_empty() && self.appended.is_empty() && self.controls.is_empty() && self.seals.is_empty()
    }
}
