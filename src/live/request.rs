//! Requests: what connections and the server ask of a session task, and how a join is answered.

use super::handle::SessionOrigin;
use super::machine::SessionMachine;
use super::subscriber::{Mode, Subscriber};
use crate::session::{Operation, Session, Timestamp};
use crate::storage::restore::Chosen;
use crate::storage::{ResumePoint, Saved, Summary};
use std::sync::Arc;
use tokio::sync::oneshot;

/// An edit on its way to the session.
#[derive(Debug)]
pub struct Edit {
    /// The client's number for it.
    pub op: u64,
    /// What it asks for.
    pub work: Work,
}

/// What an edit asks for.
#[derive(Debug)]
pub enum Work {
    /// Operations that become one event.
    Operations(Vec<Operation>),
    /// A save; acknowledged when the file is in place.
    Save,
}

/// What a resuming client says it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeToken {
    /// The branch its state belongs to.
    pub branch: u128,
    /// The daemon start that issued its `seq`.
    pub run: u128,
    /// The newest event it has taken in.
    pub seq: u64,
    /// The newest operation that it has given a number, if it says so.
    pub op: Option<u64>,
}

/// A member who has joined.
#[derive(Debug)]
pub struct Joined {
    /// What the next resume token is made of.
    pub resume: ResumePoint,
    /// The durable `seq` at this moment.
    pub head: u64,
    /// How the client gets there.
    pub start: Start,
    /// Whether edits are taken.
    pub mode: Mode,
}

/// How a joining client comes up to date.
#[derive(Debug)]
pub enum Start {
    /// It has everything up to this `seq`, and the tail has the rest.
    Resumed(u64),
    /// From this state, all of it durable, and the events after it.
    State(Box<Session>),
}

pub(super) enum Request {
    Join {
        subscriber: Arc<Subscriber>,
        token: Option<ResumeToken>,
        reply: oneshot::Sender<Result<Joined, JoinError>>,
    },
    Edits {
        subscriber: Arc<Subscriber>,
        edits: Vec<Edit>,
    },
    DaemonEdit {
        operations: Vec<Operation>,
        /// On whose account, if on somebody's.
        by: Option<Arc<Subscriber>>,
        reply: oneshot::Sender<Result<u64, EditError>>,
    },
    Archive {
        reply: oneshot::Sender<Result<Archived, ArchiveError>>,
    },
    Restore {
        chosen: Box<Chosen<SessionMachine>>,
        reply: oneshot::Sender<Result<Renewed, RestoreFailed>>,
    },
    State {
        reply: oneshot::Sender<Session>,
    },
    Save {
        reason: String,
        also_backup: bool,
        reply: Option<oneshot::Sender<crate::storage::SaveOutcome>>,
    },
    Drain {
        save: bool,
        reply: oneshot::Sender<Option<crate::storage::SaveOutcome>>,
    },
}

/// A session that has begun anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archived {
    /// The backup with all that was there: relative to the data directory.
    pub file: String,
    /// Its size.
    pub bytes: u64,
    /// The newest event in it.
    pub seq: u64,
    /// The event with which the session has begun anew.
    pub cleared: u64,
}

/// Why a session did not begin anew. Nothing in it was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// There is nothing in it.
    #[error("there is nothing to archive: the session is empty")]
    Empty,
    /// Somebody else is at it.
    #[error("the session is being archived or restored already: try again in a moment")]
    Busy,
    /// The backup could not be made; says why.
    #[error("nothing was cleared, because no archive could be made: {0}")]
    Failed(String),
    /// The backup was made, but the session cannot be changed any more.
    #[error("nothing was cleared: {why}. The archive has been made: {file}")]
    NotCleared {
        /// The backup.
        file: String,
        /// Why the session cannot be changed.
        why: String,
    },
    /// The session's task has ended: the daemon stops.
    #[error("the server is stopping: come back in a moment")]
    Stopping,
}

/// A session that goes on with a restored state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The event that marks the restore.
    pub seq: u64,
    /// The moment of the snapshot.
    pub of: Timestamp,
    /// What was restored, for people.
    pub source: String,
    /// What the snapshot holds.
    pub summary: Summary,
    /// The newest event of the state that was left.
    pub left: u64,
    /// The file that keeps that state, relative to the data directory; `None`: nothing in it was newer.
    pub kept: Option<String>,
}

/// What whoever asked for a restore makes a new task of.
pub(super) struct Renewed {
    pub(super) origin: SessionOrigin,
    pub(super) saved: Saved,
    pub(super) restored: Restored,
}

/// Why nothing was restored. The session goes on as before, and nobody was disconnected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreFailed {
    /// There is no such session that could be asked.
    #[error("there is no session of that name")]
    NoSuchSession,
    /// Somebody else is at it.
    #[error("the session is being restored or archived already: try again in a moment")]
    Busy,
    /// The session cannot be written; says why.
    #[error("nothing was restored: {0}. With the daemon stopped, hotset restore works on the data directory itself")]
    ReadOnly(String),
    /// The restored state could not be put in place; says why.
    #[error("nothing was restored: {0}")]
    Failed(String),
    /// The session's task has ended: the daemon stops.
    #[error("the server is stopping: come back in a moment")]
    Stopping,
}

/// Why an edit by the daemon itself was not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// The session's rules say no.
    #[error(transparent)]
    Rejected(#[from] crate::session::Rejection),
    /// Nothing can be written at the moment; says why.
    #[error("{0}")]
    ReadOnly(Arc<str>),
    /// The session's task has ended: the daemon stops.
    #[error("the server is stopping: come back in a moment")]
    Stopping,
}

/// Why nobody could join.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The session's rules say no.
    #[error(transparent)]
    Rejected(#[from] crate::session::Rejection),
    /// Another state is being put in place of the one that is there.
    #[error("the session is being restored: come back in a moment")]
    Restoring,
    /// The same client has joined under the same name again before this join was answered.
    #[error("this client has connected again elsewhere")]
    Replaced,
    /// The session's task has ended: the daemon stops.
    #[error("the server is stopping: come back in a moment")]
    Stopping,
}
