//! Reads a snapshot file: only its header, all of its hashes, or the state in it.

use super::section::{End, SECTION_HEADER, SectionHeader};
use super::{BLOCK, BLOCK_LEN, Header, SnapshotError, aligned};
use crate::storage::Machine;
use crate::storage::vfs::{Open, Vfs, VfsFile};
use std::io;
use std::path::Path;

/// How much of a section is in memory while only its hash is wanted.
const CHUNK: usize = 256 << 10;

/// A file all of whose hashes are right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// What it says about itself.
    pub header: Header,
    /// Bytes of the file.
    pub bytes: u64,
    /// The root hash: two files with the same root hold the same bytes.
    pub root: blake3::Hash,
}

/// Reads and checks only the first block.
pub fn read_header(vfs: &dyn Vfs, path: &Path) -> Result<Header, SnapshotError> {
    let file = vfs.open(path, Open::Read)?;
    Header::decode(&first_block(&*file)?)
}

/// Checks every hash of the file without decoding the state.
pub fn verify(vfs: &dyn Vfs, path: &Path) -> Result<Verified, SnapshotError> {
    let snapshot = Opened::open(vfs, path)?;
    let mut buffer = Vec::new();
    for (at, section) in &snapshot.sections {
        snapshot.hash_section(*at, section, &mut buffer)?;
    }
    Ok(snapshot.verified)
}

/// Checks the file and loads the state in it. Memory is bounded by the largest section beside the state itself.
pub fn load<M: Machine>(vfs: &dyn Vfs, path: &Path) -> Result<(M, Verified), SnapshotError> {
    let snapshot = Opened::open(vfs, path)?;
    let mut machine = M::empty();
    for (at, section) in &snapshot.sections {
        let body = snapshot.section_body(*at, section)?;
        machine
            .load_section(section.tag, section.schema, &body)
            .map_err(|error| SnapshotError::Unacceptable(error.to_string()))?;
    }
    let header = &snapshot.verified.header;
    machine.finish_load(header.seq, &header.summary).map_err(|error| SnapshotError::Unacceptable(error.to_string()))?;
    let fits = (machine.seq(), machine.summary()) == (header.seq, header.summary); // durability: S5
    if !fits {
        return Err(SnapshotError::Unacceptable("the header's seq or counts are not those of the state".into()));
    }
    Ok((machine, snapshot.verified))
}

/// A file whose blocks and section headers are right. The bodies are not read yet.
struct Opened {
    file: Box<dyn VfsFile>,
    sections: Vec<(u64, SectionHeader)>,
    verified: Verified,
}

impl Opened {
    fn open(vfs: &dyn Vfs, path: &Path) -> Result<Self, SnapshotError> {
        let file = vfs.open(path, Open::Read)?;
        let bytes = file.stat()?.len;
        let first = first_block(&*file)?;
        let header = Header::decode(&first)?;
        if bytes < 2 * BLOCK {
            return Err(SnapshotError::damaged(bytes, "the file is cut short"));
        }
        let end = End::decode(&block_at(&*file, bytes - BLOCK)?, bytes)?;
        let table = read_table(&*file, &end)?;
        let mut root = blake3::Hasher::new();
        root.update(&first);
        let sections = read_section_headers(&*file, &end, &table, &mut root)?;
        root.update(&table);
        let whole = root.finalize() == end.root; // durability: S3
        if !whole {
            return Err(SnapshotError::damaged(bytes - BLOCK, "the root hash does not match"));
        }
        Ok(Self { file, sections, verified: Verified { header, bytes, root: end.root } })
    }

    fn hash_section(&self, at: u64, section: &SectionHeader, buffer: &mut Vec<u8>) -> Result<(), SnapshotError> {
        buffer.resize(CHUNK, 0);
        let mut hasher = blake3::Hasher::new();
        let mut done = 0;
        while done < section.len {
            let want = usize::try_from(section.len - done).unwrap_or(CHUNK).min(CHUNK);
            read_exact(&*self.file, at + done, &mut buffer[..want])?;
            hasher.update(&buffer[..want]);
            done += want as u64;
        }
        self.check_body(at, section, hasher.finalize())
    }

