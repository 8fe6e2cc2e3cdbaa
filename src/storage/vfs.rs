//! The file system as storage sees it: every operation that the promise rests on passes through this trait.
//!
//! Paths are relative to the data directory. Implementations: real files, a simulated disk that forgets what was not
//! synced, and one that counts.

mod counting;
mod real;
mod simulated;

pub use counting::{CountingVfs, Counts};
pub use real::{RealVfs, Space};
pub use simulated::{Fault, InjectedError, Operation, OperationKind, SimDisk, Survival, Unsynced, is_simulated_crash};

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A shared handle to a file system.
pub type SharedVfs = Arc<dyn Vfs>;

/// How a file is opened. Symbolic links are never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Open {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// A file that must not exist yet, for reading and writing. Mode 0600.
    CreateNew,
}

/// What a file is, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Bytes.
    pub len: u64,
    /// The inode's number.
    pub inode: u64,
    /// Hard links.
    pub links: u64,
    /// Last change of the content, nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether it is a symbolic link.
    pub is_symlink: bool,
}

/// A file system rooted in one data directory.
pub trait Vfs: Send + Sync {
    /// Opens a file.
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn VfsFile>>;
    /// Replaces or creates `to` with `from`, atomically; durable after `sync_dir` of both parents.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes a hard link; fails if `to` exists.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Creates a directory (mode 0700); succeeds if it exists already.
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The names in a directory, sorted.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// What a path is.
    fn stat(&self, path: &Path) -> io::Result<Stat>;
    /// Takes the exclusive lock on a file (created if missing); `WouldBlock` if another process holds it. It is
    /// held until the returned guard is dropped.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send>>;
    /// Bytes that may still be written to this disk.
    fn free_space(&self) -> io::Result<u64>;
    /// The path as people know it, for messages.
    fn display(&self, path: &Path) -> String;
}

/// An open file.
pub trait VfsFile: Send {
    /// Reads up to `buffer.len()` bytes at `offset`; 0 at the end.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of `parts`, one after the other, at `offset`; retries short writes and EINTR.
    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()>;
    /// Reserves space so that later writes below `len` cannot run out of it; extends the file to `len`.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the content durable (fdatasync).
    fn sync(&self) -> io::Result<()>;
    /// What the open file is.
    fn stat(&self) -> io::Result<Stat>;
}

/// Reads a whole file of at most `max` bytes.
pub fn read_all(vfs: &dyn Vfs, path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let file = vfs.open(path, Open::Read)?;
    let len = file.stat()?.len;
    if len > max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{len} bytes, over {max}")));
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
    let mut filled = 0;
    while filled < bytes.len() {
        let got = file.read_at(filled as u64, &mut bytes[filled..])?;
        if got == 0 {
            bytes.truncate(filled);
            break;
        }
        filled += got;
    }
    Ok(bytes)
}
