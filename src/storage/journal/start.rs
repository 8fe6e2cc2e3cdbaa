//! Where a writer begins: what a scan found out, or a fresh journal.

use super::Lineage;
use super::frame::Kind;
use super::positions::Positions;
use std::collections::BTreeMap;
use std::io;

/// Where a writer begins. Made by a scan ([`super::Report::start`]) or [`Start::fresh`].
#[derive(Debug, Clone)]
pub struct Start {
    pub(super) lineage: Lineage,
    pub(super) next_segment: u64,
    /// The newest segment, 0 = none.
    pub(super) previous: u64,
    /// Everything before is durable.
    pub(super) first_batch: u64,
    pub(super) chain: u32,
    /// As of the batch before `first_batch`.
    pub(super) positions: Positions,
    pub(super) open_blobs: BTreeMap<u64, u64>,
    /// Batches that are readable although nothing proves that they are durable: they are written again.
    pub(super) tail: Vec<TailFrame>,
    pub(super) segments: Vec<KeptSegment>,
}

impl Start {
    /// Which data directory it belongs to.
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// A journal in an empty directory. `positions` is what is known about sessions from elsewhere.
    pub fn fresh(lineage: Lineage, positions: Positions) -> Self {
        Self {
            lineage,
            next_segment: 1,
            previous: 0,
            first_batch: 1,
            chain: 0,
            positions,
            open_blobs: BTreeMap::new(),
            tail: Vec::new(),
            segments: Vec::new(),
        }
    }
}

/// Why a writer could not begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The disk failed or is full; the path is in the message.
    #[error("cannot begin the journal: {message}: {source}")]
    Io {
        /// What failed, with the path.
        message: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A batch that is written again.
#[derive(Debug, Clone)]
pub(super) struct TailFrame {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) count: u32,
    pub(super) batch_no: u64,
    pub(super) payload: Vec<u8>,
}

/// What must be known of a closed segment to delete it in time.
#[derive(Debug, Clone)]
pub(super) struct KeptSegment {
    pub(super) number: u64,
    pub(super) created_ms: i64,
    pub(super) bytes: u64,
    /// As of its beginning; empty with `position_known` false if damaged.
    pub(super) seqs: BTreeMap<crate::session::SessionName, u64>,
    pub(super) position_known: bool,
    /// The oldest segment that a blob open at its beginning lies in.
    pub(super) oldest_blob: Option<u64>,
}
