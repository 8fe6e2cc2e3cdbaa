//! Looks at the files of one session without changing any.

use crate::storage::Branch;
use crate::storage::backups::{self, Backup, Identity, SessionFiles, stat_or_missing};
use crate::storage::snapshot::{self, Header, SnapshotError};
use crate::storage::vfs::Vfs;
use std::io;
use std::path::PathBuf;

/// What lies under the name of the current snapshot.
#[derive(Debug)]
pub(crate) enum LiveFile {
    /// Nothing.
    Missing,
    /// A snapshot whose hashes are right.
    Whole {
        /// What it says about itself.
        header: Box<Header>,
        /// What it is on disk.
        identity: Identity,
    },
    /// Something that cannot be used.
    Unusable {
        /// What it is on disk.
        identity: Identity,
        /// Why not.
        error: SnapshotError,
    },
}

/// The files of one session as they were found.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Whose.
    pub(crate) files: SessionFiles,
    /// The current snapshot.
    pub(crate) live: LiveFile,
    /// `backups/`, newest first; only headers were read.
    pub(crate) backups: Vec<Backup>,
    /// `backups/kept/`, newest first; only headers were read.
    pub(crate) kept: Vec<Backup>,
}

impl Survey {
    /// Looks at one session's files.
    pub(crate) fn take(vfs: &dyn Vfs, files: SessionFiles, lineage: u128) -> io::Result<Self> {
        let live = look_at_live(vfs, &files)?;
        let backups = backups::list(vfs, &files.backups(), lineage)?;
        let kept = backups::list(vfs, &files.kept(), lineage)?;
        Ok(Self { files, live, backups, kept })
    }

    /// The backups of one branch, pinned ones too, newest first, as candidates to start from.
    pub(crate) fn of_branch(&self, lineage: u128, branch: Branch) -> Vec<(&Backup, &Header)> {
        let all = self.backups.iter().chain(&self.kept);
        let mut candidates: Vec<_> = all
            .filter_map(|backup| Some((backup, backup.header.as_ref().ok()?)))
            .filter(|(_, header)| (header.lineage, header.branch) == (lineage, branch))
            .collect();
        candidates.sort_by_key(|(_, header)| std::cmp::Reverse((header.seq, header.id)));
        candidates
    }

    /// The newest backup all of whose hashes are right: what a message may tell the operator to copy.
    pub(crate) fn newest_whole_backup(&self, vfs: &dyn Vfs) -> Option<PathBuf> {
        let all = self.backups.iter().chain(&self.kept);
        all.filter(|backup| backup.header.is_ok())
            .find(|backup| snapshot::verify(vfs, &backup.path).is_ok())
            .map(|backup| backup.path.clone())
    }

    /// Whether there is no trace of the session among its files.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self.live, LiveFile::Missing) && self.backups.is_empty() && self.kept.is_empty()
    }

    /// A second name of the current snapshot among the backups, left by a publish that was interrupted between the
    /// link and the rename.
    pub(crate) fn twin_of_live(&self) -> Option<&Backup> {
        let LiveFile::Whole { identity, .. } = &self.live else { return None };
        self.backups.iter().find(|backup| backup.identity == *identity)
    }

    /// A verified file that already keeps exactly this state of this branch.
    pub(crate) fn kept_at(&self, lineage: u128, branch: Branch, seq: u64) -> Option<&Backup> {
        let same = |header: &Header| (header.lineage, header.branch, header.seq) == (lineage, branch, seq);
        self.kept.iter().find(|backup| backup.header.as_ref().is_ok_and(same))
    }
}

fn look_at_live(vfs: &dyn Vfs, files: &SessionFiles) -> io::Result<LiveFile> {
    let path = files.live();
    let Some(stat) = stat_or_missing(vfs, &path)? else { return Ok(LiveFile::Missing) };
    let identity = Identity::from(stat);
    Ok(match snapshot::verify(vfs, &path) {
        Ok(verified) => LiveFile::Whole { header: Box::new(verified.header), identity },
        Err(error) => LiveFile::Unusable { identity, error },
    })
}
