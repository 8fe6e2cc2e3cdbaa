//! Choosing what rotation may not delete, and deleting more than it would. May run beside the daemon.

use crate::session::SessionName;
use crate::storage::backups::{self, SessionFiles, Trusted};
use crate::storage::fsck::find_backup;
use crate::storage::state_file;
use crate::storage::vfs::Vfs;
use std::io;
use std::path::{Path, PathBuf};

/// Moves a backup to `backups/kept/`, where rotation leaves it alone, durably. Returns where it is now. A backup that is
/// there already stays where it is.
pub fn pin_backup(vfs: &dyn Vfs, session: &SessionName, name: &str) -> io::Result<PathBuf> {
    let files = SessionFiles::of(session);
    let path = find_backup(vfs, session, name)?;
    if path.parent() != Some(&files.backups()) {
        return Ok(path);
    }
    let file_name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let target = files.kept().join(file_name);
    if backups::stat_or_missing(vfs, &target)?.is_some() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} exists already", vfs.display(&target))));
    }
    vfs.create_dir(&files.kept())?;
    vfs.rename(&path, &target)?;
    vfs.sync_dir(&files.kept())?; // durability: S27
    // No point of its own: a name that comes back among the backups is one too many, and rotation takes it.
    vfs.sync_dir(&files.backups())?;
    Ok(target)
}

/// Keeps the newest `keep` whole backups of a session, at least one, and deletes older ones; what is kept or pinned
/// stays. Returns which are gone.
pub fn prune_backups(vfs: &dyn Vfs, session: &SessionName, keep: usize) -> io::Result<Vec<PathBuf>> {
    let files = SessionFiles::of(session);
    let lineage = state_file::read(vfs)?.witness().map_or(0, |witness| witness.lineage);
    let before = backups::list(vfs, &files.backups(), lineage)?;
    backups::rotate(vfs, &files, lineage, keep, &mut Trusted::default())?;
    let is_gone = |path: &Path| backups::stat_or_missing(vfs, path).map(|stat| stat.is_none());
    let mut gone = Vec::new();
    for backup in before {
        if is_gone(&backup.path)? {
            gone.push(backup.path);
        }
    }
    Ok(gone)
}
