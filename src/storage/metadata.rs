//! `session_metadata.json`: what the newest save holds, for people and scripts. Recovery never reads it.

use crate::session::Timestamp;
use crate::storage::Summary;
use crate::storage::vfs::{Open, Vfs};
use chrono::DateTime;
use serde::Serialize;
use std::io;
use std::path::{Path, PathBuf};

/// The file's content. The first five keys are those of the old server's file, in its order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Metadata {
    /// Seconds since 1970.
    timestamp: f64,
    /// The same moment, UTC.
    datetime: String,
    /// Why the save happened; several joined by a comma.
    reason: String,
    user_count: u64,
    node_count: u64,
    task_count: u64,
    message_count: u64,
    /// The newest event in the snapshot.
    seq: u64,
    /// Size of the snapshot.
    bytes: u64,
    /// BLAKE3 root of the snapshot, in hex.
    checksum: String,
    /// The snapshot's format.
    format: &'static str,
}

impl Metadata {
    /// Describes a snapshot that has been published.
    pub(crate) fn new(at: Timestamp, reasons: &[String], summary: &Summary, seq: u64) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds fit 53 bits until the year 287396")]
        let timestamp = at.0 as f64 / 1000.0;
        Self {
            timestamp,
            datetime: iso(at),
            reason: reasons.join(", "),
            user_count: summary.users,
            node_count: summary.nodes,
            task_count: summary.tasks,
            message_count: summary.messages,
            seq,
            bytes: 0,
            checksum: String::new(),
            format: "HSSNAP1",
        }
    }

    /// Adds what is known of the file.
    pub(crate) fn of_file(self, bytes: u64, root: blake3::Hash) -> Self {
        Self { bytes, checksum: root.to_hex().to_string(), ..self }
    }

    /// Replaces the file atomically.
    pub(crate) fn write(&self, vfs: &dyn Vfs, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        text.push(b'\n');
        replace(vfs, path, &text)
    }
}

/// `2025-01-12T14:32:25`, UTC.
pub(crate) fn iso(at: Timestamp) -> String {
    format_utc(at, "%Y-%m-%dT%H:%M:%S")
}

/// `20250112_143225`, UTC, as it appears in file names.
pub(crate) fn stamp(at: Timestamp) -> String {
    format_utc(at, "%Y%m%d_%H%M%S")
}

fn format_utc(at: Timestamp, format: &str) -> String {
    DateTime::from_timestamp_millis(at.0).unwrap_or_default().format(format).to_string()
}

/// Replaces a small file: written beside it, synced, renamed.
fn replace(vfs: &dyn Vfs, path: &Path, content: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    match vfs.unlink(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = vfs.open(&temporary, Open::CreateNew)?;
    file.write_at(0, &[content])?;
    // No points of their own, here and below: the file is for people, and every save writes it anew.
    file.sync()?;
    drop(file);
    vfs.rename(&temporary, path)?;
    vfs.sync_dir(path.parent().unwrap_or(Path::new("")))
}
