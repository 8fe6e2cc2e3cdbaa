//! A temporary data directory on a real disk, removed when the measurement is over.

use crate::ops::random;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A folder of its own for one server.
pub(super) struct Workspace {
    folder: PathBuf,
}

impl Workspace {
    /// Creates it below `BENCH_DIR`, or else the current directory: `/tmp` may be memory.
    pub(super) fn create() -> io::Result<Self> {
        let base = std::env::var_os("BENCH_DIR").map_or_else(std::env::current_dir, |dir| Ok(dir.into()))?;
        let folder = base.join(format!(".hotset-bench-{:016x}", random::u128() >> 64));
        fs::create_dir_all(&folder)?;
        Ok(Self { folder })
    }

    /// Where the daemon keeps its data.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }
}

impl AsRef<Path> for Workspace {
    fn as_ref(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // What cannot be removed stays for the user to look at.
        drop(fs::remove_dir_all(&self.folder));
    }
}
