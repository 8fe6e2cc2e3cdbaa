//! The ear of a session task: hears from the journal's and the saver's threads, and from connections that end.

use crate::storage::{Durable, RestoreOutcome, SaveOutcome, Trouble};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// What other threads leave for a session task. Every part holds the newest news only, so it cannot grow.
#[derive(Debug, Default)]
pub(super) struct Ear {
    durable: AtomicU64,
    trouble: Mutex<Option<Trouble>>,
    saved: Mutex<Option<SaveOutcome>>,
    archived: Mutex<Option<SaveOutcome>>,
    restored: Mutex<Option<RestoreOutcome>>,
    departures: AtomicBool,
    notify: Notify,
}

impl Ear {
    pub(super) fn new(durable: u64) -> Self {
        Self { durable: AtomicU64::new(durable), ..Self::default() }
    }

    /// Waits until something was heard.
    pub(super) async fn listen(&self) {
        self.notify.notified().await;
    }

    pub(super) fn durable_seq(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(super) fn current_trouble(&self) -> Option<Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A save has ended. There is at most one at a time.
    pub(super) fn save_ended(&self, outcome: SaveOutcome) {
        *self.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.notify.notify_one();
    }

    pub(super) fn take_saved(&self) -> Option<SaveOutcome> {
        self.saved.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// An archive has ended. There is at most one at a time.
    pub(super) fn archive_ended(&self, outcome: SaveOutcome) {
        *self.archived.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.notify.notify_one();
    }

    pub(super) fn take_archived(&self) -> Option<SaveOutcome> {
        self.archived.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// A restore has ended. There is at most one at a time.
    pub(super) fn restore_ended(&self, outcome: RestoreOutcome) {
        *self.restored.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.notify.notify_one();
    }

    pub(super) fn take_restored(&self) -> Option<RestoreOutcome> {
        self.restored.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The task is to have another turn.
    pub(super) fn again(&self) {
        self.notify.notify_one();
    }

    /// A connection has ended.
    pub(super) fn departed(&self) {
        self.departures.store(true, Ordering::Release);
        self.notify.notify_one();
    }

    pub(super) fn take_departures(&self) -> bool {
        self.departures.swap(false, Ordering::AcqRel)
    }
}

impl Durable for Ear {
    fn durable(&self, seq: u64) {
        self.durable.fetch_max(seq, Ordering::AcqRel);
        self.notify.notify_one();
    }

    fn trouble(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        self.notify.notify_one();
    }
    fn prepared(&self) {
        self.notify.notify_one();
    }
}
