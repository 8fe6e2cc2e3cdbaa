//! The only place where time enters: everything else is given it.

use std::time::Instant;

/// The wall clock, in milliseconds since 1970 UTC. For display, names and ages; never for order.
#[expect(clippy::disallowed_methods, reason = "this is where time enters")]
pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// The monotonic clock, for intervals.
#[expect(clippy::disallowed_methods, reason = "this is where time enters")]
pub fn instant() -> Instant {
    Instant::now()
}
