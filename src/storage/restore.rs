//! Choosing a state to go on with: a backup to restore, or what is left after damage, by accepting a loss.
//!
//! With the daemon stopped, both do what an operator does with `cp` and a restart, in one atomic step: they write the
//! chosen state as a snapshot of its own beside the current one, rename it into place, and open the directory, which then
//! begins a new branch. What happens while the daemon runs is in `saver/switch.rs`.

use crate::ops::random;
use crate::session::{SessionName, Timestamp};
use crate::storage::backups::{self, SessionFiles};
use crate::storage::fsck::{BackupInfo, find_backup, list_backups};
use crate::storage::metadata::iso;
use crate::storage::recovery::{self, LiveFile, OpenError, OpenOptions, Opened, Plan, Survey};
use crate::storage::snapshot::{self, Header, Purpose, SnapshotError, SnapshotId};
use crate::storage::vfs::{RealVfs, SharedVfs, Vfs};
use crate::storage::{Branch, Machine};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the state to restore is.
#[derive(Clone)]
pub enum Source {
    /// A backup of the session: its file name, or its path below the data directory.
    Backup(String),
    /// A file elsewhere: the folder it is in, and its name there.
    File(SharedVfs, PathBuf),
}

impl Source {
    /// What `from` means: a backup, as [`Source::backup`], or a file elsewhere.
    pub fn find(vfs: &SharedVfs, session: &SessionName, from: &str) -> Result<Self, RestoreError> {
        match Self::backup(vfs, session, from) {
            Err(RestoreError::NotFound(_)) => Self::file(Path::new(from)),
            other => other,
        }
    }

    /// One of the session's backups: `latest`, its name, or its path below the data directory.
    pub fn backup(vfs: &SharedVfs, session: &SessionName, from: &str) -> Result<Self, RestoreError> {
        let named = |backup: &&BackupInfo| match from {
            "latest" => !backup.kept && backup.problem.is_none(),
            _ => backup.file == Path::new(from) || backup.file.file_name() == Some(from.as_ref()),
        };
        match list_backups(&**vfs, session)?.iter().find(named) {
            Some(backup) => Ok(Self::Backup(backup.file.display().to_string())),
            None if from == "latest" => Err(RestoreError::NoBackup(session.clone())),
            None => Err(RestoreError::NotFound(from.to_owned())),
        }
    }

    /// A file anywhere.
    pub fn file(path: &Path) -> Result<Self, RestoreError> {
        match (path.is_file(), path.file_name()) {
            (true, Some(name)) => {
                let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
                Ok(Self::File(Arc::new(RealVfs::new(folder.into())), name.into()))
            }
            _ => Err(RestoreError::NotFound(path.display().to_string())),
        }
    }
}

/// A state that was read from a file all of whose hashes are right.
pub struct Chosen<M> {
    /// The file, for people.
    pub file: String,
    /// The state.
    pub machine: M,
    /// What the file says about itself.
    pub header: Header,
}

impl<M> Chosen<M> {
    /// What is restored, for people.
    pub fn source(&self) -> String {
        source_of(&self.header)
    }
}

/// What is restored with this snapshot, for people.
pub(crate) fn source_of(header: &Header) -> String {
    format!("the snapshot of {}", time(header.at))
}

/// A moment as people read it, UTC.
pub fn time(at: Timestamp) -> String {
    format!("{}Z", iso(at))
}

/// Reads all of a state that is to be restored. Changes nothing.
pub fn choose<M: Machine>(vfs: &SharedVfs, session: &SessionName, source: &Source) -> Result<Chosen<M>, RestoreError> {
    let (from, path) = match source {
        Source::Backup(name) => (vfs, find_backup(&**vfs, session, name)?),
        Source::File(folder, path) => (folder, path.clone()),
    };
    let file = from.display(&path);
    match snapshot::load::<M>(&**from, &path) {
        Ok((machine, verified)) => Ok(Chosen { file, machine, header: verified.header }),
        Err(error) => Err(RestoreError::Source { file, error }),
    }
}

