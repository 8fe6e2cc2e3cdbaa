//! Benchmarks: a bare room as the floor, a cheap load generator, and the measurements of `docs/benchmarks.md`.
//!
//! It measures the daemon from outside, as a process of its own; only `hotset bench generate` uses the rooms of the
//! library. Nothing but `cli` may use this room.

mod chance;
mod connection;
mod fanout;
mod frames;
mod generate;
mod generator;
mod histogram;
mod idle;
mod large;
mod loss;
mod machine;
mod messages;
mod report;
mod room;
mod server_process;
mod tally;
mod workspace;

pub use fanout::{FanoutArgs, Format, LoadArgs, Mode, RoomsArgs, Servers};
pub use generate::{GenerateArgs, NodeSize};
pub use idle::IdleArgs;
pub use large::{BesideArgs, RestoreArgs, SceneArgs};
pub use messages::Edit;

use report::Report;
use std::io;

/// What to measure.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum BenchCommand {
    /// CPU per delivery in one session of 50, against the bare room
    Fanout(FanoutArgs),
    /// CPU per delivery in 200 sessions of 5, against the bare room
    Rooms(RoomsArgs),
    /// Memory of 5,000 idle connections
    Idle(IdleArgs),
    /// What saving a large session costs those who edit it meanwhile
    Save(BesideArgs),
    /// What joining a large session costs those who edit it meanwhile
    Join(BesideArgs),
    /// CPU time of a cold start with a large session
    Restore(RestoreArgs),
    /// Make a data directory with a session of any size
    Generate(GenerateArgs),
    /// Be one client of the loss test
    #[command(hide = true)]
    Client {
        /// What to do, as a JSON object: url, name, format, log, seed, rate, nodes, large_every
        ask: String,
    },
    /// Serve the bare room
    #[command(hide = true)]
    Room {
        /// Where to listen, on 127.0.0.1
        at: u16,
    },
}

/// Runs one benchmark and prints its rows on standard output, as a table or as JSON lines.
pub fn run(command: &BenchCommand, json: bool) -> io::Result<()> {
    machine::raise_open_files();
    match command {
        BenchCommand::Room { at } => return room::serve(*at),
        BenchCommand::Client { ask } => return loss::run(ask),
        BenchCommand::Fanout(_)
        | BenchCommand::Rooms(_)
        | BenchCommand::Idle(_)
        | BenchCommand::Save(_)
        | BenchCommand::Join(_)
        | BenchCommand::Restore(_)
        | BenchCommand::Generate(_) => {}
    }
    machine::pin_to(machine::GENERATOR_CORE);
    let mut report = Report::begin(json)?;
    match command {
        BenchCommand::Fanout(args) => fanout::fanout(args, &mut report),
        BenchCommand::Rooms(args) => fanout::rooms(args, &mut report),
        BenchCommand::Idle(args) => idle::idle(args, &mut report),
        BenchCommand::Save(args) => large::save(args, &mut report),
        BenchCommand::Join(args) => large::join(args, &mut report),
        BenchCommand::Restore(args) => large::restore(args, &mut report),
        BenchCommand::Generate(args) => generate::command(args, &mut report),
        BenchCommand::Room { .. } | BenchCommand::Client { .. } => Ok(()),
    }
}
