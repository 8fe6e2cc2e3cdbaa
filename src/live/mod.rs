//! One task per session: commands in, events out; the directory of sessions and the connections that follow them.

mod backlog;
mod directory;
mod durable_view;
mod ear;
mod export;
mod handle;
pub mod machine;
mod meter;
mod pending;
mod presence;
mod request;
mod saves;
mod seed;
mod session_task;
mod subscriber;
mod subscribers;
mod tail;
#[cfg(test)]
mod tests;

pub use crate::storage::SaveOutcome;
pub use crate::storage::restore::Chosen;
pub use directory::{Directory, OpenRefused};
pub use export::{ChatVisitor, EXPORT_VERSION, export};
pub use handle::{Counts, LastSave, LiveSettings, Membership, SessionHandle, SessionOrigin, Shared};
pub use meter::{Meter, Reading};
pub use presence::{PresenceBoard, Signal};
pub use request::{
    ArchiveError, Archived, Edit, EditError, JoinError, Joined, RestoreFailed, Restored, ResumeToken, Start, Work,
};
pub use seed::{SeedError, SeedStep, seed};
pub use subscriber::{Carried, Closing, Courier, Mode, Note, Refusal, Subscriber};
pub use subscribers::Subscribers;
pub use tail::{Chunk, EncodeEvents, Following, Frames, Tail, TailLimits, WireFormat};
