//! Large sessions: what a save and a join cost everybody else, and how long a cold start takes.

use super::connection;
use super::fanout::{Format, measure};
use super::generate::{GenerateArgs, Generated, NodeSize, generate};
use super::generator::{Generator, Pace, Plan};
use super::messages::{Edit, Targets};
use super::report::{Report, Row};
use super::server_process::ServerProcess;
use super::workspace::Workspace;
use crate::ops::clock;
use std::io;
use std::thread;
use std::time::Duration;

/// The session that is measured.
#[derive(Debug, Clone, clap::Args)]
pub struct SceneArgs {
    /// Nodes in the session
    #[arg(long, default_value_t = 100_000)]
    pub nodes: u64,
    /// How large they are
    #[arg(long, value_enum, default_value_t = NodeSize::Small)]
    pub size: NodeSize,
    /// The format that clients use
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,
}

/// Load beside the save or the join.
#[derive(Debug, Clone, clap::Args)]
pub struct BesideArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would replace the command's own in its help")]
    pub scene: SceneArgs,
    /// Clients that edit meanwhile; all of them send
    #[arg(long, default_value_t = 4)]
    pub members: u16,
    /// Operations per second of all of them together
    #[arg(long, default_value_t = 1_000.0)]
    pub rate: f64,
    /// Bytes of payload in each operation
    #[arg(long, default_value_t = 250)]
    pub payload: usize,
    /// Seconds of load without a save or join, for comparison
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// How many saves or joins
    #[arg(long, default_value_t = 5)]
    pub times: u64,
}

/// Options of `hotset bench restore`.
#[derive(Debug, Clone, clap::Args)]
pub struct RestoreArgs {
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would replace the command's own in its help")]
    pub scene: SceneArgs,
    /// Cold starts
    #[arg(long, default_value_t = 3)]
    pub times: u64,
    /// Operations in the journal behind the snapshot
    #[arg(long, default_value_t = 0)]
    pub tail: u32,
}

/// What the daemon measures itself, by the names in its status: the longest turn of a session's task in CPU time while
/// no save was under way, while one was, and the longest capture of a state for a save.
const TURNS: [&str; 3] = ["turn_max_us", "turn_max_saving_us", "capture_max_us"];

/// Events that the daemon keeps in memory, and a few more.
const TAIL_EVENTS: u64 = 70_000;
/// How fast they are sent: so slowly that no turn of the session's task takes many at once.
const FILL_PER_SECOND: f64 = 8_000.0;
/// How often memory is looked at.
const SLICE: Duration = Duration::from_millis(20);
/// A save that takes longer than this has failed.
const SAVE_PATIENCE: Duration = Duration::from_mins(2);

/// A daemon that serves a generated scene.
struct Stage {
    // Fields are dropped in this order: the server ends before its directory goes.
    server: ServerProcess,
    workspace: Workspace,
    payload_bytes: u64,
}

impl Stage {
    /// Generates the scene, starts the daemon on it and ends it once, so that all files are the daemon's own.
    fn set(scene: &SceneArgs, report: &Report) -> io::Result<Self> {
        let workspace = Workspace::create()?;
        let out = workspace.data_dir();
        report.remark(&format!("generating {} nodes", scene.nodes))?;
        let Generated { payload_bytes, .. } =
            generate(&GenerateArgs { nodes: scene.nodes, size: scene.size, out: out.clone(), seed: 1 })?;
        ServerProcess::start_daemon(&out)?.stop();
        Ok(Self { server: ServerProcess::start_daemon(&out)?, workspace, payload_bytes })
    }

    fn connect(&self, args: &BesideArgs) -> io::Result<Generator> {
        let mut generator = Generator::connect(Plan {
            dialect: args.scene.format.dialect(),
            port: self.server.port,
            rooms: vec!["default".to_owned()],
            members: args.members,
            senders: args.members,
            edit: Edit::Put,
            payload_bytes: args.payload,
            targets: Targets::Scene(args.scene.nodes),
            pace: Pace::PerSecond(FILL_PER_SECOND),
        })?;
        // The daemon keeps so many events for readers that are behind; until it has them, its memory grows by itself.
        while generator.window().sent < TAIL_EVENTS {
            generator.run_for(SLICE)?;
        }
        generator.set_pace(Pace::PerSecond(args.rate));
        generator.run_for(Duration::from_secs(1))?;
        Ok(generator)
    }

    /// Adds what the daemon says of itself.
    fn with_turns(&self, row: Row) -> Row {
        TURNS.into_iter().fold(row, |row, name| row.with(name, self.server.session_status_max(name)))
    }
}

fn row(bench: &str, phase: &str, scene: &SceneArgs) -> Row {
    let size = if scene.size == NodeSize::Small { "small" } else { "real" };
    Row::new(bench).with("phase", phase).with("nodes", scene.nodes).with("size", size)
}

