//! Segments that are missing, foreign, copied, exchanged or too new.

use super::harness::*;
use crate::storage::journal::frame::{FrameHeader, Kind};
use crate::storage::journal::segment::{Position, SegmentHeader, put_frame, segment_path};
use crate::storage::journal::{Lineage, Request, ScanError, Verdict, scan};
use crate::storage::vfs::{Open, SimDisk, Survival, Vfs, read_all};
use std::ops::ControlFlow;
use std::path::Path;

/// Four segments of one run, closed.
fn four_segments() -> SimDisk {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    for seq in 1..=180 {
        writer.append(&session("a"), BRANCH, vec![record("a", seq, 1000)]);
    }
    writer.close().unwrap();
    let disk = disk.crash_image(Survival::Nothing);
    assert!(read(&disk, &[]).unwrap().0.segments.len() >= 4);
    disk
}

fn put(disk: &SimDisk, path: &Path, bytes: &[u8]) {
    disk.unlink(path).ok();
    disk.open(path, Open::CreateNew).unwrap().write_at(0, &[bytes]).unwrap();
}

fn bytes_of(disk: &SimDisk, number: u64) -> Vec<u8> {
    read_all(disk, &segment_path(number), 1 << 20).unwrap()
}

fn is_corrupt(disk: &SimDisk) -> bool {
    let (report, seen) = read(disk, &[]).unwrap();
    let seqs = seqs(&seen, "a");
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>());
    matches!(report.verdict, Verdict::Corrupt(_))
}

#[test]
fn a_missing_segment_is_noticed_wherever_it_is_missing() {
    let whole = four_segments();
    let last = read(&whole, &[]).unwrap().0.segments.last().unwrap().number;
    for number in 2..=last {
        let disk = whole.fork();
        disk.unlink(&segment_path(number)).unwrap();
        assert!(is_corrupt(&disk), "segment {number}");
    }
    let disk = whole.fork();
    disk.unlink(&segment_path(1)).unwrap();
    let (report, _) = read(&disk, &[]).unwrap();
    assert_eq!((report.missing[0].from, report.verdict), (1, Verdict::Whole { closed: true }));
}

#[test]
fn a_lost_start_is_noticed_after_a_restart() {
    let disk = SimDisk::new();
    for epoch in 1..=2 {
        let writer = open(&disk, small(), epoch);
        writer.append(&session("a"), BRANCH, vec![record("a", epoch, 10)]);
        writer.close().unwrap();
    }
    disk.unlink(&segment_path(2)).unwrap();
    assert!(is_corrupt(&disk));
}

#[test]
fn exchanged_and_copied_segments_are_noticed() {
    let whole = four_segments();
    let (two, three) = (bytes_of(&whole, 2), bytes_of(&whole, 3));
    let disk = whole.fork();
    put(&disk, &segment_path(2), &three);
    put(&disk, &segment_path(3), &two);
    assert!(is_corrupt(&disk));
    let disk = whole.fork();
    put(&disk, &segment_path(3), &two);
    assert!(is_corrupt(&disk));
    // A copy beside them is no harm and is named.
    let disk = whole.fork();
    put(&disk, Path::new("journal/0000000000000002.seg.bak"), &two);
    let (report, _) = read(&disk, &[]).unwrap();
    assert_eq!((report.verdict, report.strays.len()), (Verdict::Whole { closed: true }, 1));
}

#[test]
fn segments_of_another_server_are_never_applied() {
    let (ours, theirs) = (four_segments(), four_segments());
    for number in 1..=4 {
        let mut bytes = bytes_of(&theirs, number);
        let mut header = SegmentHeader::decode(&bytes).unwrap();
        header.lineage = Lineage(1);
        bytes[..128].copy_from_slice(&header.encode());
        put(&ours, &segment_path(number + 100), &bytes);
    }
    let (report, seen) = read(&ours, &[]).unwrap();
    assert_eq!((report.verdict, seqs(&seen, "a").len()), (Verdict::Whole { closed: true }, 180));
    assert_eq!(report.strays.len(), 4);
    let disk = ours.fork();
    put(&disk, &segment_path(2), &bytes_of(&ours, 102));
    assert!(is_corrupt(&disk));
}

