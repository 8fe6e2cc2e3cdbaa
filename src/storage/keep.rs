//! How much is kept beyond what recovery needs. May be changed while the store runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How much is kept beyond what recovery needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Whole backups that rotation keeps per session; at least 1 is kept.
    pub max_backups: usize,
    /// How long the journal is kept.
    pub history: Duration,
    /// Most bytes of journal kept for that.
    pub history_cap: u64,
}

/// The amounts in force, shared by all who delete.
#[derive(Debug, Clone)]
pub(crate) struct KeepInForce(Arc<Mutex<Keep>>);

impl KeepInForce {
    pub(crate) fn new(keep: Keep) -> Self {
        Self(Arc::new(Mutex::new(keep)))
    }

    pub(crate) fn get(&self) -> Keep {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change(&self, keep: Keep) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = keep;
    }
}
