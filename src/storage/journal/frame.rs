//! Frames: the checksummed unit of the journal, written whole or not at all.

use super::Lineage;
use crate::storage::fields::Fields;

/// Bytes of a frame's header.
pub(super) const FRAME_HEADER: usize = 40;
/// Frames begin at multiples of this.
pub(super) const FRAME_ALIGN: u64 = 8;
/// Most bytes of a frame's payload. A header that says more is not one.
pub(super) const PAYLOAD_MAX: u32 = 4 << 20;
/// Marks the last frame of a blob or of a position.
pub(super) const FLAG_LAST: u8 = 4;

pub(super) const MAGIC: [u8; 4] = *b"FRM1";

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Records of sessions.
    Batch,
    /// A piece of a body too long for a batch.
    Chunk,
    /// One control record.
    Control,
    /// What was known when the segment was begun.
    Position,
    /// Promises that everything up to `durable_upto` is there.
    Seal,
    /// As a seal, and says that the journal was closed in order.
    Close,
    /// As a seal, and says in which segment the journal goes on (payload: its number).
    Continued,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Batch,
            2 => Self::Chunk,
            3 => Self::Control,
            4 => Self::Position,
            9 => Self::Seal,
            10 => Self::Close,
            11 => Self::Continued,
            _other => return None,
        })
    }

    fn to_byte(self) -> u8 {
        match self {
            Self::Batch => 1,
            Self::Chunk => 2,
            Self::Control => 3,
            Self::Position => 4,
            Self::Seal => 9,
            Self::Close => 10,
            Self::Continued => 11,
        }
    }

    /// Whether frames of this kind take a batch number of their own.
    pub(super) fn is_numbered(self) -> bool {
        matches!(self, Self::Batch | Self::Chunk | Self::Control)
    }
}

/// Starts every checksum of one segment, so that bytes of another segment, start or server never pass for its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seed(u32);

impl Seed {
    pub(super) fn new(lineage: Lineage, epoch: u64, segment_no: u64) -> Self {
        let mut bytes = Vec::with_capacity(32);
        bytes.extend_from_slice(&lineage.0.to_le_bytes()); // durability: J13
        bytes.extend_from_slice(&epoch.to_le_bytes()); // durability: J14
        bytes.extend_from_slice(&segment_no.to_le_bytes()); // durability: J15
        Self(crc32c::crc32c(&bytes))
    }

    fn payload_crc(self, batch_no: u64, payload: &[u8]) -> u32 {
        let low = u32::try_from(batch_no & u64::from(u32::MAX)).unwrap_or(0);
        crc32c::crc32c_append(self.0 ^ low, payload)
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) payload_len: u32,
    pub(super) count: u32,
    pub(super) batch_no: u64,
    pub(super) durable_upto: u64,
    pub(super) payload_crc: u32,
}

impl FrameHeader {
    /// A header for `payload`, whose length must be within [`PAYLOAD_MAX`].
    pub(super) fn new(seed: Seed, kind: Kind, batch_no: u64, durable_upto: u64, payload: &[u8]) -> Self {
        Self {
            kind,
            flags: 0,
            payload_len: u32::try_from(payload.len()).expect("payloads are cut to size before"),
            count: 0,
            batch_no,
            durable_upto,
            payload_crc: seed.payload_crc(batch_no, payload),
        }
    }

    pub(super) fn encode(&self, seed: Seed) -> [u8; FRAME_HEADER] {
        let mut out = [0; FRAME_HEADER];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = self.kind.to_byte();
        out[5] = self.flags;
        out[8..12].copy_from_slice(&self.payload_len.to_le_bytes());
        out[12..16].copy_from_slice(&self.count.to_le_bytes());
        out[16..24].copy_from_slice(&self.batch_no.to_le_bytes());
        out[24..32].copy_from_slice(&self.durable_upto.to_le_bytes());
        out[32..36].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(seed.0, &out[..36]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header in `bytes` (at least [`FRAME_HEADER`] of them) with its checksum; `None` if it is not one of this
    /// segment.
    pub(super) fn decode(bytes: &[u8], seed: Seed) -> Option<(Self, u32)> {
        let mut fields = Fields::new(bytes);
        let covered = bytes.get(..36)?;
        if fields.bytes(4)? != MAGIC {
            return None;
        }
        let kind = fields.u8()?;
        let flags = fields.u8()?;
        let _reserved = fields.u16()?;
        let header = Self {
            kind: Kind::from_byte(kind)?,
            flags,
            payload_len: fields.u32()?,
            count: fields.u32()?,
            batch_no: fields.u64()?,
            durable_upto: fields.u64()?,
            payload_crc: fields.u32()?,
        };
        let crc = fields.u32()?;
        let intact = crc == crc32c::crc32c_append(seed.0, covered);
        let intact = intact && header.payload_len <= PAYLOAD_MAX; // durability: J11
        intact.then_some((header, crc))
    }

    pub(super) fn matches(&self, seed: Seed, payload: &[u8]) -> bool {
        self.payload_crc == seed.payload_crc(self.batch_no, payload)
    }

    /// Bytes from the start of this frame to the start of the next.
    pub(super) fn stride(&self) -> u64 {
        stride(u64::from(self.payload_len))
    }
}

/// Bytes that a frame with such a payload takes up.
pub(super) fn stride(payload_len: u64) -> u64 {
    (FRAME_HEADER as u64 + payload_len).next_multiple_of(FRAME_ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed() {
        let seed = Seed::new(Lineage(7), 1, 1);
        let bytes = FrameHeader::new(seed, Kind::Batch, 3, 2, b"payload").encode(seed);
        assert!(FrameHeader::decode(&bytes, seed).is_some());
        for bit in 0..FRAME_HEADER * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHeader::decode(&flipped, seed), None, "bit {bit}");
        }
    }

    #[test]
    fn a_header_that_claims_too_much_is_not_one() {
        let seed = Seed::new(Lineage(7), 1, 1);
        let header = FrameHeader::new(seed, Kind::Batch, 3, 2, b"");
        for (payload_len, ok) in [(PAYLOAD_MAX, true), (PAYLOAD_MAX + 1, false), (u32::MAX, false)] {
            let bytes = FrameHeader { payload_len, ..header }.encode(seed);
            assert_eq!(FrameHeader::decode(&bytes, seed).is_some(), ok);
        }
    }

    #[test]
    fn frames_of_another_server_start_or_segment_are_not_taken() {
        let seed = Seed::new(Lineage(7), 1, 1);
        let bytes = FrameHeader::new(seed, Kind::Batch, 3, 2, b"payload").encode(seed);
        for other in [Seed::new(Lineage(8), 1, 1), Seed::new(Lineage(7), 2, 1), Seed::new(Lineage(7), 1, 2)] {
            assert_eq!(FrameHeader::decode(&bytes, other), None);
        }
    }
}