/// A segment with one record of "a", made by hand.
fn forge(header: &SegmentHeader, seq: u64) -> (Vec<u8>, u32) {
    let seed = header.seed();
    let mut position = Position::default();
    position.positions.sessions.entry(session("a")).or_default().seq = seq - 1;
    let position = position.encode_frames(seed, header.first_batch);
    let header = SegmentHeader { data_at: u32::try_from(12_288 + position.len()).unwrap(), len: 65_536, ..*header };
    let mut bytes = vec![0; 12_288];
    bytes[..128].copy_from_slice(&header.encode());
    bytes.extend_from_slice(&position);
    let mut payload = Vec::new();
    let at = crate::storage::journal::records::begin_group(&mut payload, &session("a"), BRANCH);
    let record = crate::storage::journal::records::begin_inline(&mut payload, seq);
    payload.extend_from_slice(&body("a", seq, 20));
    crate::storage::journal::records::end_inline(&mut payload, record);
    crate::storage::journal::records::end_group(&mut payload, at, 1);
    let frame = FrameHeader::new(seed, Kind::Batch, header.first_batch, header.first_batch - 1, &payload).encode(seed);
    put_frame(&mut bytes, &frame, &payload);
    bytes.resize(65_536, 0);
    (bytes, u32::from_le_bytes(frame[36..].try_into().unwrap()))
}

fn two_forged(change: impl FnOnce(&mut SegmentHeader)) -> SimDisk {
    let first = SegmentHeader {
        lineage: LINEAGE,
        epoch: 5,
        number: 1,
        first_batch: 1,
        previous: 0,
        chain: 0,
        created_ms: 0,
        data_at: 0,
        len: 0,
    };
    let (one, chain) = forge(&first, 1);
    let mut second = SegmentHeader { number: 2, first_batch: 2, previous: 1, chain, ..first };
    change(&mut second);
    let (two, _) = forge(&second, 2);
    let disk = SimDisk::new();
    disk.create_dir(Path::new("journal")).unwrap();
    put(&disk, &segment_path(1), &one);
    put(&disk, &segment_path(2), &two);
    disk
}

#[test]
fn a_segment_that_does_not_continue_the_one_before_is_not_applied() {
    let disk = two_forged(|_| {});
    assert_eq!(seqs(&read(&disk, &[]).unwrap().1, "a"), [1, 2]);
    assert!(!is_corrupt(&disk));
    assert!(is_corrupt(&two_forged(|header| header.chain ^= 1)), "of a diverged copy");
    assert!(is_corrupt(&two_forged(|header| header.epoch = 4)), "of an older start");
    assert!(is_corrupt(&two_forged(|header| header.first_batch = 3)), "with a gap");
}

#[test]
fn frames_out_of_order_are_not_applied() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let ear = Ear::on(&writer, "a");
    for seq in 1..=6 {
        writer.append(&session("a"), BRANCH, vec![record("a", seq, 100)]);
        ear.wait(|heard| heard.durable == seq);
    }
    writer.close().unwrap();
    let bytes = bytes_of(&disk, 1);
    let header = SegmentHeader::decode(&bytes).unwrap();
    let at = usize::try_from(header.data_at).unwrap();
    let (frame, _) = FrameHeader::decode(&bytes[at..], header.seed()).unwrap();
    let stride = usize::try_from(frame.stride()).unwrap();
    // The third frame where the second should be, both of the same length.
    let third = bytes[at + 2 * stride..at + 3 * stride].to_vec();
    disk.tamper(&segment_path(1), (at + stride) as u64, &third);
    assert!(is_corrupt(&disk));
    assert_eq!(seqs(&read(&disk, &[]).unwrap().1, "a"), [1]);
}

#[test]
fn without_a_lineage_the_newest_segment_decides() {
    let disk = four_segments();
    let report = scan(&disk, &Request::default(), &mut |_| ControlFlow::Continue(())).unwrap();
    let (known, _) = read(&disk, &[]).unwrap();
    assert_eq!((report.lineage, report.applied_upto), (Some(LINEAGE), known.applied_upto));
}

#[test]
fn a_newer_format_is_refused_and_an_unreadable_header_is_reported() {
    let disk = four_segments();
    let mut bytes = bytes_of(&disk, 4);
    bytes[12] = 1;
    let crc = crc32c::crc32c(&bytes[..124]).to_le_bytes();
    bytes[124..128].copy_from_slice(&crc);
    disk.tamper(&segment_path(4), 0, &bytes[..128]);
    assert!(matches!(read(&disk, &[]), Err(ScanError::Unsupported { .. })));
    for number in 1..=4 {
        let disk = four_segments();
        disk.tamper(&segment_path(number), 0, &[0; 128]);
        let (report, _) = read(&disk, &[]).unwrap();
        assert!(matches!(report.verdict, Verdict::Corrupt(_)) || !report.missing.is_empty(), "segment {number}");
    }
}
