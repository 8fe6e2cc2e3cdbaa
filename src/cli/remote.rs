//! Commands that ask the running daemon: status, save, backups, restore, export, healthcheck.

use super::exit::{Exit, Failure};
use super::http::{Daemon, Response};
use super::output;
use crate::config::{Access, Loaded, Origin, bound, check_data_dir};
use crate::session::SessionName;
use crate::storage::recovery::{OpenError, who_locks};
use crate::storage::vfs::RealVfs;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::net::SocketAddr;
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
    show_saved(&call(loaded, "POST", &format!("/api/v1/sessions/{session}/save"))?, as_json)
}

/// Says what has become of a save or a backup.
fn show_saved(answer: &Value, as_json: bool) -> Result<(), Failure> {
    if as_json { output::show(answer, true) } else { output::print(&format!("{}\n", saved(answer))) }
}

fn saved(answer: &Value) -> String {
    let text = |name: &str| answer[name].as_str().filter(|text| !text.is_empty());
    let file = text("file");
    if let Some(note) = text("note") {
        let kept = file.map(|file| format!("\nthe state of this session is kept in {file}"));
        return format!("{note}{}", kept.unwrap_or_default());
    }
    if let Some(backup) = text("backup") {
        return format!("backup: {backup}");
    }
    match (answer["changed"].as_bool(), file) {
        (Some(false), Some(file)) => {
            format!("nothing to save: all is in {file} of {}", text("at").unwrap_or("the last save"))
        }
        (Some(false), None) => "nothing to save: nothing has changed since the last save".into(),
        (_, file) => {
            let (file, seq, bytes) = (file.unwrap_or_default(), &answer["seq"], &answer["bytes"]);
            format!("saved: {file} (seq {seq}, {bytes} bytes)")
        }
    }
}

/// `hotset backups create`; a copy of the file goes to `to`.
pub(super) fn create_backup(
    loaded: &Loaded,
    session: &SessionName,
    to: Option<&Path>,
    as_json: bool,
) -> Result<(), Failure> {
    let answer = call(loaded, "POST", &format!("/api/v1/sessions/{session}/backups"))?;
    let Some(to) = to else { return show_saved(&answer, as_json) };
    let name = answer["file"].as_str().unwrap_or_default();
    let path = loaded.settings.data_dir.join(name);
    // Once open, the file stays what it is, also when the daemon renames it.
    let mut file =
        File::open(&path).map_err(|error| Failure::new(Exit::InputOutput, format!("{}: {error}", path.display())))?;
    output::write_out(Some(to), &mut |out| Ok(io::copy(&mut file, out).map(drop)?))?;
    if to == Path::new("-") { Ok(()) } else { show_saved(&answer, as_json) }
}

/// `hotset export` from the running daemon. `false`: no daemon answers, and nothing was written.
pub(super) fn export(loaded: &Loaded, session: &SessionName, out: &mut dyn Write) -> Result<bool, Failure> {
    let Some(daemon) = running_daemon(loaded)? else { return Ok(false) };
    let Ok(answer) = daemon.request("GET", &format!("/api/v1/sessions/{session}/export"), "") else { return Ok(false) };
    let mut answer = accepted(answer)?;
    let copied = io::copy(&mut answer.body, out).and_then(|_| out.flush());
    copied.map_err(|error| Failure::new(Exit::InputOutput, format!("the export broke off: {error}")))?;
    Ok(true)
}

/// What the running daemon answers; `None`: none runs here.
pub(super) fn call_if_running(loaded: &Loaded, method: &str, path: &str, body: &str) -> Result<Option<Value>, Failure> {
    let Some(daemon) = running_daemon(loaded)? else { return Ok(None) };
    let answer = match daemon.request(method, path, body) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(None),
        other => text(accepted(other.map_err(|error| unreachable(&daemon, &error))?)?)?,
    };
    parsed(&answer).map(Some)
}

/// `hotset healthcheck`: whether the daemon's loops turn.
pub(super) fn healthcheck(loaded: &Loaded, as_json: bool) -> Result<(), Failure> {
    let daemon = Daemon::new(address(loaded), None, HEALTH_PATIENCE);
    let answer = daemon.request("GET", "/livez", "").map_err(|error| unreachable(&daemon, &error))?;
    let status = answer.status;
    if status != 200 {
        let message = format!("not healthy: {} answers {status}: {}", daemon.address(), text(answer)?.trim());
        return Err(Failure::new(Exit::Unavailable, message));
    }
    output::show(&json!({ "healthy": true }), as_json)
}

/// What anybody is answered at this address and path: status and text.
pub(super) fn look(address: SocketAddr, path: &str) -> Result<(u16, String), Failure> {
    let daemon = Daemon::new(address, None, HEALTH_PATIENCE);
    let answer = daemon.request("GET", path, "").map_err(|error| unreachable(&daemon, &error))?;
    Ok((answer.status, text(answer)?))
}

