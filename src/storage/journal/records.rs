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
    /// Partly in blobs that were written before the record was made.
    Spliced(Spliced<'a>),
}

impl Body<'_> {
    /// The blobs that the body is in, or parts of it.
    pub(super) fn blobs(&self) -> Vec<BlobRef> {
        match self {
            Self::Inline(_) => Vec::new(),
            Self::Blob(blob) => vec![*blob],
            Self::Spliced(spliced) => spliced.pieces().map(|piece| piece.blob).collect(),
        }
    }
}

/// A body with blobs in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spliced<'a> {
    pieces: &'a [u8],
    /// Everything but the blobs.
    pub(super) rest: &'a [u8],
}

/// A blob in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    /// How many bytes of the rest come before it.
    pub(super) at: usize,
    pub(super) blob: BlobRef,
}

/// Bytes of a [`BlobRef`] and of a [`Piece`] as they are stored.
const BLOB_REF: usize = 20;
const PIECE: usize = 4 + BLOB_REF;

impl<'a> Spliced<'a> {
    /// In the order in which they stand in the body.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Piece> + use<'a> {
        self.pieces.chunks_exact(PIECE).filter_map(|bytes| Piece::read(&mut Fields::new(bytes)))
    }

    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        let count = usize::try_from(fields.u32()?).ok()?;
        let spliced = Self { pieces: fields.bytes(count.checked_mul(PIECE)?)?, rest: fields.rest() };
        let mut before = 0;
        let mut len = spliced.rest.len() as u64;
        for piece in spliced.pieces() {
            len = len.checked_add(piece.blob.len)?;
            if piece.at < before || piece.at > spliced.rest.len() || len > BODY_MAX {
                return None;
            }
            before = piece.at;
        }
        Some(spliced)
    }
}

impl Piece {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { at: usize::try_from(fields.u32()?).ok()?, blob: BlobRef::read(fields)? })
    }
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

impl BlobRef {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        Some(Self { id: fields.u64()?, len: fields.u64()?, crc: fields.u32()? })
    }

    fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.id.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.crc.to_le_bytes());
    }
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
        let blobs = self.records.iter().flat_map(|record| record.body.blobs()).map(|blob| blob.id).collect();
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
    put_elsewhere(out, seq, BLOB_REF);
    blob.put(out);
}

/// Appends a record whose body is `rest` with the blobs of `pieces`, which are in order, in between.
pub(super) fn put_spliced(out: &mut Vec<u8>, seq: u64, pieces: &[Piece], rest: &[u8]) {
    put_elsewhere(out, seq, 4 + pieces.len() * PIECE + rest.len());
    out.extend_from_slice(&small(pieces.len()).to_le_bytes());
    for piece in pieces {
        out.extend_from_slice(&small(piece.at).to_le_bytes());
        piece.blob.put(out);
    }
    out.extend_from_slice(rest);
}

/// The head of a record whose body is not all here.
fn put_elsewhere(out: &mut Vec<u8>, seq: u64, len: usize) {
    out.extend_from_slice(&(small(len) << 1 | 1).to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
}

/// # Panics
/// If it is over 4 GiB; the writer puts no more than a chunk into a record.
fn small(len: usize) -> u32 {
    u32::try_from(len).expect("a record is no longer than a chunk")
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
    } else if bytes.len() == BLOB_REF {
        let blob = BlobRef::read(&mut Fields::new(bytes))?;
        if blob.len > BODY_MAX {
            return None;
        }
        Body::Blob(blob)
    } else {
        Body::Spliced(Spliced::read(bytes)?)
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
        let pieces = [Piece { at: 0, blob }, Piece { at: 4, blob: BlobRef { id: 12, ..blob } }];
        for branch in [Branch(1), Branch(2)] {
            let at = begin_group(&mut out, &session, branch);
            let start = begin_inline(&mut out, 5);
            out.extend_from_slice(b"body");
            end_inline(&mut out, start);
            put_blob(&mut out, 6, blob);
            put_spliced(&mut out, 7, &pieces, b"rest");
            end_group(&mut out, at, 3);
        }
        let groups = decode_batch(&out).unwrap();
        assert_eq!(groups.len(), 2);
        assert_eq!(groups[1].branch, Branch(2));
        assert_eq!(groups[1].records[0], StoredRecord { seq: 5, body: Body::Inline(b"body") });
        assert_eq!(groups[1].records[1].body, Body::Blob(blob));
        let Body::Spliced(spliced) = groups[1].records[2].body else { panic!("it is in pieces") };
        assert_eq!((spliced.pieces().collect::<Vec<_>>(), spliced.rest), (pieces.to_vec(), &b"rest"[..]));
        let span = groups[0].span().unwrap();
        assert_eq!((span.first, span.last, span.blobs), (5, 7, vec![9, 9, 12]));
        for cut in 1..out.len() {
            assert_ne!(decode_batch(&out[..cut]).map(|groups| groups.len()), Some(2));
        }
    }
    #[test]
    fn pieces_that_do_not_fit_into_their_record_make_no_sense() {
        let blob = BlobRef { id: 9, len: 100, crc: 77 };
        let decoded = |pieces: &[Piece]| {
            let mut out = Vec::new();
            let at = begin_group(&mut out, &SessionName::new("a").unwrap(), Branch(1));
            put_spliced(&mut out, 7, pieces, b"rest");
            end_group(&mut out, at, 1);
            decode_batch(&out).is_some()
        };
        assert!(decoded(&[Piece { at: 4, blob }]));
        assert!(!decoded(&[Piece { at: 5, blob }]), "behind the end");
        assert!(!decoded(&[Piece { at: 2, blob }, Piece { at: 1, blob }]), "not in order");
        for len in [BODY_MAX, u64::MAX] {
            assert!(!decoded(&[Piece { at: 0, blob: BlobRef { len, ..blob } }]), "longer than any body");
        }
    }
}
