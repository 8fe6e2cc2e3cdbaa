//! Snapshot files: what is written is read back, and nothing that was changed passes for it.

use crate::toy::Toy;
use hotset::session::{SessionName, Timestamp};
use hotset::storage::snapshot::{self, Header, Purpose, SnapshotError, SnapshotId};
use hotset::storage::vfs::{Open, SimDisk, Vfs, read_all};
use hotset::storage::{Branch, Machine, Run, SaveState, Sections, Summary};
use std::cell::Cell;
use std::io;
use std::path::Path;

const FILE: &str = "s.bin";

fn header(toy: &Toy) -> Header {
    Header {
        lineage: 7,
        branch: Branch(8),
        epoch: 3,
        id: SnapshotId(9),
        parent: SnapshotId(4),
        seq: Machine::seq(toy),
        created: Timestamp(1_736_695_945_123),
        at: Timestamp(1_736_695_945_000),
        summary: Machine::summary(toy),
        purpose: Purpose::Current,
        session: SessionName::default_session(),
        writer: "hotset 0".into(),
        reasons: vec!["auto-save".into(), "user_disconnect:Alice".into()],
        runs: vec![(Run(1), 1), (Run(2), 4)],
    }
}

fn written(entries: usize) -> (SimDisk, Toy, Vec<u8>) {
    let disk = SimDisk::new();
    let mut toy = Toy::default();
    for number in 0..entries {
        toy.push(format!("entry {number}").as_bytes());
    }
    snapshot::write(&disk, Path::new(FILE), &header(&toy), &toy).unwrap();
    let bytes = read_all(&disk, Path::new(FILE), 1 << 20).unwrap();
    (disk, toy, bytes)
}

#[test]
fn what_is_written_is_read_back() {
    for entries in [0, 1, 3, 10] {
        let (disk, toy, bytes) = written(entries);
        let (loaded, verified) = snapshot::load::<Toy>(&disk, Path::new(FILE)).unwrap();
        assert_eq!(loaded, toy);
        assert_eq!(verified.header, header(&toy));
        assert_eq!(verified.bytes, bytes.len() as u64);
        assert_eq!(snapshot::read_header(&disk, Path::new(FILE)).unwrap(), header(&toy));
        assert_eq!(bytes.len() % 4096, 0);
    }
}

#[test]
fn no_flipped_bit_passes() {
    let (disk, toy, bytes) = written(4);
    let step = if crate::long() { 1 } else { 13 };
    for bit in (0..bytes.len() * 8).step_by(step) {
        let (at, mask) = (bit / 8, 1 << (bit % 8));
        disk.tamper(Path::new(FILE), at as u64, &[bytes[at] ^ mask]);
        let error = snapshot::load::<Toy>(&disk, Path::new(FILE)).err();
        // What begins otherwise is not taken for a snapshot at all.
        let refused = match error {
            Some(SnapshotError::NotASnapshot) => at < 8,
            Some(SnapshotError::Damaged { .. }) => at >= 8,
            _ => false,
        };
        assert!(refused, "bit {bit}: {error:?}");
        assert!(snapshot::verify(&disk, Path::new(FILE)).is_err(), "bit {bit}");
        disk.tamper(Path::new(FILE), at as u64, &[bytes[at]]);
    }
    assert_eq!(snapshot::load::<Toy>(&disk, Path::new(FILE)).unwrap().0, toy);
}

#[test]
fn no_flipped_bit_of_the_header_passes_even_a_quick_look() {
    let (disk, _, bytes) = written(1);
    for bit in (0..4096 * 8).step_by(if crate::long() { 1 } else { 7 }) {
        let (at, mask) = (bit / 8, 1 << (bit % 8));
        disk.tamper(Path::new(FILE), at as u64, &[bytes[at] ^ mask]);
        assert!(snapshot::read_header(&disk, Path::new(FILE)).is_err(), "bit {bit}");
        disk.tamper(Path::new(FILE), at as u64, &[bytes[at]]);
    }
}

#[test]
fn no_cut_file_passes() {
    let (disk, _, bytes) = written(4);
    for len in (0..bytes.len() as u64).rev().step_by(if crate::long() { 1 } else { 7 }) {
        disk.tamper_len(Path::new(FILE), len);
        assert!(snapshot::load::<Toy>(&disk, Path::new(FILE)).is_err(), "cut to {len}");
    }
}

#[test]
fn sections_swapped_with_those_of_another_snapshot_do_not_pass() {
    let (disk, _, bytes) = written(7);
    // Blocks 1 to 3 are the sections: each is intact in itself.
    for (from, to) in [(1, 2), (2, 1), (3, 1)] {
        disk.tamper(Path::new(FILE), to * 4096, &bytes[from * 4096..][..4096]);
        assert!(snapshot::verify(&disk, Path::new(FILE)).is_err());
        disk.tamper(Path::new(FILE), 0, &bytes);
    }
}

