//! Mutational fuzzing of everything that reads bytes from outside: journal, snapshots, pickles, deltas, settings, and
//! whole data directories. The native protocol's target stands beside its parser, in `src/doors/native/fuzz.rs`.
//!
//! What may be asked of a run is in `campaign`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "seeds and counts are for whoever runs it")]

mod campaign;
mod configuration;
mod delta;
mod directory;
mod journal;
mod pickle;
mod sealing;
mod sessions;
mod snapshot;
