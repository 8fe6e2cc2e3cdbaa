//! Commands that ask the running daemon: status, save, backups, export, healthcheck.

use super::exit::{Exit, Failure};
use super::http::{Daemon, Response};
use super::output;
use crate::config::{Access, Loaded};
use crate::session::SessionName;
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

/// Most bytes of an answer that is held in memory.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// How long an answer may take: saving a large session takes a while.
const PATIENCE: Duration = Duration::from_mins(10);
/// How long a healthy daemon may take to say so.
const HEALTH_PATIENCE: Duration = Duration::from_secs(5);

/// `hotset status`.
pub(super) fn status(loaded: &Loaded, as_json: bool) -> Result<(), Failure> {
    output::show(&call(loaded, "GET", "/api/v1/status")?, as_json)
}

/// `hotset save`.
pub(super) fn save(loaded: &Loaded, session: &SessionName, as_json: bool) -> Result<(), Failure> {
    output::show(&call(loaded, "POST", &format!("/api/v1/sessions/{session}/save"))?, as_json)
}

/// `hotset backups create`.
pub(super) fn create_backup(loaded: &Loaded, session: &SessionName, as_json: bool) -> Result<(), Failure> {
    output::show(&call(loaded, "POST", &format!("/api/v1/sessions/{session}/backups"))?, as_json)
}

/// `hotset backups list`.
pub(super) fn list_backups(loaded: &Loaded, session: &SessionName, as_json: bool) -> Result<(), Failure> {
    output::show(&call(loaded, "GET", &format!("/api/v1/sessions/{session}/backups"))?, as_json)
}

/// `hotset export`: to a new file, or to standard output.
pub(super) fn export(loaded: &Loaded, session: &SessionName, to: Option<&Path>) -> Result<(), Failure> {
    let mut response = ask(loaded, "GET", &format!("/api/v1/sessions/{session}/export"))?;
    let Some(path) = to else {
        let mut out = io::stdout().lock();
        io::copy(&mut response.body, &mut out)?;
        return Ok(out.flush()?);
    };
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| Failure::new(Exit::CannotCreate, format!("{}: {error}", path.display())))?;
    let copied = io::copy(&mut response.body, &mut file).and_then(|_| file.sync_all());
    copied.map_err(|error| Failure::new(Exit::InputOutput, format!("{}: incomplete: {error}", path.display())))
}

/// `hotset healthcheck`: whether the daemon's loops turn.
pub(super) fn healthcheck(loaded: &Loaded, as_json: bool) -> Result<(), Failure> {
    let daemon = Daemon::new(&loaded.settings.network, None, HEALTH_PATIENCE);
    let answer = daemon.request("GET", "/livez", "").map_err(|error| unreachable(&daemon, &error))?;
    let status = answer.status;
    if status != 200 {
        let message = format!("not healthy: {} answers {status}: {}", daemon.address(), text(answer)?.trim());
        return Err(Failure::new(Exit::Unavailable, message));
    }
    output::show(&json!({ "healthy": true }), as_json)
}

/// Asks, and reads the answer as JSON.
fn call(loaded: &Loaded, method: &str, path: &str) -> Result<Value, Failure> {
    let answer = text(ask(loaded, method, path)?)?;
    serde_json::from_str(&answer).map_err(|_| Failure::new(Exit::Unavailable, "the daemon's answer is no JSON"))
}

/// Asks with the admin token; anything but success is a failure.
fn ask(loaded: &Loaded, method: &str, path: &str) -> Result<Response, Failure> {
    let data_dir = &loaded.settings.data_dir;
    let token = Access::admin_token(data_dir)?.ok_or_else(|| {
        let place = data_dir.join(Access::ADMIN_TOKEN_FILE);
        Failure::new(Exit::Unavailable, format!("no daemon has run here: there is no {}", place.display()))
    })?;
    let daemon = Daemon::new(&loaded.settings.network, Some(token), PATIENCE);
    let answer = daemon.request(method, path, "").map_err(|error| unreachable(&daemon, &error))?;
    match answer.status {
        200..300 => Ok(answer),
        status => {
            let exit = match status {
                401 | 403 => Exit::Permission,
                400 | 404 | 422 => Exit::Data,
                429 | 503 => Exit::Unavailable,
                _ => Exit::InputOutput,
            };
            Err(Failure::new(exit, format!("the daemon refuses ({status}): {}", reason(&text(answer)?))))
        }
    }
}

fn unreachable(daemon: &Daemon, error: &io::Error) -> Failure {
    Failure::new(Exit::Unavailable, format!("no daemon answers at http://{}: {error}", daemon.address()))
}

fn text(answer: Response) -> Result<String, Failure> {
    let mut text = String::new();
    let read = answer.body.take(ANSWER_BYTES_MAX).read_to_string(&mut text);
    read.map_err(|error| Failure::new(Exit::Unavailable, format!("the daemon's answer broke off: {error}")))?;
    Ok(text)
}

/// The `message` of a JSON error, or its text.
fn reason(answer: &str) -> String {
    let document: Value = serde_json::from_str(answer).unwrap_or_default();
    let found =
        [&document["message"], &document["error"]["message"], &document["error"]].into_iter().find_map(Value::as_str);
    found.unwrap_or(answer).trim().to_owned()
}
