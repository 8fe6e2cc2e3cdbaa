//! Storage: keeps framed bytes of sessions in a data directory, through kill, power loss and the operator's `cp`.
//!
//! It knows nothing of scenes: a [`Machine`] turns bytes into state, and [`Record`]s turn events into bytes. One
//! journal serves all sessions of the directory; each session has its own snapshot and backups. `docs/file-format.md`
//! describes every byte, `docs/durability-points.md` every sync and check that the promise rests on.

mod backups;
pub mod codec;
mod contract;
mod fields;
pub mod fsck;
pub mod inspect;
pub mod journal;
mod journaling;
mod keep;
mod metadata;
pub mod pinning;
pub mod recovery;
pub mod restore;
mod saver;
pub mod snapshot;
mod state_file;
pub mod store;
pub mod vfs;

pub use journal::Early;
pub use keep::Keep;
pub use recovery::{OpenError, OpenOptions, Opened, OpenedSession, Outcome, Restored, open};
pub use store::{Closed, CreateError, DirectoryStore, Status};

pub use contract::{
    BadContent, Branch, Durable, Encode, Machine, Record, RecordBody, RestoreJob, RestoreOutcome, ResumePoint, Run,
    SaveJob, SaveOutcome, SaveState, Saved, Sections, Store, Summary, Switched, Trouble,
};
