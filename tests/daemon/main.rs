//! The real program from outside: exit codes, settings, health, and the files it is shipped with.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod archive;
mod command_line;
mod data_directory;
mod doctor;
mod greedy;
mod live_restore;
mod program;
mod running;
mod serving;
mod shipped;
mod told;
