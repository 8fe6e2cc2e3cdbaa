//! Section headers, the table of their offsets, and the last block of a snapshot file.

use super::{BLOCK, BLOCK_LEN, SECTION_BYTES_MAX, SnapshotError};
use crate::storage::Encode;
use crate::storage::fields::Fields;
use std::io::{self, BufWriter, Write};

/// Bytes of a section's header; its body follows at once.
pub(super) const SECTION_HEADER: usize = 64;
/// Bytes that are collected before a body that is not in memory is hashed or written.
pub(super) const ENCODE_BUFFER: usize = 64 << 10;
/// Begins the last block.
const END_MAGIC: [u8; 8] = *b"HSSNAPEN";

/// What precedes the body of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SectionHeader {
    /// Four letters that say what is in it.
    pub(super) tag: [u8; 4],
    /// The version of the body's layout.
    pub(super) schema: u16,
    /// Bytes of the body.
    pub(super) len: u64,
    /// BLAKE3 of the body.
    pub(super) hash: blake3::Hash,
}

impl SectionHeader {
    /// Describes a body.
    pub(super) fn of(tag: [u8; 4], schema: u16, body: &[u8]) -> Self {
        Self { tag, schema, len: body.len() as u64, hash: blake3::hash(body) }
    }

    /// Describes the body that `encode` writes.
    pub(super) fn of_encoded(tag: [u8; 4], schema: u16, encode: &Encode<'_>) -> io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        // It hashes large pieces at once, and small ones slowly.
        let mut out = BufWriter::with_capacity(ENCODE_BUFFER, &mut hasher);
        encode(&mut out)?;
        out.flush()?;
        drop(out);
        Ok(Self { tag, schema, len: hasher.count(), hash: hasher.finalize() })
    }

    /// The header as it is written: raw and stored length are the same, because nothing compresses yet.
    pub(super) fn encode(&self) -> [u8; SECTION_HEADER] {
        let mut out = [0; SECTION_HEADER];
        out[..4].copy_from_slice(&self.tag);
        out[4..6].copy_from_slice(&self.schema.to_le_bytes());
        out[8..16].copy_from_slice(&self.len.to_le_bytes());
        out[16..24].copy_from_slice(&self.len.to_le_bytes());
        out[24..56].copy_from_slice(self.hash.as_bytes());
        let crc = crc32c::crc32c(&out[..60]);
        out[60..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Checks a header found at `offset` and takes it apart.
    pub(super) fn decode(bytes: &[u8; SECTION_HEADER], offset: u64) -> Result<Self, SnapshotError> {
        let (body, crc) = bytes.split_at(60);
        if crc32c::crc32c(body).to_le_bytes() != crc {
            return Err(SnapshotError::damaged(offset, "a section header's checksum does not match"));
        }
        let malformed = || SnapshotError::damaged(offset, "a section header is malformed");
        let mut fields = Fields::new(body);
        let tag = fields.array::<4>().ok_or_else(malformed)?;
        let schema = fields.u16().ok_or_else(malformed)?;
        let (codec, flags) = fields.u8().zip(fields.u8()).ok_or_else(malformed)?;
        let (raw, len) = fields.u64().zip(fields.u64()).ok_or_else(malformed)?;
        let hash = fields.array::<32>().ok_or_else(malformed)?;
        if codec != 0 || flags != 0 || raw != len || len > SECTION_BYTES_MAX {
            return Err(malformed());
        }
        Ok(Self { tag, schema, len, hash: blake3::Hash::from_bytes(hash) })
    }
}

/// The last block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct End {
    /// How many sections there are.
    pub(super) sections: u32,
    /// Where the table of their offsets begins.
    pub(super) table_at: u64,
    /// Bytes of the file.
    pub(super) file_len: u64,
    /// BLAKE3 of the header block, all section headers in order, and the table.
    pub(super) root: blake3::Hash,
}

impl End {
    /// The block as it is written.
    pub(super) fn encode(&self) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        block[..8].copy_from_slice(&END_MAGIC);
        block[8..12].copy_from_slice(&self.sections.to_le_bytes());
        block[16..24].copy_from_slice(&self.table_at.to_le_bytes());
        block[24..32].copy_from_slice(&self.file_len.to_le_bytes());
        block[32..64].copy_from_slice(self.root.as_bytes());
        let crc = crc32c::crc32c(&block[..BLOCK_LEN - 4]);
        block[BLOCK_LEN - 4..].copy_from_slice(&crc.to_le_bytes());
        block
    }

    /// Checks the last block of a file of `file_len` bytes and takes it apart.
    pub(super) fn decode(block: &[u8; BLOCK_LEN], file_len: u64) -> Result<Self, SnapshotError> {
        let at = file_len.saturating_sub(BLOCK);
        let (body, crc) = block.split_at(BLOCK_LEN - 4);
        if body[..8] != END_MAGIC {
            return Err(SnapshotError::damaged(at, "the last block is missing: the file is cut short"));
        }
        let intact = crc32c::crc32c(body).to_le_bytes() == crc; // durability: S2
        if !intact {
            return Err(SnapshotError::damaged(at, "the last block's checksum does not match"));
        }
        let malformed = || SnapshotError::damaged(at, "the last block is malformed");
        let mut fields = Fields::new(&body[8..]);
        let sections = fields.u32().ok_or_else(malformed)?;
        fields.u32().ok_or_else(malformed)?;
        let (table_at, said_len) = fields.u64().zip(fields.u64()).ok_or_else(malformed)?;
        let root = fields.array::<32>().ok_or_else(malformed)?;
        let table_len = u64::from(sections) * 8;
        let fits = table_at.checked_add(super::aligned(table_len)) == Some(at);
        if said_len != file_len || !fits || !table_at.is_multiple_of(BLOCK) {
            return Err(SnapshotError::damaged(at, "the file's length is not the one written"));
        }
        Ok(Self { sections, table_at, file_len, root: blake3::Hash::from_bytes(root) })
    }
}
