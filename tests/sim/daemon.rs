//! As much of a daemon as storage needs: it opens a directory, appends, saves, and stops in order or by a power cut.

use crate::toy::Toy;
use hotset::session::{SessionName, Timestamp};
use hotset::storage::recovery::{self, OpenError, OpenOptions, Opened, Outcome, Restored};
use hotset::storage::restore::{Chosen, Source};
use hotset::storage::store::DirectoryStore;
use hotset::storage::vfs::SharedVfs;
use hotset::storage::{
    Durable, Machine, Record, RestoreJob, RestoreOutcome, Run, SaveJob, SaveOutcome, Store, Trouble,
};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// Rises by a second with every use, so that names are as different as in life.
static NOW: AtomicI64 = AtomicI64::new(1_736_695_945_000);
static RUN: AtomicU64 = AtomicU64::new(1);

/// The next moment.
pub(crate) fn now() -> Timestamp {
    Timestamp(NOW.fetch_add(1000, Ordering::Relaxed))
}

/// Small segments, no background work: every run of a script does the same operations.
pub(crate) fn options() -> OpenOptions {
    let mut options = OpenOptions::new(now(), Run(u128::from(RUN.fetch_add(1, Ordering::Relaxed))));
    options.journal.segment_bytes = 128 << 10;
    options.journal.chunk_bytes = 4 << 10;
    options.journal.seal_after = None;
    options.journal.probe_every = Duration::from_millis(5);
    options.journal.background_spare = false;
    options.keep.max_backups = 3;
    options.keep.history = Duration::ZERO;
    options
}

/// Who waits for durability.
#[derive(Default)]
pub(crate) struct Watch {
    state: Mutex<(u64, Option<Trouble>)>,
    moved: Condvar,
}

impl Durable for Watch {
    fn durable(&self, seq: u64) {
        let mut state = self.state.lock().unwrap();
        state.0 = state.0.max(seq);
        self.moved.notify_all();
    }
    fn trouble(&self, trouble: Option<Trouble>) {
        self.state.lock().unwrap().1 = trouble;
        self.moved.notify_all();
    }
}

/// A session being served.
pub(crate) struct Daemon {
    pub(crate) store: Arc<DirectoryStore>,
    pub(crate) session: SessionName,
    pub(crate) toy: Toy,
    pub(crate) watch: Arc<Watch>,
    pub(crate) restored: Option<Restored>,
    pub(crate) notes: Vec<String>,
}

impl Daemon {
    /// Opens a directory whose default session can be served.
    pub(crate) fn start(vfs: &SharedVfs) -> Result<Self, OpenError> {
        Self::start_with(vfs, &options())
    }

    /// As [`Daemon::start`], with other options.
    pub(crate) fn start_with(vfs: &SharedVfs, options: &OpenOptions) -> Result<Self, OpenError> {
        let opened = recovery::open::<Toy>(vfs, options)?;
        Ok(Self::of(opened, &SessionName::default_session()))
    }

    /// Serves one session of an opened directory.
    pub(crate) fn of(opened: Opened<Toy>, session: &SessionName) -> Self {
        let Opened { sessions, store, notes, .. } = opened;
        let found = sessions.into_iter().find(|found| found.name == *session).expect("the session is there");
        let Outcome::Serving { machine: toy, restored } = found.outcome else {
            panic!("not serving: {:?}", found.outcome)
        };
        let watch = Arc::new(Watch::default());
        store.listen(session, watch.clone());
        Self { store, session: session.clone(), toy, watch, restored, notes }
    }

    /// Adds an entry without waiting for it.
    pub(crate) fn send(&mut self, text: &str) {
        let record = self.toy.push(text.as_bytes());
        self.store.append(&self.session, vec![record]);
    }

    /// Waits until everything sent is durable. `false`: it cannot be at the moment.
    pub(crate) fn acknowledged(&self) -> bool {
        let mut state = self.watch.state.lock().unwrap();
        loop {
            if state.0 >= Machine::seq(&self.toy) {
                return true;
            }
            if state.1.is_some() {
                return false;
            }
            state = self.watch.moved.wait(state).unwrap();
        }
    }

    /// Adds an entry and waits for it.
    pub(crate) fn say(&mut self, text: &str) -> bool {
        self.send(text);
        self.acknowledged()
    }

    /// Saves and waits for it.
    pub(crate) fn save(&self, reason: &str) -> SaveOutcome {
        self.save_with(reason, false)
    }

    /// Saves, perhaps with a backup at once, and waits for it.
    pub(crate) fn save_with(&self, reason: &str, also_backup: bool) -> SaveOutcome {
        let (tell, told) = sync_channel(1);
        self.store.save(SaveJob {
            session: self.session.clone(),
            state: Box::new(self.toy.clone()),
            reasons: vec![reason.into()],
            at: now(),
            also_backup,
            done: Box::new(move |outcome| tell.send(outcome).unwrap()),
        });
        told.recv().unwrap()
    }

    /// Restores a backup while the daemon runs, and waits for it.
    pub(crate) fn restore(&mut self, backup: &str) -> RestoreOutcome {
        let chosen = self.store.choose::<Toy>(&self.session, &Source::Backup(backup.into()));
        let chosen = chosen.map_err(|error| error.to_string())?;
        let source = chosen.source();
        let Chosen { mut machine, header, .. } = chosen;
        let (seq, at) = (Machine::seq(&machine).max(Machine::seq(&self.toy)) + 1, now());
        let body = machine.restored(seq, at, &source);
        let (tell, told) = sync_channel(1);
        self.store.restore(RestoreJob {
            session: self.session.clone(),
            left: Box::new(self.toy.clone()),
            restored: Box::new(machine.clone()),
            mark: Record::new(seq, body),
            of: header,
            at,
            done: Box::new(move |outcome| tell.send(outcome).unwrap()),
        });
        let outcome = told.recv().unwrap();
        if outcome.is_ok() {
            self.toy = machine;
            self.watch = Arc::new(Watch::default());
            self.store.listen(&self.session, self.watch.clone());
        }
        outcome
    }

    /// Adds an entry and waits until the journal has it, also if it cannot be written for a moment.
    pub(crate) fn say_at_last(&mut self, text: &str) {
        self.send(text);
        for _ in 0..2_000 {
            if self.acknowledged() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the journal does not recover");
    }

    /// Stops in order.
    pub(crate) fn stop(self) {
        let closed = self.store.close(Duration::from_secs(30));
        assert!(closed.saves_finished);
    }
}
