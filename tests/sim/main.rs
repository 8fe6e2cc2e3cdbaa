//! Storage on a simulated disk: power cuts, torn writes, full disks, I/O errors, decay, and the operator's `cp`.
//!
//! `HOTSET_LONG=1` runs everything exhaustively; without it, a sample that fits a coffee.

mod daemon;
mod recovery;
mod snapshot_file;
mod toy;

/// Whether to leave nothing out.
fn long() -> bool {
    std::env::var_os("HOTSET_LONG").is_some_and(|value| value == "1")
}
