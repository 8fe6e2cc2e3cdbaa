//! The table of all settings: each key's name, type, default, range, meaning and whether it changes while running.

use super::ports::{self, BlenderSession, FIRST_PORT_MAX};
use super::{Doors, Settings, value};
use crate::ops::logging::{LogFormat, LogLevel};
use crate::ops::secret::Secret;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// One setting. Its name in TOML is `name`, as a flag `--name` with dashes, in the environment `NAME` and, stronger,
/// `HOTSET_NAME`.
#[derive(Debug)]
pub struct Key {
    /// The name, in lower case with underscores.
    pub name: &'static str,
    /// Its type, range and place in [`Settings`].
    pub(super) kind: Kind,
    /// What it is when nobody says; `None` for what has no value then.
    pub default: Option<&'static str>,
    /// Whether a change is applied while the daemon runs.
    pub apply: Apply,
    /// What it does, in one or two sentences.
    pub doc: &'static str,
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    /// At once, without dropping anyone.
    Live,
    /// At the next start.
    Restart,
}

/// A type of value, its range, and the field that it sets.
#[derive(Debug)]
pub(super) enum Kind {
    /// A time span; a bare number counts `unit`s.
    Span { unit: Duration, min: Duration, max: Duration, set: fn(&mut Settings, Duration) },
    /// A number.
    Count { min: u64, max: u64, set: fn(&mut Settings, u64) },
    /// A number of bytes, with an optional unit.
    Bytes { min: u64, max: u64, set: fn(&mut Settings, u64) },
    /// A TCP port; 0 = any free one.
    Port { max: u16, set: fn(&mut Settings, u16) },
    /// Yes or no.
    Switch { set: fn(&mut Settings, bool) },
    /// An address of this machine.
    Address { set: fn(&mut Settings, IpAddr) },
    /// A path, relative to the working directory.
    Path { set: fn(&mut Settings, PathBuf) },
    /// Some of these words, separated by commas.
    Doors { set: fn(&mut Settings, Doors) },
    /// Sessions with the first of their ports, separated by commas; may be empty.
    BlenderSessions { set: fn(&mut Settings, Vec<BlenderSession>) },
    /// Web origins, separated by commas; may be empty.
    Origins { set: fn(&mut Settings, Vec<String>) },
    /// How much to log.
    Level { set: fn(&mut Settings, LogLevel) },
    /// How to log.
    Format { set: fn(&mut Settings, LogFormat) },
    /// A secret; may be empty, never a flag, also readable from a file (`NAME_FILE`).
    Secret { set: fn(&mut Settings, Secret) },
}

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);
const DAY: Duration = Duration::from_hours(24);
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

use Apply::{Live, Restart};

const fn key(name: &'static str, default: &'static str, apply: Apply, kind: Kind, doc: &'static str) -> Key {
    Key { name, kind, default: Some(default), apply, doc }
}

const fn secret(name: &'static str, set: fn(&mut Settings, Secret), doc: &'static str) -> Key {
    Key { name, kind: Kind::Secret { set }, default: None, apply: Live, doc }
}

const fn count(min: u64, max: u64, set: fn(&mut Settings, u64)) -> Kind {
    Kind::Count { min, max, set }
}

const fn bytes(min: u64, max: u64, set: fn(&mut Settings, u64)) -> Kind {
    Kind::Bytes { min, max, set }
}

const fn seconds(min: Duration, max: Duration, set: fn(&mut Settings, Duration)) -> Kind {
    Kind::Span { unit: SECOND, min, max, set }
}

const fn milliseconds(min: Duration, max: Duration, set: fn(&mut Settings, Duration)) -> Kind {
    Kind::Span { unit: MILLISECOND, min, max, set }
}

