//! What opening a data directory comes to: per session served, read-only or refused, and for the whole an error.

use crate::session::{SessionName, Timestamp};
use crate::storage::journal::{ScanError, Settings, StartError};
use crate::storage::keep::Keep;
use crate::storage::snapshot::SnapshotError;
use crate::storage::store::DirectoryStore;
use crate::storage::vfs::Vfs;
use crate::storage::{Run, Summary};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How to open a data directory.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// How much is kept beyond what recovery needs.
    pub keep: Keep,
    /// How the journal writes.
    pub journal: Settings,
    /// The wall clock: for names and display.
    pub now: Timestamp,
    /// This start of the daemon.
    pub run: Run,
}

impl OpenOptions {
    /// The documented defaults: 10 backups, 24 hours of history, at most 2 GiB of it.
    pub fn new(now: Timestamp, run: Run) -> Self {
        Self {
            keep: Keep { max_backups: 10, history: Duration::from_hours(24), history_cap: 2 << 30 },
            journal: Settings::default(),
            now,
            run,
        }
    }
}

/// An opened data directory.
pub struct Opened<M> {
    /// Every session found, the default one first.
    pub sessions: Vec<OpenedSession<M>>,
    /// Where they are kept from now on.
    pub store: Arc<DirectoryStore>,
    /// What people should know, for the log: moved files, repaired names, damage that costs nothing.
    pub notes: Vec<String>,
    /// Whether the directory was empty.
    pub first_run: bool,
}

/// One session of the directory.
#[derive(Debug)]
pub struct OpenedSession<M> {
    /// Whose.
    pub name: SessionName,
    /// Whether and how it can be served.
    pub outcome: Outcome<M>,
}

/// Whether and how a session can be served.
#[derive(Debug)]
pub enum Outcome<M> {
    /// Serve it.
    Serving {
        /// The state.
        machine: M,
        /// What it was restored from; `None`: the session is new.
        restored: Option<Restored>,
    },
    /// Acknowledged records are damaged: show what is intact, accept nothing, report 503.
    ReadOnly {
        /// The state before the damage.
        machine: M,
        /// What it was restored from.
        restored: Restored,
        /// Exactly what is damaged or missing.
        damage: String,
        /// The command that goes on without it.
        command: String,
    },
    /// Serving anything would be a guess: serve nobody, report 503. Nothing was changed.
    Refused {
        /// What was found.
        reason: String,
        /// The command that repairs it.
        command: String,
    },
}

impl<M> Outcome<M> {
    /// The state, if there is one to show.
    pub fn machine(&self) -> Option<&M> {
        match self {
            Self::Serving { machine, .. } | Self::ReadOnly { machine, .. } => Some(machine),
            Self::Refused { .. } => None,
        }
    }
}

/// What a session was restored from, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The moment of the snapshot it began with; of this start if there was none.
    pub at: Timestamp,
    /// The newest event.
    pub seq: u64,
    /// The newest event in a snapshot.
    pub saved: u64,
    /// What the state holds; of a restored snapshot, what it held when it was made.
    pub summary: Summary,
    /// Events replayed from the journal.
    pub replayed: u64,
    /// Bytes of unacknowledged, incompletely written events that were left out.
    pub discarded_bytes: u64,
    /// The file that keeps what was newer than a restored snapshot, relative to the data directory.
    pub pre_restore: Option<String>,
}

/// Why a data directory cannot be opened. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another daemon uses it (exit code 75).
    #[error("another daemon{} uses {directory}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Locked {
        /// The data directory.
        directory: String,
        /// The other daemon, if it said who it is.
        pid: Option<u32>,
    },
    /// It cannot be read or written (exit code 77).
    #[error("cannot use {path} as user {uid}: {error}")]
    Unusable {
        /// The path at fault.
        path: String,
        /// Who tried.
        uid: u32,
        /// What the file system said.
        error: io::Error,
    },
    /// A newer version wrote it (exit code 78).
    #[error(
        "{path} is of a format that this version does not know ({what}): use the version that wrote it, or a newer one"
    )]
    Unsupported {
        /// The file.
        path: String,
        /// Which feature is unknown.
        what: String,
    },
    /// The disk failed while opening (exit code 74).
    #[error("cannot use {path}: {error}")]
    Disk {
        /// The data directory.
        path: String,
        /// What the file system said.
        error: io::Error,
    },
    /// The disk failed (exit code 74).
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The journal could not be opened (exit code 74).
    #[error("{0}")]
    Journal(String),
}

impl OpenError {
    /// The directory cannot be used by this user.
    pub(super) fn unusable(vfs: &dyn Vfs, error: io::Error) -> Self {
        let uid = rustix::process::geteuid().as_raw();
        Self::Unusable { path: vfs.display(Path::new("")), uid, error }
    }

    /// Says of which directory a bare error of the file system speaks, and whose it is if permission is missing.
    pub(super) fn blaming(self, vfs: &dyn Vfs) -> Self {
        match self {
            Self::Io(error)
                if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                Self::unusable(vfs, error)
            }
            Self::Io(error) => Self::Disk { path: vfs.display(Path::new("")), error },
            Self::Disk { .. }
            | Self::Locked { .. }
            | Self::Unusable { .. }
            | Self::Unsupported { .. }
            | Self::Journal(_) => self,
        }
    }
}

impl From<StartError> for OpenError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Io { source, .. }
                if matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) =>
            {
                Self::Io(source)
            }
            StartError::Io { .. } => Self::Journal(error.to_string()),
        }
    }
}

impl From<ScanError> for OpenError {
    fn from(error: ScanError) -> Self {
        match error {
            ScanError::Unsupported { file, what } => Self::Unsupported { path: file, what },
            ScanError::Io { .. } => Self::Journal(error.to_string()),
        }
    }
}

impl From<SnapshotError> for OpenError {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Io(error) => Self::Io(error),
            SnapshotError::Unsupported { what, .. } => Self::Unsupported { path: "a snapshot".into(), what },
            SnapshotError::NotASnapshot | SnapshotError::Damaged { .. } | SnapshotError::Unacceptable(_) => {
                Self::Io(io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
            }
        }
    }
}
