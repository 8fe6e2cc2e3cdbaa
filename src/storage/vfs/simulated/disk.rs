//! The state of a simulated disk: inodes, the entries that name them, and what goes wrong next.

use super::content::Content;
use super::{Fault, InjectedError, Operation, OperationKind};
use crate::storage::vfs::Stat;
use imbl::{OrdMap, Vector};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

pub(super) const ROOT: u64 = 1;

#[derive(Debug, thiserror::Error)]
#[error("the simulated machine has stopped")]
pub(super) struct Stopped;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Entries {
    Current,
    Durable,
}

#[derive(Clone, Default)]
pub(super) struct Directory {
    pub(super) current: OrdMap<OsString, u64>,
    pub(super) durable: OrdMap<OsString, u64>,
}

#[derive(Clone, Default)]
pub(super) struct Inode {
    pub(super) content: Content,
    pub(super) directory: Option<Directory>,
    pub(super) links: u64,
    pub(super) handles: u64,
    pub(super) mtime_ns: i128,
    pub(super) durable_mtime_ns: i128,
}

/// A change of entries that no directory sync has made durable yet.
#[derive(Clone)]
pub(super) enum DirChange {
    Add { dir: u64, name: PathBuf, inode: u64 },
    Remove { dir: u64, name: PathBuf, inode: u64 },
    Rename { from_dir: u64, from: PathBuf, to_dir: u64, to: PathBuf, inode: u64 },
}

impl DirChange {
    pub(super) fn apply(&self, inodes: &mut OrdMap<u64, Inode>, which: Entries) {
        match self {
            Self::Add { dir, name, inode } => set_entry(inodes, which, *dir, name, *inode),
            Self::Remove { dir, name, inode } => clear_entry(inodes, which, *dir, name, *inode),
            Self::Rename { from_dir, from, to_dir, to, inode } => {
                clear_entry(inodes, which, *from_dir, from, *inode);
                set_entry(inodes, which, *to_dir, to, *inode);
            }
        }
    }
}

pub(super) fn entries_of(
    inodes: &mut OrdMap<u64, Inode>,
    which: Entries,
    dir: u64,
) -> Option<&mut OrdMap<OsString, u64>> {
    let directory = inodes.get_mut(&dir)?.directory.as_mut()?;
    Some(match which {
        Entries::Current => &mut directory.current,
        Entries::Durable => &mut directory.durable,
    })
}

pub(super) fn set_entry(inodes: &mut OrdMap<u64, Inode>, which: Entries, dir: u64, name: &Path, inode: u64) {
    if let Some(entries) = entries_of(inodes, which, dir) {
        entries.insert(name.as_os_str().to_os_string(), inode);
    }
}

pub(super) fn clear_entry(inodes: &mut OrdMap<u64, Inode>, which: Entries, dir: u64, name: &Path, inode: u64) {
    if let Some(entries) = entries_of(inodes, which, dir)
        && entries.get(name.as_os_str()) == Some(&inode)
    {
        entries.remove(name.as_os_str());
    }
}

#[derive(Clone)]
pub(super) struct Disk {
    pub(super) inodes: OrdMap<u64, Inode>,
    pub(super) next_inode: u64,
    pub(super) pending: Vector<DirChange>,
    pub(super) now_ns: i128,
    pub(super) quota: Option<u64>,
    pub(super) faults: Vec<Fault>,
    pub(super) changes: u64,
    pub(super) reads: u64,
    pub(super) stopped: bool,
    pub(super) locked: Vec<u64>,
    pub(super) trace: Option<Vector<Operation>>,
}

impl Disk {
    pub(super) fn new() -> Self {
        let root = Inode { directory: Some(Directory::default()), links: 1, ..Inode::default() };
        Self {
            inodes: OrdMap::unit(ROOT, root),
            next_inode: ROOT + 1,
            pending: Vector::new(),
            now_ns: 1_700_000_000_000_000_000,
            quota: None,
            faults: Vec::new(),
            changes: 0,
            reads: 0,
            stopped: false,
            locked: Vec::new(),
            trace: None,
        }
    }