    fn section_body(&self, at: u64, section: &SectionHeader) -> Result<Vec<u8>, SnapshotError> {
        let len = usize::try_from(section.len).expect("checked against the limit of 64 MiB");
        let mut body = vec![0; len];
        read_exact(&*self.file, at, &mut body)?;
        self.check_body(at, section, blake3::hash(&body))?;
        Ok(body)
    }

    fn check_body(&self, at: u64, section: &SectionHeader, hash: blake3::Hash) -> Result<(), SnapshotError> {
        let intact = hash == section.hash; // durability: S4
        if !intact {
            let tag = section.tag.escape_ascii();
            return Err(SnapshotError::damaged(at, format!("the hash of section {tag} does not match")));
        }
        padding_is_zero(&*self.file, at + section.len)
    }
}

fn read_table(file: &dyn VfsFile, end: &End) -> Result<Vec<u8>, SnapshotError> {
    // The end block was checked against the file's length, so this is never more than the file holds.
    let len = u64::from(end.sections) * 8;
    let mut table = vec![0; usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?];
    read_exact(file, end.table_at, &mut table)?;
    padding_is_zero(file, end.table_at + len)?;
    Ok(table)
}

fn read_section_headers(
    file: &dyn VfsFile,
    end: &End,
    table: &[u8],
    root: &mut blake3::Hasher,
) -> Result<Vec<(u64, SectionHeader)>, SnapshotError> {
    let mut sections = Vec::with_capacity(table.len() / 8);
    let mut expected = BLOCK;
    for entry in table.chunks_exact(8) {
        let at = u64::from_le_bytes(entry.try_into().expect("chunks of 8"));
        if at != expected || at >= end.table_at {
            return Err(SnapshotError::damaged(end.table_at, "the table of sections is wrong"));
        }
        let mut bytes = [0; SECTION_HEADER];
        read_exact(file, at, &mut bytes)?;
        let section = SectionHeader::decode(&bytes, at)?;
        root.update(&bytes);
        let body = at + SECTION_HEADER as u64;
        expected = aligned(body + section.len);
        sections.push((body, section));
    }
    if expected != end.table_at {
        return Err(SnapshotError::damaged(end.table_at, "the sections do not fill the file"));
    }
    Ok(sections)
}

fn padding_is_zero(file: &dyn VfsFile, from: u64) -> Result<(), SnapshotError> {
    let mut padding = [0; BLOCK_LEN];
    let len = usize::try_from(aligned(from) - from).expect("less than a block");
    read_exact(file, from, &mut padding[..len])?;
    if padding.iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(SnapshotError::damaged(from, "padding is not empty"))
    }
}

/// The block of the header. Of a file that is too short for it, what there is says whether it was ever a snapshot.
fn first_block(file: &dyn VfsFile) -> Result<[u8; BLOCK_LEN], SnapshotError> {
    let mut block = [0; BLOCK_LEN];
    let read = read_exact(file, 0, &mut block);
    match read {
        Err(SnapshotError::Io(error)) => Err(error.into()),
        _ if !Header::is_begun_by(&block) => Err(SnapshotError::NotASnapshot),
        read => read.map(|()| block),
    }
}

fn block_at(file: &dyn VfsFile, at: u64) -> Result<[u8; BLOCK_LEN], SnapshotError> {
    let mut block = [0; BLOCK_LEN];
    read_exact(file, at, &mut block)?;
    Ok(block)
}

fn read_exact(file: &dyn VfsFile, at: u64, buffer: &mut [u8]) -> Result<(), SnapshotError> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(at + done as u64, &mut buffer[done..])? {
            0 => return Err(SnapshotError::damaged(at + done as u64, "the file is cut short")),
            got => done += got,
        }
    }
    Ok(())
}
