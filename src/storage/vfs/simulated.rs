//! A disk in memory that forgets what was not synced, runs full, fails and stops when told to.
//!
//! The model is harsher than real file systems: after a power cut each unsynced 512-byte sector may be old, new or
//! anything it was in between; each unsynced directory entry may be missing, whatever came after it; a failed sync
//! loses the dirty data of that file for good although programs still read it, and later syncs claim success.

mod content;
mod crash;
mod disk;

use super::{Open, Stat, Vfs, VfsFile};
pub use crash::{Survival, Unsynced};
use disk::{DirChange, Directory, Disk, Inode, Stopped};
use imbl::Vector;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The error that an operation is made to fail with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InjectedError {
    /// The device failed (EIO).
    Io,
    /// No space is left (ENOSPC).
    Full,
}

impl InjectedError {
    fn to_error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Io => rustix::io::Errno::IO.raw_os_error(),
            Self::Full => rustix::io::Errno::NOSPC.raw_os_error(),
        })
    }
}

/// Something that goes wrong. Operations that change the disk are counted from 1 ([`SimDisk::changes`]); reading ones
/// have a count of their own ([`SimDisk::reads`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The changing operation with this number fails.
    Error(u64, InjectedError),
    /// The changing operations from this number on fail.
    ErrorsFrom(u64, InjectedError),
    /// The reading operation with this number fails with EIO.
    ReadError(u64),
    /// The machine stops just before the changing operation with this number.
    CrashBefore(u64),
    /// The machine stops just after the changing operation with this number.
    CrashAfter(u64),
}

/// What an operation in the trace was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationKind {
    /// A file was created.
    Create,
    /// A file was written.
    Write,
    /// Space was reserved.
    Allocate,
    /// A file's length was set.
    SetLen,
    /// A file was synced.
    Sync,
    /// A name was changed.
    Rename,
    /// A hard link was made.
    Link,
    /// A name was removed.
    Unlink,
    /// A directory was made.
    CreateDir,
    /// A directory was synced.
    SyncDir,
}

/// One changing operation that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// What it was.
    pub kind: OperationKind,
    /// On which path (the one the file was opened by; of a rename or link the new one).
    pub path: PathBuf,
    /// The open file's inode; 0 where none is open.
    pub inode: u64,
    /// Where in the file; 0 where that has no meaning.
    pub offset: u64,
    /// How many bytes, or the new length.
    pub len: u64,
    /// Whether it succeeded.
    pub ok: bool,
}

/// Whether an error says that the simulated machine has stopped.
pub fn is_simulated_crash(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<Stopped>)
}

fn unless(planned: Option<InjectedError>) -> io::Result<()> {
    planned.map_or(Ok(()), |error| Err(error.to_error()))
}

/// A simulated disk. Clones are the same disk; [`SimDisk::fork`] makes an independent one, cheaply.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<Disk>>);

impl Default for SimDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl SimDisk {
    /// An empty disk without limit of space.
    pub fn new() -> Self {
        Self::from_disk(Disk::new())
    }

    fn from_disk(disk: Disk) -> Self {
        Self(Arc::new(Mutex::new(disk)))
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another disk that holds the same, including what is not synced and the faults to come. Locks are not taken over.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut disk = self.disk().clone();
        disk.locked.clear();
        Self::from_disk(disk)
    }

    /// Plans something to go wrong.
    pub fn inject(&self, fault: Fault) {
        self.disk().faults.push(fault);
    }

    /// Nothing more goes wrong (a machine that has stopped stays so).
    pub fn clear_faults(&self) {
        self.disk().faults.clear();
    }

    /// Limits the bytes that files may take up, in whole 4 KiB blocks.
    pub fn set_quota(&self, bytes: Option<u64>) {
        self.disk().quota = bytes;
    }

    /// Bytes that files take up.
    pub fn used(&self) -> u64 {
        self.disk().used()
    }

    /// Changing operations so far.
    pub fn changes(&self) -> u64 {
        self.disk().changes
    }

