//! The catalog: which segments there are, what each says about itself, and how they follow one another.

use super::frame::{FrameHeader, Kind};
use super::scan::{ScanError, Stray};
use super::segment::{FRAMES_AT, HeaderFault, Position, SEAL_SLOTS, SPARE, SegmentHeader, number_in, segment_path};
use super::{DIRECTORY, Lineage};
use crate::storage::vfs::{Open, Vfs, VfsFile};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Most bytes of position that are believed.
const POSITION_MAX: u64 = 64 << 20;

/// A segment of our lineage whose header is intact.
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) path: PathBuf,
    /// Bytes the file has now.
    pub(super) len: u64,
    /// `None` if it is damaged.
    pub(super) position: Option<Position>,
    /// What the seals promise; 0 = nothing.
    pub(super) sealed_upto: u64,
    /// Whether the newest seal says that the journal was closed.
    pub(super) closed: bool,
    /// In which segment the journal goes on, if a seal says so.
    pub(super) continued_in: Option<u64>,
}

/// All that lies in the journal's directory.
#[derive(Default)]
pub(super) struct Catalog {
    /// In order; those that were given up by a later one are left out.
    pub(super) segments: Vec<Segment>,
    /// Files of the same name scheme whose header cannot be read or belies its name, by the number in the name.
    pub(super) unreadable: BTreeMap<u64, PathBuf>,
    /// Everything that is left alone.
    pub(super) strays: Vec<Stray>,
    /// The highest number in any segment's name.
    pub(super) highest_no: u64,
    pub(super) lineage: Option<Lineage>,
}

impl Catalog {
    /// Reads the directory. With `lineage` unknown, the newest readable segment decides it.
    pub(super) fn read(vfs: &dyn Vfs, lineage: Option<Lineage>) -> Result<Self, ScanError> {
        let names = match vfs.list(Path::new(DIRECTORY)) {
            Ok(names) => names,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(ScanError::io(vfs, Path::new(DIRECTORY), error)),
        };
        let mut catalog = Self { lineage, ..Self::default() };
        for name in names.iter().rev() {
            match number_in(name) {
                Some(number) => catalog.add(vfs, number)?,
                None if name.as_os_str() == SPARE => {}
                None => catalog.stray(Path::new(DIRECTORY).join(name), "not a segment"),
            }
        }
        catalog.segments.reverse();
        catalog.leave_out_abandoned();
        Ok(catalog)
    }

    fn stray(&mut self, file: PathBuf, why: impl Into<String>) {
        self.strays.push(Stray { file, why: why.into() });
    }

    fn add(&mut self, vfs: &dyn Vfs, number: u64) -> Result<(), ScanError> {
        self.highest_no = self.highest_no.max(number);
        let path = segment_path(number);
        let read = || -> io::Result<_> {
            let file = vfs.open(&path, Open::Read)?;
            let len = file.stat()?.len;
            let head = read_upto(&*file, 0, FRAMES_AT)?;
            Ok((file, len, head))
        };
        let (file, len, head) = read().map_err(|error| ScanError::io(vfs, &path, error))?;
        let header = match SegmentHeader::decode(&head) {
            Ok(header) => header,
            Err(HeaderFault::Unsupported(what)) => {
                return Err(ScanError::Unsupported { file: vfs.display(&path), what });
            }
            Err(HeaderFault::Unreadable) => {
                self.unreadable.insert(number, path);
                return Ok(());
            }
        };
        let lineage = *self.lineage.get_or_insert(header.lineage);
        let ours = header.lineage == lineage; // durability: J16
        if !ours {
            self.stray(path, "of another server");
            return Ok(());
        }
        if header.number != number {
            self.unreadable.insert(number, path.clone());
            self.stray(path, format!("says it is segment {:016x}", header.number));
            return Ok(());
        }
        let mut segment =
            Segment { header, path, len, position: None, sealed_upto: 0, closed: false, continued_in: None };
        segment.read_seals(&head);
        let position_len = u64::from(header.data_at).saturating_sub(FRAMES_AT);
        if position_len <= POSITION_MAX {
            let bytes =
                read_upto(&*file, FRAMES_AT, position_len).map_err(|error| ScanError::io(vfs, &segment.path, error))?;
            segment.position = Position::decode_frames(&bytes, header.seed());
        }
        self.segments.push(segment);
        Ok(())
    }

    /// When writing fails, a new segment may be begun again under the next number; whatever became of the first
    /// attempt was never promised to anybody, and the next segment passes over it.
    fn leave_out_abandoned(&mut self) {
        let mut kept: Vec<Segment> = Vec::new();
        for segment in std::mem::take(&mut self.segments).into_iter().rev() {
            match kept.last() {
                Some(next) if segment.header.number > next.header.previous => {
                    self.strays.push(Stray { file: segment.path, why: "given up by a later segment".into() });
                }
                _follows => kept.push(segment),
            }
        }
        kept.reverse();
        self.segments = kept;
    }
}

impl Segment {
    fn read_seals(&mut self, head: &[u8]) {
        for slot in SEAL_SLOTS {
            let bytes = usize::try_from(slot).ok().and_then(|at| head.get(at..));
            let Some((header, _)) = bytes.and_then(|bytes| FrameHeader::decode(bytes, self.header.seed())) else {
                continue;
            };
            if header.durable_upto >= self.sealed_upto {
                self.closed = header.kind == Kind::Close || (self.closed && header.durable_upto == self.sealed_upto);
            }
            self.sealed_upto = self.sealed_upto.max(header.durable_upto); // durability: J7
            if header.kind == Kind::Continued {
                self.continued_in = Some(header.batch_no); // durability: J19
            }
        }
    }
}

fn read_upto(file: &dyn VfsFile, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let len = len.min(file.stat()?.len.saturating_sub(offset));
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::FileTooLarge)?];
    let mut filled = 0;
    while filled < bytes.len() {
        let got = file.read_at(offset + filled as u64, &mut bytes[filled..])?;
        if got == 0 {
            break;
        }
        filled += got;
    }
    bytes.truncate(filled);
    Ok(bytes)
}
