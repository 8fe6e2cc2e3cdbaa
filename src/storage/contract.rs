//! What the rooms above storage and storage itself promise each other: the traits between them.

use super::snapshot::Header;
use crate::session::{SessionName, Timestamp};
use crate::storage::journal::Early;
use std::fmt;
use std::sync::Arc;

/// A line of history of one session: a restore starts a new one. 128 random bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Branch(pub u128);

/// One start of the daemon: 128 random bits, journaled before anything is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run(pub u128);

/// Turns stored bytes into state and back. Implemented by whoever owns the state machine (sessions; later Croquet's).
///
/// `Clone` must be cheap (persistent maps): storage clones machines to build `pre_restore` files.
pub trait Machine: Clone + Send + 'static {
    /// The state before anything happened.
    fn empty() -> Self;
    /// Takes one section of a snapshot, in the order they were written. Called before [`Machine::finish_load`].
    fn load_section(&mut self, tag: [u8; 4], schema: u16, body: &[u8]) -> Result<(), BadContent>;
    /// Checks the invariants of what was loaded, and its `seq` and counts against the snapshot's header.
    fn finish_load(&mut self, seq: u64, summary: &Summary) -> Result<(), BadContent>;
    /// Writes the whole state as sections. Runs on the saver's thread; uses little memory (sections of about 1 MiB).
    fn write_sections(&self, out: &mut dyn Sections) -> std::io::Result<()>;
    /// Applies the journal record with this `seq`, which is always `self.seq() + 1`.
    fn apply(&mut self, seq: u64, body: &[u8]) -> Result<(), BadContent>;
    /// The `seq` of the newest event applied; 0 = none.
    fn seq(&self) -> u64;
    /// Counts for metadata, headers and log lines.
    fn summary(&self) -> Summary;
    /// Decides and applies the event that marks a restore, whose `seq` must be `seq` (it may skip numbers), and
    /// returns its record.
    fn restored(&mut self, seq: u64, at: Timestamp, source: &str) -> Arc<dyn RecordBody>;
    /// Takes over from the state that a restore leaves what a restore does not undo: that somebody was answered.
    fn answers_for(&mut self, left: &Self);
}

/// Where a [`Machine`] writes its sections.
pub trait Sections {
    /// Adds one section: a four-letter tag, the schema version of its body, and the body (at most 64 MiB).
    fn section(&mut self, tag: [u8; 4], schema: u16, body: &[u8]) -> std::io::Result<()>;

    /// Adds one section with a large body, which is not held in memory: `encode` writes it, twice the same.
    fn large_section(&mut self, tag: [u8; 4], schema: u16, encode: &Encode<'_>) -> std::io::Result<()> {
        let mut body = Vec::new();
        encode(&mut body)?;
        self.section(tag, schema, &body)
    }
}

/// Writes a body, the same whenever it is asked.
pub type Encode<'a> = dyn Fn(&mut dyn std::io::Write) -> std::io::Result<()> + 'a;

/// Counts of what a state holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Members online.
    pub users: u64,
    /// Nodes in the scene.
    pub nodes: u64,
    /// Tasks.
    pub tasks: u64,
    /// Chat messages in the live state.
    pub messages: u64,
}

/// Stored bytes that are intact by their checksums and still make no sense.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct BadContent(pub String);

/// The body of one journal record. Encoding happens on the journal's thread, straight into the frame.
pub trait RecordBody: Send + Sync {
    /// Appends the stored form to `out`.
    fn encode(&self, out: &mut Vec<u8>);
    /// About how many bytes [`RecordBody::encode`] will append (bounds the memory of the queue).
    fn size_hint(&self) -> usize;
    /// Appends the stored form without these bytes, which all stand in it. Returns which of them belongs where in `out`, in
    /// order: `(offset, index)`. `None`, with anything in `out`, if that cannot be done: then all of it is written.
    fn encode_around(&self, _early: &[Arc<Early>], _out: &mut Vec<u8>) -> Option<Vec<(usize, usize)>> {
        None
    }
}

/// One event on its way to the journal.
#[derive(Clone)]
pub struct Record {
    /// Its place in the session: dense within a branch.
    pub seq: u64,
    /// What to write.
    pub body: Arc<dyn RecordBody>,
    /// The parts of it that are on disk already.
    pub early: Vec<Arc<Early>>,
}

impl Record {
    /// A record of which nothing is on disk.
    pub fn new(seq: u64, body: Arc<dyn RecordBody>) -> Self {
        Self { seq, body, early: Vec::new() }
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Record({})", self.seq)
    }
}

/// What the store tells a session. Called on the journal's thread: must return at once.
pub trait Durable: Send + Sync {
    /// Every event up to `seq` is on disk, for good.
    fn durable(&self, seq: u64);
    /// Writing has failed (`Some`) or works again (`None`). While it fails nothing becomes durable; what was
    /// appended stays in memory and is written when writing works again.
    fn trouble(&self, trouble: Option<Trouble>);
    /// Early bytes have become durable: [`Early::is_durable`] says which.
    fn prepared(&self) {}
}

