//! History: reads one session's records back from the journal, also while it is being written.

use super::Lineage;
use super::scan::{Item, Request, ScanError, scan};
use crate::session::SessionName;
use crate::storage::Branch;
use crate::storage::vfs::Vfs;
use std::collections::BTreeMap;
use std::ops::{ControlFlow, RangeInclusive};

/// One record of the past.
#[derive(Debug, Clone, Copy)]
pub struct HistoryItem<'a> {
    /// On which branch it happened.
    pub branch: Branch,
    /// Its number.
    pub seq: u64,
    /// Its stored form.
    pub body: &'a [u8],
}

/// Why the past cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The journal no longer reaches back that far.
    #[error("records up to {through} are no longer in the journal")]
    Gone {
        /// The last one that is gone.
        through: u64,
    },
    /// The journal ends, or is damaged, before the last record asked for. What was visited is intact. While a segment
    /// is being begun this may happen once; try again from there.
    #[error("the journal can be read only up to record {reached}")]
    Incomplete {
        /// The last one visited, 0 = none.
        reached: u64,
    },
    /// The journal cannot be read. While segments are being deleted this may happen once; try again.
    #[error(transparent)]
    Scan(#[from] ScanError),
}

/// Visits the records of one session with `seq` in `range`, in order, on whatever branch. The end of the range must be
/// durable. Visiting stops early when `visit` breaks off.
pub fn history(
    vfs: &dyn Vfs,
    lineage: Lineage,
    session: &SessionName,
    range: RangeInclusive<u64>,
    visit: &mut dyn FnMut(HistoryItem<'_>) -> ControlFlow<()>,
) -> Result<(), HistoryError> {
    let (first, last) = (*range.start(), *range.end());
    if range.is_empty() {
        return Ok(());
    }
    let request = Request {
        lineage: Some(lineage),
        after: BTreeMap::from([(session.clone(), first.saturating_sub(1))]),
        only: Some(session.clone()),
    };
    let (mut reached, mut broken_off) = (0, false);
    let report = scan(vfs, &request, &mut |item| {
        let Item::Record { branch, seq, body, .. } = item else { return ControlFlow::Continue(()) };
        if seq > last {
            reached = last;
            return ControlFlow::Break(());
        }
        reached = seq;
        broken_off = visit(HistoryItem { branch, seq, body }).is_break();
        if broken_off || seq == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(missing) = report.missing.iter().find(|missing| missing.session == *session) {
        return Err(HistoryError::Gone { through: missing.through });
    }
    if broken_off || reached >= last { Ok(()) } else { Err(HistoryError::Incomplete { reached }) }
}