/// Every setting, in the order of the reference.
pub const KEYS: &[Key] = &[
    key(
        "save_interval",
        "120",
        Live,
        seconds(SECOND, DAY, |s, v| s.saving.interval = v),
        "Time between automatic saves of a session that changed. A bare number is seconds.",
    ),
    key(
        "max_backups",
        "10",
        Live,
        count(1, 100_000, |s, v| s.saving.max_backups = v),
        "How many backups are kept per session; the oldest goes first. What lies in `backups/kept/` does not count.",
    ),
    key(
        "port",
        "5555",
        Restart,
        Kind::Port { max: FIRST_PORT_MAX, set: |s, v| s.network.port = v },
        "First of the three ports for Blender Multi-User: this one, and for replication 0.9.10 the next two; 0 = any three \
         that are free, not necessarily next to each other.",
    ),
    key(
        "blender_sessions",
        "",
        Restart,
        Kind::BlenderSessions { set: |s, v| s.network.blender_sessions = v },
        "Further sessions for Blender Multi-User, besides the one at PORT, each at three ports of its own. One that does \
         not exist is made when the first client logs in.",
    ),
    key(
        "log_level",
        "INFO",
        Live,
        Kind::Level { set: |s, v| s.logging.level = v },
        "The least important log lines that are still written.",
    ),
    key(
        "timeout",
        "10000",
        Live,
        milliseconds(Duration::from_millis(100), Duration::from_mins(10), |s, v| s.network.timeout = v),
        "How long a client may take to connect and say who it is, and how long a Blender client may give no sign of life \
         before it counts as gone. A bare number is milliseconds.",
    ),
    key(
        "data_dir",
        "data",
        Restart,
        Kind::Path { set: |s, v| s.data_dir = v },
        "Where sessions, backups, the journal and generated passwords are kept.",
    ),
    secret(
        "server_password",
        |s, v| s.passwords.server = Some(v),
        "Opens the sessions. Not set: nobody needs one on a loopback address, otherwise one is generated at the first \
         start (`hotset password show`). Set but empty: open to everyone who can reach the port.",
    ),
    secret(
        "admin_password",
        |s, v| s.passwords.admin = Some(v),
        "A second password that opens the sessions. It makes administrators of the Blender door only (they kick, and take \
         locked nodes); elsewhere the token in `DATA_DIR/admin_token` does. Not set: one is generated at the first start \
         (`hotset password show`). Set but empty: there is none.",
    ),
    key(
        "http_port",
        "8080",
        Restart,
        Kind::Port { max: u16::MAX, set: |s, v| s.network.http_port = v },
        "Port for WebSocket clients, REST, health and metrics; 0 = any free one.",
    ),
    key(
        "bind",
        "127.0.0.1",
        Restart,
        Kind::Address { set: |s, v| s.network.bind = v },
        "Address to listen on: 127.0.0.1 for this machine only, 0.0.0.0 or :: for every network it is in.",
    ),
    key(
        "doors",
        "native,blender",
        Restart,
        Kind::Doors { set: |s, v| s.network.doors = v },
        "Which client protocols are served.",
    ),
    key(
        "history",
        "24h",
        Live,
        seconds(Duration::ZERO, Duration::from_hours(24 * 3650), |s, v| s.saving.history = v),
        "How far back the journal is kept, for catching up after a pause and for going back to a point in time. A \
         bare number is seconds.",
    ),
    key(
        "history_cap",
        "2GiB",
        Live,
        bytes(64 * MIB, 1 << 50, |s, v| s.saving.history_cap = v),
        "Most bytes of journal that are kept for HISTORY. What recovery needs is kept in any case.",
    ),
    key(
        "sync_spacing",
        "1",
        Restart,
        milliseconds(Duration::ZERO, SECOND, |s, v| s.saving.sync_spacing = v),
        "Least time between the end of a sync of the journal and the next one; 0 syncs as soon as the disk is free. What \
         arrives meanwhile shares one sync, and waits for it. A bare number is milliseconds.",
    ),
    key(
        "log_format",
        "auto",
        Restart,
        Kind::Format { set: |s, v| s.logging.format = v },
        "How log lines look. `auto` is text, with colours on a terminal unless NO_COLOR is set.",
    ),
    key(
        "max_connections",
        "2048",
        Live,
        count(1, 1_000_000, |s, v| s.network.max_connections = v),
        "Connections at once.",
    ),
    key(
        "max_connections_per_ip",
        "256",
        Live,
        count(1, 1_000_000, |s, v| s.network.max_connections_per_ip = v),
        "Connections at once from one address; a whole /64 of IPv6 counts as one.",
    ),
    key(
        "ops_per_second",
        "2000",
        Live,
        count(0, 10_000_000, |s, v| s.network.ops_per_second = v),
        "Operations per second that one client may send lastingly; 0 = no limit.",
    ),
    key(
        "ops_burst",
        "10000",
        Live,
        count(1, 100_000_000, |s, v| s.network.ops_burst = v),
        "Operations that one client may send at once after a pause.",
    ),
    key(
        "max_message",
        "64MiB",
        Live,
        bytes(4 << 10, 64 * MIB, |s, v| s.network.max_message = v),
        "Bytes of one message of a client.",
    ),
    key(
        "allowed_origins",
        "",
        Live,
        Kind::Origins { set: |s, v| s.network.allowed_origins = v },
        "Web pages that may connect, as origins like `https://example.org:8443`. Pages under the very IP address (or \
         `localhost`) and port that they connect to, and clients that are no web pages, may in any case.",
    ),
    key("max_sessions", "1000", Live, count(1, 100_000, |s, v| s.sessions.max_sessions = v), "Sessions at most."),
    key(
        "create_sessions",
        "false",
        Live,
        Kind::Switch { set: |s, v| s.sessions.create_sessions = v },
        "Whether joining a session that does not exist creates it.",
    ),
    key(
        "max_nodes",
        "2000000",
        Live,
        count(1, 100_000_000, |s, v| s.sessions.limits.nodes = v),
        "Nodes in one session's scene.",
    ),
    key(
        "max_session_bytes",
        "8GiB",
        Live,
        bytes(MIB, 1024 * GIB, |s, v| s.sessions.limits.payload_bytes_total = v),
        "Bytes of all payloads of one session together; they are held in memory.",
    ),
    key(
        "max_payload",
        "64MiB",
        Live,
        bytes(1 << 10, 64 * MIB, |s, v| s.sessions.limits.payload_bytes = v),
        "Bytes of one node's payload.",
    ),
    key(
        "max_node_deltas",
        "1024",
        Live,
        count(1, 65_536, |s, v| s.sessions.limits.deltas = v),
        "Changes that are kept one after the other on one node's payload (Blender's, above all). They are folded into \
         one long before; it stops edits of the node only if that does not succeed.",
    ),
    key(
        "max_dependencies",
        "4096",
        Live,
        count(0, 65_536, |s, v| s.sessions.limits.dependencies = v),
        "Dependencies of one node.",
    ),
    key("max_depth", "256", Live, count(1, 4_096, |s, v| s.sessions.limits.depth = v), "Nodes above a node."),
    key(
        "max_json_depth",
        "64",
        Live,
        count(1, 120, |s, v| s.sessions.limits.json_depth = v),
        "Nesting of one JSON payload.",
    ),
    key(
        "max_batch",
        "4096",
        Live,
        count(1, 65_536, |s, v| s.sessions.limits.batch_operations = v),
        "Operations in one batch.",
    ),
    key("max_tasks", "100000", Live, count(0, 10_000_000, |s, v| s.sessions.limits.tasks = v), "Tasks in one session."),
    key(
        "max_chat",
        "10000",
        Live,
        count(0, 1_000_000, |s, v| s.sessions.limits.chat_messages = v),
        "Chat messages that a session holds ready; older ones stay in the journal for HISTORY.",
    ),
    key(
        "max_chat_bytes",
        "16MiB",
        Live,
        bytes(64 << 10, GIB, |s, v| s.sessions.limits.chat_bytes = v),
        "Bytes of chat text that a session holds ready; likewise.",
    ),
    key(
        "max_members",
        "256",
        Live,
        count(1, 100_000, |s, v| s.sessions.limits.members_online = v),
        "Members of one session online at once.",
    ),
    key(
        "max_members_remembered",
        "10000",
        Live,
        count(1, 1_000_000, |s, v| s.sessions.limits.members_remembered = v),
        "Members whose metadata a session remembers; those longest offline are forgotten.",
    ),
    key(
        "max_metadata",
        "64KiB",
        Live,
        bytes(64, MIB, |s, v| s.sessions.limits.metadata_bytes = v),
        "Bytes of one member's metadata.",
    ),
    key(
        "max_clients_remembered",
        "4096",
        Live,
        count(1, 100_000, |s, v| s.sessions.limits.clients_remembered = v),
        "Client programs whose applied operations a session remembers, so that a resent one is applied once.",
    ),
    key(
        "max_session_settings",
        "64",
        Live,
        count(1, 1_024, |s, v| s.sessions.limits.settings = v),
        "Settings that admins keep with one session (`session.set`).",
    ),
    key(
        "max_session_setting",
        "64KiB",
        Live,
        bytes(64, MIB, |s, v| s.sessions.limits.setting_bytes = v),
        "Bytes of one of them.",
    ),
];

