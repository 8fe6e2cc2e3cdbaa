//! Fan-out: how much CPU a delivery costs the daemon, against the bare room in the run beside it.

use super::generator::{Generator, Pace, Plan};
use super::messages::{Dialect, Edit, Targets};
use super::report::{Report, Row, median};
use super::server_process::ServerProcess;
use super::workspace::Workspace;
use std::io;
use std::time::Duration;

/// Which servers are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Servers {
    /// The daemon and the bare room, in adjacent pairs.
    Both,
    /// The daemon alone.
    Hotset,
    /// The bare room alone.
    Room,
}

/// The format that the clients of the daemon ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// `hotset.v1.json`
    Json,
    /// `hotset.v1.binary`
    Binary,
}

impl Format {
    pub(super) fn dialect(self) -> Dialect {
        match self {
            Self::Json => Dialect::NativeJson,
            Self::Binary => Dialect::NativeBinary,
        }
    }
}

/// Options that all load runs share.
#[derive(Debug, Clone, clap::Args)]
pub struct LoadArgs {
    /// Adjacent pairs of runs, each with fresh server processes
    #[arg(long, default_value_t = 6)]
    pub pairs: u32,
    /// Seconds that each run is measured
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Seconds of load before measuring
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
    /// Which servers to measure
    #[arg(long, value_enum, default_value_t = Servers::Both)]
    pub servers: Servers,
    /// The format that clients of the daemon use
    #[arg(long, value_enum, default_value_t = Format::Json)]
    pub format: Format,
    /// The operation that is sent
    #[arg(long, value_enum, default_value_t = Edit::Put)]
    pub edit: Edit,
    /// Bytes of payload in each operation
    #[arg(long, default_value_t = 1024)]
    pub payload: usize,
    /// Nodes that each sender goes round over
    #[arg(long, default_value_t = 64)]
    pub nodes: u64,
}

/// Options of `hotset bench fanout`.
#[derive(Debug, Clone, clap::Args)]
pub struct FanoutArgs {
    /// Clients in the session
    #[arg(long, default_value_t = 50)]
    pub members: u16,
    /// How many of them send
    #[arg(long, default_value_t = 1)]
    pub senders: u16,
    /// Paced: messages per second
    #[arg(long, default_value_t = 400.0)]
    pub rate: f64,
    /// Saturated: messages in flight per sender
    #[arg(long, default_value_t = 128)]
    pub window: u32,
    /// Only this mode
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would replace the command's own in its help")]
    pub load: LoadArgs,
}

/// How messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// One at a time, at fixed times.
    Paced,
    /// As fast as they come back.
    Saturated,
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Paced => "paced",
            Self::Saturated => "saturated",
        }
    }
}

/// Options of `hotset bench rooms`.
#[derive(Debug, Clone, clap::Args)]
pub struct RoomsArgs {
    /// Sessions
    #[arg(long, default_value_t = 200)]
    pub sessions: u16,
    /// Clients in each; one of them sends
    #[arg(long, default_value_t = 5)]
    pub members: u16,
    /// Messages per second in each session
    #[arg(long, default_value_t = 25.0)]
    pub rate: f64,
    #[command(flatten)]
    #[expect(missing_docs, reason = "the text would replace the command's own in its help")]
    pub load: LoadArgs,
}

/// One sender and many receivers in one session.
pub(super) fn fanout(args: &FanoutArgs, report: &mut Report) -> io::Result<()> {
    for mode in [Mode::Paced, Mode::Saturated] {
        if args.mode.is_some_and(|only| only != mode) {
            continue;
        }
        let pace = match mode {
            Mode::Paced => Pace::PerSecond(args.rate),
            Mode::Saturated => Pace::InFlight(args.window),
        };
        let plan = plan(&args.load, vec!["default".to_owned()], (args.members, args.senders), pace);
        pairs("fanout", mode.name(), &args.load, &plan, report)?;
    }
    Ok(())
}

/// Many small sessions.
pub(super) fn rooms(args: &RoomsArgs, report: &mut Report) -> io::Result<()> {
    let rooms = (0..args.sessions).map(|n| format!("bench-{n}")).collect();
    let pace = Pace::PerSecond(args.rate * f64::from(args.sessions));
    let plan = plan(&args.load, rooms, (args.members, 1), pace);
    pairs("rooms", "paced", &args.load, &plan, report)
}

fn plan(load: &LoadArgs, rooms: Vec<String>, (members, senders): (u16, u16), pace: Pace) -> Plan {
    Plan {
        dialect: load.format.dialect(),
        port: 0,
        rooms,
        members,
        senders: senders.min(members),
        edit: load.edit,
        payload_bytes: load.payload,
        targets: Targets::Own(load.nodes),
        pace,
    }
}

