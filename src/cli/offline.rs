//! Commands that work on the data directory itself: backups, checks, and, when no daemon runs, restore, recover, import
//! and export.

use super::exit::{Exit, Failure};
use super::{output, remote};
use crate::config::{Loaded, check_data_dir};
use crate::live::machine::SessionMachine;
use crate::live::{export as write_export, seed};
use crate::ops::clock;
use crate::server::{chat_in, open_options, read_import};
use crate::session::{Session, SessionName, Timestamp};
use crate::storage::fsck::{
    BackupInfo, Condition, fsck as check_directory, list_backups as list, session_names, verify_backup,
};
use crate::storage::inspect::{View, view};
use crate::storage::recovery::{OpenError, Opened, OpenedSession, Outcome, open};
use crate::storage::restore::{Loss, RestoreError, Source, accept_loss, assess_loss, restore as put_back, time};
use crate::storage::snapshot::{self, SnapshotError};
use crate::storage::store::DirectoryStore;
use crate::storage::vfs::{RealVfs, SharedVfs};
use crate::storage::{SaveJob, Store};
use serde_json::{Value, json};
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

/// How long closing the directory may take. What it misses is in the journal.
const CLOSE_DEADLINE: Duration = Duration::from_mins(5);

/// The data directory, which must be there: a mistyped path must not become an empty directory.
pub(super) fn directory(loaded: &Loaded) -> Result<SharedVfs, Failure> {
    let path = &loaded.settings.data_dir;
    check_data_dir(path)?;
    if path.is_dir() {
        return Ok(Arc::new(RealVfs::new(path.clone())));
    }
    Err(Failure::new(Exit::Data, format!("there is no data directory {}", path.display())))
}

/// The data directory with this session in it: a mistyped name must not look like a session without backups.
fn directory_with(loaded: &Loaded, session: &SessionName) -> Result<SharedVfs, Failure> {
    let vfs = directory(loaded)?;
    if session_names(&*vfs)?.contains(session) { Ok(vfs) } else { Err(no_session(session)) }
}

pub(super) fn no_session(session: &SessionName) -> Failure {
    Failure::new(Exit::Data, format!("there is no session {session}"))
}

/// What a locked directory means to those who need it for themselves.
pub(super) fn stop_it_first(error: OpenError) -> Failure {
    let OpenError::Locked { pid, .. } = &error else { return error.into() };
    let pid = pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default();
    Failure::new(Exit::Temporary, format!("the daemon{pid} is running: stop it first"))
}

/// `hotset backups list`. Works beside the daemon.
pub(super) fn list_backups(loaded: &Loaded, session: &SessionName, as_json: bool) -> Result<(), Failure> {
    show_backups(&list(&*directory_with(loaded, session)?, session)?, as_json)
}

fn show_backups(backups: &[BackupInfo], as_json: bool) -> Result<(), Failure> {
    if as_json {
        return output::show(&json!({ "backups": backups }), true);
    }
    let row = |backup: &BackupInfo| {
        json!({
            "file": backup.file, "time": utc(backup), "seq": backup.seq, "nodes": backup.nodes,
            "tasks": backup.tasks, "users": backup.users, "bytes": backup.bytes,
            "reason": backup.problem.clone().unwrap_or_else(|| backup.reasons.join(", ")),
        })
    };
    output::show(&Value::Array(backups.iter().map(row).collect()), false)
}

/// The moment that a backup holds, as a person reads it.
fn utc(backup: &BackupInfo) -> String {
    format!("{}Z", backup.datetime)
}