/// The key with this name (lower case).
pub fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

impl Key {
    /// Its name in the environment and in `.env`: `SAVE_INTERVAL`.
    pub fn env_name(&self) -> String {
        self.name.to_ascii_uppercase()
    }

    /// Its flag without the dashes: `save-interval`; secrets have none.
    pub fn flag(&self) -> Option<String> {
        (!self.is_secret()).then(|| self.name.replace('_', "-"))
    }

    /// What stands for its value in the help.
    pub fn placeholder(&self) -> &'static str {
        match self.kind {
            Kind::Span { .. } => "TIME",
            Kind::Count { .. } => "NUMBER",
            Kind::Bytes { .. } => "SIZE",
            Kind::Port { .. } => "PORT",
            Kind::Switch { .. } => "BOOL",
            Kind::Address { .. } => "ADDRESS",
            Kind::Path { .. } => "PATH",
            Kind::Doors { .. } | Kind::Origins { .. } | Kind::BlenderSessions { .. } => "LIST",
            Kind::Level { .. } => "LEVEL",
            Kind::Format { .. } => "FORMAT",
            Kind::Secret { .. } => "TEXT",
        }
    }

    /// Whether its value must never be shown.
    pub fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret { .. })
    }

    /// Whether an empty text is a value; elsewhere it counts as not set.
    pub fn may_be_empty(&self) -> bool {
        matches!(self.kind, Kind::Secret { .. } | Kind::Origins { .. } | Kind::BlenderSessions { .. })
    }
}

