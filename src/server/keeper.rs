//! The keeper: answers the console's questions about the data directory.

use super::listener::Connections;
use crate::console::{JournalStatus, Keeper};
use crate::live::machine::decode_event;
use crate::live::{Directory, Mode};
use crate::ops::metrics::Metrics;
use crate::session::{Change, ChatDraft, ChatMessage, SessionName};
use crate::storage::store::DirectoryStore;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What the keeper keeps an eye on.
pub(super) struct DirectoryKeeper {
    pub(super) store: Arc<DirectoryStore>,
    pub(super) directory: Arc<Directory>,
    pub(super) refusals: Vec<String>,
    pub(super) data_dir: String,
    pub(super) save_interval: watch::Receiver<Duration>,
    pub(super) connections: Arc<Connections>,
    pub(super) seen: Seen,
}

/// Totals as last copied into the counters, which only rise.
#[derive(Debug, Default)]
pub(super) struct Seen {
    syncs: AtomicU64,
    bytes: AtomicU64,
    events: AtomicU64,
    newest_save: Mutex<Option<(i64, u64)>>,
}

/// How much a total has risen since it was last looked at.
fn risen(seen: &AtomicU64, total: u64) -> u64 {
    total.saturating_sub(seen.swap(total, Ordering::Relaxed))
}

impl Keeper for DirectoryKeeper {
    fn refusals(&self) -> Vec<String> {
        self.refusals.clone()
    }

    fn save_interval(&self) -> Duration {
        *self.save_interval.borrow()
    }

    fn data_dir(&self) -> String {
        self.data_dir.clone()
    }

    fn journal(&self) -> JournalStatus {
        let status = self.store.status();
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let journal = status.journal.map(|journal| JournalStatus {
            syncs: journal.syncs,
            events: journal.records,
            bytes: journal.bytes,
            last_sync_us: micros(journal.last_sync),
            longest_sync_us: micros(journal.longest_sync),
            disk_free_bytes: 0,
        });
        JournalStatus { disk_free_bytes: status.free_bytes.unwrap_or(0), ..journal.unwrap_or_default() }
    }

    fn backups(&self, session: &SessionName) -> Result<Vec<serde_json::Value>, String> {
        let listed = self.store.backups(session).map_err(|error| error.to_string())?;
        listed.iter().map(|backup| serde_json::to_value(backup).map_err(|error| error.to_string())).collect()
    }

    fn older_chat(&self, session: &SessionName) -> Vec<Arc<ChatMessage>> {
        let head = self.directory.get(session).map_or(0, |handle| handle.shared().tail.head());
        older_chat(&self.store.past(session, 1, head))
    }

    fn refresh(&self, metrics: &Metrics) {
        let sessions = self.directory.all();
        let mut users = 0;
        let mut nodes = 0;
        let mut released = 0;
        let mut read_only = false;
        let mut newest_save = None;
        for session in &sessions {
            let counts = session.shared().counts();
            users += counts.summary.users;
            nodes += counts.summary.nodes;
            released += session.shared().meter.read().released;
            read_only |= session.shared().mode() != Mode::Live;
            let last = session.shared().last_save();
            newest_save = newest_save.max(last.saved.map(|saved| (saved.at.0, saved.seq)));
        }
        metrics.connected_users.set(signed(users));
        metrics.scene_nodes.set(signed(nodes));
        metrics.sessions.set(signed(sessions.len() as u64));
        metrics.connections.set(signed(self.connections.count()));
        metrics.read_only.set(i64::from(read_only));
        metrics.events.inc_by(risen(&self.seen.events, released));
        let journal = self.store.status().journal.unwrap_or_default();
        metrics.journal_syncs.inc_by(risen(&self.seen.syncs, journal.syncs));
        metrics.journal_bytes.inc_by(risen(&self.seen.bytes, journal.bytes));
        *self.seen.newest_save.lock().unwrap_or_else(PoisonError::into_inner) = newest_save;
    }
}

/// What was said in these records.
pub(crate) fn older_chat(records: &[(u64, Vec<u8>)]) -> Vec<Arc<ChatMessage>> {
    let mut messages = Vec::new();
    for event in records.iter().filter_map(|(_, body)| decode_event(body).ok()) {
        for change in event.changes {
            let Change::ChatPosted(ChatDraft { id: Some(id), kind, text }) = change else { continue };
            let (author, at, seq) = (event.author.clone(), event.at, event.seq);
            messages.push(Arc::new(ChatMessage { id, kind, text, author, at, seq }));
        }
    }
    messages
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
