//! Reads a segment file front to back through a window, frame by frame.

use super::frame::{FRAME_ALIGN, FRAME_HEADER, FrameHeader, MAGIC, Seed};
use crate::storage::vfs::{Open, Vfs, VfsFile};
use std::io;
use std::path::Path;

const WINDOW: usize = 1 << 20;

/// What stands at one place of a segment.
pub(super) enum Found<'a> {
    /// A whole frame: its header, the header's checksum, the payload.
    Frame(FrameHeader, u32, &'a [u8]),
    /// A frame with an intact header and a damaged or cut payload.
    BadPayload(FrameHeader),
    /// Zeros where a header would be, or the end of the file.
    Nothing,
    /// Something that is not a header of this segment.
    Garbage,
}

pub(super) struct SegmentReader {
    file: Box<dyn VfsFile>,
    len: u64,
    seed: Seed,
    window: Vec<u8>,
    window_at: u64,
}

impl SegmentReader {
    pub(super) fn open(vfs: &dyn Vfs, path: &Path, seed: Seed) -> io::Result<Self> {
        let file = vfs.open(path, Open::Read)?;
        let len = file.stat()?.len;
        Ok(Self { file, len, seed, window: Vec::new(), window_at: 0 })
    }

    /// The bytes from `offset`, fewer than `len` only at the end of the file.
    fn bytes(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let len = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX).min(len);
        let within = offset.checked_sub(self.window_at).and_then(|at| usize::try_from(at).ok());
        let start = match within {
            Some(start) if start + len <= self.window.len() => start,
            _outside => {
                self.load(offset, len.max(WINDOW))?;
                0
            }
        };
        let end = (start + len).min(self.window.len());
        Ok(&self.window[start..end])
    }

    fn load(&mut self, offset: u64, len: usize) -> io::Result<()> {
        let available = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.window.clear();
        self.window.resize(len.min(available), 0);
        self.window_at = offset;
        let mut filled = 0;
        while filled < self.window.len() {
            let got = self.file.read_at(offset + filled as u64, &mut self.window[filled..])?;
            if got == 0 {
                break;
            }
            filled += got;
        }
        self.window.truncate(filled);
        Ok(())
    }

    pub(super) fn at(&mut self, offset: u64) -> io::Result<Found<'_>> {
        let seed = self.seed;
        let head = self.bytes(offset, FRAME_HEADER)?;
        let Some((header, crc)) = FrameHeader::decode(head, seed) else {
            let zeros = head.iter().all(|byte| *byte == 0);
            return Ok(if zeros { Found::Nothing } else { Found::Garbage });
        };
        let len = usize::try_from(header.payload_len).unwrap_or(usize::MAX);
        let payload = self.bytes(offset + FRAME_HEADER as u64, len)?;
        let intact = header.matches(seed, payload); // durability: J9
        let whole = payload.len() == len;
        Ok(if whole && intact { Found::Frame(header, crc, payload) } else { Found::BadPayload(header) })
    }

    /// The next place at or after `offset` with an intact frame header; `None` if there is none up to the end.
    pub(super) fn resync(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let seed = self.seed;
        let mut at = offset.next_multiple_of(FRAME_ALIGN);
        while at < self.len {
            let bytes = self.bytes(at, WINDOW)?;
            let step = usize::try_from(FRAME_ALIGN).unwrap_or(8);
            let heads = (0..bytes.len()).step_by(step).filter(|start| bytes[*start..].starts_with(&MAGIC));
            let near: Vec<u64> = heads.map(|start| at + start as u64).collect();
            let end = at + (bytes.len() as u64).next_multiple_of(FRAME_ALIGN);
            for place in near {
                if FrameHeader::decode(self.bytes(place, FRAME_HEADER)?, seed).is_some() {
                    return Ok(Some(place));
                }
            }
            at = end.max(at + FRAME_ALIGN);
        }
        Ok(None)
    }

    /// The last place from `offset` on that is not zero, plus one; `None` if all is zero.
    pub(super) fn last_nonzero(&mut self, offset: u64) -> io::Result<Option<u64>> {
        let mut at = offset;
        let mut last = None;
        while at < self.len {
            let bytes = self.bytes(at, WINDOW)?;
            if bytes.is_empty() {
                break;
            }
            if let Some(index) = bytes.iter().rposition(|byte| *byte != 0) {
                last = Some(at + index as u64 + 1);
            }
            at += bytes.len() as u64;
        }
        Ok(last)
    }
}
