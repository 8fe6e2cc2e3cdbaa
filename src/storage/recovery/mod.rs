//! Recovery: opens a data directory. It looks, plans and builds first; only when a valid outcome is chosen does it
//! move or write a file.

mod begin;
mod decide;
mod history;
mod outcome;
mod plan;
mod survey;

pub use outcome::{OpenError, OpenOptions, Opened, OpenedSession, Outcome, Restored};

pub(crate) use history::History;
pub(crate) use plan::Plan;
pub(crate) use survey::{LiveFile, Survey};

use crate::ops::random;
use crate::session::{SessionName, Timestamp};
use crate::storage::Machine;
use crate::storage::backups::{self, SessionFiles};
use crate::storage::fsck::session_names;
use crate::storage::state_file;
use crate::storage::store::DirectoryStore;
use crate::storage::vfs::{Open, SharedVfs, Vfs, read_all};
use plan::plan;
use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;

const LOCK_FILE: &str = "LOCK";

/// Opens a data directory and begins a new run of the daemon in it, if any session can be served.
///
/// On `Err`, and for sessions that come out refused or read-only, nothing was changed.
pub fn open<M: Machine>(vfs: &SharedVfs, options: &OpenOptions) -> Result<Opened<M>, OpenError> {
    let lock = lock(&**vfs)?;
    open_locked(vfs, lock, options)
}

/// As [`open`], by whoever holds the lock already.
pub(crate) fn open_locked<M: Machine>(
    vfs: &SharedVfs,
    lock: Box<dyn Send>,
    options: &OpenOptions,
) -> Result<Opened<M>, OpenError> {
    open_unlabelled(vfs, lock, options).map_err(|error| error.blaming(&**vfs))
}

fn open_unlabelled<M: Machine>(
    vfs: &SharedVfs,
    lock: Box<dyn Send>,
    options: &OpenOptions,
) -> Result<Opened<M>, OpenError> {
    let looked = look::<M>(&**vfs)?;
    let blocked = looked.history.is_corrupt() && looked.plans.iter().any(|(_, plan)| plan.needs_the_journal());
    let servable = looked.plans.iter().any(|(_, plan)| plan.can_serve());
    if servable && !blocked {
        begin::begin(vfs, lock, options, looked)
    } else {
        Ok(watch_only(vfs, lock, options.now, looked))
    }
}

/// What was found and planned, before anything is changed.
pub(crate) struct Looked<M> {
    state: state_file::Found,
    history: History,
    plans: Vec<(Survey, Plan<M>)>,
}

impl<M> Looked<M> {
    /// What the journal knows.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// What was planned for each session.
    pub(crate) fn into_plans(self) -> Vec<(Survey, Plan<M>)> {
        self.plans
    }
}

/// Looks at everything and plans.
pub(crate) fn look<M: Machine>(vfs: &dyn Vfs) -> Result<Looked<M>, OpenError> {
    let state = state_file::read(vfs)?;
    let witnessed = state.witness().map(|witness| witness.lineage);
    let mut all = session_names(vfs)?;
    let history = History::read(vfs, &all, witnessed, random::u128())?;
    all.extend(history.report().positions.sessions.keys().cloned());
    let knows_nothing = state == state_file::Found::Missing && !history.has_traces();
    let mut plans = Vec::new();
    for name in default_first(all) {
        let survey = Survey::take(vfs, SessionFiles::of(&name), history.lineage())?;
        let unknown = survey.is_empty() && history.past(&name).branch.is_none();
        // A folder without anything in it is a session that was never promised to anybody.
        if unknown && !name.is_default() {
            continue;
        }
        let planned = plan(vfs, &survey, &history, knows_nothing)?;
        plans.push((survey, planned));
    }
    Ok(Looked { state, history, plans })
}

fn default_first(names: BTreeSet<SessionName>) -> Vec<SessionName> {
    let (mut first, others): (Vec<_>, Vec<_>) = names.into_iter().partition(SessionName::is_default);
    first.extend(others);
    first
}

/// Takes the directory for this process, and writes down who holds it.
pub(crate) fn lock(vfs: &dyn Vfs) -> Result<Box<dyn Send>, OpenError> {
    let unusable = |error| OpenError::unusable(vfs, error);
    vfs.create_dir(Path::new("")).map_err(unusable)?;
    let guard = lock_held(vfs)?;
    // For messages only: a directory without it is as well locked.
    if let Err(error) = write_pid(vfs, Path::new(LOCK_FILE)) {
        tracing::debug!(%error, "The process id could not be written to LOCK");
    }
    Ok(guard)
}

fn lock_held(vfs: &dyn Vfs) -> Result<Box<dyn Send>, OpenError> {
    let unusable = |error| OpenError::unusable(vfs, error);
    let path = Path::new(LOCK_FILE);
    match vfs.lock(path) {
        Ok(guard) => Ok(guard),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let text = read_all(vfs, path, 64).unwrap_or_default();
            let pid = String::from_utf8_lossy(&text).trim().parse().ok();
            Err(OpenError::Locked { directory: vfs.display(Path::new("")), pid })
        }
        Err(error) => Err(unusable(error)),
    }
}

/// Whether the directory is free to be opened; an error that names the process if not. Changes nothing.
pub fn who_locks(vfs: &dyn Vfs) -> Result<(), OpenError> {
    let unusable = |error| OpenError::unusable(vfs, error);
    match backups::stat_or_missing(vfs, Path::new(LOCK_FILE)).map_err(unusable)? {
        Some(_) => lock_held(vfs).map(drop),
        None => Ok(()),
    }
}

fn write_pid(vfs: &dyn Vfs, path: &Path) -> io::Result<()> {
    let file = vfs.open(path, Open::Write)?;
    let text = format!("{}\n", std::process::id());
    file.write_at(0, &[text.as_bytes()])?;
    file.set_len(text.len() as u64)
}

/// Nothing may be written: every session is shown as far as it is intact, or refused.
fn watch_only<M: Machine>(vfs: &SharedVfs, lock: Box<dyn Send>, now: Timestamp, looked: Looked<M>) -> Opened<M> {
    let discarded = looked.history.discarded_bytes();
    let sessions = looked
        .plans
        .into_iter()
        .map(|(survey, plan)| OpenedSession { name: survey.files.name, outcome: plan.watched(discarded, now) })
        .collect();
    let store = Arc::new(DirectoryStore::closed(Arc::clone(vfs), lock));
    Opened { sessions, store, notes: Vec::new(), first_run: false }
}
