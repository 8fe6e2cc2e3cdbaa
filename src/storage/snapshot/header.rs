//! The first block of a snapshot file: whose state it is, of which branch and `seq`, and why it was written.

use super::{BLOCK_LEN, SnapshotError};
use crate::session::{SessionName, Timestamp};
use crate::storage::codec::CODEC_ID;
use crate::storage::fields::{COUNT_MAX, Fields, put_text};
use crate::storage::{Branch, Run, Summary};
use std::fmt;

/// "Hotset snapshot, layout 1". The line feed shows a transfer that changed line ends.
const MAGIC: [u8; 8] = *b"HSSNAP1\n";
/// Files of another major version are refused.
const MAJOR: u16 = 1;
const MINOR: u16 = 0;
/// Incompatible features that this version knows: none. Reserved: 1 compression, 2 encryption, 4 MAC.
const INCOMPAT_KNOWN: u32 = 0;
/// Most runs that a header remembers; older ones are forgotten (their clients resynchronise in full).
pub(super) const RUNS_MAX: usize = 64;
/// Most bytes of all reasons together.
const REASONS_BYTES_MAX: usize = 1024;
const CRC_AT: usize = BLOCK_LEN - 4;

/// Identifies one snapshot: 128 random bits. A copy of the file has the same id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotId(pub u128);

impl SnapshotId {
    /// No snapshot.
    pub const NONE: Self = Self(0);
}

impl fmt::Debug for SnapshotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// What a snapshot was written for. It makes an interrupted publish distinguishable from a file put there by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To be the session's current snapshot.
    Current,
    /// To keep a state beside the current one (`pre_restore`, and the like).
    Kept,
}

/// What a snapshot says about itself. Part of the stored format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The data directory that it was written in.
    pub lineage: u128,
    /// The session's branch.
    pub branch: Branch,
    /// The start of the daemon that wrote it.
    pub epoch: u64,
    /// Which snapshot it is.
    pub id: SnapshotId,
    /// The snapshot that was current before.
    pub parent: SnapshotId,
    /// The newest event in it.
    pub seq: u64,
    /// When it was written.
    pub created: Timestamp,
    /// When the state was captured.
    pub at: Timestamp,
    /// What the state holds.
    pub summary: Summary,
    /// What it was written for.
    pub purpose: Purpose,
    /// Whose state it is.
    pub session: SessionName,
    /// The program that wrote it.
    pub writer: String,
    /// Why it was written.
    pub reasons: Vec<String>,
    /// Runs of this branch, oldest first, with the first `seq` that each could issue.
    pub runs: Vec<(Run, u64)>,
}

