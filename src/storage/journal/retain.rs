//! Retention: deletes the oldest segments when neither recovery nor history needs them any more.

use super::DIRECTORY;
use super::log::KeptSegments;
use super::segment::{doomed_path, segment_path};
use super::start::KeptSegment;
use super::writer::Writer;
use crate::session::SessionName;
use crate::storage::vfs::{Open, Vfs};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

/// Bytes cut off a file at a time, because freeing much at once stalls the syncs of others.
const STEP: u64 = 4 << 20;

/// What must be kept.
#[derive(Debug, Clone)]
pub struct Retention {
    /// For each session the `seq` up to which its records are no longer needed for recovery. Sessions that are not
    /// named need all of theirs.
    pub floors: BTreeMap<SessionName, u64>,
    /// How long records are kept for history.
    pub history: Duration,
    /// Most bytes of all segments together, as far as recovery does not need more.
    pub history_bytes: u64,
    /// The time, milliseconds since 1970.
    pub now_ms: i64,
}

impl Retention {
    /// How many of the oldest segments can go.
    fn deletable(&self, kept: &[KeptSegment]) -> usize {
        let unneeded_before = |segment: &KeptSegment| {
            let floor = |session| self.floors.get(session).copied().unwrap_or(0);
            segment.position_known && segment.seqs.iter().all(|(session, seq)| *seq <= floor(session))
        };
        let unneeded = kept.iter().rposition(unneeded_before).unwrap_or(0);
        let mut total: u64 = kept.iter().map(|segment| segment.bytes).sum();
        let window = i64::try_from(self.history.as_millis()).unwrap_or(i64::MAX);
        let mut count = 0;
        for (segment, next) in kept.iter().zip(kept.iter().skip(1)).take(unneeded) {
            let old = next.created_ms.saturating_add(window) <= self.now_ms;
            if !old && total <= self.history_bytes {
                break;
            }
            total = total.saturating_sub(segment.bytes);
            count += 1;
        }
        // A body that is still being written at the first segment kept may have begun before it.
        let begins_clean = |first: &KeptSegment| first.oldest_blob.is_none_or(|oldest| oldest >= first.number);
        (0..=count).rev().find(|count| kept.get(*count).is_some_and(begins_clean)).unwrap_or(0)
    }
}

/// What a retention did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retained {
    /// Segments deleted.
    pub deleted: usize,
    /// Segments that are left.
    pub segments: usize,
    /// Bytes that they take up.
    pub bytes: u64,
}

impl Writer {
    /// Deletes the oldest segments that are no longer needed. Runs on the caller's thread and takes its time. An error
    /// leaves the journal whole.
    pub fn retain(&self, retention: &Retention) -> io::Result<Retained> {
        retain_in(&*self.shared.vfs, &self.shared.kept, retention)
    }
}

/// As [`Writer::retain`], of the segments in `kept`.
pub(super) fn retain_in(vfs: &dyn Vfs, kept: &KeptSegments, retention: &Retention) -> io::Result<Retained> {
    let lock = || kept.lock().unwrap_or_else(PoisonError::into_inner);
    let doomed: Vec<u64> = {
        let kept = lock();
        kept.iter().take(retention.deletable(&kept)).map(|segment| segment.number).collect()
    };
    for number in &doomed {
        delete(vfs, *number, || lock().retain(|segment| segment.number != *number))?;
    }
    let kept = lock();
    let bytes = kept.iter().map(|segment| segment.bytes).sum();
    Ok(Retained { deleted: doomed.len(), segments: kept.len(), bytes })
}

fn delete(vfs: &dyn Vfs, number: u64, gone: impl FnOnce()) -> io::Result<()> {
    let (path, doomed) = (segment_path(number), doomed_path(number));
    // First it stops being a segment, durably and oldest first; only then may it lose its content.
    vfs.rename(&path, &doomed)?;
    vfs.sync_dir(Path::new(DIRECTORY))?; // durability: J26
    gone();
    let file = vfs.open(&doomed, Open::Write)?;
    let mut len = file.stat()?.len;
    while len > 0 {
        len = len.saturating_sub(STEP);
        file.set_len(len)?;
    }
    drop(file);
    vfs.unlink(&doomed)
}