impl Kind {
    /// Parses `text`, checks its range and puts it into `settings`; otherwise says what is allowed.
    pub(super) fn apply(&self, settings: &mut Settings, text: &str) -> Result<(), String> {
        let expected = || self.expected();
        match self {
            Self::Span { unit, min, max, set } => {
                let span = value::span(text, *unit).filter(|v| v >= min && v <= max).ok_or_else(expected)?;
                set(settings, span);
            }
            Self::Count { min, max, set } => {
                set(settings, value::count(text).filter(|v| v >= min && v <= max).ok_or_else(expected)?);
            }
            Self::Bytes { min, max, set } => {
                set(settings, value::bytes(text).filter(|v| v >= min && v <= max).ok_or_else(expected)?);
            }
            Self::Port { max, set } => {
                set(settings, text.parse().ok().filter(|v| v <= max).ok_or_else(expected)?);
            }
            Self::Switch { set } => set(settings, value::switch(text).ok_or_else(expected)?),
            Self::Address { set } => set(settings, value::address(text).ok_or_else(expected)?),
            Self::Path { set } => set(settings, value::path(text).ok_or_else(expected)?),
            Self::Doors { set } => set(settings, value::doors(text).ok_or_else(expected)?),
            Self::Origins { set } => set(settings, value::origins(text).ok_or_else(expected)?),
            Self::BlenderSessions { set } => {
                let sessions = ports::blender_sessions(text);
                set(settings, sessions.map_err(|why| format!("{}; {why}", self.expected()))?);
            }
            Self::Level { set } => set(settings, LogLevel::parse(text).ok_or_else(expected)?),
            Self::Format { set } => set(settings, LogFormat::parse(text).ok_or_else(expected)?),
            Self::Secret { set } => set(settings, value::secret(text).ok_or_else(expected)?),
        }
        Ok(())
    }

