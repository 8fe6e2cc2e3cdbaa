//! The journal against everything that can happen to it.

mod bench_of_faults;
mod harness;
mod writing;
