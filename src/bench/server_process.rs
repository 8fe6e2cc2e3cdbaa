//! A server under measurement: a process of its own, pinned to its core, with its CPU time and memory read from outside.

use super::machine;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::ops::clock;

/// A server that does not begin to serve for this long has failed.
const START_PATIENCE: Duration = Duration::from_mins(5);
/// A server that does not end for this long after SIGTERM is killed.
const STOP_PATIENCE: Duration = Duration::from_mins(1);

/// This very program, also if its file has been replaced since it was started.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// A server that was started by the benchmark; killed when dropped.
pub(super) struct ServerProcess {
    child: Child,
    /// Where it serves WebSocket and HTTP, on 127.0.0.1.
    pub(super) port: u16,
    cpu_ns_by_thread: BTreeMap<u32, u64>,
    data_dir: PathBuf,
    log: PathBuf,
}

impl ServerProcess {
    /// Starts a bare room, pinned to the server's core.
    pub(super) fn start_room() -> io::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(THIS_PROGRAM);
        command.args(["bench", "room", &port.to_string()]);
        let mut server = Self::spawn(command.stdout(Stdio::null()), port)?;
        server.wait_until(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok())?;
        Ok(server)
    }

    /// Starts the daemon on a data directory, pinned to the server's core, and waits until it is ready.
    pub(super) fn start_daemon(data_dir: &Path) -> io::Result<Self> {
        let mut server = Self::launch_daemon(data_dir)?;
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Starts the daemon without waiting for anything.
    pub(super) fn launch_daemon(data_dir: &Path) -> io::Result<Self> {
        let port = free_port()?;
        let mut command = Command::new(THIS_PROGRAM);
        // Nothing of the caller's environment, and a directory of its own without `.env` and `config/`, so that nothing
        // but the settings below changes what is measured.
        let folder = data_dir.parent().unwrap_or(data_dir);
        command.arg("serve").current_dir(folder);
        let log_path = folder.join("server.log");
        let log = fs::OpenOptions::new().append(true).create(true).open(&log_path)?;
        let settings = [
            ("DATA_DIR", data_dir.display().to_string()),
            ("HTTP_PORT", port.to_string()),
            ("BIND", "127.0.0.1".to_owned()),
            ("SERVER_PASSWORD", String::new()),
            ("DOORS", "native".to_owned()),
            ("LOG_LEVEL", "WARNING".to_owned()),
            ("SAVE_INTERVAL", "86400".to_owned()),
            ("OPS_PER_SECOND", "0".to_owned()),
            ("MAX_CONNECTIONS", "20000".to_owned()),
            ("MAX_CONNECTIONS_PER_IP", "20000".to_owned()),
            ("CREATE_SESSIONS", "true".to_owned()),
        ];
        let mut server = Self::spawn(command.env_clear().envs(settings).stdout(log), port)?;
        server.log = log_path;
        data_dir.clone_into(&mut server.data_dir);
        Ok(server)
    }

    fn spawn(command: &mut Command, port: u16) -> io::Result<Self> {
        // What is started inherits the core of the thread that starts it: no thread of it ever ran elsewhere.
        machine::pin_to(machine::SERVER_CORE);
        let child = command.stdin(Stdio::null()).spawn();
        machine::pin_to(machine::GENERATOR_CORE);
        Ok(Self {
            child: child?,
            port,
            cpu_ns_by_thread: BTreeMap::new(),
            data_dir: PathBuf::new(),
            log: PathBuf::new(),
        })
    }

    /// Waits until the daemon says that it is ready.
    pub(super) fn wait_until_ready(&mut self) -> io::Result<()> {
        self.wait_until(|server| server.get("/readyz").is_ok_and(|(status, _)| status == 200))
    }

    fn wait_until(&mut self, condition: impl Fn(&Self) -> bool) -> io::Result<()> {
        let since = clock::instant();
        while !condition(self) {
            let ended = self.child.try_wait()?;
            if ended.is_some() || since.elapsed() > START_PATIENCE {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let last_words: Vec<&str> = log.lines().rev().take(5).collect();
                return Err(io::Error::other(format!("the server does not serve ({ended:?}): {last_words:?}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// CPU time of all its threads since its start. Threads that ended between two calls are counted up to the call
    /// before.
    pub(super) fn cpu(&mut self) -> Duration {
        for entry in fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten() {
            let thread = entry.file_name().to_string_lossy().parse().ok();
            let ran = fs::read_to_string(entry.path().join("schedstat")).ok();
            let ran = ran.and_then(|text| text.split_whitespace().next().and_then(|first| first.parse().ok()));
            if let (Some(thread), Some(ran)) = (thread, ran) {
                self.cpu_ns_by_thread.insert(thread, ran);
            }
        }
        Duration::from_nanos(self.cpu_ns_by_thread.values().sum())
    }

    /// Times that its threads were taken off the core, voluntarily or not.
    pub(super) fn context_switches(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        tasks.map(|task| status_sum(&task.path().join("status"), "ctxt_switches:")).sum()
    }

    /// Memory in use (RSS), in KiB.
    pub(super) fn memory_kib(&self) -> u64 {
        status_sum(Path::new(&format!("/proc/{}/status", self.child.id())), "VmRSS:")
    }

    /// Asks its HTTP side.
    fn get(&self, path: &str) -> io::Result<(u16, String)> {
        self.ask(path, "")
    }

    fn ask(&self, path: &str, head: &str) -> io::Result<(u16, String)> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n{head}\r\n", self.port)?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        Ok((status, answer))
    }

    /// The largest of what the daemon says of its sessions under this name; `None` if it says nothing.
    pub(super) fn session_status_max(&self, name: &str) -> Option<u64> {
        let token = fs::read_to_string(self.data_dir.join("admin_token")).ok()?;
        let head = format!("Authorization: Bearer {}\r\n", token.trim());
        let (_, answer) = self.ask("/api/v1/status", &head).ok()?;
        largest_in_sessions(&answer, name)
    }

    /// Asks it to end and waits until it has; returns whether it ended by itself.
    pub(super) fn stop(mut self) -> bool {
        self.signal(rustix::process::Signal::TERM);
        let since = clock::instant();
        while since.elapsed() < STOP_PATIENCE {
            if let Ok(Some(_)) = self.child.try_wait() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // A process that is gone already needs no signal.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // Either fails only when the process has ended and was waited for.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn largest_in_sessions(answer: &str, name: &str) -> Option<u64> {
    let (_, body) = answer.split_once("\r\n\r\n")?;
    let status: serde_json::Value = serde_json::from_str(body).ok()?;
    status.get("sessions")?.as_array()?.iter().filter_map(|session| session.get(name)?.as_u64()).max()
}

fn status_sum(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| line.split_whitespace().next().is_some_and(|first| first.ends_with(key)));
    lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_sessions_the_largest_value_counts() {
        let answer = "HTTP/1.1 200 OK\r\nx: y\r\n\r\n{\"sessions\":[{\"turn\":2},{\"turn\":70},{\"other\":99}]}";
        assert_eq!(largest_in_sessions(answer, "turn"), Some(70));
        assert_eq!(largest_in_sessions(answer, "poll"), None);
    }
}
