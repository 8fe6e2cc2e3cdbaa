//! The journal as the store uses it: who has got how far, on which branch, and what the saver may let go of.

use crate::ops::{clock, random};
use crate::session::SessionName;
use crate::storage::backups::SessionFiles;
use crate::storage::journal::{
    self, Control, FileMark, HistoryError, Lineage, Published, Retention, Start, Stats, Writer,
};
use crate::storage::keep::{Keep, KeepInForce};
use crate::storage::recovery::{OpenError, OpenOptions};
use crate::storage::saver::{Fork, Ledger, Publication, Shelf, locked};
use crate::storage::snapshot::SnapshotId;
use crate::storage::vfs::SharedVfs;
use crate::storage::{Branch, Durable, Early, Record, ResumePoint, Run, Trouble};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How often somebody who waits looks whether to give up.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The journal's writer and what is known of each session that is served.
pub(crate) struct Journaling {
    vfs: SharedVfs,
    writer: Writer,
    epoch: u64,
    lineage: Lineage,
    run: Run,
    keep: KeepInForce,
    lines: Mutex<BTreeMap<SessionName, Arc<Line>>>,
    floors: Mutex<BTreeMap<SessionName, u64>>,
}

impl Journaling {
    /// Begins this run's part of the journal; its first record says so, durably.
    pub(crate) fn begin(
        vfs: SharedVfs,
        start: Start,
        epoch: u64,
        run: Control,
        options: &OpenOptions,
    ) -> Result<Arc<Self>, OpenError> {
        let lineage = start.lineage();
        let writer = Writer::open(Arc::clone(&vfs), options.journal.clone(), start, epoch)?;
        writer.control(run).map_err(|trouble| OpenError::Journal(trouble.message))?;
        Ok(Arc::new(Self {
            vfs,
            writer,
            epoch,
            lineage,
            run: options.run,
            keep: KeepInForce::new(options.keep),
            lines: Mutex::default(),
            floors: Mutex::default(),
        }))
    }

    /// How much is kept beyond what recovery needs.
    pub(crate) fn keep(&self) -> &KeepInForce {
        &self.keep
    }

    /// Visits the session's records with `seq` in `range`, in order, as far back as its current branch and the journal
    /// reach. The end of the range must be durable. Holds one record at a time.
    pub(crate) fn past(
        &self,
        name: &SessionName,
        range: RangeInclusive<u64>,
        visit: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) {
        let (mut first, last) = range.into_inner();
        let Some(branch) = self.branch_at(name, last) else { return };
        // A second try when the journal says that it begins later than asked for; nothing has been visited then.
        for _ in 0..2 {
            let visited = journal::history(&*self.vfs, self.lineage, name, first..=last, &mut |item| {
                if item.branch == branch { visit(item.seq, item.body) } else { ControlFlow::Continue(()) }
            });
            match visited {
                Err(HistoryError::Gone { through }) if through < last => first = through + 1,
                Ok(()) | Err(_) => return,
            }
        }
    }

    /// The branch of a session at this record, also of one that may not be written.
    fn branch_at(&self, name: &SessionName, seq: u64) -> Option<Branch> {
        if let Some(line) = self.line(name) {
            return Some(line.branch);
        }
        let mut branch = None;
        let visited = journal::history(&*self.vfs, self.lineage, name, seq..=seq, &mut |item| {
            branch = Some(item.branch);
            ControlFlow::Break(())
        });
        visited.ok().and(branch)
    }

    /// The number of this start.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What the journal has done so far.
    pub(crate) fn stats(&self) -> Stats {
        self.writer.stats()
    }

    /// Why nothing can be written at the moment, if so.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        locked(&self.lines).values().find_map(|line| locked(&line.progress).trouble.clone())
    }

    /// Journals a fact, durably on return.
    pub(crate) fn control(&self, control: Control) -> Result<(), OpenError> {
        self.writer.control(control).map_err(|trouble| OpenError::Journal(trouble.message))
    }

    /// Begins a session that has never existed: its folders, its branch, its place in the journal.
    pub(crate) fn create(&self, name: &SessionName) -> Result<Shelf, OpenError> {
        let files = SessionFiles::of(name);
        files.create(&*self.vfs)?;
        let branch = Branch(random::u128());
        let runs = vec![(self.run, 1)];
        self.control(Control::Branch {
            session: name.clone(),
            branch,
            parent: Branch(0),
            snapshot: SnapshotId::NONE.0,
            first_seq: 1,
        })?;
        self.add(name, branch, runs.clone(), 0);
        let mut shelf = Shelf::new(files, branch);
        shelf.runs = runs;
        Ok(shelf)
    }

    /// Takes up a session whose events up to `durable` are on disk.
    pub(crate) fn add(&self, name: &SessionName, branch: Branch, runs: Vec<(Run, u64)>, durable: u64) {
        let progress = Progress { durable, trouble: None, listener: None };
        let line = Arc::new(Line { branch, runs, progress: Mutex::new(progress), moved: Condvar::new() });
        locked(&self.lines).insert(name.clone(), Arc::clone(&line));
        // A session without events needs nothing; one that is not served needs everything, so it has no floor.
        locked(&self.floors).insert(name.clone(), 0);
        self.writer.listen(name, line);
    }

    /// Lets go of a session, durably on return.
    pub(crate) fn forget(&self, name: &SessionName) -> Result<(), OpenError> {
        self.control(Control::Forgotten { session: name.clone() })?;
        locked(&self.lines).remove(name);
        Ok(())
    }

    fn line(&self, name: &SessionName) -> Option<Arc<Line>> {
        locked(&self.lines).get(name).cloned()
    }

    /// Whether the session is served.
    pub(crate) fn knows(&self, name: &SessionName) -> bool {
        locked(&self.lines).contains_key(name)
    }

    /// Queues large parts of records to come.
    pub(crate) fn prepare(&self, name: &SessionName, early: &[Arc<Early>]) {
        self.writer.prepare(name, early);
    }

    /// Queues records of one session.
    pub(crate) fn append(&self, name: &SessionName, records: Vec<Record>) {
        if let Some(line) = self.line(name) {
            self.writer.append(name, line.branch, records);
        } else {
            tracing::error!(session = %name, "Events of a session that is not served were dropped");
        }
    }

    /// Registers who is told about a session's durable `seq`.
    pub(crate) fn listen(&self, name: &SessionName, listener: Arc<dyn Durable>) {
        let Some(line) = self.line(name) else { return };
        let mut progress = locked(&line.progress);
        // Whoever registers late still learns where things stand.
        listener.durable(progress.durable);
        if progress.trouble.is_some() {
            listener.trouble(progress.trouble.clone());
        }
        progress.listener = Some(listener);
    }

    /// The session's resume point.
    pub(crate) fn resume_point(&self, name: &SessionName) -> ResumePoint {
        match self.line(name) {
            Some(line) => ResumePoint { branch: line.branch, run: self.run, runs: line.runs.clone() },
            None => ResumePoint { branch: Branch(0), run: self.run, runs: Vec::new() },
        }
    }

    /// Records a publication, durably on return.
    pub(crate) fn record_published(
        &self,
        name: &SessionName,
        branch: Branch,
        published: &Publication,
    ) -> Result<(), OpenError> {
        self.control(Control::Published { session: name.clone(), published: published.on(branch) })
    }

    /// Makes everything appended so far durable, and says so on disk.
    pub(crate) fn seal(&self) -> Result<(), Trouble> {
        self.writer.seal()
    }

    /// Ends the journal in order.
    pub(crate) fn close(&self) -> Result<(), Trouble> {
        self.writer.close()
    }
}

