//! `hotset doctor`: looks at everything that an installation depends on, and says what to do.

mod network;
mod storage;

use super::exit::{Exit, Failure};
use super::output;
use crate::config::{Access, AccessError, Loaded, Password, PasswordSource, Sources};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Columns of a line.
const COLUMNS: usize = 80;

/// Where the text of a line begins.
const INDENT: usize = 6;

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grade {
    /// Nothing has to be done.
    Fine,
    /// It works; somebody should know.
    Warning,
    /// It does not work.
    Failure,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    grade: Grade,
    name: &'static str,
    /// What was found, and what to do.
    text: String,
}

impl Check {
    fn fine(name: &'static str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Fine, name, text: text.into() }
    }

    fn warning(name: &'static str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Warning, name, text: text.into() }
    }

    fn failure(name: &'static str, text: impl Into<String>) -> Self {
        Self { grade: Grade::Failure, name, text: text.into() }
    }

    fn grade(&self) -> &'static str {
        match self.grade {
            Grade::Fine => "ok",
            Grade::Warning => "warn",
            Grade::Failure => "FAIL",
        }
    }

    /// The line for people; it goes on below itself where it is long.
    fn line(&self) -> String {
        let mut lines = vec![format!("{:<width$}{}:", self.grade(), self.name, width = INDENT)];
        for word in self.text.split_whitespace() {
            match lines.last_mut() {
                Some(line) if line.chars().count() + 1 + word.chars().count() <= COLUMNS => {
                    *line = format!("{line} {word}");
                }
                _ => lines.push(format!("{}{word}", " ".repeat(INDENT))),
            }
        }
        lines.join("\n")
    }
}

/// The three addresses of each session's Blender door, the default session's first.
pub(super) type BlenderDoors = Vec<(String, Vec<SocketAddr>)>;

/// Whether a daemon runs on the data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Daemon {
    /// None does.
    Stopped,
    /// One does, and answers. The settings may have changed since it started, or be those of another one.
    Running {
        /// Where it listens for HTTP.
        http: SocketAddr,
        /// Where its Blender door leads to which session: nowhere if that is closed; or why it does not say.
        blender: Result<BlenderDoors, String>,
    },
    /// One does, and does not answer; or nobody may look.
    Unknown,
}

/// Runs all checks. It ends with an exit code of its own if one has failed.
pub(super) fn run(sources: &Sources, as_json: bool) -> Result<(), Failure> {
    let (loaded, mut checks) = settings(sources);
    let daemon = storage::check(&loaded, &mut checks);
    network::check(&loaded, &daemon, &mut checks);
    checks.extend(passwords(&loaded, &daemon));
    let failures = checks.iter().filter(|check| check.grade == Grade::Failure).count();
    if as_json {
        let row = |check: &Check| json!({ "grade": check.grade(), "check": check.name, "text": check.text });
        let rows: Vec<Value> = checks.iter().map(row).collect();
        output::show(&json!({ "ok": failures == 0, "checks": rows }), true)?;
    } else {
        let lines: Vec<String> = checks.iter().map(Check::line).collect();
        output::print(&format!("{}\n", lines.join("\n")))?;
    }
    match failures {
        0 => Ok(()),
        1 => Err(Failure::new(Exit::Unwell, "1 check failed")),
        many => Err(Failure::new(Exit::Unwell, format!("{many} checks failed"))),
    }
}

/// Faults in the settings do not keep the doctor from looking at the rest.
fn settings(sources: &Sources) -> (Loaded, Vec<Check>) {
    let (loaded, mut checks) = match sources.load() {
        Ok(loaded) => {
            let check = match loaded.check_ports() {
                Ok(()) => Check::fine("settings", "valid"),
                Err(errors) => Check::failure("settings", errors.to_string()),
            };
            (loaded, vec![check])
        }
        Err(errors) => {
            let faults = errors.0.iter().map(|error| Check::failure("settings", error.to_string()));
            (sources.load_what_is_good(), faults.collect())
        }
    };
    checks.extend(loaded.warnings.iter().map(|warning| Check::warning("settings", warning.to_string())));
    (loaded, checks)
}

fn passwords(loaded: &Loaded, daemon: &Daemon) -> Vec<Check> {
    let (server, admin) = match Access::look(loaded) {
        Ok(passwords) => passwords,
        // Whoever may not look into the directory has been told so.
        Err(AccessError::File { source, .. }) if source.kind() == std::io::ErrorKind::PermissionDenied => {
            return vec![Check::warning("passwords", "this user may not read them: run it as the daemon's user")];
        }
        Err(error) => return vec![Check::failure("passwords", error.to_string())],
    };
    let bind = match daemon {
        Daemon::Running { http, .. } => http.ip(),
        Daemon::Stopped | Daemon::Unknown => loaded.settings.network.bind,
    };
    let empty = loaded.settings.passwords.server.is_some();
    let server = match (from(server.as_ref()), bind.is_loopback()) {
        (Some(from), _) => Check::fine("server password", from),
        (None, true) => Check::fine("server password", "none: whoever is on this machine can join"),
        (None, false) if !empty => Check::fine("server password", "one will be generated at the next start"),
        (None, false) => Check::warning(
            "server password",
            format!("empty: whoever can reach {bind} can join, change and delete. Set SERVER_PASSWORD"),
        ),
    };
    let missing = match loaded.settings.passwords.admin {
        Some(_) => "set but empty: nobody can be a Blender administrator",
        None => "one will be generated at the next start",
    };
    let mut checks = vec![server, Check::fine("admin password", from(admin.as_ref()).unwrap_or(missing))];
    if matches!(daemon, Daemon::Running { .. }) {
        // Its own environment, which may have others in it, is not seen from here.
        for check in &mut checks {
            check.text = format!("as set here: {}", check.text);
        }
    }
    checks
}

fn from(password: Option<&Password>) -> Option<&'static str> {
    Some(match password?.source {
        PasswordSource::Set(_) => "one is set",
        PasswordSource::File(_) => "generated: hotset password show prints it",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_fits_a_terminal_and_says_how_it_ended_first() {
        let text = "word ".repeat(40) + &"x".repeat(60);
        let line = Check::failure("data directory", text).line();
        assert!(line.starts_with("FAIL  data directory: word word"), "{line}");
        assert!(line.lines().all(|line| line.len() <= COLUMNS), "{line}");
        assert!(line.lines().skip(1).all(|line| line.starts_with("      ")), "{line}");
        assert_eq!(Check::fine("settings", "valid").line(), "ok    settings: valid");
    }
}