/// `hotset backups verify`: one backup, or all of the session's. Works beside the daemon.
pub(super) fn verify_backups(
    loaded: &Loaded,
    session: &SessionName,
    name: Option<&str>,
    as_json: bool,
) -> Result<(), Failure> {
    let vfs = directory_with(loaded, session)?;
    let names = match name {
        Some(name) => vec![name.to_owned()],
        None => list(&*vfs, session)?.iter().map(|backup| backup.file.display().to_string()).collect(),
    };
    let mut results = Vec::new();
    let mut damaged = 0;
    for name in names {
        let problem = match verify_backup(&*vfs, session, &name) {
            Ok(_) => None,
            Err(SnapshotError::Io(error)) => return Err(error.into()),
            Err(error) => Some(error.to_string()),
        };
        damaged += usize::from(problem.is_some());
        results.push(json!({ "file": name, "result": problem.unwrap_or_else(|| "intact".into()) }));
    }
    output::show(&Value::Array(results), as_json)?;
    match damaged {
        0 => Ok(()),
        _ => Err(Failure::new(Exit::Data, format!("{damaged} damaged"))),
    }
}

/// `hotset fsck`. Works beside the daemon, whose newest events may then look torn.
pub(super) fn fsck(loaded: &Loaded, as_json: bool) -> Result<(), Failure> {
    let report = check_directory(&*directory(loaded)?)?;
    if as_json {
        let document = serde_json::to_value(&report).map_err(|error| Failure::new(Exit::Internal, error))?;
        output::show(&document, true)?;
    } else {
        let rows: Vec<Value> = report
            .findings
            .iter()
            .map(|finding| {
                let condition = serde_json::to_value(finding.condition).unwrap_or_default();
                json!({ "file": finding.file, "condition": condition, "detail": finding.detail })
            })
            .collect();
        output::show(&Value::Array(rows), false)?;
    }
    match report.condition {
        Condition::Clean | Condition::TornTail => Ok(()),
        Condition::Corrupt => Err(Failure::new(Exit::Data, "something is damaged: see above")),
    }
}

/// `hotset restore`: puts a backup, the newest one or a file in place of the current state; while the daemon runs, by
/// asking it.
pub(super) fn restore(
    loaded: &Loaded,
    session: &SessionName,
    from: &str,
    dry_run: bool,
    as_json: bool,
) -> Result<(), Failure> {
    let vfs = directory(loaded)?;
    let source = Source::find(&vfs, session, from)?;
    if dry_run {
        return try_restore(&vfs, session, &source, as_json);
    }
    let path = format!("/api/v1/sessions/{session}/restore");
    let result = match remote::call_if_running(loaded, "POST", &path, &wanted(&source, from)?.to_string())? {
        Some(mut answer) => {
            answer["restored"] = from.into();
            answer
        }
        None => restore_stopped(loaded, &vfs, session, &source, from)?,
    };
    output::show(&result, as_json)
}

/// What the daemon is asked for. It has a working directory of its own.
fn wanted(source: &Source, from: &str) -> Result<Value, Failure> {
    match source {
        Source::Backup(name) => Ok(json!({ "backup": name })),
        Source::File(..) => {
            let path = std::path::absolute(from)?;
            let text = path.to_str().ok_or_else(|| Failure::new(Exit::Data, "the path is not UTF-8"))?;
            Ok(json!({ "file": text }))
        }
    }
}

fn restore_stopped(
    loaded: &Loaded,
    vfs: &SharedVfs,
    session: &SessionName,
    source: &Source,
    from: &str,
) -> Result<Value, Failure> {
    let opened = put_back::<SessionMachine>(vfs, session, source, &open_options(&loaded.settings))?;
    let outcome = opened.sessions.iter().find(|opened| opened.name == *session);
    let result = outcome.map(|outcome| summary(outcome, from)).unwrap_or_default();
    close(&opened)?;
    Ok(result)
}

fn try_restore(vfs: &SharedVfs, session: &SessionName, source: &Source, as_json: bool) -> Result<(), Failure> {
    let document = match source {
        Source::Backup(name) => {
            let backup = verify_backup(&**vfs, session, name)?;
            let time = if as_json { backup.datetime.clone() } else { utc(&backup) };
            json!({ "would_restore": backup.file, "time": time, "seq": backup.seq, "nodes": backup.nodes,
                    "tasks": backup.tasks, "messages": backup.messages })
        }
        Source::File(folder, path) => {
            let header = snapshot::verify(&**folder, path)?.header;
            json!({ "would_restore": folder.display(path), "seq": header.seq, "nodes": header.summary.nodes,
                    "tasks": header.summary.tasks, "messages": header.summary.messages })
        }
    };
    output::show(&document, as_json)
}

