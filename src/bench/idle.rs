//! Idle connections: what each costs in memory when it has received something and then only waits.

use super::fanout::Servers;
use super::generator::{Generator, Pace, Plan};
use super::messages::{Dialect, Edit, Targets};
use super::report::{Report, Row};
use super::server_process::ServerProcess;
use super::workspace::Workspace;
use std::io;
use std::time::Duration;

/// Options of `hotset bench idle`.
#[derive(Debug, Clone, clap::Args)]
pub struct IdleArgs {
    /// Connections in all
    #[arg(long, default_value_t = 5_000)]
    pub connections: u16,
    /// Connections in each session (a session takes 256 members unless configured otherwise)
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u16).range(1..))]
    pub members: u16,
    /// Seconds that they idle
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// Which servers to measure
    #[arg(long, value_enum, default_value_t = Servers::Both)]
    pub servers: Servers,
}

/// Runs it for each server that was asked for.
pub(super) fn idle(args: &IdleArgs, report: &mut Report) -> io::Result<()> {
    for dialect in [Dialect::NativeJson, Dialect::Room] {
        let asked_for = match args.servers {
            Servers::Both => true,
            Servers::Hotset => dialect.is_native(),
            Servers::Room => !dialect.is_native(),
        };
        if asked_for {
            report.print(run(args, dialect)?)?;
        }
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of thousands")]
fn run(args: &IdleArgs, dialect: Dialect) -> io::Result<Row> {
    let workspace = Workspace::create()?;
    let native = dialect.is_native();
    let mut server =
        if native { ServerProcess::start_daemon(&workspace.data_dir())? } else { ServerProcess::start_room()? };
    let empty_kib = server.memory_kib();
    let sessions = (args.connections / args.members).max(1);
    let plan = |rooms: std::ops::Range<u16>| Plan {
        dialect,
        port: server.port,
        rooms: rooms.map(|n| format!("idle-{n}")).collect(),
        members: args.members,
        senders: 1,
        edit: Edit::Put,
        payload_bytes: 1_024,
        targets: Targets::Own(1),
        pace: Pace::PerSecond(f64::from(sessions)),
    };
    // In two halves, so that the second shows what a connection adds to a server that is in use already.
    let middle = (sessions / 2).max(1);
    let mut first = Generator::connect(plan(0..middle))?;
    let all_receive_something = |half: &mut Generator| {
        half.run_for(Duration::from_secs(1))?;
        half.drain(Duration::from_secs(10))
    };
    all_receive_something(&mut first)?;
    let half_kib = server.memory_kib();
    let mut second = Generator::connect(plan(middle..sessions))?;
    all_receive_something(&mut second)?;
    let full_kib = server.memory_kib();
    let cpu = server.cpu();
    std::thread::sleep(Duration::from_secs_f64(args.seconds));
    let idle_cpu = server.cpu().saturating_sub(cpu).as_secs_f64();
    let idle_kib = server.memory_kib();
    let (all, added) = (f64::from(sessions * args.members), f64::from((sessions - middle) * args.members));
    let per_connection = |kib: u64, connections: f64| kib as f64 / connections.max(1.0);
    let ledgers = [first.ledger(), second.ledger()];
    Ok(Row::new("idle")
        .with("server", if native { "hotset" } else { "room" })
        .with("connections", sessions * args.members)
        .with("sessions", sessions)
        .with("rss_empty_kib", empty_kib)
        .with("rss_idle_kib", idle_kib)
        .with_figure("kib_per_connection", per_connection(idle_kib.saturating_sub(empty_kib), all))
        .with_figure("kib_per_added", per_connection(full_kib.saturating_sub(half_kib), added))
        .with_figure("idle_cpu_ms_per_s", idle_cpu * 1e3 / args.seconds)
        .with("lost", ledgers.iter().map(|ledger| ledger.outstanding()).sum::<u64>())
        .with("closed", ledgers.iter().map(|ledger| ledger.closed).sum::<u64>())
        .with("complaint", ledgers.iter().find_map(|ledger| ledger.complaint.clone()).unwrap_or_default()))
}
