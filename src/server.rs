//! Composition: wires the rooms together, starts them, drains them.

mod blender_ports;
mod dump;
mod gatekeeper;
mod keeper;
mod listener;
mod startup;

pub(crate) use keeper::chat_in;
pub(crate) use startup::{LEGACY_SNAPSHOT, open_options, read_import};

use crate::config::{Access, AccessError, DataDirError, Loaded, Reloader, Settings, Sources, bound, prepare_data_dir};
use crate::console::{Console, router};
use crate::doors::blender::{BlenderDoor, BlenderSettings};
use crate::doors::native::{InFlight, NativeDoor, NativeSettings, Peer};
use crate::live::{Directory, LiveSettings, SessionHandle};
use crate::ops::metrics::Metrics;
use crate::ops::signals::{self, Signal};
use crate::ops::{clock, logging, supervisor, watch};
use crate::storage::recovery::OpenError;
use crate::storage::store::DirectoryStore;
use axum::Router;
use axum::extract::{Path, Request};
use axum::routing::get;
use blender_ports::BlenderPorts;
use gatekeeper::Gatekeeper;
use keeper::DirectoryKeeper;
use listener::{ConnectionLimits, Connections, Listener};
use startup::Sessions;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch as channel;

/// How long the final save may take. What it misses is in the journal.
const FINAL_SAVE: Duration = Duration::from_secs(30);

/// How long members may take to read that the server closes.
const GOODBYE: Duration = Duration::from_millis(200);

/// Bytes of unfinished messages that all connections may hold together.
const IN_FLIGHT_BYTES: usize = 1 << 30;

