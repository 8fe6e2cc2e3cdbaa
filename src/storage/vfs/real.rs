//! Real files below one directory, reached without following symbolic links.

use super::{Open, Stat, Vfs, VfsFile};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io::{self, IoSlice};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Most parts that one `pwritev` takes (the kernel's `IOV_MAX`).
const PARTS_MAX: usize = 1024;

/// Files below `root`. Directories are made with mode 0700, files with 0600; every step of a path is opened
/// without following symbolic links (the root itself may be one).
#[derive(Debug, Clone)]
pub struct RealVfs {
    root: PathBuf,
}

impl RealVfs {
    /// A view of `root`, which need not exist yet: `create_dir("")` makes it.
    pub fn new(root: PathBuf) -> Self {
        Self { root }
    }

    fn root_fd(&self) -> io::Result<OwnedFd> {
        Ok(retry(|| rustix::fs::open(&self.root, directory_flags(), Mode::empty()))?)
    }

    /// Opens the directory at `path`, step by step.
    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut fd = self.root_fd()?;
        for component in path.components() {
            let name = normal(component)?;
            fd = retry(|| rustix::fs::openat(fd.as_fd(), name, directory_flags() | OFlags::NOFOLLOW, Mode::empty()))?;
        }
        Ok(fd)
    }

    /// The directory that holds `path`, and its name there.
    fn parent(&self, path: &Path) -> io::Result<(OwnedFd, OsString)> {
        let Some(last) = path.components().next_back() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is empty"));
        };
        let name = normal(last)?.to_os_string();
        Ok((self.directory(path.parent().unwrap_or(Path::new("")))?, name))
    }
}

fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

fn normal(component: Component<'_>) -> io::Result<&OsStr> {
    match component {
        Component::Normal(name) => Ok(name),
        Component::CurDir | Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "a path must stay below the data directory"))
        }
    }
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

/// How full a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this user may still write.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

impl RealVfs {
    /// How full the disk is.
    pub fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(self.root_fd()?)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Space { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }
}

impl Vfs for RealVfs {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn VfsFile>> {
        let (parent, name) = self.parent(path)?;
        let flags = match how {
            Open::Read => OFlags::RDONLY,
            Open::Write => OFlags::RDWR,
            Open::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        } | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NONBLOCK;
        let fd = retry(|| rustix::fs::openat(&parent, &name, flags, Mode::RUSR | Mode::WUSR))?;
        let file_type = FileType::from_raw_mode(rustix::fs::fstat(&fd)?.st_mode);
        if file_type != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a file", self.display(path))));
        }
        Ok(Box::new(RealFile { fd }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_parent, from_name) = self.parent(from)?;
        let (to_parent, to_name) = self.parent(to)?;
        Ok(rustix::fs::renameat(&from_parent, &from_name, &to_parent, &to_name)?)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_parent, from_name) = self.parent(from)?;
        let (to_parent, to_name) = self.parent(to)?;
        Ok(rustix::fs::linkat(&from_parent, &from_name, &to_parent, &to_name, AtFlags::empty())?)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(&parent, &name, AtFlags::empty())?)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let made = if path.as_os_str().is_empty() {
            rustix::fs::mkdirat(CWD, &self.root, Mode::RWXU)
        } else {
            let (parent, name) = self.parent(path)?;
            rustix::fs::mkdirat(&parent, &name, Mode::RWXU)
        };
        match made {
            Ok(()) => Ok(()),
            Err(Errno::EXIST) => self.directory(path).map(drop),
            Err(error) => Err(error.into()),
        }
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let fd = self.directory(path)?;
        Ok(retry(|| rustix::fs::fsync(&fd))?)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let fd = self.directory(path)?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_os_string();
            if name != "." && name != ".." {
                names.push(PathBuf::from(name));
            }
        }
        names.sort();
        Ok(names)
    }

    fn stat(&self, path: &Path) -> io::Result<Stat> {
        if path.as_os_str().is_empty() {
            return Ok(to_stat(&rustix::fs::fstat(self.root_fd()?)?));
        }
        let (parent, name) = self.parent(path)?;
        Ok(to_stat(&rustix::fs::statat(&parent, &name, AtFlags::SYMLINK_NOFOLLOW)?))
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send>> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = retry(|| rustix::fs::openat(&parent, &name, flags, Mode::RUSR | Mode::WUSR))?;
        retry(|| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive))?;
        Ok(Box::new(fd))
    }

    fn free_space(&self) -> io::Result<u64> {
        Ok(self.space()?.free)
    }

    fn display(&self, path: &Path) -> String {
        self.root.join(path).display().to_string()
    }
}

fn to_stat(stat: &rustix::fs::Stat) -> Stat {
    let file_type = FileType::from_raw_mode(stat.st_mode);
    Stat {
        len: u64::try_from(stat.st_size).unwrap_or(0),
        inode: stat.st_ino,
        #[cfg_attr(target_arch = "x86_64", expect(clippy::useless_conversion, reason = "narrower on other machines"))]
        links: u64::from(stat.st_nlink),
        mtime_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
        is_dir: file_type == FileType::Directory,
        is_symlink: file_type == FileType::Symlink,
    }
}

