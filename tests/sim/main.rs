//! Storage on a simulated disk: power cuts, torn writes, full disks, I/O errors, decay, and the operator's `cp`.
//!
//! `HOTSET_LONG=1` runs everything exhaustively; without it, a sample that fits a coffee.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod copies;
mod daemon;
mod live_restore;
mod meddling;
mod power;
mod recovery;
mod restore;
mod saving;
mod snapshot_file;
mod toy;

/// Whether to leave nothing out.
fn long() -> bool {
    std::env::var_os("HOTSET_LONG").is_some_and(|value| value == "1")
}

/// About `count` numbers spread over the range, always with both ends; with `HOTSET_LONG=1` all of them.
fn sampled(range: std::ops::RangeInclusive<u64>, count: u64) -> Vec<u64> {
    let (first, last) = (*range.start(), *range.end());
    let step = if long() { 1 } else { ((last - first) / count.max(1)).max(1) };
    let mut numbers: Vec<u64> = range.step_by(usize::try_from(step).unwrap()).collect();
    if numbers.last() != Some(&last) {
        numbers.push(last);
    }
    numbers
}