fn summary(opened: &OpenedSession<SessionMachine>, from: &str) -> Value {
    match &opened.outcome {
        Outcome::Serving { machine, restored } => {
            let session = machine.session();
            let kept = restored.as_ref().and_then(|restored| restored.pre_restore.clone());
            let of = restored.as_ref().map(|restored| time(restored.at));
            json!({ "session": opened.name.as_str(), "restored": from, "time": of, "seq": session.seq(),
                    "nodes": session.nodes().count(), "tasks": session.tasks().count(),
                    "messages": session.messages().count(), "newer_state_kept_in": kept })
        }
        Outcome::ReadOnly { damage, command, .. } => {
            json!({ "session": opened.name.as_str(), "read_only": damage, "to_repair": command })
        }
        Outcome::Refused { reason, command } => {
            json!({ "session": opened.name.as_str(), "not_served": reason, "to_repair": command })
        }
    }
}

/// `hotset recover`: shows what going on would cost, or, given the token, goes on.
pub(super) fn recover(loaded: &Loaded, token: Option<&str>, as_json: bool) -> Result<(), Failure> {
    let vfs = directory(loaded)?;
    let Some(token) = token.filter(|token| !token.is_empty()) else {
        return match assess_loss::<SessionMachine>(&vfs) {
            Ok(loss) => show_loss(&loss, as_json),
            Err(RestoreError::NothingToRecover) => output::show(&json!({ "damaged": false }), as_json),
            Err(error) => Err(error.into()),
        };
    };
    let opened = accept_loss::<SessionMachine>(&vfs, token, &open_options(&loaded.settings))?;
    let results: Vec<Value> = opened.sessions.iter().map(|session| summary(session, "what is intact")).collect();
    close(&opened)?;
    output::show(&Value::Array(results), as_json)
}

fn show_loss(loss: &Loss, as_json: bool) -> Result<(), Failure> {
    let row = |of: &crate::storage::restore::SessionLoss| json!({ "session": of.session.as_str(), "intact_up_to_seq": of.seq, "lost": of.damage });
    let sessions: Vec<Value> = loss.sessions.iter().map(row).collect();
    let command = format!("hotset recover --accept-loss {}", loss.token);
    output::show(&json!({ "damaged": true, "to_go_on_without_it": command, "sessions": sessions }), as_json)?;
    Err(Failure::new(Exit::Data, "nothing was changed"))
}

/// `hotset import`: fills an empty session from a file of the old server or of the add-on.
pub(super) fn import(loaded: &Loaded, session: &SessionName, file: &Path, as_json: bool) -> Result<(), Failure> {
    let limits = &loaded.settings.sessions.limits;
    let unusable = |why: String| Failure::new(Exit::Data, format!("{}: {why}", file.display()));
    if let Err(error) = fs::metadata(file) {
        let message = format!("{}: {error}", file.display());
        return Err(Failure { message, ..Failure::from(error) });
    }
    let (steps, source) = read_import(file, limits).map_err(unusable)?;
    crate::config::prepare_data_dir(&loaded.settings.data_dir)?;
    let opened = open::<SessionMachine>(&directory(loaded)?, &open_options(&loaded.settings)).map_err(stop_it_first)?;
    let state = if let Some(state) = served(&opened, session)? {
        state
    } else {
        opened.store.create_session(session).map_err(|error| Failure::new(Exit::InputOutput, error))?;
        Session::default()
    };
    if state.nodes().next().is_some() || state.tasks().next().is_some() {
        let message = format!("session {session} is not empty: import into a new one with --session NAME");
        return Err(Failure::new(Exit::CannotCreate, message));
    }
    let filled = seed(&*opened.store, session, &state, steps, limits);
    let filled = filled.map_err(|error| Failure::new(Exit::Data, format!("{}: {error}", file.display())))?;
    let saved = save(&opened.store, session, &filled)?;
    close(&opened)?;
    let document = json!({ "session": session.as_str(), "imported": file, "source": format!("{source:?}"),
                           "nodes": filled.nodes().count(), "tasks": filled.tasks().count(),
                           "messages": filled.messages().count(), "file": saved });
    output::show(&document, as_json)
}

