//! The session: a synchronous, deterministic state machine that decides commands and evolves by events.
//!
//! It has no I/O, no clock, no randomness and no logging. [`Session::decide`] may refuse and changes nothing;
//! [`Session::evolve`] cannot fail and changes only memory. Recovery is `evolve` over a snapshot and the journal.

mod command;
mod event;
mod ids;
mod limits;
mod payload;
mod rejection;
mod tasks;

pub use command::{Author, Command, NodePatch, NodePut, Operation, PayloadChange, TaskPatch, TaskPut};
pub use event::{Change, ChatDraft, ChatKind, Event, OpKey};
pub use ids::{ChatId, ClientId, InvalidId, MemberName, NodeId, Role, SessionName, TaskId, Timestamp};
pub use limits::Limits;
pub use payload::Payload;
pub use rejection::Rejection;
pub use tasks::TaskStatus;
