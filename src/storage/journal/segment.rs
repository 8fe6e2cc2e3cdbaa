//! Segment files: their names, their header, and where things lie in them.

use super::frame::{FLAG_LAST, FRAME_HEADER, FrameHeader, Kind, Seed, stride};
use super::positions::Positions;
use super::{DIRECTORY, Lineage};
use crate::storage::fields::{COUNT_MAX, Fields};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes of the segment header, at offset 0.
pub(super) const SEGMENT_HEADER: usize = 128;
/// Where seals are written, by turns: each in a block of its own, away from what it protects.
pub(super) const SEAL_SLOTS: [u64; 2] = [4096, 8192];
/// Where the position frames begin.
pub(super) const FRAMES_AT: u64 = 12288;
/// The spare segment's name in the journal's directory.
pub(super) const SPARE: &str = "spare.next";
/// Ends the name of a segment that is being deleted.
pub(super) const DOOMED: &str = "old";

const HEADER_LEN: u16 = 128;
const MAGIC: [u8; 8] = *b"HSJSEG1\0";
const VERSION: u16 = 1;
/// Bytes of position that go into one frame.
const POSITION_PIECE: usize = 1 << 20;

pub(super) fn segment_path(number: u64) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{number:016x}.seg"))
}

pub(super) fn doomed_path(number: u64) -> PathBuf {
    Path::new(DIRECTORY).join(format!("{number:016x}.{DOOMED}"))
}

pub(super) fn spare_path() -> PathBuf {
    Path::new(DIRECTORY).join(SPARE)
}

/// The number in a segment's file name; `None` if it is not the name of one.
pub(super) fn number_in(name: &Path) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".seg")?;
    let plain = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten().filter(|number| *number < COUNT_MAX)
}

/// What a segment says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) lineage: Lineage,
    pub(super) epoch: u64,
    pub(super) number: u64,
    /// The first batch that counts from here on. Everything before it was durable when the segment was begun.
    pub(super) first_batch: u64,
    /// The segment before; 0 = none.
    pub(super) previous: u64,
    /// The header checksum of the frame of batch `first_batch - 1`; 0 = none.
    pub(super) chain: u32,
    pub(super) created_ms: i64,
    /// Where the numbered frames begin.
    pub(super) data_at: u32,
    /// Bytes of the file as it was made.
    pub(super) len: u64,
}

/// Why bytes are not a segment header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum HeaderFault {
    /// They are damaged, or something else.
    Unreadable,
    /// They are of a version or use a feature that this program does not know.
    Unsupported(String),
}

impl SegmentHeader {
    pub(super) fn seed(&self) -> Seed {
        Seed::new(self.lineage, self.epoch, self.number)
    }

    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER] {
        let mut out = Vec::with_capacity(SEGMENT_HEADER);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&HEADER_LEN.to_le_bytes());
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(&self.lineage.0.to_le_bytes());
        for field in [self.epoch, self.number, self.first_batch, self.previous] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.chain.to_le_bytes());
        out.extend_from_slice(&self.data_at.to_le_bytes());
        out.extend_from_slice(&self.created_ms.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.resize(SEGMENT_HEADER - 4, 0);
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.try_into().expect("the fields add up to the header's size")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderFault> {
        let header = bytes.get(..SEGMENT_HEADER).ok_or(HeaderFault::Unreadable)?;
        let (covered, crc) = header.split_at(SEGMENT_HEADER - 4);
        let intact = crc == crc32c::crc32c(covered).to_le_bytes(); // durability: J10
        let mut fields = Fields::new(covered);
        if fields.bytes(8) != Some(&MAGIC[..]) || !intact {
            return Err(HeaderFault::Unreadable);
        }
        Self::read(&mut fields).ok_or(HeaderFault::Unreadable)?
    }

    fn read(fields: &mut Fields<'_>) -> Option<Result<Self, HeaderFault>> {
        let version = fields.u16()?;
        let header_len = fields.u16()?;
        let incompat = fields.u32()?;
        let _compat = fields.u32()?;
        let _reserved = fields.u32()?;
        if version != VERSION || header_len != HEADER_LEN || incompat != 0 {
            let what = format!("segment format {version} with features {incompat:#x}");
            return Some(Err(HeaderFault::Unsupported(what)));
        }
        let lineage = Lineage(fields.u128()?);
        let (epoch, number, first_batch, previous) = (fields.u64()?, fields.u64()?, fields.u64()?, fields.u64()?);
        if epoch.max(number).max(first_batch) >= COUNT_MAX {
            return None;
        }
        let (chain, data_at) = (fields.u32()?, fields.u32()?);
        let (created_ms, len) = (fields.i64()?, fields.u64()?);
        Some(Ok(Self { lineage, epoch, number, first_batch, previous, chain, created_ms, data_at, len }))
    }
}

/// What a position holds: what is known about sessions, and the blobs that were being written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) positions: Positions,
    /// Blobs begun and not yet referred to, with the segment of their first chunk.
    pub(super) open_blobs: BTreeMap<u64, u64>,
}

