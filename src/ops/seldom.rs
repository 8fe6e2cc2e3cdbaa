//! What may be said only now and then, so that strangers cannot fill the log.

use super::clock;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lets one of many through every so often.
#[derive(Debug)]
pub struct Seldom {
    every: Duration,
    last: Mutex<Option<Instant>>,
}

impl Seldom {
    /// One every `every`, the first at once.
    pub const fn new(every: Duration) -> Self {
        Self { every, last: Mutex::new(None) }
    }

    /// Whether it is time again.
    pub fn is_due(&self) -> bool {
        self.is_due_at(clock::instant())
    }

    fn is_due_at(&self, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| now.saturating_duration_since(last) >= self.every);
        if due {
            *last = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_let_through_at_once_and_then_one_every_so_often() {
        let (start, seldom) = (clock::instant(), Seldom::new(Duration::from_secs(10)));
        let through = (0..35).filter(|second| seldom.is_due_at(start + Duration::from_secs(*second))).count();
        assert_eq!(through, 4);
    }
}