impl Ledger for Journaling {
    fn wait_durable(&self, session: &SessionName, seq: u64, abandon: &AtomicBool) -> Result<(), String> {
        let Some(line) = self.line(session) else { return Err(format!("there is no session {session}")) };
        let mut progress = locked(&line.progress);
        loop {
            let reached = progress.durable >= seq; // durability: S18
            if reached {
                return Ok(());
            }
            if abandon.load(Ordering::Acquire) {
                return Err("the daemon stops".into());
            }
            if let Some(trouble) = &progress.trouble {
                return Err(format!("the journal cannot be written: {}", trouble.message));
            }
            progress = line.moved.wait_timeout(progress, LOOK_EVERY).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn record(&self, session: &SessionName, published: &Publication) -> Result<(), String> {
        let Some(line) = self.line(session) else { return Err(format!("there is no session {session}")) };
        self.record_published(session, line.branch, published).map_err(|error| error.to_string())
    }

    fn durable_seq(&self, session: &SessionName) -> u64 {
        self.line(session).map_or(0, |line| locked(&line.progress).durable)
    }

    fn run(&self) -> Run {
        self.run
    }

    fn branch_off(&self, session: &SessionName, fork: &Fork) -> Result<(), String> {
        let Fork { branch, parent, snapshot, first_seq } = *fork;
        let branch = Control::Branch { session: session.clone(), branch, parent, snapshot: snapshot.0, first_seq };
        self.control(branch).map_err(|error| error.to_string())
    }

    fn go_on(&self, session: &SessionName, branch: Branch, runs: &[(Run, u64)], first: Record) {
        self.add(session, branch, runs.to_vec(), first.seq.saturating_sub(1));
        self.append(session, vec![first]);
    }

    fn release(&self, session: &SessionName, seq: u64) {
        let floors = {
            let mut floors = locked(&self.floors);
            floors.insert(session.clone(), seq);
            floors.clone()
        };
        let Keep { history, history_cap: history_bytes, .. } = self.keep.get();
        let retention = Retention { floors, history, history_bytes, now_ms: clock::now_ms() };
        if let Err(error) = self.writer.retain(&retention) {
            tracing::warn!(%error, "Old parts of the journal could not be deleted");
        }
    }
}

impl Publication {
    /// As the journal records it.
    fn on(&self, branch: Branch) -> Published {
        let file = FileMark { inode: self.identity.inode, len: self.identity.len, mtime_ns: self.identity.mtime_ns };
        Published { branch, snapshot: self.id.0, seq: self.seq, at: self.at, file }
    }
}

/// One session in the journal.
struct Line {
    branch: Branch,
    runs: Vec<(Run, u64)>,
    progress: Mutex<Progress>,
    moved: Condvar,
}

struct Progress {
    durable: u64,
    trouble: Option<Trouble>,
    listener: Option<Arc<dyn Durable>>,
}

impl Durable for Line {
    fn durable(&self, seq: u64) {
        let mut progress = locked(&self.progress);
        progress.durable = progress.durable.max(seq);
        let listener = progress.listener.clone();
        drop(progress);
        self.moved.notify_all();
        if let Some(listener) = listener {
            listener.durable(seq);
        }
    }

    fn trouble(&self, trouble: Option<Trouble>) {
        let mut progress = locked(&self.progress);
        progress.trouble.clone_from(&trouble);
        let listener = progress.listener.clone();
        drop(progress);
        self.moved.notify_all();
        if let Some(listener) = listener {
            listener.trouble(trouble);
        }
    }
    fn prepared(&self) {
        let listener = locked(&self.progress).listener.clone();
        if let Some(listener) = listener {
            listener.prepared();
        }
    }
}
