//! What a session task costs: CPU time of its turns, apart while a save is under way, so that "a save stalls nobody"
//! can be read off rather than believed.

use crate::ops::clock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Counts and maxima of one session since it was opened.
#[derive(Debug, Default)]
pub struct Meter {
    saving: AtomicBool,
    released: AtomicU64,
    turn_max_ns: AtomicU64,
    turn_max_saving_ns: AtomicU64,
    capture_max_ns: AtomicU64,
}

/// A reading of a [`Meter`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Events shown to connections.
    pub released: u64,
    /// Longest turn of the session task, CPU time, while no save was under way.
    pub turn_max: Duration,
    /// Longest turn while a save was under way.
    pub turn_max_saving: Duration,
    /// Longest capture of the state for a save.
    pub capture_max: Duration,
}

impl Meter {
    pub(super) fn begin(&self) -> (Duration, bool) {
        (clock::thread_cpu(), self.saving.load(Ordering::Relaxed))
    }

    pub(super) fn end(&self, (begun, was_saving): (Duration, bool)) {
        let saving = was_saving || self.saving.load(Ordering::Relaxed);
        let maximum = if saving { &self.turn_max_saving_ns } else { &self.turn_max_ns };
        raise(maximum, clock::thread_cpu().saturating_sub(begun));
    }

    pub(super) fn captured(&self, (begun, _): (Duration, bool)) {
        raise(&self.capture_max_ns, clock::thread_cpu().saturating_sub(begun));
    }

    pub(super) fn saving(&self, saving: bool) {
        self.saving.store(saving, Ordering::Relaxed);
    }

    pub(super) fn released(&self, events: u64) {
        self.released.fetch_add(events, Ordering::Relaxed);
    }

    /// What it shows now.
    pub fn read(&self) -> Reading {
        let duration = |value: &AtomicU64| Duration::from_nanos(value.load(Ordering::Relaxed));
        Reading {
            released: self.released.load(Ordering::Relaxed),
            turn_max: duration(&self.turn_max_ns),
            turn_max_saving: duration(&self.turn_max_saving_ns),
            capture_max: duration(&self.capture_max_ns),
        }
    }
}

fn raise(maximum: &AtomicU64, to: Duration) {
    maximum.fetch_max(u64::try_from(to.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}
