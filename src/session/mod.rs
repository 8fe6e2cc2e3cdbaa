//! The session: a synchronous, deterministic state machine that decides commands and evolves by events.
//!
//! It has no I/O, no clock, no randomness and no logging. [`Session::decide`] may refuse and changes nothing;
//! [`Session::evolve`] cannot fail and changes only memory. Recovery is `evolve` over a snapshot and the journal.

mod applied;
mod chat;
mod command;
mod decide;
mod event;
mod evolve;
mod ids;
mod limits;
mod members;
mod payload;
mod rejection;
mod scene;
mod settings;
mod state;
pub mod stored;
mod tasks;
mod work;

pub use chat::ChatMessage;
pub use command::{Author, Command, NodePatch, NodePut, Operation, PayloadChange, TaskPatch, TaskPut};
pub use decide::Decision;
pub use event::{Change, ChatDraft, ChatKind, Event, OpKey};
pub use ids::{ChatId, ClientId, InvalidId, MemberName, NodeId, Role, SessionName, TaskId, Timestamp};
pub use limits::Limits;
pub use members::{Member, Online};
pub use payload::{Delta, Deltas, Payload, is_blender_media_type};
pub use rejection::Rejection;
pub use scene::Node;
pub use settings::{Setting, is_reserved_setting};
pub use state::{Session, Totals};
pub use tasks::{Task, TaskStatus};
