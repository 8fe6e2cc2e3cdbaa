//! Hotset: a daemon that holds a live collaborative session and keeps it. This is the map of its rooms.
//!
//! Imports point down only: `main, cli -> server -> doors, console -> live -> storage -> session -> formats`;
//! `ops` may be used by all but the pure rooms (`session`, `formats`); `bench` measures from outside and is used by `cli`
//! alone. `tests/tidy.rs` enforces it.

pub mod bench;
pub mod cli;
pub mod config;
pub mod console;
pub mod doors;
pub mod formats;
pub mod live;
pub mod ops;
pub mod server;
pub mod session;
pub mod storage;