/// Saves again and again while clients edit.
pub(super) fn save(args: &BesideArgs, report: &mut Report) -> io::Result<()> {
    let mut stage = Stage::set(&args.scene, report)?;
    let mut generator = stage.connect(args)?;
    let (quiet, quiet_peak) = quiet_phase(&mut stage, &mut generator, args)?;
    report.print(quiet)?;
    let thread = generator.begin_window();
    let (since, cpu) = (clock::instant(), stage.server.cpu());
    let (mut peak, mut slowest, mut failed, mut replaced) = (0, Duration::ZERO, 0_u64, 0);
    for _ in 0..args.times {
        let (saves, asked, sent) = (generator.ledger().saves, clock::instant(), generator.window().sent);
        generator.ask_for_save()?;
        while generator.ledger().saves == saves && asked.elapsed() < SAVE_PATIENCE {
            generator.run_for(SLICE)?;
            peak = peak.max(stage.server.memory_kib());
        }
        failed += u64::from(generator.ledger().saves == saves);
        slowest = slowest.max(asked.elapsed());
        replaced = replaced.max(generator.window().sent - sent);
        generator.run_for(Duration::from_millis(300))?;
    }
    let seconds = since.elapsed().as_secs_f64();
    let cpu = stage.server.cpu().saturating_sub(cpu).as_secs_f64();
    let measured = super::fanout::Measured::over(&generator, seconds, cpu, thread.share());
    generator.drain(Duration::from_secs(10))?;
    let replaced_kib = replaced * (stage.payload_bytes / args.scene.nodes.max(1)) / 1024;
    let row = row("save", "saving", &args.scene)
        .with("saves", args.times - failed)
        .with("failed", failed)
        .with_figure("slowest_save_s", slowest.as_secs_f64())
        .with("extra_rss_kib", peak.saturating_sub(quiet_peak))
        .with("replaced_kib", replaced_kib);
    let row = measured.into_row(stage.with_turns(row), &generator);
    report.print(row)?;
    drop(generator);
    stage.server.stop();
    drop(stage.workspace);
    Ok(())
}

/// The same load without anything beside it; returns its row and the most memory in use.
fn quiet_phase(stage: &mut Stage, generator: &mut Generator, args: &BesideArgs) -> io::Result<(Row, u64)> {
    let measured = measure(generator, &mut stage.server, Duration::from_secs_f64(args.seconds))?;
    generator.drain(Duration::from_secs(10))?;
    let phase = row("load", "quiet", &args.scene);
    let peak = stage.server.memory_kib();
    let row = measured.into_row(stage.with_turns(phase.with("rss_kib", peak)), generator);
    Ok((row, peak))
}

/// Lets clients join a large session while others edit.
pub(super) fn join(args: &BesideArgs, report: &mut Report) -> io::Result<()> {
    let mut stage = Stage::set(&args.scene, report)?;
    let mut generator = stage.connect(args)?;
    let (quiet, quiet_peak) = quiet_phase(&mut stage, &mut generator, args)?;
    report.print(quiet)?;
    let thread = generator.begin_window();
    let (since, cpu) = (clock::instant(), stage.server.cpu());
    let (dialect, port) = (args.scene.format.dialect(), stage.server.port);
    let (mut peak, mut slowest, mut state_bytes) = (0, Duration::ZERO, 0);
    for number in 0..args.times {
        let joiner = thread::spawn(move || {
            let since = clock::instant();
            let opened = connection::open(dialect, port, "default", &format!("joiner {number}"))?;
            Ok::<_, io::Error>((since.elapsed(), opened.state_bytes))
        });
        while !joiner.is_finished() {
            generator.run_for(SLICE)?;
            peak = peak.max(stage.server.memory_kib());
        }
        let joined = joiner.join().map_err(|_| io::Error::other("a joining client failed"))??;
        slowest = slowest.max(joined.0);
        state_bytes = joined.1;
        generator.run_for(Duration::from_millis(300))?;
    }
    let seconds = since.elapsed().as_secs_f64();
    let cpu = stage.server.cpu().saturating_sub(cpu).as_secs_f64();
    let measured = super::fanout::Measured::over(&generator, seconds, cpu, thread.share());
    generator.drain(Duration::from_secs(10))?;
    let row = row("join", "joining", &args.scene)
        .with("joins", args.times)
        .with_figure("slowest_join_s", slowest.as_secs_f64())
        .with("state_bytes", state_bytes)
        .with("extra_rss_kib", peak.saturating_sub(quiet_peak));
    report.print(measured.into_row(stage.with_turns(row), &generator))?;
    drop(generator);
    stage.server.stop();
    drop(stage.workspace);
    Ok(())
}

/// Starts the daemon cold, again and again.
pub(super) fn restore(args: &RestoreArgs, report: &mut Report) -> io::Result<()> {
    let Stage { server, workspace, .. } = Stage::set(&args.scene, report)?;
    if args.tail == 0 {
        server.stop();
    } else {
        write_tail(server, args)?;
    }
    for start in 1..=args.times {
        let since = clock::instant();
        let mut server = ServerProcess::launch_daemon(&workspace.data_dir())?;
        server.wait_until_ready()?;
        let (seconds, cpu) = (since.elapsed().as_secs_f64(), server.cpu().as_secs_f64());
        let row = row("restore", "cold start", &args.scene).with("start", start).with("tail_ops", args.tail);
        let row = row.with_figure("seconds", seconds).with_figure("cpu_s", cpu);
        report.print(row.with("rss_kib", server.memory_kib()))?;
        // Killed, so that the next start finds the same files.
        drop(server);
    }
    Ok(())
}

/// Sends operations and kills the daemon, so that they are in the journal only.
fn write_tail(server: ServerProcess, args: &RestoreArgs) -> io::Result<()> {
    let mut generator = Generator::connect(Plan {
        dialect: args.scene.format.dialect(),
        port: server.port,
        rooms: vec!["default".to_owned()],
        members: 2,
        senders: 1,
        edit: Edit::Put,
        payload_bytes: 250,
        targets: Targets::Scene(args.scene.nodes),
        pace: Pace::InFlight(256),
    })?;
    while generator.window().deliveries < u64::from(args.tail) {
        generator.run_for(SLICE)?;
    }
    generator.drain(Duration::from_secs(10))?;
    drop(server);
    Ok(())
}
