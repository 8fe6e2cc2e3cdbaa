//! Counts what passes through to another file system: how many operations of each kind, and how many bytes.

use super::{Open, SharedVfs, Stat, Vfs, VfsFile};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often each operation was called, whether or not it succeeded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Files opened.
    pub opens: u64,
    /// Files created (also counted in `opens`).
    pub creates: u64,
    /// Reads.
    pub reads: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Writes.
    pub writes: u64,
    /// Bytes asked to be written.
    pub bytes_written: u64,
    /// Reservations of space.
    pub allocates: u64,
    /// Changes of a file's length.
    pub set_lens: u64,
    /// Syncs of a file's content.
    pub syncs: u64,
    /// Syncs of a directory's entries.
    pub dir_syncs: u64,
    /// Renames.
    pub renames: u64,
    /// Hard links made.
    pub links: u64,
    /// Names removed.
    pub unlinks: u64,
    /// Directories made.
    pub dirs: u64,
}

impl Counts {
    /// Operations that change something on the disk, or make a change durable.
    pub fn changes(&self) -> u64 {
        self.creates
            + self.writes
            + self.allocates
            + self.set_lens
            + self.syncs
            + self.dir_syncs
            + self.renames
            + self.links
            + self.unlinks
            + self.dirs
    }
}

#[derive(Debug, Default)]
struct Counters {
    opens: AtomicU64,
    creates: AtomicU64,
    reads: AtomicU64,
    bytes_read: AtomicU64,
    writes: AtomicU64,
    bytes_written: AtomicU64,
    allocates: AtomicU64,
    set_lens: AtomicU64,
    syncs: AtomicU64,
    dir_syncs: AtomicU64,
    renames: AtomicU64,
    links: AtomicU64,
    unlinks: AtomicU64,
    dirs: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// A file system that counts, and leaves the work to another.
#[derive(Clone)]
pub struct CountingVfs {
    inner: SharedVfs,
    counters: Arc<Counters>,
}

impl CountingVfs {
    /// Counts what is asked of `inner` from now on. Clones share the counts.
    pub fn new(inner: SharedVfs) -> Self {
        Self { inner, counters: Arc::default() }
    }

    /// The counts so far.
    pub fn counts(&self) -> Counts {
        let c = &*self.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            opens: get(&c.opens),
            creates: get(&c.creates),
            reads: get(&c.reads),
            bytes_read: get(&c.bytes_read),
            writes: get(&c.writes),
            bytes_written: get(&c.bytes_written),
            allocates: get(&c.allocates),
            set_lens: get(&c.set_lens),
            syncs: get(&c.syncs),
            dir_syncs: get(&c.dir_syncs),
            renames: get(&c.renames),
            links: get(&c.links),
            unlinks: get(&c.unlinks),
            dirs: get(&c.dirs),
        }
    }
}

impl Vfs for CountingVfs {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn VfsFile>> {
        add(&self.counters.opens, 1);
        add(&self.counters.creates, u64::from(how == Open::CreateNew));
        let inner = self.inner.open(path, how)?;
        Ok(Box::new(CountingFile { inner, counters: Arc::clone(&self.counters) }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        add(&self.counters.renames, 1);
        self.inner.rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        add(&self.counters.links, 1);
        self.inner.link(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        add(&self.counters.unlinks, 1);
        self.inner.unlink(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        add(&self.counters.dirs, 1);
        self.inner.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        add(&self.counters.dir_syncs, 1);
        self.inner.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.inner.list(path)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.inner.stat(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send>> {
        self.inner.lock(path)
    }

    fn free_space(&self) -> io::Result<u64> {
        self.inner.free_space()
    }

    fn display(&self, path: &Path) -> String {
        self.inner.display(path)
    }
}

struct CountingFile {
    inner: Box<dyn VfsFile>,
    counters: Arc<Counters>,
}

impl VfsFile for CountingFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        add(&self.counters.reads, 1);
        let got = self.inner.read_at(offset, buffer)?;
        add(&self.counters.bytes_read, got as u64);
        Ok(got)
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        add(&self.counters.writes, 1);
        add(&self.counters.bytes_written, parts.iter().map(|part| part.len() as u64).sum());
        self.inner.write_at(offset, parts)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        add(&self.counters.allocates, 1);
        self.inner.allocate(len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        add(&self.counters.set_lens, 1);
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        add(&self.counters.syncs, 1);
        self.inner.sync()
    }

    fn stat(&self) -> io::Result<Stat> {
        self.inner.stat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::vfs::SimDisk;

    #[test]
    fn every_change_is_counted_once() {
        let vfs = CountingVfs::new(Arc::new(SimDisk::new()));
        let file = vfs.open(Path::new("a"), Open::CreateNew).unwrap();
        file.write_at(0, &[b"abc", b"de"]).unwrap();
        file.sync().unwrap();
        vfs.sync_dir(Path::new("")).unwrap();
        file.read_at(0, &mut [0; 5]).unwrap();
        let counts = vfs.counts();
        assert_eq!((counts.writes, counts.bytes_written, counts.syncs, counts.dir_syncs), (1, 5, 1, 1));
        assert_eq!((counts.reads, counts.bytes_read, counts.changes()), (1, 5, 4));
    }
}
