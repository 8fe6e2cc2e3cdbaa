//! Where the files of a session lie, and its backups: naming, listing, rotation, quarantine and gentle deletion.

use crate::ops::clock;
use crate::session::{SessionName, Timestamp};
use crate::storage::journal::FileMark;
use crate::storage::metadata::stamp;
use crate::storage::snapshot::{self, Header, SnapshotError, SnapshotId};
use crate::storage::vfs::{Open, Stat, Vfs};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The current snapshot.
pub(crate) const SNAPSHOT_FILE: &str = "session_snapshot.bin";
/// Ends the name of whatever is being written or deleted; such files are removed at the next start.
const TEMPORARY: &str = ".tmp";
/// Freeing a large file in one go stalls the journal's syncs; it is cut in steps instead.
const CUT_STEP: u64 = 32 << 20;
const CUT_PAUSE: Duration = Duration::from_millis(5);
/// Most files of the same second in one directory.
const SAME_SECOND_MAX: u32 = 10_000;

/// The files of one session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionFiles {
    /// Whose.
    pub(crate) name: SessionName,
    /// The data directory itself for the default session, `sessions/<name>` for the others.
    pub(crate) root: PathBuf,
}

impl SessionFiles {
    /// Where a session's files lie.
    pub(crate) fn of(name: &SessionName) -> Self {
        let root = if name.is_default() { PathBuf::new() } else { Path::new("sessions").join(name.as_str()) };
        Self { name: name.clone(), root }
    }

    /// The current snapshot.
    pub(crate) fn live(&self) -> PathBuf {
        self.root.join(SNAPSHOT_FILE)
    }

    /// The description for people.
    pub(crate) fn metadata(&self) -> PathBuf {
        self.root.join("session_metadata.json")
    }

    /// The rotated backups.
    pub(crate) fn backups(&self) -> PathBuf {
        self.root.join("backups")
    }

    /// Backups that rotation leaves alone.
    pub(crate) fn kept(&self) -> PathBuf {
        self.backups().join("kept")
    }

    /// Damaged files, moved out of the way.
    pub(crate) fn quarantine(&self) -> PathBuf {
        self.root.join("quarantine")
    }

    /// A snapshot that is being written.
    pub(crate) fn temporary(&self, id: SnapshotId) -> PathBuf {
        self.root.join(format!("{SNAPSHOT_FILE}.{:032x}{TEMPORARY}", id.0))
    }

    /// Makes the directories, durably.
    pub(crate) fn create(&self, vfs: &dyn Vfs) -> io::Result<()> {
        if !self.name.is_default() {
            vfs.create_dir(Path::new("sessions"))?;
            vfs.create_dir(&self.root)?;
            vfs.sync_dir(Path::new("sessions"))?; // durability: S28
            vfs.sync_dir(Path::new(""))?; // durability: S29
        }
        vfs.create_dir(&self.backups())?;
        vfs.create_dir(&self.kept())?;
        vfs.sync_dir(&self.backups())?; // durability: S30
        // No point of its own: whatever puts something into backups/ syncs this folder afterwards too.
        vfs.sync_dir(&self.root)
    }

    /// Removes what an interrupted save, copy or deletion left behind.
    pub(crate) fn remove_temporary(&self, vfs: &dyn Vfs) -> io::Result<()> {
        for directory in [self.root.clone(), self.backups(), self.kept()] {
            for name in names(vfs, &directory)? {
                let text = name.to_string_lossy();
                let ours = text.starts_with(SNAPSHOT_FILE) || text.starts_with("snapshot_") || text.starts_with("pre_");
                if ours && text.ends_with(TEMPORARY) {
                    vfs.unlink(&directory.join(&name))?;
                }
            }
        }
        Ok(())
    }
}

/// What identifies a file's content without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    /// The inode's number.
    pub(crate) inode: u64,
    /// Bytes.
    pub(crate) len: u64,
    /// Last change of the content.
    pub(crate) mtime_ns: i128,
}

impl From<FileMark> for Identity {
    fn from(mark: FileMark) -> Self {
        Self { inode: mark.inode, len: mark.len, mtime_ns: mark.mtime_ns }
    }
}

impl From<Stat> for Identity {
    fn from(stat: Stat) -> Self {
        Self { inode: stat.inode, len: stat.len, mtime_ns: stat.mtime_ns }
    }
}

/// A file in `backups/` or `backups/kept/` that has the name of a backup.
#[derive(Debug)]
pub(crate) struct Backup {
    /// Where.
    pub(crate) path: PathBuf,
    /// What it is on disk.
    pub(crate) identity: Identity,
    /// What it says about itself, or why that cannot be read.
    pub(crate) header: Result<Header, SnapshotError>,
}

