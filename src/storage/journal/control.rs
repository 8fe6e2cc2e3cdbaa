//! Control records: what the journal remembers about runs, branches and published snapshots.

use crate::session::{SessionName, Timestamp};
use crate::storage::fields::{Fields, put_session};
use crate::storage::{Branch, Run};

/// A fact that is journaled beside the sessions' records. Never the same number for another meaning; a new version of
/// a record gets a new version byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Control {
    /// The daemon has started.
    Run {
        /// Which start.
        run: Run,
        /// The epoch it took.
        epoch: u64,
        /// When.
        at: Timestamp,
    },
    /// A session goes on along a new branch: a restore, or a machine that moved.
    Branch {
        /// Whose.
        session: SessionName,
        /// The new branch.
        branch: Branch,
        /// The branch it left, as far as it is known.
        parent: Branch,
        /// The snapshot it starts from.
        snapshot: u128,
        /// The first `seq` on the new branch.
        first_seq: u64,
    },
    /// A snapshot has become the session's live one.
    Published {
        /// Whose.
        session: SessionName,
        /// Which, and how its file looked.
        published: Published,
    },
    /// A session is gone; nothing more is known about it.
    Forgotten {
        /// Whose.
        session: SessionName,
    },
}

/// A snapshot that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// The branch it belongs to.
    pub branch: Branch,
    /// Its id.
    pub snapshot: u128,
    /// The state it holds.
    pub seq: u64,
    /// When it was asked for.
    pub at: Timestamp,
    /// The live file as it was after publishing.
    pub file: FileMark,
}

/// What tells whether a file was touched since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileMark {
    /// The inode's number.
    pub inode: u64,
    /// Bytes.
    pub len: u64,
    /// Last change, nanoseconds since 1970.
    pub mtime_ns: i128,
}

const VERSION: u8 = 1;

impl Control {
    /// Whose it is, if it is of one session.
    pub fn session(&self) -> Option<&SessionName> {
        match self {
            Self::Run { .. } => None,
            Self::Branch { session, .. } | Self::Published { session, .. } | Self::Forgotten { session } => {
                Some(session)
            }
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        match self {
            Self::Run { run, epoch, at } => {
                out.extend_from_slice(&[1, VERSION]);
                out.extend_from_slice(&run.0.to_le_bytes());
                out.extend_from_slice(&epoch.to_le_bytes());
                out.extend_from_slice(&at.0.to_le_bytes());
            }
            Self::Branch { session, branch, parent, snapshot, first_seq } => {
                out.extend_from_slice(&[2, VERSION]);
                put_session(&mut out, session);
                out.extend_from_slice(&branch.0.to_le_bytes());
                out.extend_from_slice(&parent.0.to_le_bytes());
                out.extend_from_slice(&snapshot.to_le_bytes());
                out.extend_from_slice(&first_seq.to_le_bytes());
            }
            Self::Published { session, published } => {
                out.extend_from_slice(&[3, VERSION]);
                put_session(&mut out, session);
                published.put(&mut out);
            }
            Self::Forgotten { session } => {
                out.extend_from_slice(&[4, VERSION]);
                put_session(&mut out, session);
            }
        }
        out
    }

    /// The control record in `payload`; `None` if it is of an unknown kind or version, or makes no sense.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(payload);
        let kind = fields.u8()?;
        if fields.u8()? != VERSION {
            return None;
        }
        let control = match kind {
            1 => Self::Run { run: Run(fields.u128()?), epoch: fields.u64()?, at: Timestamp(fields.i64()?) },
            2 => Self::Branch {
                session: fields.session()?,
                branch: Branch(fields.u128()?),
                parent: Branch(fields.u128()?),
                snapshot: fields.u128()?,
                first_seq: fields.u64()?,
            },
            3 => Self::Published { session: fields.session()?, published: Published::read(&mut fields)? },
            4 => Self::Forgotten { session: fields.session()? },
            _other => return None,
        };
        fields.is_empty().then_some(control)
    }
}

impl Published {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.branch.0.to_le_bytes());
        out.extend_from_slice(&self.snapshot.to_le_bytes());
        out.extend_from_slice(&self.seq.to_le_bytes());
        out.extend_from_slice(&self.at.0.to_le_bytes());
        out.extend_from_slice(&self.file.inode.to_le_bytes());
        out.extend_from_slice(&self.file.len.to_le_bytes());
        out.extend_from_slice(&self.file.mtime_ns.to_le_bytes());
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self {
            branch: Branch(fields.u128()?),
            snapshot: fields.u128()?,
            seq: fields.u64()?,
            at: Timestamp(fields.i64()?),
            file: FileMark { inode: fields.u64()?, len: fields.u64()?, mtime_ns: fields.i128()? },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_records_come_back_and_cut_ones_do_not() {
        let session = SessionName::new("s").unwrap();
        let published = Published {
            branch: Branch(1),
            snapshot: 2,
            seq: 3,
            at: Timestamp(-4),
            file: FileMark { inode: 5, len: 6, mtime_ns: -7 },
        };
        let all = [
            Control::Run { run: Run(1), epoch: 2, at: Timestamp(3) },
            Control::Branch {
                session: session.clone(),
                branch: Branch(2),
                parent: Branch(1),
                snapshot: 9,
                first_seq: 7,
            },
            Control::Published { session: session.clone(), published },
            Control::Forgotten { session },
        ];
        for control in all {
            let bytes = control.encode();
            assert_eq!(Control::decode(&bytes), Some(control));
            for cut in 0..bytes.len() {
                assert_eq!(Control::decode(&bytes[..cut]), None);
            }
        }
    }
}