/// Why the daemon could not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// A password file cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// What is in the data directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The old server's snapshot cannot be taken over.
    #[error("{path} cannot be imported, and nothing was: {why}. Move it away to start with an empty session")]
    Import {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// Nobody could connect.
    #[error("cannot listen on {address}: {source}{}", listen_advice(source, setting))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The setting that says so.
        setting: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Something of the operating system failed.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

fn listen_advice(error: &io::Error, setting: &str) -> String {
    let advice = [
        (io::ErrorKind::AddrInUse, format!(". Another program is using the port: set {setting}")),
        (io::ErrorKind::AddrNotAvailable, ". It is no address of this machine: set BIND".to_owned()),
        (
            io::ErrorKind::PermissionDenied,
            format!(". This user may not use that port: set {setting} to one above 1023"),
        ),
    ];
    advice.into_iter().find(|(kind, _)| *kind == error.kind()).map_or_else(String::new, |(_, advice)| advice)
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |source| ServeError::System { what, source }
}

/// Runs the daemon until a signal ends it.
pub fn run(sources: Sources, loaded: &Loaded) -> Result<(), ServeError> {
    let settings = &loaded.settings;
    let log = logging::start(settings.logging.level, settings.logging.format)
        .map_err(|error| system("logging")(io::Error::other(error)))?;
    let signals = signals::listen().map_err(system("signals"))?;
    prepare_data_dir(&settings.data_dir)?;
    tracing::info!("Hotset {} (data directory: {})", env!("CARGO_PKG_VERSION"), settings.data_dir.display());
    let opened = startup::open_directory(settings)?;
    let access = Access::resolve(loaded)?;
    for warning in loaded.warnings.iter().chain(&access.warnings) {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(system("runtime"))?;
    let reloader = Reloader::new(sources, loaded);
    let live = channel::Sender::new(startup::live_settings(settings));
    let served = runtime.block_on(async {
        let sessions = startup::start_sessions(opened, &settings.data_dir, live.subscribe())?;
        let daemon = Daemon::start(sessions, &access, settings, live).await?;
        daemon.watch_over(reloader, loaded, &log, signals).await;
        daemon.stop().await;
        Ok(())
    });
    // Connections that do not end by themselves are not waited for.
    runtime.shutdown_timeout(Duration::from_millis(100));
    served
}

/// A running daemon.
struct Daemon {
    directory: Arc<Directory>,
    store: Arc<DirectoryStore>,
    gatekeeper: Arc<Gatekeeper>,
    live: channel::Sender<LiveSettings>,
    native: channel::Sender<NativeSettings>,
    blender: channel::Sender<BlenderSettings>,
    limits: channel::Sender<ConnectionLimits>,
    interval: channel::Sender<Duration>,
    accepting: Vec<tokio::task::JoinHandle<()>>,
    data_dir: PathBuf,
}

impl Daemon {
    async fn start(
        sessions: Sessions,
        access: &Access,
        settings: &Settings,
        live: channel::Sender<LiveSettings>,
    ) -> Result<Self, ServeError> {
        let Sessions { directory, store } = sessions;
        let Bound { address, tcp, doors } = listen(settings).await?;
        let metrics = Metrics::new();
        let gatekeeper = Arc::new(Gatekeeper::new(access, metrics.clone()));
        let native = channel::Sender::new(native_settings(settings));
        let blender = channel::Sender::new(blender_settings(settings));
        let limits = channel::Sender::new(connection_limits(settings));
        let interval = channel::Sender::new(settings.saving.interval);
        let connections = Arc::new(Connections::default());
        let keeper = DirectoryKeeper {
            store: Arc::clone(&store),
            directory: Arc::clone(&directory),
            data_dir: settings.data_dir.display().to_string(),
            blender: doors.iter().map(|ports| (ports.session().clone(), ports.addresses())).collect(),
            save_interval: interval.subscribe(),
            connections: Arc::clone(&connections),
            seen: keeper::Seen::default(),
        };
        let console = Arc::new(Console {
            directory: Arc::clone(&directory),
            keeper: Arc::new(keeper),
            admins: Arc::<Gatekeeper>::clone(&gatekeeper),
            metrics: metrics.clone(),
            started: clock::instant(),
        });
        let mut routes = router(console, peer_of);
        if settings.network.doors.native {
            routes = routes.merge(native_routes(NativeDoor {
                directory: Arc::clone(&directory),
                authority: Arc::<Gatekeeper>::clone(&gatekeeper),
                settings: native.subscribe(),
                in_flight: InFlight::new(IN_FLIGHT_BYTES),
            }));
        }
        let data_dir = settings.data_dir.clone();
        if let Err(error) = bound::note(&data_dir, address) {
            tracing::warn!("hotset status and others look for this daemon where their settings say: {error}");
        }
        let listener = Listener { tcp, routes, limits: limits.subscribe(), connections: Arc::clone(&connections) };
        let mut accepting = vec![tokio::spawn(listener.run())];
        tracing::info!("Auto-save enabled (interval: {}s)", settings.saving.interval.as_secs());
        say_where(address, access, &data_dir);
        say_blender(&doors, access, &data_dir);
        for ports in doors {
            let (directory, settings) = (Arc::clone(&directory), blender.subscribe());
            let authority = Arc::<Gatekeeper>::clone(&gatekeeper);
            let session = ports.session().clone();
            let door = BlenderDoor::new(directory, authority, settings, metrics.blender.clone(), session);
            accepting.extend(ports.accept(&door, &limits.subscribe(), &connections));
        }
        Ok(Self { directory, store, gatekeeper, live, native, blender, limits, interval, accepting, data_dir })
    }

    /// Follows signals and changed files until it is time to stop.
    async fn watch_over(
        &self,
        mut reloader: Reloader,
        loaded: &Loaded,
        log: &logging::LogControl,
        mut signals: tokio::sync::mpsc::Receiver<Signal>,
    ) {
        let (_watch, mut changes) = match watch::watch_files(&loaded.watched) {
            Ok((watch, changes, _)) => (Some(watch), changes),
            Err(error) => {
                tracing::warn!("Changed settings are noticed on SIGHUP only: {error}");
                (None, tokio::sync::mpsc::channel(1).1)
            }
        };
        let mut watchdog = supervisor::watchdog_interval().map(tokio::time::interval);
        supervisor::ready("serving");
        loop {
            tokio::select! {
                signal = signals.recv() => match signal {
                    Some(Signal::Reload) => self.reload(&mut reloader, log, true),
                    Some(Signal::Save) => drop(tokio::spawn(save_all(Arc::clone(&self.directory)))),
                    Some(Signal::Dump) => self.dump(),
                    Some(Signal::Stop) | None => break,
                },
                Some(()) = changes.recv() => self.reload(&mut reloader, log, false),
                () = tick(&mut watchdog) => supervisor::still_alive(),
            }
        }
    }

    fn reload(&self, reloader: &mut Reloader, log: &logging::LogControl, asked: bool) {
        supervisor::reloading();
        match reloader.reload() {
            Ok(reload) => {
                log.set_level(reload.settings.logging.level);
                self.apply(&reload.settings);
                self.change_secrets(reloader.in_force());
                for warning in &reload.warnings {
                    tracing::warn!("{warning}");
                }
                if asked && reload.differences.is_empty() {
                    tracing::info!("Settings read again: nothing changed");
                }
                for difference in &reload.differences {
                    tracing::info!("Setting changed: {difference}");
                }
            }
            Err(errors) => {
                for error in errors.to_string().lines() {
                    tracing::error!("Settings not changed, they are wrong: {error}");
                }
            }
        }
        supervisor::ready("serving");
    }

    fn apply(&self, settings: &Settings) {
        self.live.send_replace(startup::live_settings(settings));
        self.native.send_replace(native_settings(settings));
        self.blender.send_replace(blender_settings(settings));
        self.limits.send_replace(connection_limits(settings));
        self.interval.send_replace(settings.saving.interval);
        self.store.change_keep(startup::keep(settings));
    }

    fn change_secrets(&self, in_force: &Loaded) {
        match Access::resolve(in_force) {
            Ok(access) => {
                if self.gatekeeper.change(&access) {
                    access.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
                }
            }
            Err(error) => tracing::error!("Passwords not changed: {error}"),
        }
    }

    fn dump(&self) {
        dump::sessions(&self.directory.all());
        dump::store(&self.store.status());
    }

    /// Ends in order: nobody new, everybody told, everything durable, everything saved, journal closed.
    async fn stop(self) {
        supervisor::stopping("saving");
        supervisor::extend_timeout(FINAL_SAVE + Duration::from_secs(10));
        tracing::info!("Stopping: {} sessions", self.directory.all().len());
        self.accepting.iter().for_each(tokio::task::JoinHandle::abort);
        // With the directory still locked, so that it is not the next daemon's.
        if let Err(error) = bound::forget(&self.data_dir) {
            tracing::debug!("The note of the address could not be removed: {error}");
        }
        if tokio::time::timeout(FINAL_SAVE, drain(self.directory.all())).await.is_err() {
            tracing::warn!("journal sealed, snapshot skipped");
        }
        tokio::time::sleep(GOODBYE).await;
        let store = self.store;
        let closed = tokio::task::spawn_blocking(move || store.close(Duration::from_secs(1))).await;
        match closed {
            Ok(closed) => match closed.sealed {
                Ok(()) => tracing::info!("Stopped"),
                Err(trouble) => tracing::error!("The journal could not be closed: {}", trouble.message),
            },
            Err(error) => tracing::error!("The journal could not be closed: {error}"),
        }
        drop(self.gatekeeper);
    }
}

async fn save_all(directory: Arc<Directory>) {
    for session in directory.all() {
        match session.save("signal".to_owned(), false).await {
            Ok(Ok(saved)) if saved.reasons.is_empty() => {
                tracing::info!(session = %session.name(), "Nothing to save: nothing has changed");
            }
            Ok(_) | Err(_) => {}
        }
    }
}

/// Stops all sessions from taking edits, and then saves them, beside each other.
async fn drain(sessions: Vec<SessionHandle>) {
    for session in &sessions {
        session.drain(false).await;
    }
    let mut saves = tokio::task::JoinSet::new();
    for session in sessions {
        saves.spawn(async move { session.drain(true).await });
    }
    saves.join_all().await;
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => _ = interval.tick().await,
        None => std::future::pending().await,
    }
}

fn native_settings(settings: &Settings) -> NativeSettings {
    let network = &settings.network;
    NativeSettings {
        hello_within: network.timeout,
        message_bytes: usize::try_from(network.max_message).unwrap_or(usize::MAX),
        ops_per_second: u32::try_from(network.ops_per_second).unwrap_or(u32::MAX),
        ops_burst: u32::try_from(network.ops_burst).unwrap_or(u32::MAX),
        create_sessions: settings.sessions.create_sessions.then(|| most_sessions(settings)),
        allowed_origins: network.allowed_origins.clone(),
    }
}

fn most_sessions(settings: &Settings) -> usize {
    usize::try_from(settings.sessions.max_sessions).unwrap_or(usize::MAX)
}

fn blender_settings(settings: &Settings) -> BlenderSettings {
    BlenderSettings {
        timeout: settings.network.timeout,
        message_bytes: settings.network.max_message,
        max_sessions: most_sessions(settings),
    }
}

fn connection_limits(settings: &Settings) -> ConnectionLimits {
    ConnectionLimits { all: settings.network.max_connections, per_ip: settings.network.max_connections_per_ip }
}

fn native_routes(door: NativeDoor) -> Router {
    let door = Arc::new(door);
    let upgrade =
        move |Path(name): Path<String>, request: Request| async move { Arc::clone(&door).upgrade(&name, request) };
    Router::new().route("/api/v1/sessions/{name}/ws", get(upgrade))
}

fn peer_of(request: &Request) -> Option<IpAddr> {
    request.extensions().get::<Peer>().map(|peer| peer.address.ip())
}

fn say_where(bound: SocketAddr, access: &Access, data_dir: &FilePath) {
    tracing::info!("Listening on http://{bound} (native clients: ws://{bound}/api/v1/sessions/default/ws)");
    let password = match &access.server {
        None => "no password is needed".to_owned(),
        Some(_) => format!("the password is shown by: hotset password show{}", data_dir_flag(data_dir)),
    };
    tracing::info!("To connect: {password}");
}

/// Where the daemon listens.
struct Bound {
    address: SocketAddr,
    tcp: TcpListener,
    /// Of the Blender door, for each session that has some.
    doors: Vec<BlenderPorts>,
}

async fn listen(settings: &Settings) -> Result<Bound, ServeError> {
    let network = &settings.network;
    let refused = |setting| move |(address, source)| ServeError::Listen { address, setting, source };
    let address = SocketAddr::new(network.bind, network.http_port);
    let tcp = listener::bind(address).await.map_err(refused("HTTP_PORT"))?;
    let mut doors = Vec::new();
    for session in network.blender_doors() {
        doors.push(BlenderPorts::bind(network.bind, &session).await.map_err(refused(session.setting()))?);
    }
    Ok(Bound { address: tcp.local_addr().unwrap_or(address), tcp, doors })
}

/// What people type into Blender.
fn say_blender(doors: &[BlenderPorts], access: &Access, data_dir: &FilePath) {
    let ports = |door: &BlenderPorts| <[SocketAddr; 3]>::try_from(door.addresses()).ok();
    let Some((default, others)) = doors.split_first() else { return };
    let Some([command, data, ttl]) = ports(default) else { return };
    tracing::info!("Connect Blender (Multi-User add-on, replication 0.9.10, 0.9.12 and 0.10):");
    let (ip, port) = (command.ip(), command.port());
    match ip {
        ip if ip.is_unspecified() => tracing::info!("  Address: the name or IP address of this machine, port: {port}"),
        ip if ip.is_loopback() => {
            tracing::info!("  Address: {ip} (from this machine only; BIND=0.0.0.0 lets others in), port: {port}");
        }
        ip => tracing::info!("  Address: {ip}, port: {port}"),
    }
    if (data.port(), ttl.port()) != (port.saturating_add(1), port.saturating_add(2)) {
        tracing::info!("  Ports of replication 0.9.10: {port}, {}, {}", data.port(), ttl.port());
    }
    for other in others {
        if let Some([command, data, ttl]) = ports(other) {
            let (session, port) = (other.session(), command.port());
            tracing::info!("  Port of session {session}: {port} (0.9.10: also {}, {})", data.port(), ttl.port());
        }
    }
    let shown = format!("shown by: hotset password show{}", data_dir_flag(data_dir));
    tracing::info!("  Password: {}", if access.server.is_some() { &shown } else { "leave it empty" });
    if access.admin.is_some() {
        tracing::info!("  Admin password (for init and kick): {shown}");
    }
}

/// What a command needs to find the data directory from anywhere; nothing for the usual one.
fn data_dir_flag(data_dir: &FilePath) -> String {
    if data_dir == Settings::default().data_dir {
        return String::new();
    }
    let path = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.into());
    format!(" --data-dir {}", path.display())
}
