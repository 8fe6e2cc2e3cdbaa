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
pub use messages::Edit;

use report::Report;
use std::io;

/// Options of `hotset bench`.
#[derive(Debug, Clone, clap::Args)]
pub struct BenchArgs {
    /// Print JSON lines instead of a table
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    #[expect(missing_docs, reason = "the text would replace the command's own in its help")]
    pub command: BenchCommand,
}

/// What to measure.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum BenchCommand {
    /// CPU per delivery in one session of 50, against the bare room
    Fanout(FanoutArgs),
    /// CPU per delivery in 200 sessions of 5, against the bare room
    Rooms(RoomsArgs),
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
        #[arg(long)]
        port: u16,
    },
}

/// Runs one benchmark and prints its rows on standard output.
pub fn run(args: &BenchArgs) -> io::Result<()> {
    machine::raise_open_files();
    match &args.command {
        BenchCommand::Room { port } => return room::serve(*port),
        BenchCommand::Client { ask } => return loss::run(ask),
        BenchCommand::Generate(_) | BenchCommand::Fanout(_) | BenchCommand::Rooms(_) => {}
    }
    machine::pin_to(machine::GENERATOR_CORE);
    let mut report = Report::begin(args.json)?;
    match &args.command {
        BenchCommand::Fanout(args) => fanout::fanout(args, &mut report),
        BenchCommand::Rooms(args) => fanout::rooms(args, &mut report),
        BenchCommand::Generate(args) => generate::command(args, &mut report),
        BenchCommand::Room { .. } | BenchCommand::Client { .. } => Ok(()),
    }
}