fn pairs(bench: &str, mode: &str, load: &LoadArgs, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let mut ratios = Vec::new();
    for pair in 1..=load.pairs {
        let mut costs = Vec::new();
        for dialect in [load.format.dialect(), Dialect::Room] {
            let asked_for = match load.servers {
                Servers::Both => true,
                Servers::Hotset => dialect.is_native(),
                Servers::Room => !dialect.is_native(),
            };
            if asked_for {
                let row = Row::new(bench).with("mode", mode).with("pair", pair);
                let (row, us_per_delivery) = run(row, load, Plan { dialect, ..plan.clone() })?;
                report.print(row)?;
                costs.push(us_per_delivery);
            }
        }
        if let [hotset, room] = costs[..] {
            ratios.push(hotset / room);
        }
    }
    let Some((middle, least, most)) = median(&ratios) else { return Ok(()) };
    let row = Row::new(bench).with("mode", mode).with("pairs", load.pairs).with("server", "hotset/room");
    let row = row.with_figure("cpu_ratio_median", middle).with_figure("cpu_ratio_min", least);
    report.print(row.with_figure("cpu_ratio_max", most))
}

/// One run against one fresh server; returns its row and the server's CPU microseconds per delivery.
fn run(row: Row, load: &LoadArgs, plan: Plan) -> io::Result<(Row, f64)> {
    let workspace = Workspace::create()?;
    let native = plan.dialect.is_native();
    let mut server =
        if native { ServerProcess::start_daemon(&workspace.data_dir())? } else { ServerProcess::start_room()? };
    let plan = Plan { port: server.port, ..plan };
    let mut generator = Generator::connect(plan)?;
    generator.run_for(Duration::from_secs_f64(load.warm_up))?;
    let measured = measure(&mut generator, &mut server, Duration::from_secs_f64(load.seconds))?;
    generator.drain(Duration::from_secs(5))?;
    let row = row.with("server", if native { "hotset" } else { "room" });
    let row = measured.into_row(row, &generator);
    drop(generator);
    let cost = measured.us_per_delivery;
    let clean = server.stop();
    // The bare room has no orderly end of its own: it simply is ended.
    let row = if native { row.with("clean_end", clean) } else { row.with("clean_end", true) };
    Ok((row, cost))
}

/// What one measurement showed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    seconds: f64,
    us_per_delivery: f64,
    server_use: f64,
    generator_use: f64,
    switches_per_thousand: f64,
}

/// Runs the load for this long and reads the server's CPU time before and after.
#[expect(clippy::cast_precision_loss, reason = "counts of seconds")]
pub(super) fn measure(generator: &mut Generator, server: &mut ServerProcess, time: Duration) -> io::Result<Measured> {
    let thread = generator.begin_window();
    let since = crate::ops::clock::instant();
    let (cpu, switches) = (server.cpu(), server.context_switches());
    let slice = Duration::from_millis(250);
    while since.elapsed() + slice < time {
        generator.run_for(slice)?;
        server.cpu();
    }
    generator.run_for(time.saturating_sub(since.elapsed()))?;
    let cpu = server.cpu().saturating_sub(cpu).as_secs_f64();
    let deliveries = generator.window().deliveries.max(1) as f64;
    let seconds = since.elapsed().as_secs_f64();
    Ok(Measured {
        seconds,
        us_per_delivery: cpu * 1e6 / deliveries,
        server_use: cpu / seconds,
        generator_use: thread.share(),
        switches_per_thousand: server.context_switches().saturating_sub(switches) as f64 * 1e3 / deliveries,
    })
}

impl Measured {
    /// A measurement over this many seconds, in which the server used `cpu` seconds; context switches unknown.
    #[expect(clippy::cast_precision_loss, reason = "counts of seconds")]
    pub(super) fn over(generator: &Generator, seconds: f64, cpu: f64, generator_use: f64) -> Self {
        let us_per_delivery = cpu * 1e6 / generator.window().deliveries.max(1) as f64;
        let switches_per_thousand = f64::NAN;
        Self { seconds, us_per_delivery, server_use: cpu / seconds, generator_use, switches_per_thousand }
    }

    /// Adds what was measured to a row, with what the generator saw (after it has drained).
    #[expect(clippy::cast_precision_loss, reason = "counts of seconds")]
    pub(super) fn into_row(self, row: Row, generator: &Generator) -> Row {
        let (window, ledger) = (generator.window(), generator.ledger());
        let latency_ms = |share| window.latency.percentile(share) as f64 / 1e3;
        row.with_figure("cpu_us_per_delivery", self.us_per_delivery)
            .with_figure("deliveries_per_s", window.deliveries as f64 / self.seconds)
            .with_figure("server_util", self.server_use)
            .with_figure("gen_util", self.generator_use)
            .with_figure("msgs_per_read", window.deliveries as f64 / window.reads.max(1) as f64)
            .with_figure("bytes_per_delivery", window.read_bytes as f64 / window.deliveries.max(1) as f64)
            .with_figure("switches_per_1000", self.switches_per_thousand)
            .with_figure("p50_ms", latency_ms(0.5))
            .with_figure("p99_ms", latency_ms(0.99))
            .with_figure("p999_ms", latency_ms(0.999))
            .with_figure("max_ms", window.latency.max() as f64 / 1e3)
            .with_figure("late_max_ms", window.late_max_us as f64 / 1e3)
            .with("acks", window.acks)
            .with("lost", ledger.outstanding())
            .with("disorder", ledger.disorder + generator.rooms_that_disagree() as u64)
            .with("refused", ledger.refused)
            .with("closed", ledger.closed)
            .with("complaint", ledger.complaint.clone().unwrap_or_default())
    }
}