/// Why a state could not be chosen. Nothing was changed, unless [`RestoreError::Open`] says so.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The chosen file cannot be used.
    #[error("{file}: {error}")]
    Source {
        /// The file.
        file: String,
        /// What is wrong with it.
        error: SnapshotError,
    },
    /// There is no such backup.
    #[error("there is no backup and no file {0:?}: see hotset backups list")]
    NotFound(String),
    /// There is no backup at all.
    #[error("session {0} has no backup")]
    NoBackup(SessionName),
    /// The directory cannot be used.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The confirmation does not fit what would be lost now.
    #[error("the token does not fit: what would be lost is no longer what was shown. Look again")]
    WrongToken,
    /// A session has no state at all to go on with.
    #[error("nothing is left of session {session}: {reason}")]
    NothingLeft {
        /// Which.
        session: SessionName,
        /// Why.
        reason: String,
    },
    /// Nothing is damaged.
    #[error("nothing needs to be recovered: start the daemon")]
    NothingToRecover,
}

/// Puts a backup in place of the current state. What was newer becomes `backups/kept/pre_restore_*`, which
/// [`recovery::Restored::pre_restore`] of the session names. Close the returned store when done.
pub fn restore<M: Machine>(
    vfs: &SharedVfs,
    session: &SessionName,
    source: &Source,
    options: &OpenOptions,
) -> Result<Opened<M>, RestoreError> {
    let lock = recovery::lock(&**vfs)?;
    let Chosen { machine, header, .. } = choose::<M>(vfs, session, source)?;
    put_in_place(&**vfs, session, &machine, &header, options.now)?;
    Ok(recovery::open_locked(vfs, lock, options)?)
}

/// What going on without damaged events would cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What would be lost, session by session, for people.
    pub sessions: Vec<SessionLoss>,
    /// Confirms exactly this loss.
    pub token: String,
}

/// What going on would cost one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionLoss {
    /// Which.
    pub session: SessionName,
    /// The newest event that is left.
    pub seq: u64,
    /// The moment of the snapshot it begins with.
    pub at: Timestamp,
    /// What is damaged or missing; `None`: nothing is lost.
    pub damage: Option<String>,
}

/// Tells what [`accept_loss`] would cost, and the token that confirms it. Changes nothing.
pub fn assess_loss<M: Machine>(vfs: &SharedVfs) -> Result<Loss, RestoreError> {
    let _lock = recovery::lock(&**vfs)?;
    let best = best_states::<M>(&**vfs)?;
    Ok(loss_of(&best))
}

/// Goes on with the best intact state of every session, on new branches. Whatever is set aside is kept in
/// `quarantine/`. Close the returned store when done.
pub fn accept_loss<M: Machine>(vfs: &SharedVfs, token: &str, options: &OpenOptions) -> Result<Opened<M>, RestoreError> {
    let lock = recovery::lock(&**vfs)?;
    let best = best_states::<M>(&**vfs)?;
    if loss_of(&best).token != token.trim() {
        return Err(RestoreError::WrongToken);
    }
    for (files, state) in &best {
        put_in_place(&**vfs, &files.name, &state.machine, &state.header, options.now)?;
    }
    Ok(recovery::open_locked(vfs, lock, options)?)
}

/// A state to go on with.
struct Best<M> {
    machine: M,
    header: Header,
    damage: Option<String>,
}

fn best_states<M: Machine>(vfs: &dyn Vfs) -> Result<Vec<(SessionFiles, Best<M>)>, RestoreError> {
    let looked = recovery::look::<M>(vfs)?;
    let gives_up_journal = looked.history().is_corrupt();
    let lineage = looked.history().lineage();
    let mut best = Vec::new();
    for (survey, plan) in looked.into_plans() {
        let state = match plan {
            Plan::Fresh | Plan::Restore(_) => continue,
            Plan::Serve { .. } if !gives_up_journal => continue,
            Plan::Serve { built, .. } => {
                let header = header_of(&survey, built.base, &built.machine, lineage);
                Best { machine: built.machine, header, damage: None }
            }
            Plan::ReadOnly { built, damage, .. } => {
                let header = header_of(&survey, built.base, &built.machine, lineage);
                Best { machine: built.machine, header, damage: Some(damage) }
            }
            Plan::Refuse { reason, .. } => newest_whole::<M>(vfs, &survey, reason)?,
        };
        best.push((survey.files, state));
    }
    if best.is_empty() { Err(RestoreError::NothingToRecover) } else { Ok(best) }
}

