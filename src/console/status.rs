//! Status: what `hotset status` shows.

use super::health::Readiness;
use super::routes::Console;
use crate::live::{Directory, Mode, SessionHandle};
use crate::ops::clock::micros;
use crate::session::SessionName;
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What the journal has done since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct JournalStatus {
    /// Syncs.
    pub syncs: u64,
    /// Events written.
    pub events: u64,
    /// Bytes written.
    pub bytes: u64,
    /// How long the newest sync took, in microseconds.
    pub last_sync_us: u64,
    /// How long the longest sync took, in microseconds.
    pub longest_sync_us: u64,
    /// Bytes free on its disk.
    pub disk_free_bytes: u64,
}

/// What `GET /api/v1/status` answers.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    readiness: Readiness,
    data_dir: String,
    /// Of the default session.
    blender: Vec<SocketAddr>,
    /// Of the others, by their names.
    blender_sessions: BTreeMap<String, Vec<SocketAddr>>,
    uptime_s: u64,
    sessions: Vec<SessionStatus>,
    journal: JournalStatus,
}

#[derive(Debug, Default, Serialize)]
struct SessionStatus {
    name: String,
    mode: &'static str,
    why: String,
    connections: usize,
    users: u64,
    nodes: u64,
    tasks: u64,
    messages: u64,
    seq: u64,
    payload_bytes: u64,
    unsaved_s: Option<u64>,
    last_save: Option<SaveStatus>,
    last_save_error: Option<String>,
    turn_max_us: u64,
    turn_max_saving_us: u64,
    capture_max_us: u64,
}

#[derive(Debug, Serialize)]
struct SaveStatus {
    at: String,
    reasons: Vec<String>,
    seq: u64,
    bytes: u64,
    file: String,
}

impl Status {
    pub(super) fn of(console: &Console) -> Self {
        let mut blender = console.keeper.blender();
        let default = blender.remove(&SessionName::default_session());
        Self {
            version: env!("CARGO_PKG_VERSION"),
            readiness: Readiness::of(console),
            data_dir: console.keeper.data_dir(),
            blender: default.unwrap_or_default(),
            blender_sessions: blender.into_iter().map(|(name, at)| (name.to_string(), at)).collect(),
            uptime_s: console.started.elapsed().as_secs(),
            sessions: sessions(&console.directory),
            journal: console.keeper.journal(),
        }
    }
}

/// Those that are served, and those that exist and are not.
fn sessions(directory: &Directory) -> Vec<SessionStatus> {
    let served = directory.all();
    let refused = directory.refused().into_iter().map(|(name, why)| SessionStatus {
        name: name.to_string(),
        mode: "not_served",
        why,
        ..SessionStatus::default()
    });
    let mut sessions: Vec<SessionStatus> = served.iter().map(session_status).chain(refused).collect();
    sessions.sort_by(|one, other| one.name.cmp(&other.name));
    sessions
}

fn session_status(session: &SessionHandle) -> SessionStatus {
    let shared = session.shared();
    let counts = shared.counts();
    let save = shared.last_save();
    let reading = shared.meter.read();
    let (mode, why) = match shared.mode() {
        Mode::Live => ("live", String::new()),
        Mode::ReadOnly(why) => ("read_only", why.to_string()),
    };
    SessionStatus {
        name: session.name().to_string(),
        mode,
        why,
        connections: shared.subscribers.count(),
        users: counts.summary.users,
        nodes: counts.summary.nodes,
        tasks: counts.summary.tasks,
        messages: counts.summary.messages,
        seq: counts.seq,
        payload_bytes: counts.payload_bytes,
        unsaved_s: shared.unsaved_since().map(|since| since.elapsed().as_secs()),
        last_save: save.saved.map(|saved| SaveStatus {
            at: iso(saved.at.0),
            reasons: saved.reasons,
            seq: saved.seq,
            bytes: saved.bytes,
            file: saved.file,
        }),
        last_save_error: save.failed,
        turn_max_us: micros(reading.turn_max),
        turn_max_saving_us: micros(reading.turn_max_saving),
        capture_max_us: micros(reading.capture_max),
    }
}

/// A time as people and programs read it: RFC 3339, UTC.
pub(super) fn iso(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms)
        .map_or_else(String::new, |time| time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}
