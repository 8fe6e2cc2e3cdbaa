//! The keeper: answers the console's questions about the data directory.

use super::listener::Connections;
use crate::console::{JournalStatus, Keeper, Unusable, Wanted};
use crate::live::machine::{SessionMachine, decode_event};
use crate::live::{Chosen, Directory, Mode, Shared};
use crate::ops::metrics::Metrics;
use crate::session::{Change, ChatDraft, ChatMessage, SessionName};
use crate::storage::restore::{RestoreError, Source};
use crate::storage::snapshot::SnapshotError;
use crate::storage::store::DirectoryStore;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What the keeper keeps an eye on.
pub(super) struct DirectoryKeeper {
    pub(super) store: Arc<DirectoryStore>,
    pub(super) directory: Arc<Directory>,
    pub(super) data_dir: String,
    /// Where Blender clients find which session.
    pub(super) blender: BTreeMap<SessionName, Vec<SocketAddr>>,
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
    saved: AtomicU64,
    saves_failed: AtomicU64,
    rejections: Mutex<BTreeMap<&'static str, u64>>,
}

/// How much a total has risen since it was last looked at.
fn risen(seen: &AtomicU64, total: u64) -> u64 {
    total.saturating_sub(seen.fetch_max(total, Ordering::Relaxed))
}

/// What the sessions' own numbers come to together.
#[derive(Default)]
struct Sum {
    users: u64,
    nodes: u64,
    released: u64,
    waiting: u64,
    saved: u64,
    saves_failed: u64,
    read_only: bool,
    newest_failed: bool,
    newest_save: Option<i64>,
    rejections: BTreeMap<&'static str, u64>,
}

impl Sum {
    fn add(&mut self, shared: &Shared) {
        let (counts, reading, last) = (shared.counts(), shared.meter.read(), shared.last_save());
        self.users += counts.summary.users;
        self.nodes += counts.summary.nodes;
        self.released += reading.released;
        self.waiting += reading.waiting;
        self.saved += reading.saved;
        self.saves_failed += reading.saves_failed;
        self.read_only |= shared.mode() != Mode::Live;
        self.newest_failed |= last.failed.is_some();
        self.newest_save = self.newest_save.max(last.saved.map(|saved| saved.at.0));
        for (code, count) in shared.meter.rejections() {
            *self.rejections.entry(code).or_default() += count;
        }
    }
}

impl DirectoryKeeper {
    fn count_rejections(&self, metrics: &Metrics, totals: BTreeMap<&'static str, u64>) {
        let mut seen = self.seen.rejections.lock().unwrap_or_else(PoisonError::into_inner);
        for (code, total) in totals {
            let before = seen.entry(code).or_default();
            metrics.rejected(code, total.saturating_sub(*before));
            *before = total.max(*before);
        }
    }
}

impl Keeper for DirectoryKeeper {
    fn save_interval(&self) -> Duration {
        *self.save_interval.borrow()
    }

    fn data_dir(&self) -> String {
        self.data_dir.clone()
    }

    fn blender(&self) -> BTreeMap<SessionName, Vec<SocketAddr>> {
        self.blender.clone()
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

    fn choose(&self, session: &SessionName, wanted: &Wanted) -> Result<Chosen<SessionMachine>, Unusable> {
        let source = match wanted {
            Wanted::Backup(name) => self.store.backup(session, name),
            Wanted::File(path) => Source::file(path),
        };
        source.and_then(|source| self.store.choose(session, &source)).map_err(|error| unusable(&error))
    }

    fn chat(&self, session: &SessionName, through: u64, visit: &mut dyn FnMut(&ChatMessage) -> ControlFlow<()>) {
        let mut first = 1;
        self.store.past(session, 1, through, &mut |seq, body| {
            first = if chat_in(body).clears { seq } else { first };
            ControlFlow::Continue(())
        });
        self.store
            .past(session, first, through, &mut |_, body| chat_in(body).messages.iter().try_for_each(&mut *visit));
    }

    fn refresh(&self, metrics: &Metrics) {
        let sessions = self.directory.all();
        let mut sum = Sum::default();
        for session in &sessions {
            sum.add(session.shared());
        }
        metrics.connected_users.set(signed(sum.users));
        metrics.scene_nodes.set(signed(sum.nodes));
        metrics.sessions.set(signed(sessions.len() as u64));
        metrics.connections.set(signed(self.connections.count()));
        metrics.read_only.set(i64::from(sum.read_only));
        metrics.journal_durable_lag_events.set(signed(sum.waiting));
        metrics.events.inc_by(risen(&self.seen.events, sum.released));
        metrics.saved(risen(&self.seen.saved, sum.saved), risen(&self.seen.saves_failed, sum.saves_failed));
        metrics.newest_save(sum.newest_save, !sum.newest_failed);
        self.count_rejections(metrics, sum.rejections);
        let journal = self.store.status().journal.unwrap_or_default();
        metrics.journal_syncs.inc_by(risen(&self.seen.syncs, journal.syncs));
        metrics.journal_bytes.inc_by(risen(&self.seen.bytes, journal.bytes));
    }
}

fn unusable(error: &RestoreError) -> Unusable {
    let why = error.to_string();
    match error {
        RestoreError::NotFound(_) | RestoreError::NoBackup(_) => Unusable::Missing(why),
        RestoreError::Source { error: SnapshotError::Io(_), .. } | RestoreError::Io(_) | RestoreError::Open(_) => {
            Unusable::Failed(why)
        }
        RestoreError::Source { .. }
        | RestoreError::WrongToken
        | RestoreError::NothingLeft { .. }
        | RestoreError::NothingToRecover => Unusable::Damaged(why),
    }
}

/// What a record means to the chat.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// The session begins anew with it: what was said before is no part of it any more.
    pub(crate) clears: bool,
    /// What was said, after that.
    pub(crate) messages: Vec<ChatMessage>,
}

/// What was said in this record.
pub(crate) fn chat_in(record: &[u8]) -> Said {
    let mut said = Said::default();
    let Ok(event) = decode_event(record) else { return said };
    let (author, at, seq) = (event.author, event.at, event.seq);
    for change in event.changes {
        if let Change::ChatPosted(ChatDraft { id: Some(id), kind, text }) = change {
            said.messages.push(ChatMessage { id, kind, text, author: author.clone(), at, seq });
        } else if let Change::SessionCleared { .. } = change {
            said = Said { clears: true, messages: Vec::new() };
        }
    }
    said
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