/// The backups of one directory, newest first: by lineage (ours first), then by `seq`, never by name or date.
///
/// Reads only headers. Files that vanish meanwhile are left out.
pub(crate) fn list(vfs: &dyn Vfs, directory: &Path, lineage: u128) -> io::Result<Vec<Backup>> {
    let mut found = Vec::new();
    for name in names(vfs, directory)? {
        let path = directory.join(&name);
        let Some(stat) = stat_or_missing(vfs, &path)? else { continue };
        if !is_backup_name(&name.to_string_lossy()) || stat.is_dir || stat.is_symlink {
            continue;
        }
        let header = snapshot::read_header(vfs, &path);
        found.push(Backup { path, identity: stat.into(), header });
    }
    let rank = |backup: &Backup| {
        backup.header.as_ref().map_or((false, 0, SnapshotId::NONE), |h| (h.lineage == lineage, h.seq, h.id))
    };
    found.sort_by(|a, b| rank(b).cmp(&rank(a)).then_with(|| b.path.cmp(&a.path)));
    Ok(found)
}

/// A free name of the form `<prefix>_YYYYMMDD_HHMMSS[_NN].bin` in `directory`.
pub(crate) fn free_name(vfs: &dyn Vfs, directory: &Path, prefix: &str, at: Timestamp) -> io::Result<PathBuf> {
    let stamp = stamp(at);
    for number in 0..SAME_SECOND_MAX {
        let suffix = if number == 0 { String::new() } else { format!("_{number:02}") };
        let path = directory.join(format!("{prefix}_{stamp}{suffix}.bin"));
        if stat_or_missing(vfs, &path)?.is_none() {
            return Ok(path);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("there are {SAME_SECOND_MAX} files of {stamp} already")))
}

fn is_backup_name(name: &str) -> bool {
    let stem = name.strip_suffix(".bin").unwrap_or_default();
    let Some(stamp) = stem.strip_prefix("snapshot_") else {
        return ["pre_restore_", "pre_upgrade_", "archived_"].iter().any(|prefix| stem.starts_with(prefix));
    };
    stamp.len() >= 15 && stamp.bytes().all(|byte| byte.is_ascii_digit() || byte == b'_')
}

/// Which files were found whole, so that none is read twice. Kept by identity: a changed file is read again.
#[derive(Debug, Default)]
pub(crate) struct Trusted {
    files: BTreeMap<Identity, bool>,
    current: Option<Identity>,
}

impl Trusted {
    /// Notes that the snapshot in place has this identity and was verified.
    pub(crate) fn add_current(&mut self, identity: Identity) {
        self.files.insert(identity, true);
        self.current = Some(identity);
    }

    /// Whether the backup is whole; reads it if that is not known yet.
    pub(crate) fn is_whole(&mut self, vfs: &dyn Vfs, backup: &Backup) -> bool {
        let known = || match snapshot::verify(vfs, &backup.path) {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(file = %vfs.display(&backup.path), %error, "A backup is damaged");
                false
            }
        };
        backup.header.is_ok() && *self.files.entry(backup.identity).or_insert_with(known)
    }

    /// Forgets what is not among `present`.
    fn keep_only(&mut self, present: &[Backup]) {
        let current = self.current;
        self.files.retain(|identity, _| {
            Some(*identity) == current || present.iter().any(|backup| backup.identity == *identity)
        });
    }
}

/// Keeps the newest `keep` backups that are whole (at least one) and deletes the older ones. Damaged backups do not
/// count and are moved to quarantine; files that it cannot judge are left alone.
pub(crate) fn rotate(
    vfs: &dyn Vfs,
    files: &SessionFiles,
    lineage: u128,
    keep: usize,
    trusted: &mut Trusted,
) -> io::Result<()> {
    let backups = list(vfs, &files.backups(), lineage)?;
    trusted.keep_only(&backups);
    let mut whole = 0;
    // Whether they are whole matters only when something is to be deleted.
    if backups.len() <= keep.max(1) {
        return Ok(());
    }
    for backup in &backups {
        match &backup.header {
            Err(SnapshotError::Io(_) | SnapshotError::Unsupported { .. }) => {}
            Err(_) => drop(quarantine(vfs, files, &backup.path, "damaged_backup")?),
            Ok(_) if whole >= keep.max(1) => delete(vfs, &backup.path)?,
            Ok(_) if trusted.is_whole(vfs, backup) => whole += 1, // durability: S19
            Ok(_) => drop(quarantine(vfs, files, &backup.path, "damaged_backup")?),
        }
    }
    // No point of its own: a deleted backup that comes back is deleted again.
    vfs.sync_dir(&files.backups())
}