    /// Reading operations so far.
    pub fn reads(&self) -> u64 {
        self.disk().reads
    }

    /// Whether the machine has stopped.
    pub fn has_stopped(&self) -> bool {
        self.disk().stopped
    }

    /// Stops the machine now.
    pub fn stop(&self) {
        self.disk().stopped = true;
    }

    /// Starts to remember the changing operations, from none.
    pub fn start_trace(&self) {
        self.disk().trace = Some(Vector::new());
    }

    /// The changing operations since [`SimDisk::start_trace`].
    pub fn trace(&self) -> Vec<Operation> {
        self.disk().trace.iter().flatten().cloned().collect()
    }

    /// Overwrites bytes behind everybody's back, in memory and on the platter: decay, not an operation.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn tamper(&self, path: &Path, offset: u64, bytes: &[u8]) {
        let mut disk = self.disk();
        let number = disk.find(path).expect("the file to tamper with exists");
        if let Some(inode) = disk.inodes.get_mut(&number) {
            inode.content.current.write(offset, bytes);
            inode.content.durable.write(offset, bytes);
        }
    }

    /// Cuts a file behind everybody's back.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn tamper_len(&self, path: &Path, len: u64) {
        let mut disk = self.disk();
        let number = disk.find(path).expect("the file to tamper with exists");
        if let Some(inode) = disk.inodes.get_mut(&number) {
            inode.content.current.set_len(len);
            inode.content.durable.set_len(len);
        }
    }
}

