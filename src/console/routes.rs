//! Routes: health and metrics for everyone who can reach the port; REST for those who hold the admin token.

use super::health::Readiness;
use super::status::{JournalStatus, Status};
use crate::live::machine::SessionMachine;
use crate::live::{
    ArchiveError, Archived, ChatVisitor, Chosen, Directory, RestoreFailed, SaveOutcome, SessionHandle, export,
};
use crate::ops::metrics::{self, Metrics};
use crate::session::{ChatMessage, SessionName};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Bytes handed to a slow reader of an export at once.
const EXPORT_PIECE: usize = 256 << 10;

/// Who may use the REST routes. Implemented where the secrets are.
pub trait Admins: Send + Sync {
    /// Whether this is the admin token. Rate-limited by peer.
    fn is_admin(&self, peer: Option<std::net::IpAddr>, token: &str) -> bool;
}

/// What is to be restored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wanted {
    /// A backup of the session: `latest`, its name, or its path below the data directory.
    Backup(String),
    /// A file elsewhere on the daemon's machine: an absolute path.
    File(PathBuf),
}

/// Why something cannot be restored. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// There is no such thing.
    Missing(String),
    /// It is no whole snapshot.
    Damaged(String),
    /// The disk failed.
    Failed(String),
}

/// A backup as listed.
type BackupJson = serde_json::Value;

/// What the console asks of whoever keeps the data directory.
pub trait Keeper: Send + Sync {
    /// The interval between saves.
    fn save_interval(&self) -> Duration;
    /// The data directory, for people.
    fn data_dir(&self) -> String;
    /// Where Blender clients find which session: the port of all of them, then the two more of the oldest.
    fn blender(&self) -> BTreeMap<SessionName, Vec<SocketAddr>>;
    /// What the journal has done.
    fn journal(&self) -> JournalStatus;
    /// The session's backups, newest first. Blocks: called on a thread for that.
    fn backups(&self, session: &SessionName) -> Result<Vec<BackupJson>, String>;
    /// Reads all of a state that is to be restored, and changes nothing. Blocks.
    fn choose(&self, session: &SessionName, wanted: &Wanted) -> Result<Chosen<SessionMachine>, Unusable>;
    /// Visits the chat that the journal still has, up to a durable event, in order. Blocks.
    fn chat(&self, session: &SessionName, through: u64, visit: &mut dyn FnMut(&ChatMessage) -> ControlFlow<()>);
    /// Brings gauges up to date before they are read.
    fn refresh(&self, metrics: &Metrics);
}

/// What the routes work on.
pub struct Console {
    /// The sessions.
    pub directory: Arc<Directory>,
    /// Who keeps the data directory.
    pub keeper: Arc<dyn Keeper>,
    /// Who may use REST.
    pub admins: Arc<dyn Admins>,
    /// The numbers.
    pub metrics: Metrics,
    /// When the daemon started.
    pub started: Instant,
}

/// The routes. `peer` finds the other end's address in a request.
pub fn router(console: Arc<Console>, peer: fn(&Request) -> Option<std::net::IpAddr>) -> Router {
    let guarded = Router::new()
        .route("/status", get(status))
        .route("/sessions/{name}/save", post(save))
        .route("/sessions/{name}/archive", post(archive))
        .route("/sessions/{name}/restore", post(restore))
        .route("/sessions/{name}/backups", get(backups).post(back_up))
        .route("/sessions/{name}/export", get(export_session))
        .layer(middleware::from_fn_with_state((Arc::clone(&console), peer), require_admin));
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/healthz", get(readyz))
        .route("/metrics", get(metrics_text))
        .nest("/api/v1", guarded)
        .with_state(console)
}

type Guard = (Arc<Console>, fn(&Request) -> Option<std::net::IpAddr>);

