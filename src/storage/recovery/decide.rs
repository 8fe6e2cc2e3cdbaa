//! Decides what the current snapshot is to the journal: the same history, a restore, or the disk's fault.
//!
//! Pure, because this is where a mistake would serve the wrong state: it compares identities and nothing else.

use super::history::Past;
use super::survey::LiveFile;
use crate::storage::snapshot::{Header, Purpose, SnapshotError, SnapshotId};

/// What to do about one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// There is nothing: begin a new session.
    Fresh,
    /// The snapshot belongs to the journal: load it and replay what follows.
    Continue,
    /// No snapshot was ever published: replay everything from nothing.
    FromNothing,
    /// The snapshot is gone or rotten, by no one's wish: an older one and the journal hold the same.
    Fallback,
    /// Somebody put another snapshot in place, or moved the directory: serve it on a new branch.
    Restore(Reason),
    /// Serving anything would be a guess.
    Refuse(Refusal),
}

/// Why a new branch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// A snapshot was copied into place.
    Restored,
    /// There is a snapshot and no journal that knows the session.
    Moved,
}

/// Why nobody is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The file in place was changed by hand and is not whole.
    ChangedAndInvalid,
    /// The snapshot and the journal are gone; only backups are left.
    OnlyBackups,
    /// A newer version wrote the snapshot.
    Unsupported,
}

/// Decides. `empty`: there is no trace of the session among its files.
pub(crate) fn decide(live: &LiveFile, past: &Past, lineage: u128, empty: bool) -> Relation {
    match live {
        LiveFile::Missing => match past {
            Past { branch: None, .. } if empty => Relation::Fresh,
            Past { branch: None, .. } => Relation::Refuse(Refusal::OnlyBackups),
            Past { published: None, .. } => Relation::FromNothing,
            Past { .. } => Relation::Fallback,
        },
        LiveFile::Unusable { error: SnapshotError::Unsupported { .. }, .. } => Relation::Refuse(Refusal::Unsupported),
        LiveFile::Unusable { identity, .. } => {
            let untouched = past.published.is_some_and(|p| p.identity == *identity); // durability: S21
            if untouched { Relation::Fallback } else { Relation::Refuse(Refusal::ChangedAndInvalid) }
        }
        LiveFile::Whole { header, .. } => decide_whole(header, past, lineage),
    }
}

fn decide_whole(header: &Header, past: &Past, lineage: u128) -> Relation {
    if past.branch.is_none() {
        return Relation::Restore(Reason::Moved);
    }
    let current = past.published.is_some_and(|published| published.id == header.id); // durability: S22
    if current || is_interrupted_publish(header, past, lineage) {
        Relation::Continue
    } else {
        Relation::Restore(Reason::Restored)
    }
}

/// Whether the daemon itself put the file in place and stopped before the journal could say so.
fn is_interrupted_publish(header: &Header, past: &Past, lineage: u128) -> bool {
    let parent = past.published.map_or(SnapshotId::NONE, |published| published.id);
    header.purpose == Purpose::Current
        && header.lineage == lineage
        && Some(header.branch) == past.branch
        && header.parent == parent // durability: S26
        && past.is_newest_writer(header) // durability: S23
        && header.seq >= past.published.map_or(0, |published| published.seq)
}
