//! What the doctor looks at in the data directory: who owns it, how full its disk is, who uses it, what lies in it.

use super::{BlenderDoors, Check, Daemon};
use crate::cli::remote;
use crate::config::{Access, Loaded, bound, check_data_dir, check_data_dir_writable};
use crate::server::LEGACY_SNAPSHOT;
use crate::session::SessionName;
use crate::storage::fsck::{Condition, glance, newest_save};
use crate::storage::recovery::{OpenError, who_locks};
use crate::storage::vfs::{RealVfs, Space, Vfs};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

/// Fewer free bytes are warned about.
const FREE_MIN: u64 = 1 << 30;

/// So is less than one of so many parts.
const FREE_PARTS: u64 = 10;

const DIRECTORY: &str = "data directory";

/// Says whether a daemon runs.
pub(super) fn check(loaded: &Loaded, checks: &mut Vec<Check>) -> Daemon {
    let path = &loaded.settings.data_dir;
    if !path.exists() && check_data_dir(path).is_ok() {
        let text = format!("{} is not there: the first start makes it", path.display());
        checks.push(Check::warning(DIRECTORY, text));
        return Daemon::Stopped;
    }
    let usable = check_data_dir(path).and_then(|()| check_data_dir_writable(path));
    if let Err(error) = usable {
        checks.push(Check::failure(DIRECTORY, format!("{error}. Run it as its owner, or change DATA_DIR")));
        return Daemon::Unknown;
    }
    checks.push(Check::fine(DIRECTORY, format!("{} is there and writable", path.display())));
    let vfs = RealVfs::new(path.clone());
    checks.push(space(vfs.space()));
    let daemon = daemon(loaded, &vfs, checks);
    files(&vfs, checks);
    checks.extend(legacy(path, &vfs));
    daemon
}

fn space(space: std::io::Result<Space>) -> Check {
    let space = match space {
        Ok(space) => space,
        Err(error) => return Check::failure("free space", error.to_string()),
    };
    let (free, total) = (space.free >> 20, space.total >> 20);
    if space.free < FREE_MIN || space.free < space.total / FREE_PARTS {
        let text = format!("{free} MiB of {total}: make room, or nothing can be saved soon");
        return Check::warning("free space", text);
    }
    Check::fine("free space", format!("{free} MiB of {total}"))
}

/// The daemon is asked before the lock is looked at: one that is just starting is not to find it taken.
fn daemon(loaded: &Loaded, vfs: &dyn Vfs, checks: &mut Vec<Check>) -> Daemon {
    let network = &loaded.settings.network;
    let set = SocketAddr::new(network.bind, network.http_port);
    let at = bound::read(&loaded.settings.data_dir).unwrap_or(set);
    let answers = is_alive(at);
    let (check, daemon) = match who_locks(vfs) {
        Ok(()) => (stopped(set), Daemon::Stopped),
        Err(OpenError::Locked { .. }) if answers => {
            checks.push(Check::fine("daemon", format!("runs, and answers at http://{at}")));
            (ready(at), Daemon::Running { http: at, blender: blender(loaded, at) })
        }
        Err(OpenError::Locked { pid, .. }) => {
            let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
            let why = format!("a process{pid} uses the directory, and nothing answers at http://{at}: see its log");
            (Check::failure("daemon", why), Daemon::Unknown)
        }
        Err(error) => (Check::failure("daemon", error.to_string()), Daemon::Unknown),
    };
    checks.push(check);
    daemon
}

fn is_alive(address: SocketAddr) -> bool {
    matches!(remote::look(address, "/livez"), Ok((200, answer)) if answer.trim() == "alive")
}

/// Nobody holds the directory: what listens where the settings say is somebody else's.
fn stopped(set: SocketAddr) -> Check {
    if set.port() != 0 && is_alive(set) {
        let text = format!("none runs on this directory; another Hotset answers at http://{set}: give --data-dir?");
        return Check::warning("daemon", text);
    }
    Check::warning("daemon", "none runs on this directory: hotset serve starts it")
}

fn blender(loaded: &Loaded, http: SocketAddr) -> Result<BlenderDoors, String> {
    let status = remote::status_at(loaded, http).map_err(|error| error.message)?;
    let doors = || {
        let default: Vec<SocketAddr> = serde_json::from_value(status["blender"].clone())?;
        let others: BTreeMap<String, Vec<SocketAddr>> = serde_json::from_value(status["blender_sessions"].clone())?;
        let default = std::iter::once((SessionName::default_session().to_string(), default));
        Ok(default.chain(others).filter(|(_, addresses)| !addresses.is_empty()).collect())
    };
    doors().map_err(|error: serde_json::Error| format!("its status is not understood: {error}"))
}

fn ready(at: SocketAddr) -> Check {
    let (status, answer) = match remote::look(at, "/readyz") {
        Ok(answer) => answer,
        Err(error) => return Check::failure("ready", error.message),
    };
    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    let listed = |name: &str| {
        let texts = answer[name].as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.collect::<Vec<_>>().join("; ")
    };
    match (status, listed("notes")) {
        (200, notes) if notes.is_empty() => Check::fine("ready", "serves, and saves"),
        (200, notes) => Check::warning("ready", notes),
        _ => Check::failure("ready", listed("reasons")),
    }
}

fn files(vfs: &dyn Vfs, checks: &mut Vec<Check>) {
    let findings = match glance(vfs) {
        Ok(findings) => findings,
        Err(error) => return checks.push(Check::failure("files", error.to_string())),
    };
    let before = checks.len();
    for finding in findings.iter().filter(|finding| finding.condition == Condition::Corrupt) {
        let text = format!("{}: {}. hotset fsck checks all", finding.file.display(), finding.detail);
        checks.push(Check::failure("files", text));
    }
    if checks.len() == before {
        let text = format!("{} looked at, headers only: whole. hotset fsck reads all", findings.len());
        checks.push(Check::fine("files", text));
    }
}

fn legacy(folder: &Path, vfs: &dyn Vfs) -> Option<Check> {
    if !folder.join(LEGACY_SNAPSHOT).exists() {
        return None;
    }
    let used = folder.join(Access::ADMIN_TOKEN_FILE).exists()
        || newest_save(vfs, &SessionName::default_session()).ok().flatten().is_some();
    Some(if used {
        let text = format!(
            "{LEGACY_SNAPSHOT} lies in the directory, and is read only before anything has happened in the session: move it away \
             if it is no longer needed, or import it: hotset import FILE --session NAME"
        );
        Check::warning("old server", text)
    } else {
        Check::fine("old server", format!("{LEGACY_SNAPSHOT}: its import will be tried at the first start"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Grade;

    #[test]
    fn little_space_and_a_small_part_of_much_are_warned_about() {
        let graded = |free: u64, total: u64| space(Ok(Space { free: free << 30, total: total << 30 })).grade;
        assert_eq!((graded(2, 10), graded(10, 100)), (Grade::Fine, Grade::Fine));
        assert_eq!((graded(0, 1), graded(9, 100)), (Grade::Warning, Grade::Warning));
    }
}
