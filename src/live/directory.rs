//! The directory: live sessions by name.

use super::handle::{LiveSettings, SessionHandle, SessionOrigin};
use super::machine::SessionMachine;
use super::request::{Renewed, RestoreFailed, Restored};
use crate::session::{Session, SessionName};
use crate::storage::Store;
use crate::storage::restore::Chosen;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{OwnedMutexGuard, watch};

/// Why there is no such session to join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenRefused {
    /// Nobody has made it, and joining does not.
    #[error("there is no session of that name")]
    NoSuchSession,
    /// As many sessions as allowed exist already.
    #[error("there are {0} sessions already, which is the limit (MAX_SESSIONS)")]
    TooMany(usize),
    /// It exists and is not served; says why, and what repairs it.
    #[error("{0}")]
    NotServed(String),
    /// It could not be made.
    #[error("the session cannot be made: {0}")]
    Failed(String),
}

/// Live sessions by name.
pub struct Directory {
    store: Arc<dyn Store>,
    settings: watch::Receiver<LiveSettings>,
    sessions: Arc<Mutex<Sessions>>,
    refused: Mutex<BTreeMap<SessionName, String>>,
    /// Held while a session is made: one at a time, so that what is counted is all there is.
    making: Arc<tokio::sync::Mutex<()>>,
}

type Sessions = BTreeMap<SessionName, SessionHandle>;

fn locked(sessions: &Mutex<Sessions>) -> MutexGuard<'_, Sessions> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For the log, in the words of a start that finds a restored snapshot.
fn say_restored(session: &SessionName, restored: &Restored) {
    let Restored { source, summary, left, .. } = restored;
    let kept =
        restored.kept.as_ref().map(|kept| format!("; what was in its place (up to event {left}) is kept in {kept}"));
    tracing::warn!(%session, "restored {source}{}", kept.unwrap_or_default());
    tracing::info!(
        %session, "  Nodes: {}, tasks: {}, messages: {} (restored)",
        summary.nodes, summary.tasks, summary.messages
    );
}

impl Directory {
    /// An empty directory over a store.
    pub fn new(store: Arc<dyn Store>, settings: watch::Receiver<LiveSettings>) -> Self {
        Self { store, settings, sessions: Arc::default(), refused: Mutex::default(), making: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        locked(&self.sessions)
    }

    /// Starts a session that was recovered.
    pub fn start(&self, origin: SessionOrigin) -> SessionHandle {
        let handle = SessionHandle::start(origin, Arc::clone(&self.store), self.settings.clone());
        self.lock().insert(handle.name().clone(), handle.clone());
        handle
    }

    /// Notes that a session which exists is not served, and why.
    pub fn refuse(&self, name: SessionName, why: String) {
        self.lock_refused().insert(name, why);
    }

    /// Why sessions that exist are not served, in order of their names.
    pub fn refusals(&self) -> Vec<String> {
        self.refused().into_iter().map(|(_, why)| why).collect()
    }

    /// Why this session, which exists, is not served.
    pub fn refusal(&self, name: &SessionName) -> Option<String> {
        self.lock_refused().get(name).cloned()
    }

    /// Sessions that exist and are not served, each with the reason, in order of their names.
    pub fn refused(&self) -> Vec<(SessionName, String)> {
        self.lock_refused().iter().map(|(name, why)| (name.clone(), why.clone())).collect()
    }

    fn lock_refused(&self) -> MutexGuard<'_, BTreeMap<SessionName, String>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of that name, if there is one.
    pub fn get(&self, name: &SessionName) -> Option<SessionHandle> {
        self.lock().get(name).cloned()
    }

    /// The session of that name; with `create_up_to`, made if it does not exist and there are fewer than that.
    pub async fn open(&self, name: &SessionName, create_up_to: Option<usize>) -> Result<SessionHandle, OpenRefused> {
        if let Some(handle) = self.get(name) {
            return Ok(handle);
        }
        if let Some(why) = self.refusal(name) {
            return Err(OpenRefused::NotServed(why));
        }
        let most = create_up_to.ok_or(OpenRefused::NoSuchSession)?;
        let making = Arc::clone(&self.making).lock_owned().await;
        // Somebody else may have made it meanwhile, or others.
        if let Some(handle) = self.get(name) {
            return Ok(handle);
        }
        if self.lock().len() >= most {
            return Err(OpenRefused::TooMany(most));
        }
        self.make(name.clone(), making).await
    }

    /// Makes the session and starts it, also if whoever asked goes meanwhile: what is on disk is counted.
    async fn make(&self, name: SessionName, making: OwnedMutexGuard<()>) -> Result<SessionHandle, OpenRefused> {
        let (store, settings) = (Arc::clone(&self.store), self.settings.clone());
        let sessions = Arc::clone(&self.sessions);
        let made = tokio::task::spawn_blocking(move || {
            let _making = making;
            store.create_session(&name)?;
            let state = Session::default();
            let origin = SessionOrigin { name: name.clone(), state, recent: Vec::new(), saved: 0, sealed: None };
            let handle = SessionHandle::start(origin, store, settings);
            locked(&sessions).insert(name, handle.clone());
            Ok(handle)
        });
        made.await.unwrap_or_else(|error| Err(error.to_string())).map_err(OpenRefused::Failed)
    }

    /// Puts a restored state in place of that of a session, which goes on with it; everybody in it is told and
    /// disconnected. Also if whoever asked goes meanwhile.
    pub async fn restore(&self, name: &SessionName, chosen: Chosen<SessionMachine>) -> Result<Restored, RestoreFailed> {
        let handle = self.get(name).ok_or(RestoreFailed::NoSuchSession)?;
        let (store, settings) = (Arc::clone(&self.store), self.settings.clone());
        let sessions = Arc::clone(&self.sessions);
        let restored = tokio::spawn(async move {
            let Renewed { origin, saved, restored } = handle.restore(chosen).await?;
            let next = handle.go_on(origin, saved, store, settings);
            say_restored(next.name(), &restored);
            locked(&sessions).insert(next.name().clone(), next);
            Ok(restored)
        });
        restored.await.unwrap_or(Err(RestoreFailed::Stopping))
    }

    /// All of them, in order of their names.
    pub fn all(&self) -> Vec<SessionHandle> {
        self.lock().values().cloned().collect()
    }
}