/// Why nothing can be written at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Whether the disk (or a quota) is full.
    pub disk_full: bool,
    /// For people: what failed, with the path.
    pub message: String,
}

/// Asks for a snapshot of one session.
pub struct SaveJob {
    /// Whose.
    pub session: SessionName,
    /// The state at some `seq`, captured in O(1). Written and dropped on the saver's thread.
    pub state: Box<dyn SaveState>,
    /// Why: one true log line is printed for each.
    pub reasons: Vec<String>,
    /// When it was asked for.
    pub at: Timestamp,
    /// Also keep a copy under `backups/` at once, although it is the newest (`hotset backups create`).
    pub also_backup: bool,
    /// Told on the saver's thread when it is over.
    pub done: Box<dyn FnOnce(SaveOutcome) + Send>,
}

/// The part of a [`Machine`] that the saver needs, as an object.
pub trait SaveState: Send {
    /// As [`Machine::write_sections`].
    fn write_sections(&self, out: &mut dyn Sections) -> std::io::Result<()>;
    /// As [`Machine::seq`].
    fn seq(&self) -> u64;
    /// As [`Machine::summary`].
    fn summary(&self) -> Summary;
}

impl<M: Machine> SaveState for M {
    fn write_sections(&self, out: &mut dyn Sections) -> std::io::Result<()> {
        Machine::write_sections(self, out)
    }
    fn seq(&self) -> u64 {
        Machine::seq(self)
    }
    fn summary(&self) -> Summary {
        Machine::summary(self)
    }
}

/// How a save ended.
pub type SaveOutcome = Result<Saved, String>;

/// A save that is on disk, verified and published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    /// The state it holds.
    pub seq: u64,
    /// When it was asked for.
    pub at: Timestamp,
    /// Why.
    pub reasons: Vec<String>,
    /// Size of the file.
    pub bytes: u64,
    /// Where: relative to the data directory.
    pub file: String,
    /// `false` when the live file had been changed by hand: then nothing was published, and the state was kept as a
    /// `pre_restore` file for the next start to decide.
    pub published: bool,
    /// Its copy under `backups/`, if one was asked for and made: relative to the data directory.
    pub backup: Option<String>,
}

/// Asks for another state in place of a session's current one, on a new branch, while the store runs. Nothing may be
/// appended or saved for the session from now until it is told how this ended.
pub struct RestoreJob {
    /// Whose.
    pub session: SessionName,
    /// The state that is left, with everything that was ever shown of it; durable. It is kept.
    pub left: Box<dyn SaveState>,
    /// The state that takes its place, with the event in it that marks the restore.
    pub restored: Box<dyn SaveState>,
    /// The record of that event: the first on the new branch.
    pub mark: Record,
    /// The snapshot that `restored` was made of.
    pub of: Header,
    /// When it was asked for.
    pub at: Timestamp,
    /// Told on the saver's thread when it is over.
    pub done: Box<dyn FnOnce(RestoreOutcome) + Send>,
}

/// How a restore ended. After an error the session is where it was, but for what the error says; it has been saved.
pub type RestoreOutcome = Result<Switched, String>;

/// A session has been put onto its new branch: whatever is appended from now on is of that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switched {
    /// The file that keeps the state that was left, relative to the data directory; `None`: nothing in it was newer.
    pub kept: Option<String>,
    /// The snapshot in which the restored state is now.
    pub saved: Saved,
}

/// The part of a store that a live session uses. `live` reaches storage only through it.
pub trait Store: Send + Sync {
    /// Makes a place for a session, durably; does nothing if it has one. Blocks.
    fn create_session(&self, session: &SessionName) -> Result<(), String>;
    /// Queues large parts of records to come, so that only the rest has to be written when they are appended. Never blocks;
    /// the session bounds what it queues, and gives up what it drops.
    fn prepare(&self, session: &SessionName, early: &[Arc<Early>]);
    /// Queues records of one session, in order. Never blocks; the session bounds what it queues.
    fn append(&self, session: &SessionName, records: Vec<Record>);
    /// Registers who is told about the session's durable `seq`. Replaces an earlier listener.
    fn listen(&self, session: &SessionName, listener: Arc<dyn Durable>);
    /// Queues a save. It waits for its `seq` to be durable before it publishes.
    fn save(&self, job: SaveJob);
    /// Queues an archive: the state becomes a kept backup that rotation leaves alone, verified and durable under its
    /// name before `done` is told. The current snapshot stays as it is.
    fn archive(&self, job: SaveJob);
    /// Queues a restore, behind everything that was queued before.
    fn restore(&self, job: RestoreJob);
    /// What a resume token of the session is made of, and judged by.
    fn resume_point(&self, session: &SessionName) -> ResumePoint;
}

/// What makes a resume token decidable: the branch, the current run, and which runs issued which `seq`s.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    /// The session's current branch.
    pub branch: Branch,
    /// This start of the daemon.
    pub run: Run,
    /// Runs of this branch that are still known, oldest first, with the first `seq` each could issue (the durable
    /// `seq` at its start, plus one). The last one is `run`.
    pub runs: Vec<(Run, u64)>,
}
