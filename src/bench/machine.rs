//! The machine that a figure was measured on: its description, its load, and the cores that are pinned.

use crate::ops::clock;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::fs;
use std::time::Instant;

/// The core that servers run on when there are two.
pub(super) const SERVER_CORE: usize = 0;
/// The core that the load generator runs on when there are two.
pub(super) const GENERATOR_CORE: usize = 1;

/// One line that says what this machine is.
pub(super) fn description() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name").and_then(|rest| rest.split_once(':')))
        .map_or("unknown processor", |(_, name)| name.trim());
    let virtual_machine = if cpuinfo.contains(" hypervisor") { "vCPU" } else { "CPU" };
    let cores = std::thread::available_parallelism().map_or(1, usize::from).max(cores());
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = memory.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
    let kernel = rustix::system::uname();
    format!("{cores} {virtual_machine} {model}, {} GiB, Linux {}", kib >> 20, kernel.release().to_string_lossy())
}

fn cores() -> usize {
    fs::read_to_string("/proc/cpuinfo").unwrap_or_default().lines().filter(|l| l.starts_with("processor")).count()
}

/// The load of the last minute.
pub(super) fn load() -> f64 {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split_whitespace().next().and_then(|first| first.parse().ok()))
        .unwrap_or(f64::NAN)
}

/// Lets this process (and the servers it starts) open as many files as it is allowed to.
pub(super) fn raise_open_files() -> u64 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // A refusal leaves the old limit, which the caller sees in what is returned.
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Keeps the calling thread, and whatever it starts from now on, on one core; without effect on a machine with one.
pub(super) fn pin_to(core: usize) -> bool {
    if cores() < 2 {
        return false;
    }
    let mut set = CpuSet::new();
    set.set(core);
    sched_setaffinity(None, &set).is_ok()
}

/// Whether the calling thread is kept on one core.
pub(super) fn is_pinned() -> bool {
    sched_getaffinity(None).is_ok_and(|set| set.count() == 1) && cores() > 1
}

/// Measures what share of time the host took away from this machine.
pub(super) struct Steal {
    steal: u64,
    total: u64,
}

impl Steal {
    /// Begins now.
    pub(super) fn begin() -> Self {
        let (steal, total) = cpu_ticks();
        Self { steal, total }
    }

    /// Percent of all cores' time since the beginning.
    pub(super) fn percent(&self) -> f64 {
        let (steal, total) = cpu_ticks();
        let (steal, total) = (steal.saturating_sub(self.steal), total.saturating_sub(self.total));
        #[expect(clippy::cast_precision_loss, reason = "ticks of minutes")]
        let percent = 100.0 * steal as f64 / total.max(1) as f64;
        percent
    }
}

fn cpu_ticks() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> =
        text.lines().next().unwrap_or("").split_whitespace().skip(1).take(8).filter_map(|t| t.parse().ok()).collect();
    (ticks.get(7).copied().unwrap_or(0), ticks.iter().sum())
}

/// Measures how busy the calling thread is.
pub(super) struct ThreadUse {
    since: Instant,
    cpu_ns: i64,
}

impl ThreadUse {
    /// Begins now.
    pub(super) fn begin() -> Self {
        Self { since: clock::instant(), cpu_ns: thread_cpu_ns() }
    }

    /// Share of the time since the beginning that this thread ran: 0 to 1.
    pub(super) fn share(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "nanoseconds of minutes")]
        let busy = (thread_cpu_ns() - self.cpu_ns) as f64 / 1e9;
        busy / self.since.elapsed().as_secs_f64().max(1e-9)
    }
}

fn thread_cpu_ns() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_seen_as_busy() {
        let busy = ThreadUse::begin();
        let mut sum = 0_u64;
        while busy.since.elapsed().as_millis() < 20 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(busy.share() > 0.05 && busy.share() <= 1.05, "{}", busy.share());
    }

    #[test]
    fn the_description_names_cores_and_kernel() {
        let text = description();
        assert!(text.contains("CPU") && text.contains("Linux "), "{text}");
    }
}
