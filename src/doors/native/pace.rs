//! Pace: how much one connection may ask for per second. Pure: time is an argument.

use std::time::Instant;

/// A bucket that fills at a steady rate; what is taken out beyond it is refused.
#[derive(Debug, Clone)]
struct Bucket {
    level: f64,
    size: f64,
    per_second: f64,
    at: Instant,
}

impl Bucket {
    fn new(per_second: f64, size: f64, now: Instant) -> Self {
        Self { level: size, size, per_second, at: now }
    }

    fn take(&mut self, amount: f64, now: Instant) -> bool {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.level = (self.level + elapsed * self.per_second).min(self.size);
        let granted = self.level >= amount;
        if granted {
            self.level -= amount;
        }
        granted
    }
}

fn rate(per_second: u32, burst: u32, now: Instant) -> Option<Bucket> {
    (per_second > 0).then(|| Bucket::new(per_second.into(), burst.max(per_second).into(), now))
}

/// How much one connection may ask for.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    operations: Option<Bucket>,
    control: Bucket,
    bad: Bucket,
}

impl Pace {
    /// `per_second` operations with bursts of `burst`; 0 = no limit.
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        Self {
            operations: rate(per_second, burst, now),
            control: Bucket::new(50.0, 200.0, now),
            bad: Bucket::new(10.0 / 60.0, 10.0, now),
        }
    }

    /// Takes another rate of operations over: what was left of the old one is left of the new one, as far as it fits.
    pub(super) fn change(&mut self, per_second: u32, burst: u32, now: Instant) {
        let before = self.operations.take();
        self.operations = rate(per_second, burst, now);
        if let (Some(bucket), Some(mut before)) = (&mut self.operations, before) {
            before.take(0.0, now);
            bucket.level = before.level.min(bucket.size);
        }
    }

    /// Whether so many operations may pass. A batch larger than the burst passes when the bucket is full.
    pub(super) fn operations(&mut self, count: u32, now: Instant) -> bool {
        self.operations.as_mut().is_none_or(|bucket| {
            let most = bucket.size;
            bucket.take(f64::from(count).min(most), now)
        })
    }

    /// Whether another ping may pass.
    pub(super) fn control_frame(&mut self, now: Instant) -> bool {
        self.control.take(1.0, now)
    }

    /// Whether another bad message is put up with.
    pub(super) fn bad_message(&mut self, now: Instant) -> bool {
        self.bad.take(1.0, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::clock;
    use std::time::Duration;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let now = clock::instant();
        let mut pace = Pace::new(10, 20, now);
        assert!((0..20).all(|_| pace.operations(1, now)));
        assert!(!pace.operations(1, now));
        let later = now + Duration::from_millis(500);
        assert!((0..5).all(|_| pace.operations(1, later)));
        assert!(!pace.operations(1, later));
    }

    #[test]
    fn a_batch_larger_than_the_burst_passes_only_when_nothing_else_did() {
        let now = clock::instant();
        let mut pace = Pace::new(10, 20, now);
        assert!(pace.operations(1_000, now));
        assert!(!pace.operations(1, now));
    }

    #[test]
    fn a_changed_rate_counts_at_once_and_gives_no_second_burst() {
        let now = clock::instant();
        let mut pace = Pace::new(0, 0, now);
        assert!((0..1_000).all(|_| pace.operations(1, now)));
        pace.change(10, 20, now);
        assert!((0..20).all(|_| pace.operations(1, now)));
        pace.change(100, 200, now);
        assert!(!pace.operations(1, now));
        assert!((0..50).all(|_| pace.operations(1, now + Duration::from_millis(500))));
        pace.change(0, 0, now);
        assert!((0..1_000).all(|_| pace.operations(1, now)));
    }

    #[test]
    fn the_eleventh_bad_message_in_a_moment_is_one_too_many() {
        let now = clock::instant();
        let mut pace = Pace::new(0, 0, now);
        assert!((0..10).all(|_| pace.bad_message(now)));
        assert!(!pace.bad_message(now));
        assert!((0..100_000).all(|_| pace.operations(1, now)), "0 is no limit");
    }
}
