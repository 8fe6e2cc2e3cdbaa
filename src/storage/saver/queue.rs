//! The saver's queue and thread: at most one pending save per session, archives before them, a restore after those of its session, and an
//! end with a deadline.

use super::SaverSetup;
use super::publish::{Order, SaveError, Shelf};
use super::switch::Turn;
use crate::ops::{background, clock};
use crate::session::{SessionName, Timestamp};
use crate::storage::{RestoreJob, RestoreOutcome, SaveJob, SaveOutcome, SaveState};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Most reasons that one save names; more requests merge without a line of their own.
const REASONS_MAX: usize = 64;

type Done = Box<dyn FnOnce(SaveOutcome) + Send>;

/// Requests for one session, merged.
struct Pending {
    state: Box<dyn SaveState>,
    reasons: Vec<String>,
    at: Timestamp,
    also_backup: bool,
    done: Vec<Done>,
}

impl Pending {
    fn absorb(&mut self, job: SaveJob) {
        if job.state.seq() >= self.state.seq() {
            self.state = job.state;
            self.at = job.at;
        }
        for reason in job.reasons {
            if self.reasons.len() < REASONS_MAX {
                self.reasons.push(reason);
            }
        }
        self.also_backup |= job.also_backup;
        self.done.push(job.done);
    }
}

impl From<SaveJob> for Pending {
    fn from(job: SaveJob) -> Self {
        Self { state: job.state, reasons: job.reasons, at: job.at, also_backup: job.also_backup, done: vec![job.done] }
    }
}

#[derive(Default)]
struct Queue {
    order: VecDeque<SessionName>,
    pending: BTreeMap<SessionName, Pending>,
    /// Never merged: whoever asked for one relies on exactly that state being in it.
    archives: VecDeque<SaveJob>,
    /// Last, so that no save of a state that is left comes after it.
    restores: VecDeque<RestoreJob>,
    working: bool,
    closed: bool,
}

impl Queue {
    fn is_empty(&self) -> bool {
        self.order.is_empty() && self.archives.is_empty() && self.restores.is_empty()
    }

    /// Gives up what is queued; says whom to tell.
    fn forsake(&mut self) -> Vec<Done> {
        self.order.clear();
        let saves = std::mem::take(&mut self.pending).into_values().flat_map(|pending| pending.done);
        let archives = std::mem::take(&mut self.archives).into_iter().map(|job| job.done);
        let restores = std::mem::take(&mut self.restores).into_iter().map(|job| {
            let done = job.done;
            Box::new(move |outcome: SaveOutcome| done(Err(outcome.err().unwrap_or_default()))) as Done
        });
        saves.chain(archives).chain(restores).collect()
    }
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Each behind a lock of its own, which a save holds to its end; nobody waits for one of another session.
    shelves: Mutex<BTreeMap<SessionName, Slot>>,
    abandon: AtomicBool,
}

/// What the thread does next.
enum Task {
    Save(SessionName, Pending),
    Archive(SaveJob),
    Restore(Box<RestoreJob>),
}

/// A shelf, or nothing once it has been taken out.
type Slot = Arc<Mutex<Option<Shelf>>>;

fn slot(shelf: Shelf) -> Slot {
    Arc::new(Mutex::new(Some(shelf)))
}

