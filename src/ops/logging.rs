//! Log lines on standard output, as text for people or JSON for machines; the level can change while running.
//!
//! The message's own text is the same in both, because people are told to grep for it.

mod line;

use std::fmt;
use std::io::{self, IsTerminal as _};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::{SubscriberInitExt as _, TryInitError};
use tracing_subscriber::{Registry, reload};

use line::{JsonLine, TextLine};

/// The least important lines that are still written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogLevel {
    /// What went wrong and needs somebody.
    Error,
    /// What may become a problem.
    Warning,
    /// What happened: starts, saves, joins.
    #[default]
    Info,
    /// What helps to find a fault.
    Debug,
    /// Everything, also of the libraries.
    Trace,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text; colours on a terminal.
    #[default]
    Auto,
    /// Text without colours.
    Text,
    /// One JSON object per line.
    Json,
}

impl LogLevel {
    /// Reads a level by its usual names, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_uppercase().as_str() {
            "ERROR" | "CRITICAL" | "FATAL" => Some(Self::Error),
            "WARNING" | "WARN" => Some(Self::Warning),
            "INFO" => Some(Self::Info),
            "DEBUG" => Some(Self::Debug),
            "TRACE" => Some(Self::Trace),
            _ => None,
        }
    }

    fn targets(self) -> Targets {
        let own = match self {
            Self::Error => LevelFilter::ERROR,
            Self::Warning => LevelFilter::WARN,
            Self::Info => LevelFilter::INFO,
            Self::Debug => LevelFilter::DEBUG,
            Self::Trace => LevelFilter::TRACE,
        };
        // The libraries' chatter is of no use below a hunt for a fault in them.
        let others = if self == Self::Trace { LevelFilter::DEBUG } else { own.min(LevelFilter::WARN) };
        Targets::new().with_default(others).with_target("hotset", own)
    }
}

impl LogFormat {
    /// Reads `auto`, `text` or `json`, in any case.
    pub fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "auto" => Some(Self::Auto),
            "text" => Some(Self::Text),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Changes the level of the running log.
#[derive(Clone)]
pub struct LogControl {
    filter: reload::Handle<Targets, Registry>,
}

impl LogControl {
    /// Lets through lines of this level and more important ones from now on.
    pub fn set_level(&self, level: LogLevel) {
        // It fails only when the log itself is gone.
        let _gone = self.filter.reload(level.targets());
    }
}

impl fmt::Debug for LogControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogControl")
    }
}

/// Starts logging for the whole process; a second call fails.
pub fn start(level: LogLevel, format: LogFormat) -> Result<LogControl, TryInitError> {
    let (filter, handle) = reload::Layer::new(level.targets());
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stdout);
    if format == LogFormat::Json {
        registry.with(lines.event_format(JsonLine)).try_init()?;
    } else {
        let colours = format == LogFormat::Auto && colours_wanted();
        registry.with(lines.event_format(TextLine { colours })).try_init()?;
    }
    Ok(LogControl { filter: handle })
}

/// Starts logging for a command that is not the daemon: warnings only, as text on standard error. A second call fails.
pub fn start_for_command() -> Result<(), TryInitError> {
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).event_format(TextLine { colours: false });
    tracing_subscriber::registry().with(LogLevel::Warning.targets()).with(lines).try_init()
}

/// Whether standard output is a terminal whose owner has not declined colours (`NO_COLOR`).
pub fn colours_wanted() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_known_by_the_names_of_python_and_of_rust() {
        assert_eq!(LogLevel::parse("warning"), Some(LogLevel::Warning));
        assert_eq!(LogLevel::parse("WARN"), Some(LogLevel::Warning));
        assert_eq!(LogLevel::parse("Critical"), Some(LogLevel::Error));
        assert_eq!(LogLevel::parse("loud"), None);
    }

    #[test]
    fn libraries_are_quiet_unless_everything_is_asked_for() {
        let info = LogLevel::Debug.targets();
        assert!(info.would_enable("hotset::live", &tracing::Level::DEBUG));
        assert!(!info.would_enable("hyper::proto", &tracing::Level::INFO));
        assert!(LogLevel::Trace.targets().would_enable("hyper::proto", &tracing::Level::DEBUG));
    }
}
