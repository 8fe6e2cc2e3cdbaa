//! Routes: health and metrics for everyone who can reach the port; REST for those who hold the admin token.

use super::health::Readiness;
use super::status::{JournalStatus, Status};
use crate::live::{ArchiveError, Archived, ChatVisitor, Directory, SaveOutcome, SessionHandle, export};
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
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::ops::ControlFlow;
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
