//! Makes the checksums of damaged files right again, as `docs/file-format.md` describes them, so that damage gets past them.

/// Bytes of a block of a snapshot.
pub(crate) const BLOCK: usize = 4096;

/// Bytes of a frame's header in the journal.
pub(crate) const FRAME_HEADER: usize = 40;

const SEGMENT_HEADER: usize = 128;

fn put_crc(bytes: &mut [u8], covered: usize, crc: u32) {
    bytes[covered..covered + 4].copy_from_slice(&crc.to_le_bytes());
}

/// A little-endian number out of a file.
pub(crate) fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut wide = [0; 8];
    wide[..len].copy_from_slice(&bytes[at..at + len]);
    u64::from_le_bytes(wide)
}

/// What every checksum of a segment begins with.
fn seed(segment: &[u8]) -> u32 {
    crc32c::crc32c(&segment[24..56])
}

/// Where frames with a right header begin.
pub(crate) fn frames(segment: &[u8]) -> Vec<usize> {
    let Some(seed) = segment.get(..SEGMENT_HEADER).map(seed) else { return Vec::new() };
    let whole = |at: &usize| {
        let frame = &segment[*at..];
        frame.len() >= FRAME_HEADER
            && frame.starts_with(b"FRM1")
            && number(frame, 36, 4) == u64::from(crc32c::crc32c_append(seed, &frame[..36]))
    };
    (0..segment.len()).step_by(8).filter(whole).collect()
}

/// Makes the checksums of these frames, as they are now, right again.
pub(crate) fn seal_frames(segment: &mut [u8], frames: &[usize]) {
    let Some(seed) = segment.get(..SEGMENT_HEADER).map(seed) else { return };
    for at in frames {
        let Some(frame) = segment.get_mut(*at..).filter(|frame| frame.len() >= FRAME_HEADER) else { continue };
        let len = usize::try_from(number(frame, 8, 4)).unwrap_or(usize::MAX);
        if let Some(payload) = frame[FRAME_HEADER..].get(..len) {
            let low = u32::try_from(number(frame, 16, 4)).unwrap_or(0);
            let crc = crc32c::crc32c_append(seed ^ low, payload);
            put_crc(frame, 32, crc);
        }
        let crc = crc32c::crc32c_append(seed, &frame[..36]);
        put_crc(frame, 36, crc);
    }
}

/// Makes the checksum of a segment's header right again.
pub(crate) fn seal_segment_header(segment: &mut [u8]) {
    if segment.len() >= SEGMENT_HEADER {
        let crc = crc32c::crc32c(&segment[..SEGMENT_HEADER - 4]);
        put_crc(segment, SEGMENT_HEADER - 4, crc);
    }
}

/// Makes the checksum at the end of a block (a snapshot's header, a slot of STATE) right again.
pub(crate) fn seal_block(block: &mut [u8]) {
    let crc = crc32c::crc32c(&block[..BLOCK - 4]);
    put_crc(block, BLOCK - 4, crc);
}

/// One section of a snapshot: its tag, its schema, its body.
pub(crate) type Section = ([u8; 4], u16, Vec<u8>);

/// A snapshot file of these parts in which every checksum, hash and length is right.
pub(crate) fn snapshot(header: &[u8], sections: &[Section]) -> Vec<u8> {
    let mut file = header[..BLOCK].to_vec();
    seal_block(&mut file);
    let mut root = blake3::Hasher::new();
    root.update(&file);
    let mut table = Vec::new();
    for (tag, schema, body) in sections {
        table.extend_from_slice(&(file.len() as u64).to_le_bytes());
        let mut head = tag.to_vec();
        head.extend_from_slice(&schema.to_le_bytes());
        head.extend_from_slice(&[0, 0]);
        head.extend_from_slice(&(body.len() as u64).to_le_bytes());
        head.extend_from_slice(&(body.len() as u64).to_le_bytes());
        head.extend_from_slice(blake3::hash(body).as_bytes());
        head.extend_from_slice(&[0; 4]);
        head.extend_from_slice(&crc32c::crc32c(&head).to_le_bytes());
        root.update(&head);
        file.extend_from_slice(&head);
        file.extend_from_slice(body);
        pad(&mut file);
    }
    let table_at = file.len() as u64;
    root.update(&table);
    file.extend_from_slice(&table);
    pad(&mut file);
    let mut end = b"HSSNAPEN".to_vec();
    end.extend_from_slice(&u32::try_from(sections.len()).unwrap().to_le_bytes());
    end.extend_from_slice(&[0; 4]);
    end.extend_from_slice(&table_at.to_le_bytes());
    end.extend_from_slice(&((file.len() + BLOCK) as u64).to_le_bytes());
    end.extend_from_slice(root.finalize().as_bytes());
    end.resize(BLOCK, 0);
    seal_block(&mut end);
    file.extend_from_slice(&end);
    file
}

fn pad(file: &mut Vec<u8>) {
    file.resize(file.len().next_multiple_of(BLOCK), 0);
}

/// The sections of a whole snapshot file.
pub(crate) fn sections(file: &[u8]) -> Vec<Section> {
    let end = file.len() - BLOCK;
    let count = usize::try_from(number(file, end + 8, 4)).unwrap();
    let table = usize::try_from(number(file, end + 16, 8)).unwrap();
    (0..count)
        .map(|index| {
            let at = usize::try_from(number(file, table + 8 * index, 8)).unwrap();
            let len = usize::try_from(number(file, at + 16, 8)).unwrap();
            let tag = file[at..at + 4].try_into().unwrap();
            let schema = u16::try_from(number(file, at + 4, 2)).unwrap();
            (tag, schema, file[at + 64..at + 64 + len].to_vec())
        })
        .collect()
}