async fn require_admin(State((console, peer)): State<Guard>, request: Request, next: Next) -> Response {
    let token = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = token.and_then(|value| value.strip_prefix("Bearer "));
    if token.is_some_and(|token| console.admins.is_admin(peer(&request), token)) {
        return next.run(request).await;
    }
    let mut response = fault(StatusCode::UNAUTHORIZED, "this needs the admin token: Authorization: Bearer …");
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => (status, [(CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => fault(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn fault(status: StatusCode, message: &str) -> Response {
    json(status, &serde_json::json!({ "error": message }))
}

async fn readyz(State(console): State<Arc<Console>>) -> Response {
    let readiness = Readiness::of(&console);
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &readiness)
}

async fn metrics_text(State(console): State<Arc<Console>>) -> Response {
    console.keeper.refresh(&console.metrics);
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], console.metrics.render()).into_response()
}

async fn status(State(console): State<Arc<Console>>) -> Response {
    json(StatusCode::OK, &Status::of(&console))
}

#[expect(clippy::result_large_err, reason = "the error is the answer itself, and is sent at once")]
fn find(console: &Console, name: &str) -> Result<SessionHandle, Response> {
    let missing = || fault(StatusCode::NOT_FOUND, &format!("there is no session {name:?}"));
    let name = SessionName::new(name).map_err(|_| missing())?;
    console.directory.get(&name).ok_or_else(|| match console.directory.refusal(&name) {
        Some(why) => fault(StatusCode::SERVICE_UNAVAILABLE, &why),
        None => missing(),
    })
}

async fn save(State(console): State<Arc<Console>>, Path(name): Path<String>) -> Response {
    save_as(&console, &name, "request", false).await
}

async fn back_up(State(console): State<Arc<Console>>, Path(name): Path<String>) -> Response {
    save_as(&console, &name, "backup", true).await
}

async fn save_as(console: &Console, name: &str, reason: &str, also_backup: bool) -> Response {
    let session = match find(console, name) {
        Ok(session) => session,
        Err(response) => return response,
    };
    match session.save(reason.to_owned(), also_backup).await {
        Ok(outcome) => saved(outcome),
        Err(stopping) => fault(StatusCode::SERVICE_UNAVAILABLE, &stopping.to_string()),
    }
}

async fn archive(State(console): State<Arc<Console>>, Path(name): Path<String>) -> Response {
    let session = match find(&console, &name) {
        Ok(session) => session,
        Err(response) => return response,
    };
    let status = |error: &ArchiveError| match error {
        ArchiveError::Empty => StatusCode::CONFLICT,
        ArchiveError::Busy | ArchiveError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        ArchiveError::Failed(_) | ArchiveError::NotCleared { .. } => StatusCode::INSUFFICIENT_STORAGE,
    };
    match session.archive().await {
        Ok(Archived { file, bytes, seq, cleared }) => {
            let archived = serde_json::json!({ "archive": file, "bytes": bytes, "seq": seq, "cleared": cleared });
            json(StatusCode::OK, &archived)
        }
        Err(error) => fault(status(&error), &error.to_string()),
    }
}

async fn restore(State(console): State<Arc<Console>>, Path(name): Path<String>, body: Bytes) -> Response {
    let session = match find(&console, &name) {
        Ok(session) => session.name().clone(),
        Err(response) => return response,
    };
    let wanted: Wanted = match serde_json::from_slice(&body) {
        Ok(Wanted::File(path)) if !path.is_absolute() => {
            return fault(StatusCode::BAD_REQUEST, "file must be an absolute path");
        }
        Ok(wanted) => wanted,
        Err(error) => {
            let forms = r#"{"backup": "a name, or latest"} or {"file": "an absolute path"}"#;
            return fault(StatusCode::BAD_REQUEST, &format!("say what to restore as {forms}: {error}"));
        }
    };
    let (keeper, of) = (Arc::clone(&console.keeper), session.clone());
    let chosen = match tokio::task::spawn_blocking(move || keeper.choose(&of, &wanted)).await {
        Ok(Ok(chosen)) => chosen,
        Ok(Err(unusable)) => return unusable.into_response(),
        Err(error) => return fault(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let file = chosen.file.clone();
    match console.directory.restore(&session, chosen).await {
        Ok(restored) => json(
            StatusCode::OK,
            &serde_json::json!({
                "session": session.as_str(), "restored": file, "time": super::status::iso(restored.of.0),
                "seq": restored.seq, "nodes": restored.summary.nodes, "tasks": restored.summary.tasks,
                "messages": restored.summary.messages, "newer_state_kept_in": restored.kept,
            }),
        ),
        Err(error) => {
            let status = match error {
                RestoreFailed::NoSuchSession => StatusCode::NOT_FOUND,
                RestoreFailed::Busy | RestoreFailed::Stopping => StatusCode::SERVICE_UNAVAILABLE,
                RestoreFailed::ReadOnly(_) | RestoreFailed::Failed(_) => StatusCode::INSUFFICIENT_STORAGE,
            };
            fault(status, &error.to_string())
        }
    }
}

impl IntoResponse for Unusable {
    fn into_response(self) -> Response {
        match self {
            Self::Missing(why) => fault(StatusCode::NOT_FOUND, &why),
            Self::Damaged(why) => fault(StatusCode::UNPROCESSABLE_ENTITY, &why),
            Self::Failed(why) => fault(StatusCode::INTERNAL_SERVER_ERROR, &why),
        }
    }
}

fn saved(outcome: SaveOutcome) -> Response {
    match outcome {
        Ok(saved) => json(
            StatusCode::OK,
            &serde_json::json!({
                "seq": saved.seq, "at": super::status::iso(saved.at.0), "reasons": saved.reasons,
                "bytes": saved.bytes, "file": saved.file, "published": saved.published,
                "changed": !saved.reasons.is_empty(), "backup": saved.backup,
                "note": (!saved.published).then_some(super::health::RESTORE_PENDING),
            }),
        ),
        Err(why) => fault(StatusCode::INSUFFICIENT_STORAGE, &why),
    }
}

async fn backups(State(console): State<Arc<Console>>, Path(name): Path<String>) -> Response {
    let session = match find(&console, &name) {
        Ok(session) => session,
        Err(response) => return response,
    };
    let listed = tokio::task::spawn_blocking(move || console.keeper.backups(session.name())).await;
    match listed {
        Ok(Ok(backups)) => json(StatusCode::OK, &serde_json::json!({ "backups": backups })),
        Ok(Err(why)) => fault(StatusCode::INTERNAL_SERVER_ERROR, &why),
        Err(error) => fault(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

async fn export_session(State(console): State<Arc<Console>>, Path(name): Path<String>) -> Response {
    let session = match find(&console, &name) {
        Ok(session) => session,
        Err(response) => return response,
    };
    let state = match session.state().await {
        Ok(state) => state,
        Err(stopping) => return fault(StatusCode::SERVICE_UNAVAILABLE, &stopping.to_string()),
    };
    let (pieces, receiver) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let mut out = Pieces { pieces, piece: Vec::with_capacity(EXPORT_PIECE) };
        let chat = |visit: &mut ChatVisitor<'_>| console.keeper.chat(session.name(), state.seq(), visit);
        // A reader that goes away ends the export; nobody is left to be told.
        if export(session.name(), &state, chat, &mut out).and_then(|()| out.flush()).is_err() {
            tracing::debug!("an export was not read to its end");
        }
    });
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|piece| (Ok::<_, io::Error>(piece), receiver))
    });
    ([(CONTENT_TYPE, "application/json")], Body::from_stream(stream)).into_response()
}

/// Hands what is written to a response, piece by piece, at the reader's pace.
struct Pieces {
    pieces: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= EXPORT_PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(EXPORT_PIECE));
        self.pieces.blocking_send(piece.into()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
