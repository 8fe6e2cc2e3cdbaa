//! Streams a state into a new snapshot file, synced as it goes, and proves it by reading it back.

use super::section::{ENCODE_BUFFER, End, SECTION_HEADER, SectionHeader};
use super::{BLOCK_LEN, Header, SECTION_BYTES_MAX, SnapshotError, aligned, verify};
use crate::storage::vfs::{Open, Vfs, VfsFile};
use crate::storage::{Encode, SaveState, Sections};
use std::io::{self, BufWriter, Write};
use std::path::Path;

/// The dirty pages of a save never exceed this, so that no sync beside it waits for more.
const SYNC_EVERY: u64 = 4 << 20;
/// Largest single write.
const WRITE_MAX: usize = 1 << 20;

/// A file that was written, synced, read back and found whole. It is not published yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes of the file.
    pub bytes: u64,
    /// The root hash.
    pub root: blake3::Hash,
}

/// Writes `state` into the new file `path`, syncs it, and verifies it by reading it again.
///
/// The file must not exist; on error an incomplete one may be left for the caller to remove.
pub fn write(vfs: &dyn Vfs, path: &Path, header: &Header, state: &dyn SaveState) -> Result<Written, SnapshotError> {
    let file = vfs.open(path, Open::CreateNew)?;
    let mut writer = Writer::begin(file, header)?;
    state.write_sections(&mut writer)?;
    let written = writer.finish()?;
    let read_back = verify(vfs, path).map(|verified| (verified.bytes, verified.root)); // durability: S7
    if read_back? == (written.bytes, written.root) {
        Ok(written)
    } else {
        Err(SnapshotError::damaged(0, "what was read back is not what was written"))
    }
}

struct Writer {
    file: Box<dyn VfsFile>,
    at: u64,
    synced: u64,
    offsets: Vec<u8>,
    root: blake3::Hasher,
}

impl Writer {
    fn begin(file: Box<dyn VfsFile>, header: &Header) -> io::Result<Self> {
        let block = header.encode();
        let mut root = blake3::Hasher::new();
        root.update(&block);
        let mut writer = Self { file, at: 0, synced: 0, offsets: Vec::new(), root };
        writer.put(&block)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        for part in bytes.chunks(WRITE_MAX) {
            self.file.write_at(self.at, &[part])?;
            self.at += part.len() as u64;
            // In steps, so that others do not wait for one large sync; what counts is the last one.
            if self.at - self.synced >= SYNC_EVERY {
                self.file.sync()?;
                self.synced = self.at;
            }
        }
        Ok(())
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = usize::try_from(aligned(self.at) - self.at).expect("less than a block");
        if missing == 0 { Ok(()) } else { self.put(&[0; BLOCK_LEN][..missing]) }
    }

    fn finish(mut self) -> io::Result<Written> {
        let table_at = self.at;
        let table = std::mem::take(&mut self.offsets);
        self.root.update(&table);
        self.put(&table)?;
        self.pad()?;
        let sections = u32::try_from(table.len() / 8).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let end = End { sections, table_at, file_len: self.at + BLOCK_LEN as u64, root: self.root.finalize() };
        self.put(&end.encode())?;
        self.file.sync()?; // durability: S6
        Ok(Written { bytes: end.file_len, root: end.root })
    }
}

impl Sections for Writer {
    fn section(&mut self, tag: [u8; 4], schema: u16, body: &[u8]) -> io::Result<()> {
        if body.len() as u64 > SECTION_BYTES_MAX {
            return Err(too_large());
        }
        let header: [u8; SECTION_HEADER] = SectionHeader::of(tag, schema, body).encode();
        self.offsets.extend_from_slice(&self.at.to_le_bytes());
        self.root.update(&header);
        // One write for what is small: most sections of a small session are.
        let first = body.len().min(WRITE_MAX - SECTION_HEADER);
        self.file.write_at(self.at, &[&header, &body[..first]])?;
        self.at += (SECTION_HEADER + first) as u64;
        self.put(&body[first..])?;
        self.pad()
    }

    fn large_section(&mut self, tag: [u8; 4], schema: u16, encode: &Encode<'_>) -> io::Result<()> {
        let section = SectionHeader::of_encoded(tag, schema, encode)?;
        if section.len > SECTION_BYTES_MAX {
            return Err(too_large());
        }
        let header = section.encode();
        self.offsets.extend_from_slice(&self.at.to_le_bytes());
        self.root.update(&header);
        self.put(&header)?;
        let body_at = self.at;
        let mut out = BufWriter::with_capacity(ENCODE_BUFFER, Body(self));
        encode(&mut out)?;
        out.flush()?;
        drop(out);
        if self.at - body_at != section.len {
            return Err(io::Error::other("a section was encoded differently the second time"));
        }
        self.pad()
    }
}

/// The body of a section, written as it comes.
struct Body<'a>(&'a mut Writer);

impl Write for Body<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.put(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "a section is over 64 MiB")
}