/// Deletes a backup. A large one is cut in steps first, unless somebody else links to it.
pub(crate) fn delete(vfs: &dyn Vfs, path: &Path) -> io::Result<()> {
    let Some(stat) = stat_or_missing(vfs, path)? else { return Ok(()) };
    if stat.links > 1 || stat.len <= CUT_STEP {
        return missing_is_fine(vfs.unlink(path));
    }
    // Half a backup must not be found under a backup's name after a crash.
    let doomed = PathBuf::from(format!("{}{TEMPORARY}", path.display()));
    missing_is_fine(vfs.rename(path, &doomed))?;
    let file = vfs.open(&doomed, Open::Write)?;
    let mut len = stat.len;
    while len > 0 {
        len = len.saturating_sub(CUT_STEP);
        file.set_len(len)?;
        std::thread::sleep(CUT_PAUSE);
    }
    drop(file);
    missing_is_fine(vfs.unlink(&doomed))
}

/// Moves a file to `quarantine/<time>_<reason>/`, durably. Nothing that was damaged is ever deleted.
pub(crate) fn quarantine(vfs: &dyn Vfs, files: &SessionFiles, path: &Path, reason: &str) -> io::Result<PathBuf> {
    let place = files.quarantine().join(format!("{}_{reason}", stamp(Timestamp(clock::now_ms()))));
    vfs.create_dir(&files.quarantine())?;
    vfs.create_dir(&place)?;
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy().into_owned();
    let mut target = place.join(&name);
    for number in 1..SAME_SECOND_MAX {
        if stat_or_missing(vfs, &target)?.is_none() {
            break;
        }
        target = place.join(format!("{name}.{number}"));
    }
    vfs.rename(path, &target)?;
    for directory in [&place, &files.quarantine(), &files.root] {
        vfs.sync_dir(directory)?; // durability: S31
    }
    // No point of its own: without it the file may have both names.
    vfs.sync_dir(path.parent().unwrap_or(Path::new("")))?;
    Ok(target)
}

/// Moves a whole folder to the data directory's `quarantine/<time>_<reason>`, durably and in one step.
pub(crate) fn quarantine_folder(vfs: &dyn Vfs, folder: &Path, reason: &str) -> io::Result<PathBuf> {
    let quarantine = Path::new("quarantine");
    vfs.create_dir(quarantine)?;
    let name = format!("{}_{reason}", stamp(Timestamp(clock::now_ms())));
    let mut place = quarantine.join(&name);
    for number in 1..SAME_SECOND_MAX {
        if stat_or_missing(vfs, &place)?.is_none() {
            break;
        }
        place = quarantine.join(format!("{name}_{number:02}"));
    }
    vfs.rename(folder, &place)?;
    for directory in [quarantine, folder.parent().unwrap_or(Path::new("")), Path::new("")] {
        vfs.sync_dir(directory)?; // durability: S32
    }
    Ok(place)
}

/// Gives a file a second name; where the file system cannot do that, a copy. The directory is still to be synced.
pub(crate) fn link_or_copy(vfs: &dyn Vfs, from: &Path, to: &Path) -> io::Result<()> {
    match vfs.link(from, to) {
        // Some file systems know no links, and files of another user may not be linked.
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) => {
            copy(vfs, from, to)
        }
        other => other,
    }
}

/// Copies a whole file to a new name: written beside it, synced, renamed, and durable on return.
pub(crate) fn copy(vfs: &dyn Vfs, from: &Path, to: &Path) -> io::Result<()> {
    let temporary = PathBuf::from(format!("{}{TEMPORARY}", to.display()));
    missing_is_fine(vfs.unlink(&temporary))?;
    let source = vfs.open(from, Open::Read)?;
    let target = vfs.open(&temporary, Open::CreateNew)?;
    let mut buffer = vec![0; 1 << 20];
    let (mut at, mut synced) = (0, 0);
    loop {
        let got = source.read_at(at, &mut buffer)?;
        if got == 0 {
            break;
        }
        target.write_at(at, &[&buffer[..got]])?;
        at += got as u64;
        // In steps, so that others do not wait for one large sync; what counts is the last one.
        if at - synced >= 4 << 20 {
            target.sync()?;
            synced = at;
        }
    }
    target.sync()?; // durability: S20
    drop(target);
    vfs.rename(&temporary, to)?;
    vfs.sync_dir(to.parent().unwrap_or(Path::new(""))) // durability: S33
}

/// What a path is; `None` if there is nothing.
pub(crate) fn stat_or_missing(vfs: &dyn Vfs, path: &Path) -> io::Result<Option<Stat>> {
    match vfs.stat(path) {
        Ok(stat) => Ok(Some(stat)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names in a directory; none if there is no directory of that name.
pub(crate) fn names(vfs: &dyn Vfs, directory: &Path) -> io::Result<Vec<PathBuf>> {
    match vfs.list(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        // Somebody put something else there; links are never followed.
        Err(_) if stat_or_missing(vfs, directory)?.is_some_and(|stat| !stat.is_dir) => Ok(Vec::new()),
        other => other,
    }
}

/// Takes "there is no such file" for success.
pub(crate) fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
