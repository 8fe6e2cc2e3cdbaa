//! The store of one data directory: the journal and the saver behind one handle, until they are closed in order.

use crate::session::SessionName;
use crate::storage::backups::{self, SessionFiles};
use crate::storage::fsck::{BackupInfo, list_backups};
use crate::storage::journal::Stats;
use crate::storage::journaling::Journaling;
use crate::storage::keep::Keep;
use crate::storage::recovery::OpenError;
use crate::storage::restore::{Chosen, RestoreError, Source, choose};
use crate::storage::saver::{Saver, SaverSetup, Shelf, locked};
use crate::storage::vfs::SharedVfs;
use crate::storage::{Branch, Durable, Early, Machine, Record, RestoreJob, ResumePoint, Run, SaveJob, Store, Trouble};
use std::collections::BTreeSet;
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What whoever wants something written is told when nothing may be.
const NOTHING_WRITTEN: &str = "nothing may be written: the data directory needs repair";

/// An opened data directory. Dropping it abandons what is being saved; [`DirectoryStore::close`] ends in order.
pub struct DirectoryStore {
    vfs: SharedVfs,
    running: Option<Running>,
    lock: Mutex<Option<Box<dyn Send>>>,
}

struct Running {
    journaling: Arc<Journaling>,
    saver: Saver,
    creating: Mutex<()>,
    /// Sessions that are in the directory and not served.
    unserved: Mutex<BTreeSet<SessionName>>,
}

/// How the store is doing.
#[derive(Debug, Clone)]
pub struct Status {
    /// What the journal has done; `None` if nothing may be written.
    pub journal: Option<Stats>,
    /// Why nothing can be written at the moment.
    pub trouble: Option<Trouble>,
    /// Bytes free on the disk.
    pub free_bytes: Option<u64>,
}

/// How a store ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Whether everything that was accepted is in the journal, and the journal says that it is complete.
    pub sealed: Result<(), Trouble>,
    /// Whether every save that was queued has ended; if not, the journal has what they would have held.
    pub saves_finished: bool,
}

/// Why a session could not be created or forgotten.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is one already.
    #[error("there is a session {0} already")]
    Exists(SessionName),
    /// There is one that needs repair: what is left of it must not be covered by an empty one.
    #[error("session {0} exists and needs repair")]
    NeedsRepair(SessionName),
    /// The default session cannot be forgotten.
    #[error("the default session cannot be forgotten")]
    Default,
    /// Nothing may be written in this directory.
    #[error("nothing can be written: the data directory needs repair, or the store is closed")]
    Closed,
    /// The disk failed.
    #[error("{0}")]
    Failed(#[from] OpenError),
}

impl DirectoryStore {
    /// A store that keeps nothing, because nothing may be written.
    pub(crate) fn closed(vfs: SharedVfs, lock: Box<dyn Send>) -> Self {
        Self { vfs, running: None, lock: Mutex::new(Some(lock)) }
    }

    /// A store that keeps what it is given. `unserved` are sessions of the directory without a shelf.
    pub(crate) fn running(
        lock: Box<dyn Send>,
        setup: SaverSetup,
        shelves: Vec<Shelf>,
        unserved: BTreeSet<SessionName>,
        journaling: Arc<Journaling>,
    ) -> io::Result<Self> {
        let vfs = Arc::clone(&setup.vfs);
        let saver = Saver::start(setup, shelves)?;
        let running = Running { journaling, saver, creating: Mutex::default(), unserved: Mutex::new(unserved) };
        Ok(Self { vfs, running: Some(running), lock: Mutex::new(Some(lock)) })
    }

    /// Creates a session; its folders and its branch are durable on return.
    pub fn create_session(&self, name: &SessionName) -> Result<(), CreateError> {
        let running = self.running.as_ref().ok_or(CreateError::Closed)?;
        let _one_at_a_time = locked(&running.creating);
        if running.journaling.knows(name) {
            return Err(CreateError::Exists(name.clone()));
        }
        if locked(&running.unserved).contains(name) {
            return Err(CreateError::NeedsRepair(name.clone()));
        }
        running.saver.add(running.journaling.create(name)?);
        Ok(())
    }