fn header_of<M: Machine>(survey: &Survey, base: Option<(Header, PathBuf)>, machine: &M, lineage: u128) -> Header {
    let (seq, summary) = (machine.seq(), machine.summary());
    match base {
        Some((header, _)) => Header { seq, summary, ..header },
        None => Header {
            lineage,
            branch: Branch(0),
            epoch: 0,
            id: SnapshotId::NONE,
            parent: SnapshotId::NONE,
            seq,
            created: Timestamp(0),
            at: Timestamp(0),
            summary,
            purpose: Purpose::Kept,
            session: survey.files.name.clone(),
            writer: String::new(),
            reasons: Vec::new(),
            runs: Vec::new(),
        },
    }
}

/// The newest usable snapshot of a session whose journal says nothing useful.
fn newest_whole<M: Machine>(vfs: &dyn Vfs, survey: &Survey, reason: String) -> Result<Best<M>, RestoreError> {
    let live = matches!(survey.live, LiveFile::Whole { .. }).then(|| survey.files.live());
    let mut candidates: Vec<_> = survey.backups.iter().chain(&survey.kept).collect();
    candidates.sort_by_key(|backup| std::cmp::Reverse(backup.header.as_ref().map_or(0, |header| header.seq)));
    for path in live.iter().chain(candidates.iter().map(|backup| &backup.path)) {
        if let Ok((machine, verified)) = snapshot::load::<M>(vfs, path) {
            let damage = format!("everything after the snapshot of {}Z: {reason}", iso(verified.header.at));
            return Ok(Best { machine, header: verified.header, damage: Some(damage) });
        }
    }
    Err(RestoreError::NothingLeft { session: survey.files.name.clone(), reason })
}

fn loss_of<M: Machine>(best: &[(SessionFiles, Best<M>)]) -> Loss {
    let sessions: Vec<_> = best
        .iter()
        .map(|(files, state)| SessionLoss {
            session: files.name.clone(),
            seq: state.machine.seq(),
            at: state.header.at,
            damage: state.damage.clone(),
        })
        .collect();
    let mut hasher = blake3::Hasher::new();
    for loss in &sessions {
        hasher.update(format!("{} {} {:?}\n", loss.session, loss.seq, loss.damage).as_bytes());
    }
    let token = hasher.finalize().to_hex()[..12].to_owned();
    Loss { sessions, token }
}

/// Makes a state the current snapshot, under an id of its own, so that the next start takes it for a restore.
fn put_in_place<M: Machine>(
    vfs: &dyn Vfs,
    session: &SessionName,
    machine: &M,
    of: &Header,
    now: Timestamp,
) -> Result<(), RestoreError> {
    let files = SessionFiles::of(session);
    files.create(vfs)?;
    let header = Header {
        id: SnapshotId(random::u128()),
        parent: of.id,
        created: now,
        purpose: Purpose::Kept,
        reasons: vec!["restore".into()],
        runs: Vec::new(),
        writer: format!("hotset {}", env!("CARGO_PKG_VERSION")),
        session: session.clone(),
        ..of.clone()
    };
    let temporary = files.temporary(header.id);
    let target = vfs.display(&temporary);
    snapshot::write(vfs, &temporary, &header, machine).map_err(|error| RestoreError::Source { file: target, error })?;
    keep_current(vfs, &files)?;
    vfs.rename(&temporary, &files.live())?;
    // No point of its own: until the opening that follows has set aside what was newer, either state may come back.
    vfs.sync_dir(&files.root)?;
    Ok(())
}

/// The current snapshot stays as a backup if it is whole, and in quarantine if not.
fn keep_current(vfs: &dyn Vfs, files: &SessionFiles) -> Result<(), RestoreError> {
    let live = files.live();
    if backups::stat_or_missing(vfs, &live)?.is_none() {
        return Ok(());
    }
    match snapshot::verify(vfs, &live) {
        Ok(verified) => {
            let known = backups::list(vfs, &files.backups(), 0)?;
            let same = |header: &Header| header.id == verified.header.id;
            if !known.iter().any(|backup| backup.header.as_ref().is_ok_and(same)) {
                let name = backups::free_name(vfs, &files.backups(), "snapshot", verified.header.at)?;
                backups::link_or_copy(vfs, &live, &name)?;
                // No point of its own: the state before is also kept by the opening that follows.
                vfs.sync_dir(&files.backups())?;
            }
        }
        Err(_) => drop(backups::quarantine(vfs, files, &live, "replaced_snapshot")?),
    }
    Ok(())
}
