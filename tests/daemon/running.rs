//! A daemon that runs for the length of a test.

use crate::program::Place;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// How long a line of the log may take to come. Generous, because the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon that is killed when the test is over.
pub(crate) struct Running {
    process: Child,
    pub(crate) lines: Receiver<String>,
    pub(crate) heard: Vec<String>,
}

impl Running {
    pub(crate) fn start(place: &Place, arguments: &[&str]) -> Self {
        Self::start_with(place, arguments, &[])
    }

    pub(crate) fn start_with(place: &Place, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut command = place.hotset(&[&["serve"], arguments].concat());
        command.env("PORT", "0").env("HTTP_PORT", "0").stdout(Stdio::piped());
        command.envs(environment.iter().copied());
        let mut process = command.spawn().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process, lines, heard: Vec::new() }
    }

    /// Waits for a line of the log with this in it.
    pub(crate) fn says(&mut self, part: &str) -> String {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.heard.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
        panic!("{part:?} was not said, but {:#?}", self.heard);
    }

    /// The port for HTTP, once it listens.
    pub(crate) fn http_port(&mut self) -> String {
        let line = self.says("Listening on http://");
        let port = line.split("http://").nth(1).unwrap().split(' ').next().unwrap().rsplit(':').next().unwrap();
        port.to_owned()
    }

    pub(crate) fn signal(&self, name: &str) {
        let killed = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Bytes of memory that it has at the moment.
    pub(crate) fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        resident.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() << 10
    }

    pub(crate) fn stop(mut self) -> i32 {
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
