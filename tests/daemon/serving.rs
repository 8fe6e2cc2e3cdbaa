//! The running daemon: its log, its settings while it runs, its end.

use crate::program::{Ended, Place};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long a line of the log may take to come. Generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon that is killed when the test is over.
struct Running {
    process: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
}

impl Running {
    fn start(place: &Place, arguments: &[&str]) -> Self {
        let mut command = place.hotset(&[&["serve"], arguments].concat());
        command.env("PORT", "0").env("HTTP_PORT", "0").stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process, lines, heard: Vec::new() }
    }

    /// Waits for a line of the log with this in it.
    fn says(&mut self, part: &str) -> String {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.heard.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
        panic!("{part:?} was not said, but {:#?}", self.heard);
    }

    fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    fn stop(mut self) -> i32 {
        self.signal("-TERM");
        self.process.wait().unwrap().code().expect("it ends by itself")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _waited = self.process.wait();
    }
}

#[test]
fn changed_files_are_applied_and_told_while_it_runs() {
    let place = Place::new();
    place.write(".env", "SAVE_INTERVAL=60\n");
    let mut daemon = Running::start(&place, &[]);
    daemon.says("Hotset ");
    // The signal is answered only when the daemon looks after its settings.
    daemon.signal("-HUP");
    daemon.says("Settings read again: nothing changed");
    place.write(".env", "SAVE_INTERVAL=60\nSAVE_INTERVAL=30\nMAX_NODES=5\nSERVER_PASSWORD=canary\n");
    daemon.says("SAVE_INTERVAL: 60 -> 30 (.env:2), applied");
    daemon.says("SERVER_PASSWORD: (not set) -> (hidden) (.env:4), applied");
    daemon.says("MAX_NODES: 2000000 -> 5 (.env:3), needs a restart");
    place.write(".env", "SAVE_INTERVAL=never\n");
    daemon.says("SAVE_INTERVAL is \"never\"");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_log_is_json_when_asked_for_and_its_level_can_change() {
    let place = Place::new();
    place.write(".env", "LOG_LEVEL=INFO\n");
    let mut daemon = Running::start(&place, &["--log-format", "json"]);
    let line: Value = serde_json::from_str(&daemon.says("Hotset ")).unwrap();
    assert_eq!(line["level"], "INFO");
    daemon.signal("-HUP");
    daemon.says("nothing changed");
    place.write(".env", "LOG_LEVEL=ERROR\nMAX_BACKUPS=3\nMAX_BACKUPS=many\n");
    daemon.says("MAX_BACKUPS is");
    place.write(".env", "LOG_LEVEL=ERROR\nMAX_BACKUPS=3\n");
    place.write(".env", "LOG_LEVEL=DEBUG\nMAX_BACKUPS=4\n");
    daemon.says("MAX_BACKUPS: ");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn secrets_are_generated_for_the_owner_only_and_never_logged() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &["--bind", "0.0.0.0"]);
    daemon.says("Hotset ");
    daemon.signal("-HUP");
    daemon.says("nothing changed");
    daemon.signal("-TERM");
    let rest: Vec<String> = daemon.lines.iter().collect();
    daemon.heard.extend(rest);
    for name in ["server_password", "admin_password", "admin_token"] {
        let path = place.path().join("data").join(name);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        let secret = std::fs::read_to_string(path).unwrap();
        assert!(daemon.heard.iter().all(|line| !line.contains(secret.trim())), "{:?}", daemon.heard);
    }
}

#[test]
fn a_data_directory_that_cannot_be_made_ends_with_73_and_names_it() {
    let place = Place::new();
    place.write("file", "");
    let ended = Ended::from(place.hotset(&["serve", "--data-dir", "file/data"]).output().unwrap());
    assert_eq!(ended.code, 73, "{ended:?}");
    assert!(ended.err.contains("cannot create the data directory file/data"), "{ended:?}");
    assert!(ended.err.contains("running as uid "), "{ended:?}");
}
