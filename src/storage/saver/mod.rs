//! The saver: one thread that writes, proves and publishes snapshots, beside everything else.
//!
//! At most one save per session is pending; further requests merge into it. A save that fails leaves the old
//! snapshot as it was.

mod archive;
mod publish;
mod queue;
mod switch;

pub(crate) use publish::{Order, Publication, SaveError, Shelf};
pub(crate) use queue::{Saver, locked};

use crate::session::SessionName;
use crate::storage::keep::KeepInForce;
use crate::storage::snapshot::SnapshotId;
use crate::storage::vfs::SharedVfs;
use crate::storage::{Branch, Record, Run};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What the saver needs of the journal.
pub(crate) trait Ledger: Send + Sync {
    /// Waits until every event of the session up to `seq` is on disk; gives up when `abandon` is set.
    fn wait_durable(&self, session: &SessionName, seq: u64, abandon: &AtomicBool) -> Result<(), String>;
    /// Records that a snapshot was published, durably on return.
    fn record(&self, session: &SessionName, published: &Publication) -> Result<(), String>;
    /// The newest event of the session that is on disk.
    fn durable_seq(&self, session: &SessionName) -> u64;
    /// Lets go of the session's records up to `seq`: two whole snapshots at or after it exist.
    fn release(&self, session: &SessionName, seq: u64);
    /// This start of the daemon.
    fn run(&self) -> Run;
    /// Journals that the session goes on along another branch, durably on return. After an error it may be journaled
    /// nevertheless.
    fn branch_off(&self, session: &SessionName, fork: &Fork) -> Result<(), String>;
    /// From now on records of the session are of this branch; the first is appended.
    fn go_on(&self, session: &SessionName, branch: Branch, runs: &[(Run, u64)], first: Record);
}

/// Where a branch begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fork {
    /// The branch.
    pub(crate) branch: Branch,
    /// The one that it leaves.
    pub(crate) parent: Branch,
    /// The snapshot that it begins with.
    pub(crate) snapshot: SnapshotId,
    /// Its first `seq`.
    pub(crate) first_seq: u64,
}

/// What all saves of a directory have in common.
#[derive(Clone)]
pub(crate) struct SaverSetup {
    /// The data directory.
    pub(crate) vfs: SharedVfs,
    /// The journal.
    pub(crate) ledger: Arc<dyn Ledger>,
    /// The directory's identity.
    pub(crate) lineage: u128,
    /// This start.
    pub(crate) epoch: u64,
    /// How much is kept beyond what recovery needs.
    pub(crate) keep: KeepInForce,
}