    /// What is allowed, as it follows "expected …".
    pub(super) fn expected(&self) -> String {
        match self {
            Self::Span { unit, min, max, .. } => {
                let unit = if *unit == MILLISECOND { "milliseconds" } else { "seconds" };
                let (min, max) = (value::show_span(*min), value::show_span(*max));
                format!("a time from {min} to {max}, in {unit} or like 2m, 1h30m, 500ms")
            }
            Self::Count { min, max, .. } => format!("a whole number from {min} to {max}"),
            Self::Bytes { min, max, .. } => {
                format!("a size from {} to {}, like 64MiB, 2GiB", value::show_bytes(*min), value::show_bytes(*max))
            }
            Self::Port { max, .. } => format!("a port from 0 to {max}"),
            Self::Switch { .. } => "true or false".into(),
            Self::Address { .. } => "an IP address like 127.0.0.1, 0.0.0.0 or ::".into(),
            Self::Path { .. } => "a path".into(),
            Self::Doors { .. } => format!("none, or a list of: {}", value::DOOR_NAMES.join(", ")),
            Self::Origins { .. } => "a list of origins like https://example.org:8443".into(),
            Self::BlenderSessions { .. } => {
                "a list of sessions, each with the first of its three ports, like film=5570, trailer=5580".into()
            }
            Self::Level { .. } => "one of: ERROR, WARNING, INFO, DEBUG, TRACE".into(),
            Self::Format { .. } => "one of: auto, text, json".into(),
            Self::Secret { .. } => {
                format!("a text of at most {} bytes without control characters", value::SECRET_BYTES_MAX)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::Limits;

    #[test]
    fn every_default_is_allowed() {
        for key in KEYS {
            if let Some(default) = key.default {
                assert_eq!(key.kind.apply(&mut Settings::blank(), default), Ok(()), "{}", key.name);
            }
        }
    }

    #[test]
    fn the_defaults_are_those_that_people_know() {
        let settings = Settings::default();
        assert_eq!(settings.saving.interval, Duration::from_mins(2));
        assert_eq!(settings.saving.max_backups, 10);
        assert_eq!((settings.network.port, settings.network.http_port), (5555, 8080));
        assert_eq!(settings.network.timeout, Duration::from_secs(10));
        assert_eq!(settings.data_dir, PathBuf::from("data"));
        assert_eq!(settings.logging.level, LogLevel::Info);
        assert!(settings.network.bind.is_loopback());
        assert_eq!(settings.sessions.limits, Limits::default());
    }

    #[test]
    fn names_are_unlike_each_other_and_documented() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(key.name.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{}", key.name);
            assert!(KEYS[..index].iter().all(|other| other.name != key.name), "{} is there twice", key.name);
            assert!(key.doc.ends_with('.') && key.doc.len() > 5, "{}", key.name);
        }
    }

    #[test]
    fn limits_hold_at_their_ends() {
        for (name, good, bad) in [
            ("save_interval", ["1", "1d"], ["0", "86401"]),
            ("port", ["0", "65533"], ["65534", "-1"]),
            ("max_message", ["4KiB", "64MiB"], ["4095", "67108865"]),
            ("ops_per_second", ["0", "10000000"], ["10000001", "1.5"]),
            ("create_sessions", ["yes", "0"], ["maybe", "2"]),
            ("bind", ["localhost", "[::1]"], ["example.org", "256.0.0.1"]),
            ("log_format", ["JSON", "auto"], ["xml", "colour"]),
            ("doors", ["native", "Native,"], ["window", "native;"]),
            ("blender_sessions", ["", "film=65533"], ["film", "film=65534"]),
        ] {
            let key = find(name).unwrap();
            for text in good {
                assert_eq!(key.kind.apply(&mut Settings::blank(), text), Ok(()), "{name}={text}");
            }
            for text in bad {
                assert!(key.kind.apply(&mut Settings::blank(), text).is_err(), "{name}={text}");
            }
        }
    }
}
