//! The snapshot file: the whole state of one session at one `seq`, self-contained and checked by hashes.
//!
//! A file is one header block, sections, a table of their offsets and one end block, each aligned to 4 KiB. It is
//! *valid* only if every block's checksum, every section's hash, the root hash over all of them and the length agree,
//! and the machine accepts what was in it. `docs/file-format.md` has the bytes.

mod header;
mod reader;
mod section;
mod writer;

pub use header::{Header, Purpose, SnapshotId};
pub use reader::{Verified, load, read_header, verify};
pub use writer::{Written, write};

use std::io;

/// Everything in a snapshot file is aligned to this many bytes.
const BLOCK: u64 = 4096;
/// [`BLOCK`], as the length of a buffer.
const BLOCK_LEN: usize = 4096;
/// Most bytes of one section's body.
pub const SECTION_BYTES_MAX: u64 = 64 << 20;

/// Why a snapshot file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Whatever it is, it was never a snapshot.
    #[error("not a Hotset snapshot")]
    NotASnapshot,
    /// The bytes are not those that were written.
    #[error("damaged at byte {offset}: {why}")]
    Damaged {
        /// Where, in the file.
        offset: u64,
        /// What is wrong there.
        why: String,
    },
    /// The bytes are intact, and the state in them makes no sense.
    #[error("intact, but its content is not acceptable: {0}")]
    Unacceptable(String),
    /// Intact, and of a format that this version does not know.
    #[error("written in a format that this version does not know ({what}), by {writer:?}")]
    Unsupported {
        /// Which feature or version.
        what: String,
        /// The program that wrote it.
        writer: String,
    },
}

impl SnapshotError {
    fn damaged(offset: u64, why: impl Into<String>) -> Self {
        Self::Damaged { offset, why: why.into() }
    }
}

/// The next multiple of the block size.
fn aligned(offset: u64) -> u64 {
    offset.div_ceil(BLOCK).saturating_mul(BLOCK)
}