impl Position {
    /// All frames of the position of a segment, ready to be written at [`FRAMES_AT`].
    pub(super) fn encode_frames(&self, seed: Seed, first_batch: u64) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend_from_slice(&u32::try_from(self.open_blobs.len()).unwrap_or(u32::MAX).to_le_bytes());
        for (blob, segment) in &self.open_blobs {
            payload.extend_from_slice(&blob.to_le_bytes());
            payload.extend_from_slice(&segment.to_le_bytes());
        }
        payload.extend_from_slice(&self.positions.encode());
        let pieces = payload.chunks(POSITION_PIECE);
        let last = pieces.len() - 1;
        let mut out = Vec::new();
        for (number, piece) in pieces.enumerate() {
            let before = first_batch.saturating_sub(1);
            let mut header = FrameHeader::new(seed, Kind::Position, before, before, piece);
            header.flags = if number == last { FLAG_LAST } else { 0 };
            put_frame(&mut out, &header.encode(seed), piece);
        }
        out
    }

    /// The position in the bytes between [`FRAMES_AT`] and the header's `data_at`; `None` if they are damaged.
    pub(super) fn decode_frames(mut bytes: &[u8], seed: Seed) -> Option<Self> {
        let mut payload = Vec::new();
        loop {
            let (header, _) = FrameHeader::decode(bytes.get(..FRAME_HEADER)?, seed)?;
            let piece = bytes.get(FRAME_HEADER..)?.get(..usize::try_from(header.payload_len).ok()?)?;
            let intact = header.matches(seed, piece); // durability: J12
            if !intact || header.kind != Kind::Position {
                return None;
            }
            payload.extend_from_slice(piece);
            if header.flags & FLAG_LAST != 0 {
                return Self::read(&payload);
            }
            bytes = bytes.get(usize::try_from(header.stride()).ok()?..)?;
        }
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let mut fields = Fields::new(payload);
        let mut open_blobs = BTreeMap::new();
        for _ in 0..fields.u32()? {
            open_blobs.insert(fields.u64()?, fields.u64()?);
        }
        let positions = Positions::read(&mut fields)?;
        fields.is_empty().then_some(Self { positions, open_blobs })
    }
}

/// Appends a frame and its padding.
pub(super) fn put_frame(out: &mut Vec<u8>, header: &[u8; FRAME_HEADER], payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(header);
    out.extend_from_slice(payload);
    let end = stride(payload.len() as u64);
    out.resize(start + usize::try_from(end).expect("frames are small"), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            lineage: Lineage(1),
            epoch: 2,
            number: 3,
            first_batch: 4,
            previous: 5,
            chain: 6,
            created_ms: 7,
            data_at: 8,
            len: 9,
        }
    }

    #[test]
    fn every_flipped_bit_of_a_segment_header_is_noticed() {
        let bytes = header().encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header()));
        for bit in 0..SEGMENT_HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), Err(HeaderFault::Unreadable), "bit {bit}");
        }
    }

    #[test]
    fn unknown_features_are_refused_by_name() {
        let mut bytes = header().encode();
        bytes[12] = 1;
        let crc = crc32c::crc32c(&bytes[..124]).to_le_bytes();
        bytes[124..].copy_from_slice(&crc);
        assert!(matches!(SegmentHeader::decode(&bytes), Err(HeaderFault::Unsupported(_))));
    }

    #[test]
    fn a_number_without_a_next_one_is_nobodys() {
        assert_eq!(number_in(Path::new("ffffffffffffffff.seg")), None);
        for mut most in [header(), header(), header()].into_iter().enumerate() {
            *[&mut most.1.epoch, &mut most.1.number, &mut most.1.first_batch][most.0] = u64::MAX;
            assert_eq!(SegmentHeader::decode(&most.1.encode()), Err(HeaderFault::Unreadable));
        }
    }

    #[test]
    fn names_are_sixteen_digits() {
        assert_eq!(segment_path(0x1f), Path::new("journal/000000000000001f.seg"));
        assert_eq!(number_in(Path::new("000000000000001f.seg")), Some(0x1f));
        for other in ["1f.seg", "000000000000001F.seg", "000000000000001f.old", "+00000000000001f.seg"] {
            assert_eq!(number_in(Path::new(other)), None);
        }
    }

    #[test]
    fn a_position_of_many_pieces_comes_back() {
        let mut position = Position { open_blobs: BTreeMap::from([(7, 1)]), ..Position::default() };
        for n in 0..60_000 {
            let name = crate::session::SessionName::new(format!("s{n}")).unwrap();
            position.positions.sessions.entry(name).or_default().seq = n;
        }
        let seed = Seed::new(Lineage(1), 2, 3);
        let bytes = position.encode_frames(seed, 8);
        assert!(bytes.len() > POSITION_PIECE);
        assert_eq!(Position::decode_frames(&bytes, seed), Some(position));
        let mut damaged = bytes;
        damaged[POSITION_PIECE + 100] ^= 1;
        assert_eq!(Position::decode_frames(&damaged, seed), None);
    }
}
