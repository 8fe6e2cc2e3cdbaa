//! Subscribers: what a session task and a connection share. The task leaves notes and wakes; the connection reads.

use super::tail::Chunk;
use crate::session::{ClientId, MemberName, Rejection, Role};
use futures_util::task::AtomicWaker;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

/// Something for one connection that is not in the log.
#[derive(Debug, Clone)]
pub enum Note {
    /// The client's operation is event `seq`, and durable.
    Ack {
        /// The client's number for it.
        op: u64,
        /// The event.
        seq: u64,
    },
    /// The client's operation was refused.
    Reject {
        /// The client's number for it.
        op: u64,
        /// Why.
        why: Refusal,
    },
    /// A snapshot file is in place.
    Saved(Arc<crate::storage::Saved>),
    /// The session can, or cannot, be written.
    Health(Mode),
    /// The server is about to close this connection.
    Closing(Closing),
}

/// Why an operation was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The session's rules say no.
    Rejected(Rejection),
    /// Nothing can be written at the moment; says why.
    ReadOnly(Arc<str>),
    /// Too much of what this connection has asked for is unfinished.
    TooMuchWork,
    /// A save that was asked for failed; says why.
    SaveFailed(Arc<str>),
    /// It was meant for a state that a restore has left; says so.
    Restored(&'static str),
}

/// Whether the session takes edits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mode {
    /// Yes.
    #[default]
    Live,
    /// No; says why, for people.
    ReadOnly(Arc<str>),
}

/// Why the server closes a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closing {
    /// The daemon stops.
    Stopping,
    /// The same client has connected again elsewhere.
    Replaced,
    /// The session begins anew, and what this client has is no part of it.
    Archived,
    /// The session goes on with another state: with this, for people.
    Restored(Arc<str>),
}

/// Writes new events straight to a connection that waits for nothing else.
pub trait Courier: Send + Sync + std::fmt::Debug {
    /// Writes these notes and what the connection has not had of the newest chunk, without waiting.
    fn carry(&self, notes: &[Note], chunk: &Chunk) -> Carried;
}

/// How far a courier has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// Everything is written.
    All,
    /// The connection has it, but must be woken to write the rest.
    Begun,
    /// Nothing has changed: the connection must be woken. It is busy, or behind, or this is not for a courier.
    Nothing,
}

/// One connection, as its session sees it.
#[derive(Debug)]
pub struct Subscriber {
    /// The member's name.
    pub name: MemberName,
    /// What the member may do.
    pub role: Role,
    /// The client program.
    pub client: ClientId,
    /// A number that no other connection of this daemon has.
    pub connection: u64,
    notes: Mutex<Vec<Note>>,
    noted: AtomicBool,
    courier: OnceLock<Arc<dyn Courier>>,
    woken: AtomicBool,
    waker: AtomicWaker,
    gone: AtomicBool,
    /// Its client cannot be told that the session begins anew.
    of_one_project: bool,
    retired: AtomicBool,
    /// The client came with a state of before a restore; its operations up to this were meant for that.
    of_before: AtomicU64,
}

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

impl Subscriber {
    /// A new connection of a member.
    pub fn new(name: MemberName, role: Role, client: ClientId) -> Arc<Self> {
        Arc::new(Self::made(name, role, client, false))
    }

    /// The same of a client that keeps what it has: when the session begins anew, nothing more is taken from it, and it
    /// is told to close.
    pub fn of_one_project(name: MemberName, role: Role, client: ClientId) -> Arc<Self> {
        Arc::new(Self::made(name, role, client, true))
    }

    fn made(name: MemberName, role: Role, client: ClientId, of_one_project: bool) -> Self {
        Self {
            name,
            role,
            client,
            connection: NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed),
            notes: Mutex::default(),
            noted: AtomicBool::new(false),
            courier: OnceLock::new(),
            woken: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            gone: AtomicBool::new(false),
            of_one_project,
            retired: AtomicBool::new(false),
            of_before: AtomicU64::new(0),
        }
    }

    /// The session begins anew. Whether that ends this connection.
    pub(super) fn retire(&self) -> bool {
        self.retired.store(self.of_one_project, Ordering::Release);
        self.of_one_project
    }

    /// Whether the session has begun anew under this connection, which must end.
    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// The client came with a state of before a restore. `op` is the last number that it had given out then; one that does
    /// not say so may have given out any.
    pub(super) fn comes_from_before(&self, op: Option<u64>) {
        self.of_before.store(op.unwrap_or(u64::MAX), Ordering::Release);
    }

    /// Whether this operation was asked for before a restore.
    pub(super) fn is_of_before(&self, op: u64) -> bool {
        op <= self.of_before.load(Ordering::Acquire)
    }

    /// Whether this is another connection of the same client under the same name.
    pub(super) fn replaces(&self, other: &Self) -> bool {
        (&self.name, self.client) == (&other.name, other.client) && self.connection != other.connection
    }

    /// Leaves a note, without waking. At most one per unanswered operation and a few more, hence bounded.
    pub(super) fn leave(&self, note: Note) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
        self.noted.store(true, Ordering::Release);
    }

    /// Takes all notes, oldest first.
    pub fn take_notes(&self) -> Vec<Note> {
        if !self.noted.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says who writes new events straight to the connection.
    pub fn set_courier(&self, courier: Arc<dyn Courier>) {
        // There is one connection, and it says so once.
        _ = self.courier.set(courier);
    }

    /// New events: written at once if the connection waits for nothing else, otherwise it is woken.
    pub(super) fn bring(&self, chunk: &Chunk) {
        let carried = self.courier.get().map_or(Carried::Nothing, |courier| self.carry(&**courier, chunk));
        if carried != Carried::All {
            self.wake();
        }
    }

    fn carry(&self, courier: &dyn Courier, chunk: &Chunk) -> Carried {
        if !self.noted.load(Ordering::Acquire) {
            return courier.carry(&[], chunk);
        }
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let carried = courier.carry(&notes, chunk);
        if carried != Carried::Nothing {
            notes.clear();
            self.noted.store(false, Ordering::Release);
        }
        carried
    }

    /// Says that there is something to read: notes, events or presence.
    pub fn wake(&self) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Ready once after each [`Subscriber::wake`].
    pub fn poll_woken(&self, context: &Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        if self.woken.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    pub(super) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }
}