/// A poisoned lock means a panic that has been reported already; the data behind it is still consistent.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The handle of the saver's thread.
pub(crate) struct Saver {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Saver {
    /// Starts the thread.
    pub(crate) fn start(setup: SaverSetup, shelves: Vec<Shelf>) -> io::Result<Self> {
        let shelves = shelves.into_iter().map(|shelf| (shelf.files.name.clone(), slot(shelf))).collect();
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            changed: Condvar::new(),
            shelves: Mutex::new(shelves),
            abandon: AtomicBool::new(false),
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("saver".into()).spawn(move || work(&worker, &setup))?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Adds a session whose directories exist.
    pub(crate) fn add(&self, shelf: Shelf) {
        locked(&self.shared.shelves).insert(shelf.files.name.clone(), slot(shelf));
    }

    /// Takes a session out, when a save of it under way has ended; one that is pending fails.
    pub(crate) fn remove(&self, name: &SessionName) {
        let removed = locked(&self.shared.shelves).remove(name);
        if let Some(slot) = removed {
            locked(&slot).take();
        }
    }

    /// Queues a save, or merges it into the one pending for the session.
    pub(crate) fn save(&self, job: SaveJob) {
        let mut queue = locked(&self.shared.queue);
        if queue.closed {
            drop(queue);
            (job.done)(Err("the store is closed".into()));
            return;
        }
        let name = job.session.clone();
        if let Some(pending) = queue.pending.get_mut(&name) {
            pending.absorb(job);
        } else {
            queue.pending.insert(name.clone(), job.into());
            queue.order.push_back(name);
        }
        self.shared.changed.notify_all();
    }

    /// Queues an archive.
    pub(crate) fn archive(&self, job: SaveJob) {
        let mut queue = locked(&self.shared.queue);
        if queue.closed {
            drop(queue);
            (job.done)(Err("the store is closed".into()));
            return;
        }
        queue.archives.push_back(job);
        self.shared.changed.notify_all();
    }

    /// Queues a restore.
    pub(crate) fn restore(&self, job: RestoreJob) {
        let mut queue = locked(&self.shared.queue);
        if queue.closed {
            drop(queue);
            (job.done)(Err("the store is closed".into()));
            return;
        }
        queue.restores.push_back(job);
        self.shared.changed.notify_all();
    }

    /// Finishes what is queued. After `deadline` it abandons the rest: nothing half-written is ever published.
    /// Returns whether everything was saved.
    pub(crate) fn close(&self, deadline: Duration) -> bool {
        let end = clock::instant() + deadline;
        let mut queue = locked(&self.shared.queue);
        queue.closed = true;
        self.shared.changed.notify_all();
        while queue.working || !queue.is_empty() {
            let left = end.saturating_duration_since(clock::instant());
            if left.is_zero() {
                self.shared.abandon.store(true, Ordering::Release);
                let forsaken = queue.forsake();
                drop(queue);
                for tell in forsaken {
                    tell(Err("abandoned because the daemon stops".into()));
                }
                return false;
            }
            queue = self.shared.changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(queue);
        if let Some(thread) = locked(&self.thread).take() {
            // A panic of the thread was caught and reported as a failed save.
            thread.join().ok();
        }
        true
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.shared.abandon.store(true, Ordering::Release);
        locked(&self.shared.queue).closed = true;
        self.shared.changed.notify_all();
    }
}

fn work(shared: &Shared, setup: &SaverSetup) {
    background::give_way();
    while let Some(task) = next(shared) {
        match task {
            Task::Save(name, pending) => save(shared, setup, &name, pending),
            Task::Archive(job) => archive(shared, setup, job),
            Task::Restore(job) => restore(shared, setup, *job),
        }
        locked(&shared.queue).working = false;
        shared.changed.notify_all();
    }
}

fn save(shared: &Shared, setup: &SaverSetup, name: &SessionName, pending: Pending) {
    let Pending { state, reasons, at, also_backup, done } = pending;
    let order = Order { state: &*state, reasons: &reasons, at, also_backup, abandon: &shared.abandon };
    let outcome = on_shelf(shared, name, |shelf| shelf.save(setup, &order));
    if let Err(why) = &outcome {
        tracing::error!(session = %name, "Failed to save: {why}");
    }
    // Freeing a large state takes a while, which is why it happens on this thread.
    drop(state);
    unpin_idle(shared, setup, at);
    for tell in done {
        tell(outcome.clone());
    }
}

fn archive(shared: &Shared, setup: &SaverSetup, job: SaveJob) {
    let SaveJob { session: name, state, reasons, at, also_backup, done } = job;
    let order = Order { state: &*state, reasons: &reasons, at, also_backup, abandon: &shared.abandon };
    let outcome = on_shelf(shared, &name, |shelf| shelf.archive(setup, &order));
    if let Err(why) = &outcome {
        tracing::error!(session = %name, "Failed to archive: {why}");
    }
    drop(state);
    done(outcome);
}

fn restore(shared: &Shared, setup: &SaverSetup, job: RestoreJob) {
    let RestoreJob { session: name, left, restored, mark, of, at, done } = job;
    let turn = Turn { left: &*left, restored: &*restored, mark: &mark, of: &of, at, abandon: &shared.abandon };
    let outcome: RestoreOutcome = on_shelf(shared, &name, |shelf| shelf.switch(setup, &turn));
    if let Err(why) = &outcome {
        tracing::error!(session = %name, "Failed to restore: {why}");
    }
    drop((left, restored));
    done(outcome);
}

fn unpin_idle(shared: &Shared, setup: &SaverSetup, now: Timestamp) {
    let slots: Vec<Slot> = locked(&shared.shelves).values().cloned().collect();
    for slot in slots {
        if let Some(shelf) = &mut *locked(&slot)
            && let Err(error) = shelf.unpin_if_idle(setup, now)
        {
            tracing::warn!(session = %shelf.files.name, %error, "A second copy of the snapshot failed");
        }
    }
}

/// Does something with the session's files. The saver must survive a state that cannot be written: every later save
/// depends on it.
fn on_shelf<T>(
    shared: &Shared,
    name: &SessionName,
    write: impl FnOnce(&mut Shelf) -> Result<T, SaveError>,
) -> Result<T, String> {
    let slot = locked(&shared.shelves).get(name).cloned().unwrap_or_default();
    let Some(shelf) = &mut *locked(&slot) else { return Err(format!("there is no session {name}")) };
    match catch_unwind(AssertUnwindSafe(|| write(shelf))) {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(_) => Err("the state could not be written (a defect; please report it)".into()),
    }
}

/// The next archive, save or restore, each in the order they were asked for; `None` when the queue is closed and empty.
fn next(shared: &Shared) -> Option<Task> {
    let mut queue = locked(&shared.queue);
    loop {
        if shared.abandon.load(Ordering::Acquire) {
            return None;
        }
        if let Some(job) = queue.archives.pop_front() {
            queue.working = true;
            return Some(Task::Archive(job));
        }
        // Others' saves need not be waited for, and somebody's edits wait for this.
        let queued = &*queue;
        let free = queued.restores.iter().position(|job| !queued.pending.contains_key(&job.session));
        if let Some(job) = free.and_then(|at| queue.restores.remove(at)) {
            queue.working = true;
            return Some(Task::Restore(Box::new(job)));
        }
        if let Some(name) = queue.order.pop_front() {
            let pending = queue.pending.remove(&name)?;
            queue.working = true;
            return Some(Task::Save(name, pending));
        }
        if queue.closed {
            return None;
        }
        queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
}