    pub(super) fn directory(&self, path: &Path) -> io::Result<u64> {
        path.components().try_fold(ROOT, |at, component| match component {
            Component::Normal(name) => {
                let child = self.entries(at)?.get(name).copied().ok_or(io::ErrorKind::NotFound)?;
                self.entries(child).map(|_| child)
            }
            Component::CurDir | Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                Err(io::ErrorKind::InvalidInput.into())
            }
        })
    }

    pub(super) fn entries(&self, inode: u64) -> io::Result<&OrdMap<OsString, u64>> {
        let directory = self.inodes.get(&inode).and_then(|inode| inode.directory.as_ref());
        Ok(&directory.ok_or(io::ErrorKind::NotADirectory)?.current)
    }

    /// The directory that holds `path`, and its name there.
    pub(super) fn place(&self, path: &Path) -> io::Result<(u64, PathBuf)> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.directory(path.parent().unwrap_or(Path::new("")))?, PathBuf::from(name)))
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<u64> {
        if path.as_os_str().is_empty() {
            return Ok(ROOT);
        }
        let (dir, name) = self.place(path)?;
        Ok(self.entries(dir)?.get(name.as_os_str()).copied().ok_or(io::ErrorKind::NotFound)?)
    }

    pub(super) fn change(&mut self, change: DirChange) {
        change.apply(&mut self.inodes, Entries::Current);
        self.pending.push_back(change);
    }

    pub(super) fn create(&mut self, dir: u64, name: PathBuf, directory: Option<Directory>) -> u64 {
        let number = self.next_inode;
        self.next_inode += 1;
        let inode =
            Inode { directory, mtime_ns: self.now_ns, durable_mtime_ns: self.now_ns, links: 1, ..Inode::default() };
        self.inodes.insert(number, inode);
        self.change(DirChange::Add { dir, name, inode: number });
        number
    }

    pub(super) fn drop_link(&mut self, inode: u64) {
        if let Some(inode) = self.inodes.get_mut(&inode) {
            inode.links = inode.links.saturating_sub(1);
        }
    }

    pub(super) fn sync_dir(&mut self, dir: u64) {
        let mut still_pending = Vector::new();
        for change in std::mem::take(&mut self.pending) {
            match change {
                DirChange::Add { dir: at, .. } | DirChange::Remove { dir: at, .. } if at == dir => {
                    change.apply(&mut self.inodes, Entries::Durable);
                }
                DirChange::Rename { from_dir, to_dir, .. } if from_dir == dir && to_dir == dir => {
                    change.apply(&mut self.inodes, Entries::Durable);
                }
                // Between two directories: the new name is durable with its directory; until the old one is synced
                // too, the file may have both. Syncing the old one alone promises nothing.
                DirChange::Rename { from_dir, ref from, to_dir, ref to, inode } if to_dir == dir => {
                    set_entry(&mut self.inodes, Entries::Durable, to_dir, to, inode);
                    still_pending.push_back(DirChange::Remove { dir: from_dir, name: from.clone(), inode });
                }
                DirChange::Add { .. } | DirChange::Remove { .. } | DirChange::Rename { .. } => {
                    still_pending.push_back(change);
                }
            }
        }
        self.pending = still_pending;
        self.forget_unreachable();
    }

    pub(super) fn forget_unreachable(&mut self) {
        let gone: Vec<u64> = (self.inodes.iter())
            .filter(|(_, inode)| inode.links == 0 && inode.handles == 0)
            .map(|(number, _)| *number)
            .filter(|number| !self.is_named(*number))
            .collect();
        for number in gone {
            self.inodes.remove(&number);
        }
    }

    pub(super) fn is_named(&self, number: u64) -> bool {
        let durable =
            |inode: &Inode| inode.directory.as_ref().is_some_and(|d| d.durable.values().any(|n| *n == number));
        self.inodes.values().any(durable)
            || self.pending.iter().any(|change| match change {
                DirChange::Add { inode, .. } | DirChange::Remove { inode, .. } | DirChange::Rename { inode, .. } => {
                    *inode == number
                }
            })
    }

    pub(super) fn used(&self) -> u64 {
        let live = self.inodes.values().filter(|inode| inode.links > 0 || inode.handles > 0);
        live.map(|inode| inode.content.allocated).sum()
    }

    /// How far a file that takes up `allocated` bytes may grow.
    pub(super) fn room(&self, allocated: u64) -> u64 {
        self.quota.map_or(u64::MAX, |quota| allocated + quota.saturating_sub(self.used()))
    }

    pub(super) fn read(&mut self) -> io::Result<()> {
        if self.stopped {
            return Err(io::Error::other(Stopped));
        }
        self.reads += 1;
        if self.faults.contains(&Fault::ReadError(self.reads)) {
            return Err(InjectedError::Io.to_error());
        }
        Ok(())
    }

    /// Runs one changing operation, with whatever was planned to go wrong at it.
    pub(super) fn run<T>(
        &mut self,
        kind: OperationKind,
        path: &Path,
        work: impl FnOnce(&mut Self, Option<InjectedError>) -> io::Result<T>,
    ) -> io::Result<T> {
        self.run_on(kind, path, (0, 0, 0), work)
    }

    /// As [`Disk::run`], on an open file: its inode, and where and how much of it.
    pub(super) fn run_on<T>(
        &mut self,
        kind: OperationKind,
        path: &Path,
        (inode, offset, len): (u64, u64, u64),
        work: impl FnOnce(&mut Self, Option<InjectedError>) -> io::Result<T>,
    ) -> io::Result<T> {
        if self.stopped {
            return Err(io::Error::other(Stopped));
        }
        self.changes += 1;
        self.now_ns += 1_000_000;
        let number = self.changes;
        let planned = self.faults.iter().find_map(|fault| match *fault {
            Fault::Error(at, error) if at == number => Some(error),
            Fault::ErrorsFrom(at, error) if at <= number => Some(error),
            Fault::Error(..)
            | Fault::ErrorsFrom(..)
            | Fault::ReadError(_)
            | Fault::CrashBefore(_)
            | Fault::CrashAfter(_) => None,
        });
        if self.faults.contains(&Fault::CrashBefore(number)) {
            self.stopped = true;
            return Err(io::Error::other(Stopped));
        }
        let done = work(self, planned);
        if let Some(trace) = &mut self.trace {
            trace.push_back(Operation { kind, path: path.to_path_buf(), inode, offset, len, ok: done.is_ok() });
        }
        if self.faults.contains(&Fault::CrashAfter(number)) {
            self.stopped = true;
            return Err(io::Error::other(Stopped));
        }
        done
    }
}

impl Disk {
    pub(super) fn stat(&self, number: u64) -> io::Result<Stat> {
        let inode = self.inodes.get(&number).ok_or(io::ErrorKind::NotFound)?;
        Ok(Stat {
            len: inode.content.current.len,
            inode: number,
            links: inode.links,
            mtime_ns: inode.mtime_ns,
            is_dir: inode.directory.is_some(),
            is_symlink: false,
        })
    }
}
