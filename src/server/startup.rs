//! Starting: opens the data directory, starts what it holds, and says what it found.

use super::ServeError;
use crate::config::Settings;
use crate::doors::blender::import::{Source, import_file};
use crate::live::machine::{SessionMachine, decode_event};
use crate::live::{Directory, LiveSettings, SeedStep, SessionOrigin, TailLimits, seed};
use crate::ops::{clock, random};
use crate::session::{Event, Limits, Session, SessionName, Timestamp};
use crate::storage::recovery::{OpenOptions, Opened, Outcome, Restored, open};
use crate::storage::store::DirectoryStore;
use crate::storage::vfs::{RealVfs, SharedVfs};
use crate::storage::{Keep, Run, Store};
use std::collections::VecDeque;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// Events before the recovered state that are taken into memory, for clients that resume.
const RECENT_EVENTS: u64 = 4_096;

/// Bytes of them.
const RECENT_BYTES: usize = 16 << 20;

/// What the old Python server left behind.
pub(crate) const LEGACY_SNAPSHOT: &str = "session_snapshot.pkl";

/// Bytes of an old snapshot that are read.
const LEGACY_BYTES_MAX: u64 = 2 << 30;

/// How the data directory is to be kept.
pub(crate) fn open_options(settings: &Settings) -> OpenOptions {
    let mut options = OpenOptions::new(Timestamp(clock::now_ms()), Run(random::u128()));
    options.keep = keep(settings);
    options.journal.sync_spacing = settings.saving.sync_spacing;
    options
}

/// How much of the past is to be kept.
pub(super) fn keep(settings: &Settings) -> Keep {
    let saving = &settings.saving;
    let max_backups = usize::try_from(saving.max_backups).unwrap_or(usize::MAX);
    Keep { max_backups, history: saving.history, history_cap: saving.history_cap }
}

/// Opens the data directory.
pub(super) fn open_directory(settings: &Settings) -> Result<Opened<SessionMachine>, ServeError> {
    let vfs: SharedVfs = Arc::new(RealVfs::new(settings.data_dir.clone()));
    Ok(open(&vfs, &open_options(settings))?)
}

/// What live sessions follow.
pub(super) fn live_settings(settings: &Settings) -> LiveSettings {
    LiveSettings {
        limits: settings.sessions.limits.clone(),
        save_interval: settings.saving.interval,
        tail: TailLimits::default(),
    }
}

/// The sessions of an opened directory, started.
pub(super) struct Sessions {
    pub(super) directory: Arc<Directory>,
    pub(super) store: Arc<DirectoryStore>,
}

/// Starts every session that can be served.
pub(super) fn start_sessions(
    opened: Opened<SessionMachine>,
    data_dir: &Path,
    live: watch::Receiver<LiveSettings>,
) -> Result<Sessions, ServeError> {
    // Its notes have been logged by those who made them.
    let Opened { sessions, store, first_run, .. } = opened;
    if first_run {
        tracing::info!("No previous session found (first run)");
    }
    let limits = live.borrow().limits.clone();
    let directory = Arc::new(Directory::new(Arc::<DirectoryStore>::clone(&store), live));
    for session in sessions {
        let name = session.name;
        let (machine, saved, sealed) = match session.outcome {
            Outcome::Serving { machine, restored } => {
                let saved = restored.as_ref().map_or(0, |restored| restored.saved);
                if let Some(restored) = &restored {
                    say_restored(&name, restored);
                }
                (machine, saved, None)
            }
            Outcome::ReadOnly { machine, restored, damage, command } => {
                say_restored(&name, &restored);
                let why = format!("{damage}. To go on without what is damaged: {command}");
                tracing::error!("Session {name} is read-only: {why}");
                (machine, restored.seq, Some(why.into()))
            }
            Outcome::Refused { reason, command } => {
                let why = format!("session {name} is not served: {reason}. To repair it: {command}");
                tracing::error!("{why}");
                directory.refuse(name, why);
                continue;
            }
        };
        let mut state = machine.into_session();
        if name.is_default() && sealed.is_none() {
            state = take_over(&store, &name, state, data_dir, &limits)?;
        }
        let recent = recent_events(&store, &name, state.seq());
        directory.start(SessionOrigin { name, state, recent, saved, sealed });
    }
    Ok(Sessions { directory, store })
}

