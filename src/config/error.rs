//! What can be wrong with settings, where a value came from, and what is only worth a warning.

use super::ports::BlenderSession;
use std::fmt;
use std::io;
use std::path::PathBuf;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A TOML file, with the line if it could be found.
    Toml {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: Option<usize>,
    },
    /// An `.env` file.
    EnvFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// A file in systemd's `$CREDENTIALS_DIRECTORY`.
    Credential(PathBuf),
    /// The process environment, under this name.
    Environment(String),
    /// A flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Toml { path, line: Some(line) } | Self::EnvFile { path, line } => {
                write!(f, "{}:{line}", path.display())
            }
            Self::Toml { path, line: None } => write!(f, "{}", path.display()),
            Self::Credential(path) => write!(f, "credential {}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is not what it should be.
    #[error("{}{}: {message}", path.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1, if known.
        line: Option<usize>,
        /// What is wrong.
        message: String,
    },
    /// There is no such setting.
    #[error("{origin}: there is no setting {name}{}", did_you_mean(nearest.as_deref()))]
    Unknown {
        /// The name as given.
        name: String,
        /// Where.
        origin: Origin,
        /// The setting that was probably meant.
        nearest: Option<String>,
    },
    /// A value is of the wrong type or out of range.
    #[error("{origin}: {name} is {value}, expected {expected}")]
    Invalid {
        /// The setting, as it is called in the environment.
        name: String,
        /// Where.
        origin: Origin,
        /// The value, quoted, or redacted.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// A secret is given both directly and by a file, in the same layer.
    #[error("{name} is set both by {one} and by {other}: keep one of them")]
    Ambiguous {
        /// The setting.
        name: String,
        /// One place.
        one: Origin,
        /// The other place.
        other: Origin,
    },
    /// HTTP and the Blender door are to listen on the same port.
    #[error("HTTP_PORT {http} is one of the three Blender ports {door}: change one of them")]
    SamePort {
        /// The port for HTTP.
        http: u16,
        /// Whose ports it is one of.
        door: BlenderSession,
    },
    /// Two sessions are to be at the same port.
    #[error("the Blender ports {one} and {other} overlap: move one of them")]
    SamePorts {
        /// One session.
        one: BlenderSession,
        /// The other one.
        other: BlenderSession,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default()
}

/// Everything that is wrong with the settings: at least one error, each on its own line.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl ConfigErrors {
    /// Whether all of it is about flags: a matter of usage, not of configuration.
    pub fn only_flags(&self) -> bool {
        self.0.iter().all(|error| match error {
            ConfigError::Invalid { origin, .. } | ConfigError::Unknown { origin, .. } => {
                matches!(origin, Origin::Flag(_))
            }
            ConfigError::Unreadable { .. }
            | ConfigError::Syntax { .. }
            | ConfigError::Ambiguous { .. }
            | ConfigError::SamePort { .. }
            | ConfigError::SamePorts { .. } => false,
        })
    }
}

/// Something that is allowed and probably not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning(pub String);

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