/// The state of a session that can be written; `None` if there is no such session.
pub(super) fn served(opened: &Opened<SessionMachine>, session: &SessionName) -> Result<Option<Session>, Failure> {
    match opened.sessions.iter().find(|there| there.name == *session).map(|there| &there.outcome) {
        Some(Outcome::Serving { machine, .. }) => Ok(Some(machine.session().clone())),
        Some(Outcome::ReadOnly { damage: why, command, .. } | Outcome::Refused { reason: why, command }) => {
            Err(Failure::new(Exit::Data, format!("{why}\nto repair it: {command}")))
        }
        None => Ok(None),
    }
}

/// Writes a snapshot, and waits for it. Says where it is.
fn save(store: &Arc<DirectoryStore>, session: &SessionName, state: &Session) -> Result<String, Failure> {
    let (done, outcome) = channel();
    store.save(SaveJob {
        session: session.clone(),
        state: Box::new(SessionMachine::from(state.clone())),
        reasons: vec!["import".into()],
        at: Timestamp(clock::now_ms()),
        also_backup: false,
        done: Box::new(move |saved| drop(done.send(saved))),
    });
    match outcome.recv() {
        Ok(Ok(saved)) => Ok(saved.file),
        Ok(Err(why)) => Err(Failure::new(Exit::InputOutput, why)),
        Err(_) => Err(Failure::new(Exit::Internal, "the save was given up")),
    }
}

/// Ends in order, so that the next start finds a closed journal. What opening had to say, it has logged.
pub(super) fn close(opened: &Opened<SessionMachine>) -> Result<(), Failure> {
    let closed = opened.store.close(CLOSE_DEADLINE);
    closed.sealed.map_err(|trouble| Failure::new(Exit::InputOutput, trouble.message))
}

/// `hotset export` when no daemon runs: what the next start would serve.
pub(super) fn export(loaded: &Loaded, session: &SessionName, out: &mut dyn Write) -> Result<(), Failure> {
    let vfs = directory(loaded)?;
    let mut chat = Vec::new();
    let seen = view::<SessionMachine>(&vfs, session, &mut |_, record| {
        let said = chat_in(record);
        if said.clears {
            chat.clear();
        }
        chat.extend(said.messages);
    });
    let (machine, damage) = match seen? {
        View::State { machine, damage } => (machine, damage),
        View::Unknown => return Err(no_session(session)),
        View::Refused { reason, command } => {
            return Err(Failure::new(Exit::Data, format!("{reason}\nto repair it: {command}")));
        }
    };
    let mut out = BufWriter::new(out);
    write_export(session, machine.session(), |visit| _ = chat.iter().try_for_each(visit), &mut out)?;
    out.flush()?;
    match damage {
        None => Ok(()),
        Some(damage) => Err(Failure::new(Exit::Data, format!("incomplete: {damage}"))),
    }
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Self {
        match error {
            SnapshotError::Io(error) => error.into(),
            SnapshotError::NotASnapshot
            | SnapshotError::Unsupported { .. }
            | SnapshotError::Damaged { .. }
            | SnapshotError::Unacceptable(_) => Self::new(Exit::Data, error),
        }
    }
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Open(error) => stop_it_first(error),
            RestoreError::Io(error) if error.kind() == io::ErrorKind::NotFound => Self::new(Exit::Data, error),
            RestoreError::Io(error) => error.into(),
            RestoreError::WrongToken => Self::new(Exit::Usage, error),
            RestoreError::Source { .. }
            | RestoreError::NotFound(_)
            | RestoreError::NoBackup(_)
            | RestoreError::NothingLeft { .. }
            | RestoreError::NothingToRecover => Self::new(Exit::Data, error),
        }
    }
}