/// What the daemon of this data directory, which listens at this address, says of itself.
pub(super) fn status_at(loaded: &Loaded, address: SocketAddr) -> Result<Value, Failure> {
    let token = Access::admin_token(&loaded.settings.data_dir)?;
    let daemon = Daemon::new(address, token, HEALTH_PATIENCE);
    let answer = daemon.request("GET", "/api/v1/status", "").map_err(|error| unreachable(&daemon, &error))?;
    parsed(&text(accepted(answer)?)?)
}

/// Asks, and reads the answer as JSON.
fn call(loaded: &Loaded, method: &str, path: &str) -> Result<Value, Failure> {
    parsed(&text(ask(loaded, method, path)?)?)
}

fn parsed(answer: &str) -> Result<Value, Failure> {
    serde_json::from_str(answer).map_err(|_| Failure::new(Exit::Unavailable, "the daemon's answer is no JSON"))
}

/// Asks with the admin token; anything but success is a failure.
fn ask(loaded: &Loaded, method: &str, path: &str) -> Result<Response, Failure> {
    let daemon = daemon(loaded)?.ok_or_else(|| {
        let place = output::absolute(&loaded.settings.data_dir.join(Access::ADMIN_TOKEN_FILE));
        let hint = "if the daemon keeps its data elsewhere, give --data-dir";
        Failure::new(Exit::Unavailable, format!("no daemon has run here: there is no {}; {hint}", place.display()))
    })?;
    accepted(daemon.request(method, path, "").map_err(|error| unreachable(&daemon, &error))?)
}

/// The daemon of this data directory, if one has ever run in it.
fn daemon(loaded: &Loaded) -> Result<Option<Daemon>, Failure> {
    check_data_dir(&loaded.settings.data_dir)?;
    let token = Access::admin_token(&loaded.settings.data_dir)?;
    Ok(token.map(|token| Daemon::new(address(loaded), Some(token), PATIENCE)))
}

/// The daemon of this data directory, if one holds it, or that of the flags. When none holds it, what listens where the
/// settings say is somebody else's.
fn running_daemon(loaded: &Loaded) -> Result<Option<Daemon>, Failure> {
    let data_dir = &loaded.settings.data_dir;
    // Only a killed daemon's note is worth a look at the lock: looking takes it for a moment, in which none can start.
    let is_held = || matches!(who_locks(&RealVfs::new(data_dir.clone())), Err(OpenError::Locked { .. }));
    if is_named_by_flag(loaded) || (bound::read(data_dir).is_some() && is_held()) { daemon(loaded) } else { Ok(None) }
}

fn is_named_by_flag(loaded: &Loaded) -> bool {
    ["bind", "http_port"].iter().any(|name| matches!(loaded.entries[*name].origin, Origin::Flag(_)))
}

/// Where a flag says that it listens; else where it says so itself; else where the settings say.
pub(super) fn address(loaded: &Loaded) -> SocketAddr {
    let network = &loaded.settings.network;
    let noted = if is_named_by_flag(loaded) { None } else { bound::read(&loaded.settings.data_dir) };
    noted.unwrap_or_else(|| SocketAddr::new(network.bind, network.http_port))
}

fn accepted(answer: Response) -> Result<Response, Failure> {
    let exit = match answer.status {
        200..300 => return Ok(answer),
        401 | 403 => Exit::Permission,
        400 | 404 | 409 | 422 => Exit::Data,
        429 | 503 => Exit::Unavailable,
        _ => Exit::InputOutput,
    };
    let status = answer.status;
    Err(Failure::new(exit, format!("the daemon refuses ({status}): {}", reason(&text(answer)?))))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_save_is_told_in_a_line() {
        let told = |answer: Value| saved(&answer);
        let answer = json!({ "seq": 7, "at": "2026-01-12T12:00:00Z", "bytes": 9, "file": "s.bin", "published": true });
        let with = |more: &[(&str, Value)]| {
            let mut answer = answer.clone();
            for (name, value) in more {
                answer[*name] = value.clone();
            }
            told(answer)
        };
        assert_eq!(with(&[("changed", true.into())]), "saved: s.bin (seq 7, 9 bytes)");
        assert_eq!(with(&[("changed", false.into())]), "nothing to save: all is in s.bin of 2026-01-12T12:00:00Z");
        assert_eq!(with(&[("changed", true.into()), ("backup", "backups/b.bin".into())]), "backup: backups/b.bin");
        let pending = with(&[("published", false.into()), ("note", "restore pending: …".into())]);
        assert_eq!(pending, "restore pending: …\nthe state of this session is kept in s.bin");
        let nothing = json!({ "changed": false, "file": "" });
        assert_eq!(told(nothing), "nothing to save: nothing has changed since the last save");
    }
}
