//! The payload of a batch: groups of records, each group of one session and branch.

use crate::session::SessionName;
use crate::storage::Branch;
use crate::storage::fields::{Fields, put_session};

/// Most bytes of one body; a longer one is not believed.
pub(super) const BODY_MAX: u64 = 80 << 20;

/// Where a record's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body<'a> {
    /// In the batch itself.
    Inline(&'a [u8]),
    /// In the chunks of a blob.
    Blob(BlobRef),
}

/// Refers to the chunks of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobRef {
    /// The batch number of its first chunk.
    pub(super) id: u64,
    /// Bytes of the whole body.
    pub(super) len: u64,
    /// CRC-32C of the whole body.
    pub(super) crc: u32,
}

/// A record as it stands in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredRecord<'a> {
    pub(super) seq: u64,
    pub(super) body: Body<'a>,
}

/// The records of one session in one batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group<'a> {
    pub(super) session: SessionName,
    pub(super) branch: Branch,
    pub(super) records: Vec<StoredRecord<'a>>,
}

/// What a batch says about one session, without the bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) session: SessionName,
    pub(super) branch: Branch,
    pub(super) first: u64,
    pub(super) last: u64,
    /// Blobs that are complete with this batch.
    pub(super) blobs: Vec<u64>,
}

impl Group<'_> {
    pub(super) fn span(&self) -> Option<Span> {
        let first = self.records.first()?.seq;
        let last = self.records.last()?.seq;
        let blobs = (self.records.iter())
            .filter_map(|record| match record.body {
                Body::Blob(blob) => Some(blob.id),
                Body::Inline(_) => None,
            })
            .collect();
        Some(Span { session: self.session.clone(), branch: self.branch, first, last, blobs })
    }
}

/// Begins a group; [`end_group`] completes it. Returns where its count stands.
pub(super) fn begin_group(out: &mut Vec<u8>, session: &SessionName, branch: Branch) -> usize {
    put_session(out, session);
    out.extend_from_slice(&branch.0.to_le_bytes());
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    at
}

pub(super) fn end_group(out: &mut [u8], at: usize, count: u32) {
    out[at..at + 4].copy_from_slice(&count.to_le_bytes());
}

/// Begins a record whose body the caller appends; [`end_inline`] completes it. Returns where it begins.
pub(super) fn begin_inline(out: &mut Vec<u8>, seq: u64) -> usize {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&seq.to_le_bytes());
    at
}

/// Bytes of a record before its body.
pub(super) const RECORD_HEAD: usize = 12;

/// # Panics
/// If the body is 2 GiB long; the writer makes blobs of anything over a chunk.
pub(super) fn end_inline(out: &mut [u8], at: usize) {
    let len = u32::try_from((out.len() - at - RECORD_HEAD) << 1).expect("long bodies are written as blobs");
    out[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

pub(super) fn put_blob(out: &mut Vec<u8>, seq: u64, blob: BlobRef) {
    out.extend_from_slice(&(20u32 << 1 | 1).to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&blob.id.to_le_bytes());
    out.extend_from_slice(&blob.len.to_le_bytes());
    out.extend_from_slice(&blob.crc.to_le_bytes());
}

/// All groups of a batch; `None` if the payload makes no sense.
pub(super) fn decode_batch(payload: &[u8]) -> Option<Vec<Group<'_>>> {
    let mut fields = Fields::new(payload);
    let mut groups = Vec::new();
    while !fields.is_empty() {
        let session = fields.session()?;
        let branch = Branch(fields.u128()?);
        let count = fields.u32()?;
        let mut records = Vec::new();
        for _ in 0..count {
            records.push(decode_record(&mut fields)?);
        }
        groups.push(Group { session, branch, records });
    }
    Some(groups)
}

fn decode_record<'a>(fields: &mut Fields<'a>) -> Option<StoredRecord<'a>> {
    let head = fields.u32()?;
    let seq = fields.u64()?;
    let bytes = fields.bytes(usize::try_from(head >> 1).ok()?)?;
    let body = if head & 1 == 0 {
        Body::Inline(bytes)
    } else {
        let mut fields = Fields::new(bytes);
        let blob = BlobRef { id: fields.u64()?, len: fields.u64()?, crc: fields.u32()? };
        if !fields.is_empty() || blob.len > BODY_MAX {
            return None;
        }
        Body::Blob(blob)
    };
    Some(StoredRecord { seq, body })
}

/// The payload of a chunk: which blob, where in it, and the bytes.
pub(super) fn decode_chunk(payload: &[u8]) -> Option<(u64, u64, &[u8])> {
    let mut fields = Fields::new(payload);
    Some((fields.u64()?, fields.u64()?, fields.rest()))
}

pub(super) fn encode_chunk(blob: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(16 + bytes.len());
    out.extend_from_slice(&blob.to_le_bytes());
    out.extend_from_slice(&offset.to_le_bytes());
    out.extend_from_slice(bytes);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_come_back_as_they_were_written() {
        let mut out = Vec::new();
        let session = SessionName::new("a-b").unwrap();
        let blob = BlobRef { id: 9, len: 3 << 20, crc: 77 };
        for branch in [Branch(1), Branch(2)] {
            let at = begin_group(&mut out, &session, branch);
            let start = begin_inline(&mut out, 5);
            out.extend_from_slice(b"body");
            end_inline(&mut out, start);
            put_blob(&mut out, 6, blob);
            end_group(&mut out, at, 2);
        }
        let groups = decode_batch(&out).unwrap();
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[1].branch, Branch(2));
        assert_eq!(groups[1].records[0], StoredRecord { seq: 5, body: Body::Inline(b"body") });
        assert_eq!(groups[1].records[1].body, Body::Blob(blob));
        let span = groups[0].span().unwrap();
        assert_eq!((span.first, span.last, span.blobs), (5, 6, vec![9]));
        for cut in 1..out.len() {
            assert_ne!(decode_batch(&out[..cut]).map(|groups| groups.len()), Some(2));
        }
    }
}
