//! Commands about whole sessions: which there are, and the end of a project. With and without the daemon.

use super::exit::{Exit, Failure};
use super::offline::{self, close, directory, stop_it_first};
use super::{SessionsCommand, output, remote};
use crate::config::Loaded;
use crate::live::machine::SessionMachine;
use crate::live::{ArchiveError, SeedStep, seed};
use crate::ops::clock;
use crate::server::open_options;
use crate::session::{Command, MemberName, Operation, Session, SessionName, Timestamp};
use crate::storage::fsck::{newest_save, session_names};
use crate::storage::recovery::open;
use crate::storage::store::DirectoryStore;
use crate::storage::{SaveJob, Saved, Store as _};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::mpsc::channel;

/// `hotset sessions`.
pub(super) fn run(command: &SessionsCommand, loaded: &Loaded, as_json: bool) -> Result<(), Failure> {
    match command {
        SessionsCommand::List => list(loaded, as_json),
        SessionsCommand::Archive { session } => archive(loaded, session, as_json),
    }
}

fn list(loaded: &Loaded, as_json: bool) -> Result<(), Failure> {
    let sessions = match remote::call_if_running(loaded, "GET", "/api/v1/status", "")? {
        Some(status) => status["sessions"].as_array().into_iter().flatten().map(running).collect(),
        None => stopped(loaded)?,
    };
    if as_json {
        return output::show(&json!({ "sessions": sessions }), true);
    }
    output::show(&Value::Array(sessions), false)
}

fn running(status: &Value) -> Value {
    json!({ "session": status["name"], "mode": status["mode"], "nodes": status["nodes"], "tasks": status["tasks"],
            "users": status["users"], "last_save": status["last_save"]["at"] })
}

/// What the newest saves say; events after them are in the journal.
fn stopped(loaded: &Loaded) -> Result<Vec<Value>, Failure> {
    let vfs = directory(loaded)?;
    let mut sessions = Vec::new();
    for name in session_names(&*vfs)? {
        let save = newest_save(&*vfs, &name)?;
        let saved = save.as_ref().filter(|save| save.problem.is_none());
        sessions.push(json!({
            "session": name.as_str(), "mode": "stopped", "nodes": saved.map(|save| save.nodes),
            "tasks": saved.map(|save| save.tasks), "users": 0,
            "last_save": saved.map(|save| format!("{}Z", save.datetime)),
        }));
    }
    Ok(sessions)
}

fn archive(loaded: &Loaded, session: &SessionName, as_json: bool) -> Result<(), Failure> {
    let path = format!("/api/v1/sessions/{session}/archive");
    let archived = match remote::call_if_running(loaded, "POST", &path, "")? {
        Some(answer) => answer,
        None => archive_stopped(loaded, session)?,
    };
    if as_json {
        return output::show(&archived, true);
    }
    let file = archived["archive"].as_str().unwrap_or_default();
    let (seq, bytes) = (&archived["seq"], &archived["bytes"]);
    output::print(&format!("archived: {file} (seq {seq}, {bytes} bytes)\nsession {session} is empty now\n"))
}

fn archive_stopped(loaded: &Loaded, session: &SessionName) -> Result<Value, Failure> {
    let vfs = directory(loaded)?;
    let opened = open::<SessionMachine>(&vfs, &open_options(&loaded.settings)).map_err(stop_it_first)?;
    let Some(state) = offline::served(&opened, session)? else { return Err(offline::no_session(session)) };
    if state.totals().is_empty() {
        return Err(Failure::new(Exit::Data, ArchiveError::Empty));
    }
    let failed = |why: String| Failure::new(Exit::InputOutput, format!("nothing was cleared: {why}"));
    let kept = keep(&opened.store, session, &state).map_err(failed)?;
    let operations = vec![Operation::SessionClear { archive: kept.file.as_str().into() }];
    let command = Command::Edit { op: None, operations };
    let step = SeedStep { author: MemberName::daemon(), at: Timestamp(clock::now_ms()), command };
    let limits = &loaded.settings.sessions.limits;
    let cleared =
        seed(&*opened.store, session, &state, vec![step], limits).map_err(|error| failed(error.to_string()))?;
    close(&opened)?;
    Ok(json!({ "archive": kept.file, "bytes": kept.bytes, "seq": kept.seq, "cleared": cleared.seq() }))
}

/// Makes the archive, and waits for it.
fn keep(store: &Arc<DirectoryStore>, session: &SessionName, state: &Session) -> Result<Saved, String> {
    let (done, outcome) = channel();
    store.archive(SaveJob {
        session: session.clone(),
        state: Box::new(SessionMachine::from(state.clone())),
        reasons: vec!["archive".into()],
        at: Timestamp(clock::now_ms()),
        also_backup: false,
        done: Box::new(move |kept| drop(done.send(kept))),
    });
    outcome.recv().unwrap_or_else(|_| Err("the archive was given up".into()))
}
