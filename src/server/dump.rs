//! What `SIGQUIT` writes to the log: the numbers of every session and of the store, as `key=value`.

use crate::live::{Mode, SessionHandle};
use crate::ops::clock::micros;
use crate::storage::store::Status;

pub(super) fn sessions(sessions: &[SessionHandle]) {
    for session in sessions {
        let shared = session.shared();
        let (counts, reading, last) = (shared.counts(), shared.meter.read(), shared.last_save());
        let (mode, why) = match shared.mode() {
            Mode::Live => ("live", None),
            Mode::ReadOnly(why) => ("read_only", Some(why)),
        };
        tracing::info!(
            session = %session.name(), mode, seq = counts.seq, connections = shared.subscribers.count(),
            users = counts.summary.users, nodes = counts.summary.nodes, tasks = counts.summary.tasks,
            messages = counts.summary.messages, payload_bytes = counts.payload_bytes, released = reading.released,
            waiting = reading.waiting, saves = reading.saved, saves_failed = reading.saves_failed,
            turn_max_us = micros(reading.turn_max), turn_max_saving_us = micros(reading.turn_max_saving),
            capture_max_us = micros(reading.capture_max),
            "State"
        );
        if let Some(why) = why {
            tracing::info!(session = %session.name(), "Read-only: {why}");
        }
        if let Some(saved) = last.saved {
            tracing::info!(
                session = %session.name(), seq = saved.seq, bytes = saved.bytes, file = %saved.file,
                published = saved.published,
                "Newest save: {}", saved.reasons.join(", ")
            );
        }
        if let Some(why) = last.failed {
            tracing::info!(session = %session.name(), "The newest save failed: {why}");
        }
    }
}

pub(super) fn store(status: &Status) {
    let journal = status.journal.unwrap_or_default();
    tracing::info!(
        syncs = journal.syncs,
        events = journal.records,
        bytes = journal.bytes,
        last_sync_us = micros(journal.last_sync),
        longest_sync_us = micros(journal.longest_sync),
        disk_free_bytes = status.free_bytes.unwrap_or_default(),
        "Store"
    );
    if let Some(trouble) = &status.trouble {
        tracing::info!(disk_full = trouble.disk_full, "Nothing can be written: {}", trouble.message);
    }
}
