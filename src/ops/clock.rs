//! The only place where time enters: everything else is given it.

use std::time::Instant;

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
pub fn thread_cpu() -> std::time::Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    std::time::Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}