impl Header {
    /// The block as it is written.
    pub(super) fn encode(&self) -> [u8; BLOCK_LEN] {
        let mut out = Vec::with_capacity(BLOCK_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&MAJOR.to_le_bytes());
        out.extend_from_slice(&MINOR.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        out.push(CODEC_ID);
        out.push(match self.purpose {
            Purpose::Current => 0,
            Purpose::Kept => 1,
        });
        out.extend_from_slice(&[0; 2]);
        for id in [self.lineage, self.branch.0, self.id.0, self.parent.0] {
            out.extend_from_slice(&id.to_le_bytes());
        }
        let Summary { users, nodes, tasks, messages } = self.summary;
        for number in [self.epoch, self.seq, users, nodes, tasks, messages] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.created.0.to_le_bytes());
        out.extend_from_slice(&self.at.0.to_le_bytes());
        put_text(&mut out, self.session.as_str(), 64);
        put_text(&mut out, &self.writer, 64);
        self.encode_reasons(&mut out);
        self.encode_runs(&mut out);
        let mut block = [0; BLOCK_LEN];
        block[..out.len()].copy_from_slice(&out);
        let crc = crc32c::crc32c(&block[..CRC_AT]);
        block[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        block
    }

    fn encode_reasons(&self, out: &mut Vec<u8>) {
        let count_at = out.len();
        out.push(0);
        let mut count = 0;
        let mut room = REASONS_BYTES_MAX;
        for reason in self.reasons.iter().take(usize::from(u8::MAX)) {
            let Some(left) = room.checked_sub(2 + reason.len().min(200)) else { break };
            room = left;
            put_text(out, reason, 200);
            count += 1;
        }
        out[count_at] = count;
    }

    fn encode_runs(&self, out: &mut Vec<u8>) {
        let newest = &self.runs[self.runs.len().saturating_sub(RUNS_MAX)..];
        out.push(u8::try_from(newest.len()).expect("at most 64"));
        for (run, first) in newest {
            out.extend_from_slice(&run.0.to_le_bytes());
            out.extend_from_slice(&first.to_le_bytes());
        }
    }

    /// Whether a block begins as those of snapshots do.
    pub(super) fn is_begun_by(block: &[u8; BLOCK_LEN]) -> bool {
        block.starts_with(&MAGIC)
    }

    /// Checks a block and takes it apart.
    pub(super) fn decode(block: &[u8; BLOCK_LEN]) -> Result<Self, SnapshotError> {
        let (body, crc) = block.split_at(CRC_AT);
        if !Self::is_begun_by(block) {
            return Err(SnapshotError::NotASnapshot);
        }
        let intact = crc32c::crc32c(body).to_le_bytes() == crc; // durability: S1
        if !intact {
            return Err(SnapshotError::damaged(0, "the header's checksum does not match"));
        }
        let malformed = || SnapshotError::damaged(0, "the header is malformed");
        let mut fields = Fields::new(&body[8..]);
        let (major, _minor) = fields.u16().zip(fields.u16()).ok_or_else(malformed)?;
        let incompat = fields.u32().ok_or_else(malformed)?;
        let known = major == MAJOR && incompat & !INCOMPAT_KNOWN == 0;
        // A later layout may have moved everything after the flags, so nothing of it is read.
        if !known {
            let what = format!("major version {major}, incompatible features {incompat:#x}");
            return Err(SnapshotError::Unsupported { what, writer: String::new() });
        }
        decode_rest(&mut fields).ok_or_else(malformed)?
    }
}

/// `None` = malformed; `Some(Err)` = intact and not for us.
fn decode_rest(fields: &mut Fields<'_>) -> Option<Result<Header, SnapshotError>> {
    let _compat = fields.u32()?;
    let codec = fields.u8()?;
    let purpose = if fields.u8()? == 0 { Purpose::Current } else { Purpose::Kept };
    fields.bytes(2)?;
    let (lineage, branch) = (fields.u128()?, Branch(fields.u128()?));
    let (id, parent) = (SnapshotId(fields.u128()?), SnapshotId(fields.u128()?));
    let (epoch, seq) = (fields.u64()?, fields.u64()?);
    if epoch.max(seq) >= COUNT_MAX {
        return None;
    }
    let summary = Summary { users: fields.u64()?, nodes: fields.u64()?, tasks: fields.u64()?, messages: fields.u64()? };
    let (created, at) = (Timestamp(fields.i64()?), Timestamp(fields.i64()?));
    let session = SessionName::new(fields.text()?).ok()?;
    let writer = fields.text()?;
    let reasons = (0..fields.u8()?).map(|_| fields.text()).collect::<Option<Vec<_>>>()?;
    let runs = (0..fields.u8()?).map(|_| Some((Run(fields.u128()?), fields.u64()?))).collect::<Option<Vec<_>>>()?;
    if codec != CODEC_ID {
        return Some(Err(SnapshotError::Unsupported { what: format!("body codec {codec}"), writer }));
    }
    Some(Ok(Header {
        lineage,
        branch,
        epoch,
        id,
        parent,
        seq,
        created,
        at,
        summary,
        purpose,
        session,
        writer,
        reasons,
        runs,
    }))
}