    /// Forgets a session, also one that cannot be served: the journal lets go of it, and its folder is moved to
    /// `quarantine/`, whose path is returned. Nobody may be using the session. The default session stays.
    pub fn forget_session(&self, name: &SessionName) -> Result<PathBuf, CreateError> {
        let running = self.running.as_ref().ok_or(CreateError::Closed)?;
        if name.is_default() {
            return Err(CreateError::Default);
        }
        let _one_at_a_time = locked(&running.creating);
        running.saver.remove(name);
        running.journaling.forget(name)?;
        let files = SessionFiles::of(name);
        let reason = format!("forgotten_{name}");
        let place = backups::quarantine_folder(&*self.vfs, &files.root, &reason).map_err(OpenError::Io)?;
        locked(&running.unserved).remove(name);
        Ok(place)
    }

    /// Visits records of a session with `seq` from `first` to `last`, in order: those of its current branch that the
    /// journal still has, hence perhaps none. `last` must be durable. Reads files.
    pub fn past(
        &self,
        session: &SessionName,
        first: u64,
        last: u64,
        visit: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) {
        if let Some(running) = &self.running {
            running.journaling.past(session, first..=last, visit);
        }
    }

    /// Changes how much is kept beyond what recovery needs, from the next save on.
    pub fn change_keep(&self, keep: Keep) {
        if let Some(running) = &self.running {
            running.journaling.keep().change(keep);
        }
    }

    /// The session's backups, newest first. Reads files.
    pub fn backups(&self, session: &SessionName) -> io::Result<Vec<BackupInfo>> {
        list_backups(&*self.vfs, session)
    }

    /// Reads all of a state that is to be restored. Changes nothing.
    pub fn choose<M: Machine>(&self, session: &SessionName, source: &Source) -> Result<Chosen<M>, RestoreError> {
        choose(&self.vfs, session, source)
    }

    /// One of the session's backups, as [`Source::backup`].
    pub fn backup(&self, session: &SessionName, from: &str) -> Result<Source, RestoreError> {
        Source::backup(&self.vfs, session, from)
    }

    /// How the store is doing.
    pub fn status(&self) -> Status {
        let running = self.running.as_ref();
        Status {
            journal: running.map(|running| running.journaling.stats()),
            trouble: running.and_then(|running| running.journaling.trouble()),
            free_bytes: self.vfs.free_space().ok(),
        }
    }

    /// Ends in order: first everything accepted is made durable and sealed, then queued saves may finish until the
    /// deadline, then the journal is closed and the directory unlocked. Events appended later are dropped.
    pub fn close(&self, deadline: Duration) -> Closed {
        let Some(running) = &self.running else {
            locked(&self.lock).take();
            return Closed { sealed: Ok(()), saves_finished: true };
        };
        // Whatever comes of it, closing says in the end whether everything is on disk.
        running.journaling.seal().ok();
        let saves_finished = running.saver.close(deadline);
        if !saves_finished {
            tracing::warn!("journal sealed, snapshot skipped");
        }
        let sealed = running.journaling.close();
        locked(&self.lock).take();
        Closed { sealed, saves_finished }
    }
}

impl Store for DirectoryStore {
    fn create_session(&self, name: &SessionName) -> Result<(), String> {
        match Self::create_session(self, name) {
            Ok(()) | Err(CreateError::Exists(_)) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn append(&self, session: &SessionName, records: Vec<Record>) {
        if let Some(running) = &self.running {
            running.journaling.append(session, records);
        } else {
            tracing::error!(%session, "Events were dropped: nothing may be written");
        }
    }

    fn prepare(&self, session: &SessionName, early: &[Arc<Early>]) {
        if let Some(running) = &self.running {
            running.journaling.prepare(session, early);
        }
    }

    fn listen(&self, session: &SessionName, listener: Arc<dyn Durable>) {
        if let Some(running) = &self.running {
            running.journaling.listen(session, listener);
        }
    }

    fn save(&self, job: SaveJob) {
        match &self.running {
            Some(running) => running.saver.save(job),
            None => (job.done)(Err(NOTHING_WRITTEN.into())),
        }
    }

    fn archive(&self, job: SaveJob) {
        match &self.running {
            Some(running) => running.saver.archive(job),
            None => (job.done)(Err(NOTHING_WRITTEN.into())),
        }
    }

    fn restore(&self, job: RestoreJob) {
        match &self.running {
            Some(running) => running.saver.restore(job),
            None => (job.done)(Err(NOTHING_WRITTEN.into())),
        }
    }

    fn resume_point(&self, session: &SessionName) -> ResumePoint {
        match &self.running {
            Some(running) => running.journaling.resume_point(session),
            None => ResumePoint { branch: Branch(0), run: Run(0), runs: Vec::new() },
        }
    }
}