impl Vfs for SimDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn VfsFile>> {
        let mut disk = self.disk();
        let inode = if how == Open::CreateNew {
            disk.run(OperationKind::Create, path, |disk, planned| {
                unless(planned)?;
                let (dir, name) = disk.place(path)?;
                if disk.entries(dir)?.contains_key(name.as_os_str()) {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                Ok(disk.create(dir, name, None))
            })?
        } else {
            disk.read()?;
            disk.find(path)?
        };
        let Some(found) = disk.inodes.get_mut(&inode).filter(|found| found.directory.is_none()) else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        found.handles += 1;
        Ok(Box::new(SimFile { disk: self.clone(), inode, path: path.to_path_buf(), writable: how != Open::Read }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk().run(OperationKind::Rename, to, |disk, planned| {
            unless(planned)?;
            let inode = disk.find(from)?;
            let (from_dir, from) = disk.place(from)?;
            let (to_dir, to) = disk.place(to)?;
            match disk.entries(to_dir)?.get(to.as_os_str()).copied() {
                Some(same) if same == inode => return Ok(()),
                Some(replaced) => disk.drop_link(replaced),
                None => {}
            }
            disk.change(DirChange::Rename { from_dir, from, to_dir, to, inode });
            Ok(())
        })
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk().run(OperationKind::Link, to, |disk, planned| {
            unless(planned)?;
            let inode = disk.find(from)?;
            let (dir, name) = disk.place(to)?;
            if disk.entries(dir)?.contains_key(name.as_os_str()) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            if let Some(inode) = disk.inodes.get_mut(&inode) {
                inode.links += 1;
            }
            disk.change(DirChange::Add { dir, name, inode });
            Ok(())
        })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk().run(OperationKind::Unlink, path, |disk, planned| {
            unless(planned)?;
            let inode = disk.find(path)?;
            if disk.inodes.get(&inode).is_some_and(|inode| inode.directory.is_some()) {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            let (dir, name) = disk.place(path)?;
            disk.change(DirChange::Remove { dir, name, inode });
            disk.drop_link(inode);
            Ok(())
        })
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk().run(OperationKind::CreateDir, path, |disk, planned| {
            unless(planned)?;
            if disk.directory(path).is_ok() {
                return Ok(());
            }
            let (dir, name) = disk.place(path)?;
            if disk.entries(dir)?.contains_key(name.as_os_str()) {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            disk.create(dir, name, Some(Directory::default()));
            Ok(())
        })
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk().run(OperationKind::SyncDir, path, |disk, planned| {
            unless(planned)?;
            let dir = disk.directory(path)?;
            disk.sync_dir(dir);
            Ok(())
        })
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let mut disk = self.disk();
        disk.read()?;
        let dir = disk.directory(path)?;
        Ok(disk.entries(dir)?.keys().map(PathBuf::from).collect())
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        let mut disk = self.disk();
        disk.read()?;
        let inode = disk.find(path)?;
        disk.stat(inode)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send>> {
        let mut disk = self.disk();
        if disk.stopped {
            return Err(io::Error::other(Stopped));
        }
        let inode = match disk.find(path) {
            Ok(inode) => inode,
            Err(_missing) => {
                let (dir, name) = disk.place(path)?;
                disk.create(dir, name, None)
            }
        };
        if disk.locked.contains(&inode) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        disk.locked.push(inode);
        Ok(Box::new(SimLock { disk: self.clone(), inode }))
    }

    fn free_space(&self) -> io::Result<u64> {
        let mut disk = self.disk();
        disk.read()?;
        Ok(disk.quota.map_or(1 << 60, |quota| quota.saturating_sub(disk.used())))
    }

    fn display(&self, path: &Path) -> String {
        Path::new("(simulated)").join(path).display().to_string()
    }
}

struct SimLock {
    disk: SimDisk,
    inode: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.disk.disk().locked.retain(|inode| *inode != self.inode);
    }
}

struct SimFile {
    disk: SimDisk,
    inode: u64,
    path: PathBuf,
    writable: bool,
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if let Some(inode) = self.disk.disk().inodes.get_mut(&self.inode) {
            inode.handles = inode.handles.saturating_sub(1);
        }
    }
}

impl SimFile {
    fn change(
        &self,
        kind: OperationKind,
        (offset, len): (u64, u64),
        work: impl FnOnce(&mut Inode, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        if !self.writable {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        self.disk.disk().run_on(kind, &self.path, (self.inode, offset, len), |disk, planned| {
            unless(planned)?;
            let now_ns = disk.now_ns;
            let allocated = disk.inodes.get(&self.inode).map_or(0, |inode| inode.content.allocated);
            let room = disk.room(allocated);
            let inode = disk.inodes.get_mut(&self.inode).ok_or(io::ErrorKind::NotFound)?;
            inode.mtime_ns = now_ns;
            work(inode, room)
        })
    }
}

impl VfsFile for SimFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut disk = self.disk.disk();
        disk.read()?;
        Ok(disk.inodes.get(&self.inode).ok_or(io::ErrorKind::NotFound)?.content.current.read(offset, buffer))
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let bytes = parts.concat();
        self.change(OperationKind::Write, (offset, bytes.len() as u64), |inode, room| {
            // As on a real disk, what still fits is written before the write fails.
            let fits = usize::try_from(room.saturating_sub(offset)).unwrap_or(usize::MAX).min(bytes.len());
            inode.content.write(offset, &bytes[..fits]);
            if fits < bytes.len() { Err(InjectedError::Full.to_error()) } else { Ok(()) }
        })
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.change(OperationKind::Allocate, (0, len), |inode, room| {
            if len.next_multiple_of(4096) > room {
                return Err(InjectedError::Full.to_error());
            }
            inode.content.allocated = inode.content.allocated.max(len.next_multiple_of(4096));
            if len > inode.content.current.len {
                inode.content.set_len(len);
            }
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(OperationKind::SetLen, (0, len), |inode, _| {
            inode.content.set_len(len);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.disk().run_on(OperationKind::Sync, &self.path, (self.inode, 0, 0), |disk, planned| {
            let inode = disk.inodes.get_mut(&self.inode).ok_or(io::ErrorKind::NotFound)?;
            if planned.is_some() {
                inode.content.forget_dirt();
                return unless(planned);
            }
            inode.content.sync();
            inode.durable_mtime_ns = inode.mtime_ns;
            Ok(())
        })
    }

    fn stat(&self) -> io::Result<Stat> {
        let mut disk = self.disk.disk();
        disk.read()?;
        disk.stat(self.inode)
    }
}

#[cfg(test)]
mod tests;