#[derive(Debug)]
struct RealFile {
    fd: OwnedFd,
}

impl VfsFile for RealFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(retry(|| rustix::io::pread(&self.fd, &mut *buffer, offset))?)
    }

    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        write_fully(offset, parts, |slices, at| retry(|| rustix::io::pwritev(&self.fd, slices, at)).map_err(Into::into))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match retry(|| rustix::fs::fallocate(&self.fd, FallocateFlags::empty(), 0, len)) {
            // Some file systems cannot reserve. Whoever needs the space writes zeros over it anyway.
            Err(Errno::OPNOTSUPP) if self.stat()?.len < len => self.set_len(len),
            Err(Errno::OPNOTSUPP) => Ok(()),
            done => Ok(done?),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(retry(|| rustix::fs::ftruncate(&self.fd, len))?)
    }

    fn sync(&self) -> io::Result<()> {
        // After EINTR nothing is known about the pages, so it is an error like any other.
        Ok(rustix::fs::fdatasync(&self.fd)?)
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(to_stat(&rustix::fs::fstat(&self.fd)?))
    }
}

/// Writes all of `parts` at `offset`, however little `write` takes at a time.
fn write_fully(
    mut offset: u64,
    parts: &[&[u8]],
    mut write: impl FnMut(&[IoSlice<'_>], u64) -> io::Result<usize>,
) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = parts.iter().filter(|part| !part.is_empty()).map(|p| IoSlice::new(p)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        let written = write(&rest[..rest.len().min(PARTS_MAX)], offset)?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        offset += written as u64;
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::vfs::read_all;

    fn disk() -> (tempfile::TempDir, RealVfs) {
        let dir = tempfile::tempdir().unwrap();
        let vfs = RealVfs::new(dir.path().join("data"));
        vfs.create_dir(Path::new("")).unwrap();
        (dir, vfs)
    }

    #[test]
    fn what_was_written_in_parts_is_read_as_one() {
        let (_dir, vfs) = disk();
        let path = Path::new("a");
        let file = vfs.open(path, Open::CreateNew).unwrap();
        file.write_at(2, &[b"cd", b"", b"ef"]).unwrap();
        file.write_at(0, &[b"ab"]).unwrap();
        file.sync().unwrap();
        vfs.sync_dir(Path::new("")).unwrap();
        assert_eq!(read_all(&vfs, path, 6).unwrap(), b"abcdef");
        assert_eq!(read_all(&vfs, path, 5).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(vfs.open(path, Open::CreateNew).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn short_writes_are_continued() {
        let mut taken = Vec::new();
        write_fully(10, &[b"abc", b"defgh"], |slices, at| {
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.to_vec()).collect();
            let some = all.len().min(3);
            taken.push((at, all[..some].to_vec()));
            Ok(some)
        })
        .unwrap();
        assert_eq!(taken, [(10, b"abc".to_vec()), (13, b"def".to_vec()), (16, b"gh".to_vec())]);
    }

    #[test]
    fn symbolic_links_are_never_followed() {
        let (dir, vfs) = disk();
        std::fs::write(dir.path().join("outside"), b"secret").unwrap();
        std::os::unix::fs::symlink(dir.path().join("outside"), dir.path().join("data/link")).unwrap();
        std::os::unix::fs::symlink(dir.path(), dir.path().join("data/folder")).unwrap();
        assert!(vfs.open(Path::new("link"), Open::Read).is_err());
        assert!(vfs.open(Path::new("folder/outside"), Open::Read).is_err());
        assert!(vfs.open(Path::new("../outside"), Open::Read).is_err());
        assert!(vfs.stat(Path::new("link")).unwrap().is_symlink);
    }

    #[test]
    fn only_one_holds_the_lock() {
        let (_dir, vfs) = disk();
        let first = vfs.lock(Path::new("LOCK")).unwrap();
        assert_eq!(vfs.lock(Path::new("LOCK")).err().unwrap().kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert!(vfs.lock(Path::new("LOCK")).is_ok());
    }

    #[test]
    fn links_and_names_are_counted_and_listed() {
        let (_dir, vfs) = disk();
        vfs.create_dir(Path::new("b")).unwrap();
        vfs.create_dir(Path::new("b")).unwrap();
        let file = vfs.open(Path::new("a"), Open::CreateNew).unwrap();
        file.allocate(8192).unwrap();
        vfs.link(Path::new("a"), Path::new("b/x")).unwrap();
        assert_eq!((file.stat().unwrap().links, file.stat().unwrap().len), (2, 8192));
        assert_eq!(vfs.link(Path::new("a"), Path::new("b/x")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        vfs.rename(Path::new("b/x"), Path::new("c")).unwrap();
        vfs.unlink(Path::new("a")).unwrap();
        assert_eq!(vfs.list(Path::new("")).unwrap(), [PathBuf::from("b"), PathBuf::from("c")]);
        assert!(vfs.stat(Path::new("b")).unwrap().is_dir);
        assert!(vfs.free_space().unwrap() > 0);
    }
}
