//! Settings: five layers, every key declared once in one table.
//!
//! Flag > environment > `.env` > `config/*.toml` > default. The table is [`KEYS`]; parsing, `hotset config show`,
//! `.env.example`, `config/default.toml` and `docs/configuration.md` all come from it. To add a setting: a field here,
//! an entry in `config/keys.rs`, then `cargo test` says which generated files to refresh.

mod access;
pub mod bound;
mod data_dir;
mod env_file;
mod error;
mod keys;
mod nearest;
mod ports;
mod reference;
mod reload;
mod sources;
mod toml_file;
mod value;

pub use access::{Access, AccessError, Password, PasswordSource};
pub use data_dir::{
    DataDirError, check_readable as check_data_dir, check_writable as check_data_dir_writable,
    prepare as prepare_data_dir,
};
pub use error::{ConfigError, ConfigErrors, Origin, Warning};
pub use keys::{Apply, KEYS, Key, find as find_key};
pub use ports::BlenderSession;
pub use reference::{default_toml, env_example, markdown};
pub use reload::{Difference, Effect, Reload, Reloader};
pub use sources::{Entry, Loaded, Sources};

use crate::ops::logging::{LogFormat, LogLevel};
use crate::ops::secret::Secret;
use crate::session::Limits;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Everything that can be set, checked and in its final type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where everything is kept. Relative to the working directory.
    pub data_dir: PathBuf,
    /// What is listened on, and how much a client may ask for.
    pub network: Network,
    /// When snapshots are written and how long they and the journal are kept.
    pub saving: Saving,
    /// Which sessions there are and how much each may hold.
    pub sessions: Sessions,
    /// What clients must know to come in. [`Access::resolve`] turns it into what is in force.
    pub passwords: Passwords,
    /// What is logged and how.
    pub logging: Logging,
}

/// What is listened on, and how much a client may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// The address to listen on.
    pub bind: IpAddr,
    /// The first of the three ports for Blender Multi-User; 0 = any three that are free.
    pub port: u16,
    /// Sessions that Blender clients find at ports of their own.
    pub blender_sessions: Vec<BlenderSession>,
    /// The port for HTTP and WebSocket; 0 = any free one.
    pub http_port: u16,
    /// Which doors are open.
    pub doors: Doors,
    /// How long a client may take to say who it is.
    pub timeout: Duration,
    /// Connections at once.
    pub max_connections: u64,
    /// Connections at once from one address.
    pub max_connections_per_ip: u64,
    /// Operations per second and client, lastingly; 0 = no limit.
    pub ops_per_second: u64,
    /// Operations that a client may send at once after a pause.
    pub ops_burst: u64,
    /// Bytes of one message.
    pub max_message: u64,
    /// Origins (scheme, host, port) of web pages that may connect, besides the daemon's own.
    pub allowed_origins: Vec<String>,
}

/// Which doors are open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Doors {
    /// WebSocket for our own clients, at the HTTP port.
    pub native: bool,
    /// Blender's Multi-User add-on, at its own ports.
    pub blender: bool,
}

/// When snapshots are written and how long they and the journal are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saving {
    /// Time between automatic saves of a session that changed.
    pub interval: Duration,
    /// Backups kept per session.
    pub max_backups: u64,
    /// How far back the journal is kept.
    pub history: Duration,
    /// Bytes that the kept journal may take up.
    pub history_cap: u64,
    /// Least time between two syncs of the journal; zero syncs as soon as the disk is free.
    pub sync_spacing: Duration,
}

/// Which sessions there are and how much each may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// Sessions at most.
    pub max_sessions: u64,
    /// Whether joining a session that does not exist creates it.
    pub create_sessions: bool,
    /// How much one session may hold.
    pub limits: Limits,
}

/// Passwords as set: `None` = not set at all, an empty one = deliberately none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Passwords {
    /// Opens the sessions.
    pub server: Option<Secret>,
    /// Opens them as well. An administrator is who has the admin token.
    pub admin: Option<Secret>,
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logging {
    /// The least important lines that are still written.
    pub level: LogLevel,
    /// Text or JSON.
    pub format: LogFormat,
}

impl Settings {
    /// Zeros everywhere: every field is then set by its key's default.
    fn blank() -> Self {
        Self {
            data_dir: PathBuf::new(),
            network: Network {
                bind: IpAddr::from([127, 0, 0, 1]),
                port: 0,
                blender_sessions: Vec::new(),
                http_port: 0,
                doors: Doors::default(),
                timeout: Duration::ZERO,
                max_connections: 0,
                max_connections_per_ip: 0,
                ops_per_second: 0,
                ops_burst: 0,
                max_message: 0,
                allowed_origins: Vec::new(),
            },
            saving: Saving {
                interval: Duration::ZERO,
                max_backups: 0,
                history: Duration::ZERO,
                history_cap: 0,
                sync_spacing: Duration::ZERO,
            },
            sessions: Sessions { max_sessions: 0, create_sessions: false, limits: Limits::default() },
            passwords: Passwords::default(),
            logging: Logging { level: LogLevel::default(), format: LogFormat::default() },
        }
    }
}

impl Default for Settings {
    /// The built-in defaults, as in `config/default.toml`.
    fn default() -> Self {
        let mut settings = Self::blank();
        for key in KEYS {
            if let Some(text) = key.default {
                key.kind.apply(&mut settings, text).expect("a test applies every default");
            }
        }
        settings
    }
}