#[test]
fn an_intact_file_of_a_later_format_is_refused_as_such() {
    let (disk, _, mut bytes) = written(1);
    for (at, value) in [(8, 2), (12, 1), (20, 99)] {
        let before = bytes[at];
        bytes[at] = value;
        let crc = crc32c::crc32c(&bytes[..4092]).to_le_bytes();
        disk.tamper(Path::new(FILE), 0, &bytes[..4092]);
        disk.tamper(Path::new(FILE), 4092, &crc);
        let error = snapshot::verify(&disk, Path::new(FILE)).err();
        assert!(matches!(error, Some(SnapshotError::Unsupported { .. })), "byte {at}: {error:?}");
        bytes[at] = before;
    }
}

#[test]
fn a_declared_length_allocates_nothing_that_the_file_does_not_hold() {
    let (disk, _, mut bytes) = written(1);
    // The section claims 2^63 bytes, with a checksum that is right.
    bytes[4096 + 8..4096 + 24].copy_from_slice(&[(1u64 << 63).to_le_bytes(), (1u64 << 63).to_le_bytes()].concat());
    let crc = crc32c::crc32c(&bytes[4096..4096 + 60]).to_le_bytes();
    bytes[4096 + 60..4096 + 64].copy_from_slice(&crc);
    disk.tamper(Path::new(FILE), 0, &bytes);
    assert!(snapshot::load::<Toy>(&disk, Path::new(FILE)).is_err());
}

#[test]
fn a_state_that_contradicts_its_header_is_not_served() {
    let disk = SimDisk::new();
    let mut toy = Toy::default();
    toy.push(b"one");
    let mut lying = header(&toy);
    lying.seq = 5;
    snapshot::write(&disk, Path::new(FILE), &lying, &toy).unwrap();
    assert!(matches!(snapshot::load::<Toy>(&disk, Path::new(FILE)), Err(SnapshotError::Unacceptable(_))));
}

#[test]
fn at_most_four_mebibytes_are_dirty_while_a_snapshot_is_written() {
    let disk = SimDisk::new();
    let mut toy = Toy::default();
    for _ in 0..10 {
        toy.push(&vec![1; 3 << 20]);
    }
    disk.start_trace();
    snapshot::write(&disk, Path::new(FILE), &header(&toy), &toy).unwrap();
    let mut dirty = 0;
    for operation in disk.trace() {
        dirty = if format!("{:?}", operation.kind) == "Sync" { 0 } else { dirty + operation.len };
        assert!(dirty <= 6 << 20, "{dirty} bytes were dirty at once");
    }
    assert_eq!(dirty, 0);
    assert!(disk.open(Path::new(FILE), Open::CreateNew).is_err());
}

#[test]
fn a_snapshot_after_which_no_event_could_come_is_not_one() {
    let disk = SimDisk::new();
    let header = Header { seq: u64::MAX, ..header(&Toy::default()) };
    assert!(snapshot::write(&disk, Path::new(FILE), &header, &Toy::default()).is_err());
    assert!(snapshot::read_header(&disk, Path::new(FILE)).is_err());
}

/// One body, written at once or as it is encoded; `again` is what it says the second time.
struct Large {
    body: Vec<u8>,
    again: Option<Vec<u8>>,
    at_once: bool,
}

impl SaveState for Large {
    fn write_sections(&self, out: &mut dyn Sections) -> io::Result<()> {
        if self.at_once {
            return out.section(*b"LIST", 1, &self.body);
        }
        let asked = Cell::new(0);
        out.large_section(*b"LIST", 1, &|out| {
            asked.set(asked.get() + 1);
            let body = self.again.as_ref().filter(|_| asked.get() > 1).unwrap_or(&self.body);
            // As an encoder does: a few bytes, much, a few bytes.
            let (first, rest) = body.split_at(7);
            let (middle, last) = rest.split_at(rest.len() - 3);
            [first, middle, last].into_iter().try_for_each(|piece| out.write_all(piece))
        })
    }

    fn seq(&self) -> u64 {
        1
    }

    fn summary(&self) -> Summary {
        Summary::default()
    }
}

#[test]
fn a_large_section_is_the_same_file_however_it_is_written() {
    let file = |at_once| {
        let disk = SimDisk::new();
        let body = (0..3_000_001_u32).map(|n| (n % 251) as u8).collect();
        let large = Large { body, again: None, at_once };
        snapshot::write(&disk, Path::new(FILE), &header(&Toy::default()), &large).unwrap();
        read_all(&disk, Path::new(FILE), 8 << 20).unwrap()
    };
    assert!(file(true) == file(false));
}

#[test]
fn a_section_that_is_too_large_or_encoded_differently_each_time_makes_no_file_that_passes() {
    let short = || vec![1; 20];
    for again in [vec![1; 19], vec![1; 21], vec![2; 20]] {
        let disk = SimDisk::new();
        let large = Large { body: short(), again: Some(again), at_once: false };
        assert!(snapshot::write(&disk, Path::new(FILE), &header(&Toy::default()), &large).is_err());
    }
    let disk = SimDisk::new();
    let large = Large { body: vec![0; (64 << 20) + 1], again: None, at_once: false };
    let error = snapshot::write(&disk, Path::new(FILE), &header(&Toy::default()), &large).unwrap_err();
    assert!(error.to_string().contains("64 MiB"), "{error}");
}