fn say_restored(name: &SessionName, restored: &Restored) {
    if restored.seq == 0 {
        return tracing::info!(session = %name, "Session is empty: nothing has happened in it yet");
    }
    let time = chrono::DateTime::from_timestamp_millis(restored.at.0).unwrap_or_default();
    let summary = &restored.summary;
    tracing::info!(session = %name, "Session restored from disk");
    tracing::info!("  Timestamp: {} (restored)", time.format("%Y-%m-%dT%H:%M:%SZ"));
    tracing::info!("  Users: {} (restored)", summary.users);
    tracing::info!(
        "  Nodes: {}, tasks: {}, messages: {}, events replayed from the journal: {} (restored)",
        summary.nodes,
        summary.tasks,
        summary.messages,
        restored.replayed
    );
    if restored.discarded_bytes > 0 {
        tracing::info!("  {} bytes that nobody had been promised were left out", restored.discarded_bytes);
    }
}

/// The newest events of the journal, so that clients who were connected can resume. What cannot be read is not needed.
fn recent_events(store: &DirectoryStore, name: &SessionName, seq: u64) -> Vec<Arc<Event>> {
    let mut recent = Recent::default();
    store.past(name, (seq + 1).saturating_sub(RECENT_EVENTS).max(1), seq, &mut |number, body| recent.add(number, body));
    recent.events.into_iter().map(|(event, _)| event).collect()
}

/// The newest of the events that are added, at most [`RECENT_BYTES`] of them.
#[derive(Default)]
struct Recent {
    events: VecDeque<(Arc<Event>, usize)>,
    bytes: usize,
}

impl Recent {
    fn add(&mut self, number: u64, body: &[u8]) -> ControlFlow<()> {
        let Some(event) = decode_event(body).ok().filter(|event| event.seq == number) else {
            self.events.clear();
            return ControlFlow::Break(());
        };
        self.bytes += body.len();
        self.events.push_back((Arc::new(event), body.len()));
        while self.bytes > RECENT_BYTES
            && let Some((_, bytes)) = self.events.pop_front()
        {
            self.bytes -= bytes;
        }
        ControlFlow::Continue(())
    }
}

/// Takes over what the old Python server left in the data directory, or refuses to start. Once anything has happened in
/// the session, it is only told that the file is not read.
fn take_over(
    store: &Arc<DirectoryStore>,
    name: &SessionName,
    state: Session,
    data_dir: &Path,
    limits: &Limits,
) -> Result<Session, ServeError> {
    let path = data_dir.join(LEGACY_SNAPSHOT);
    if !path.exists() {
        return Ok(state);
    }
    if state.seq() > 0 {
        tracing::warn!(
            "{LEGACY_SNAPSHOT} is not read: the session has content already. If it is no longer needed, move it away; \
             otherwise, with the daemon stopped: hotset import {} --session NAME",
            path.display()
        );
        return Ok(state);
    }
    let fail = |why: String| ServeError::Import { path: path.display().to_string(), why };
    let (steps, source) = read_import(&path, limits).map_err(fail)?;
    let count = steps.len();
    let store: &dyn Store = &**store;
    let filled = seed(store, name, &state, steps, limits).map_err(|error| fail(error.to_string()))?;
    tracing::info!("Imported {} ({source:?}, {count} steps); the file is left as it is", path.display());
    Ok(filled)
}

/// Reads a file of the old server or the add-on, without executing anything in it.
pub(crate) fn read_import(path: &Path, limits: &Limits) -> Result<(Vec<SeedStep>, Source), String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > LEGACY_BYTES_MAX {
        return Err(format!("{size} bytes are more than the {LEGACY_BYTES_MAX} that are read"));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    let import = import_file(&bytes.into(), limits).map_err(|error| error.to_string())?;
    for warning in &import.warnings {
        tracing::warn!("{warning}");
    }
    let source = import.source;
    let now = Timestamp(clock::now_ms());
    let steps = import.into_steps(limits).into_iter();
    let steps = steps.map(|step| SeedStep { author: step.author, at: step.at.unwrap_or(now), command: step.command });
    Ok((steps.collect(), source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::machine::EventRecord;
    use crate::storage::RecordBody as _;

    #[test]
    fn however_long_the_journal_is_only_the_newest_events_are_held() {
        let mut recent = Recent::default();
        let mut most = 0;
        for seq in 1..=100 {
            let event = Event::restored(seq, Timestamp(0), &"x".repeat(1 << 20));
            let mut body = Vec::new();
            EventRecord(Arc::new(event)).encode(&mut body);
            assert!(recent.add(seq, &body).is_continue());
            most = most.max(recent.events.len());
        }
        assert_eq!(most, 15, "sixteen of a little more than a MiB are over the bound");
        let held: Vec<u64> = recent.events.iter().map(|(event, _)| event.seq).collect();
        assert_eq!(held, (86..=100).collect::<Vec<u64>>());
    }
}
