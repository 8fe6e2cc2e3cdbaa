//! The only place where time enters: everything else is given it.

use std::time::{Duration, Instant};

/// The wall clock, in milliseconds since 1970 UTC. For display, names and ages; never for order.
#[expect(clippy::disallowed_methods, reason = "this is where time enters")]
pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// The monotonic clock, for intervals. The runtime's own, so that tests can make it run.
#[expect(clippy::disallowed_methods, reason = "this is where time enters")]
pub fn instant() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// CPU time that the calling thread has used so far.
pub fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// A time in whole microseconds, as it is shown.
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
