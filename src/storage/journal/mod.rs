//! The journal: one append-only log for all sessions of a data directory, in segments that a power cut cannot confuse.
//!
//! [`Writer`] owns the newest segment and is the only thing that writes; [`scan()`] reads everything back and never
//! writes. A scan decides exactly one of: whole, torn (only what nobody was promised is missing), or corrupt
//! (something promised is missing, with its range). Every byte is described in `docs/file-format.md`.

mod catalog;
mod control;
mod early;
mod effect;
mod frame;
mod history;
mod log;
mod positions;
mod queue;
mod reader;
mod records;
mod retain;
mod scan;
mod segment;
mod spare;
mod start;
mod walk;
mod writer;

pub use control::{Control, FileMark, Published};
pub use early::Early;
pub use history::{HistoryError, HistoryItem, history};
pub use positions::{Branched, Positions, RunStart, SessionPosition};
pub use retain::{Retained, Retention};
pub use scan::{
    Corruption, Cut, Item, LostRecords, MissingRecords, Place, Report, Request, ScanError, SegmentReport, Stray,
    TornTail, Verdict, scan,
};
pub use start::{Start, StartError};
pub use writer::{Stats, Writer};

use std::time::Duration;

/// The directory of the segments, relative to the data directory.
pub const DIRECTORY: &str = "journal";

/// The identity of a data directory: 128 random bits made with it. Secret, because it seeds the checksums.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lineage(pub u128);

impl std::fmt::Debug for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Lineage(…)")
    }
}

/// How the journal writes. The defaults are what the daemon uses, except for `sync_spacing`, which is a setting of its
/// own (SYNC_SPACING); tests make everything smaller.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Bytes of one segment file; at least 16 times `chunk_bytes` plus 64 KiB.
    pub segment_bytes: u64,
    /// Records with longer bodies are written in pieces of this size, between other sessions' records.
    pub chunk_bytes: usize,
    /// About how many bytes are written per sync, at most.
    pub group_bytes: usize,
    /// How long the journal must be idle before a SEAL protects its last batch; `None` = never by itself.
    pub seal_after: Option<Duration>,
    /// Least time between the end of a sync and the start of the next.
    pub sync_spacing: Duration,
    /// How often writing is tried again while it fails.
    pub probe_every: Duration,
    /// Whether the spare segment is made by a thread of its own, ahead of need.
    pub background_spare: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            segment_bytes: 16 << 20,
            chunk_bytes: 1 << 20,
            group_bytes: 8 << 20,
            seal_after: Some(Duration::from_millis(50)),
            sync_spacing: Duration::ZERO,
            probe_every: Duration::from_secs(1),
            background_spare: true,
        }
    }
}

#[cfg(test)]
mod tests;
