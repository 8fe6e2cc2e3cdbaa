//! What a session task costs: CPU time of its turns, apart while a save is under way, so that "a save stalls nobody"
//! can be read off rather than believed.

use crate::ops::clock;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Counts and maxima of one session since it was opened.
#[derive(Debug, Default)]
pub struct Meter {
    saving: AtomicBool,
    released: AtomicU64,
    waiting: AtomicU64,
    saved: AtomicU64,
    saves_failed: AtomicU64,
    rejected: Mutex<BTreeMap<&'static str, u64>>,
    turn_max_ns: AtomicU64,
    turn_max_saving_ns: AtomicU64,
    capture_max_ns: AtomicU64,
}

/// A measurement under way.
#[derive(Clone, Copy)]
pub(super) struct Watch {
    begun: Option<Duration>,
    saving: bool,
}

/// A reading of a [`Meter`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Events shown to connections.
    pub released: u64,
    /// Events decided and not yet on disk, hence not yet shown.
    pub waiting: u64,
    /// Saves that succeeded.
    pub saved: u64,
    /// Saves that failed, or could not even begin.
    pub saves_failed: u64,
    /// Longest turn of the session task in which somebody joined, CPU time, while no save was under way.
    pub turn_max: Duration,
    /// Longest turn while a save was under way.
    pub turn_max_saving: Duration,
    /// Longest capture of the state for a save.
    pub capture_max: Duration,
}

impl Meter {
    /// A meter of the task that goes on with the session: what has been counted counts.
    pub(super) fn go_on(&self) -> Self {
        let count = |value: &AtomicU64| AtomicU64::new(value.load(Ordering::Relaxed));
        Self {
            released: count(&self.released),
            saved: count(&self.saved),
            saves_failed: count(&self.saves_failed),
            rejected: Mutex::new(self.rejections()),
            ..Self::default()
        }
    }

    /// Begins to measure a turn: those in which somebody joins, and those during a save. Asking the kernel for CPU time
    /// costs as much as a small edit, so not every turn is measured.
    pub(super) fn begin(&self, joins: bool) -> Watch {
        let saving = self.saving.load(Ordering::Relaxed);
        Watch { begun: (joins || saving).then(clock::thread_cpu), saving }
    }

    pub(super) fn end(&self, watch: &Watch) {
        let Some(begun) = watch.begun else { return };
        let saving = watch.saving || self.saving.load(Ordering::Relaxed);
        let maximum = if saving { &self.turn_max_saving_ns } else { &self.turn_max_ns };
        raise(maximum, clock::thread_cpu().saturating_sub(begun));
    }

    pub(super) fn captured(&self, watch: &Watch) {
        if let Some(begun) = watch.begun {
            raise(&self.capture_max_ns, clock::thread_cpu().saturating_sub(begun));
        }
    }

    pub(super) fn saving(&self, saving: bool) {
        self.saving.store(saving, Ordering::Relaxed);
    }

    pub(super) fn released(&self, events: u64) {
        self.released.fetch_add(events, Ordering::Relaxed);
    }

    pub(super) fn waiting(&self, events: u64) {
        self.waiting.store(events, Ordering::Relaxed);
    }

    pub(super) fn save_ended(&self, succeeded: bool) {
        let count = if succeeded { &self.saved } else { &self.saves_failed };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rejected(&self, code: &'static str) {
        *self.rejected.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default() += 1;
    }

    /// How many commands were refused, by the stable name of the reason.
    pub fn rejections(&self) -> BTreeMap<&'static str, u64> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it shows now.
    pub fn read(&self) -> Reading {
        let count = |value: &AtomicU64| value.load(Ordering::Relaxed);
        let duration = |value: &AtomicU64| Duration::from_nanos(value.load(Ordering::Relaxed));
        Reading {
            released: count(&self.released),
            waiting: count(&self.waiting),
            saved: count(&self.saved),
            saves_failed: count(&self.saves_failed),
            turn_max: duration(&self.turn_max_ns),
            turn_max_saving: duration(&self.turn_max_saving_ns),
            capture_max: duration(&self.capture_max_ns),
        }
    }
}

fn raise(maximum: &AtomicU64, to: Duration) {
    maximum.fetch_max(u64::try_from(to.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}
