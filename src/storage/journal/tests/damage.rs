//! Damaged bytes are never taken for the truth: what was promised comes back as it was, or its loss is reported.

use super::harness::*;
use crate::storage::journal::Verdict;
use crate::storage::vfs::{Fault, InjectedError, Open, SimDisk, Survival, Vfs, read_all};
use std::path::{Path, PathBuf};

const DATA_AT: u64 = 12_288;

/// A closed journal of one segment: 48 batches, more than 8 KiB, two sessions, a blob.
struct Specimen {
    disk: SimDisk,
    file: PathBuf,
    seen: Seen,
    /// Where the last frame ends.
    end: u64,
}

impl Specimen {
    fn new() -> Self {
        let disk = SimDisk::new();
        let writer = open(&disk, small(), 1);
        let ear = Ear::on(&writer, "a");
        writer.control(run(1)).unwrap();
        for seq in 1..=44 {
            let len = if seq == 30 { 5_000 } else { 20 + usize::try_from(seq * 37 % 400).unwrap() };
            writer.append(&session("b"), BRANCH, vec![record("b", seq, 8)]);
            writer.append(&session("a"), BRANCH, vec![record("a", seq, len)]);
            ear.wait(|heard| heard.durable == seq);
        }
        writer.close().unwrap();
        let disk = disk.crash_image(Survival::Nothing);
        let (report, seen) = read(&disk, &[]).unwrap();
        assert_eq!((report.segments.len(), report.verdict), (1, Verdict::Whole { closed: true }));
        assert!(report.durable_upto >= 40);
        let file = report.segments[0].file.clone();
        let bytes = read_all(&disk, &file, 1 << 20).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1;
        assert!(end - DATA_AT > 8 << 10, "{end}");
        Self { disk, file, seen, end }
    }

    /// What a scan says about a damaged copy: the truth, or that something is wrong.
    fn judge(&self, damage: impl FnOnce(&SimDisk, &Path)) -> Judgement {
        let disk = self.disk.fork();
        damage(&disk, &self.file);
        let changes = disk.changes();
        let (report, seen) = read(&disk, &[]).unwrap();
        assert_eq!(disk.changes(), changes, "a scan has written");
        for (name, records) in &seen {
            assert!(self.seen[name].starts_with(records), "wrong records of {name}");
        }
        match report.verdict {
            Verdict::Corrupt(corruption) => {
                assert!(report.start.is_none());
                assert!(!corruption.what.is_empty());
                Judgement::Reported { from: corruption.cut.offset, to: corruption.cut.end }
            }
            Verdict::Whole { .. } | Verdict::Torn(_) if seen == self.seen => Judgement::Unharmed,
            Verdict::Whole { .. } | Verdict::Torn(_) => Judgement::SilentLoss,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    Unharmed,
    Reported { from: u64, to: u64 },
    SilentLoss,
}

fn flip(disk: &SimDisk, file: &Path, bit: u64) {
    let mut byte = [0];
    disk.open(file, Open::Read).unwrap().read_at(bit / 8, &mut byte).unwrap();
    disk.tamper(file, bit / 8, &[byte[0] ^ (1 << (bit % 8))]);
}

#[test]
fn no_flipped_bit_goes_unnoticed() {
    let specimen = Specimen::new();
    let step = if long() { 1 } else { 211 };
    let (mut unharmed, mut reported) = (0, 0);
    // The header, the position and both seals always, and the zeros between them sparsely.
    let always = (0..128 * 8).chain(4096 * 8..4136 * 8).chain(8192 * 8..8232 * 8);
    let data = (DATA_AT * 8..(specimen.end + 64) * 8).step_by(step);
    let zeros = (0..DATA_AT * 8).step_by(step * 17);
    for bit in always.step_by(if long() { 1 } else { 13 }).chain(data).chain(zeros) {
        match specimen.judge(|disk, file| flip(disk, file, bit)) {
            Judgement::SilentLoss => panic!("flipping bit {bit} loses records silently"),
            Judgement::Unharmed => unharmed += 1,
            Judgement::Reported { from, to } => {
                reported += 1;
                let named = (from..to.max(from + 1)).contains(&(bit / 8)) || bit < DATA_AT * 8;
                assert!(named, "byte {} reported as {from}..{to}", bit / 8);
            }
        }
    }
    assert!(unharmed > 10 && reported > 500, "{unharmed} {reported}");
}

#[test]
fn no_cut_goes_unnoticed() {
    let specimen = Specimen::new();
    let step = if long() { 1 } else { 41 };
    for len in (0..specimen.end + 100).step_by(step).chain([65_535]) {
        let judgement = specimen.judge(|disk, file| disk.tamper_len(file, len));
        assert!(matches!(judgement, Judgement::Reported { .. }), "cut to {len}: {judgement:?}");
    }
}

#[test]
fn no_overwritten_lost_or_misplaced_sector_goes_unnoticed() {
    let specimen = Specimen::new();
    let bytes = read_all(&specimen.disk, &specimen.file, 1 << 20).unwrap();
    let sectors = usize::try_from(specimen.end / 512).unwrap() + 1;
    let sector = |n: usize| &bytes[n * 512..(n + 1) * 512];
    let mut x: u64 = 1;
    let mut random = |below: usize| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(x >> 33).unwrap() % below
    };
    for _ in 0..if long() { 200_000 } else { 1_000 } {
        let (at, from) = (random(sectors), random(sectors));
        let (len, fill) = (1 + random(64), u8::try_from(random(256)).unwrap());
        let offset = random(usize::try_from(specimen.end).unwrap()) as u64;
        let kind = random(4);
        let judgement = specimen.judge(|disk, file| match kind {
            0 => disk.tamper(file, at as u64 * 512, &[0; 512]),
            1 => disk.tamper(file, at as u64 * 512, sector(from)),
            2 => disk.tamper(file, offset, &vec![fill; len]),
            _ => {
                disk.tamper(file, at as u64 * 512, sector(from));
                disk.tamper(file, from as u64 * 512, sector(at));
            }
        });
        assert_ne!(judgement, Judgement::SilentLoss, "kind {kind} at {at} from {from}, {offset}+{len}");
    }
}

#[test]
fn a_seal_protects_the_last_batch() {
    for sealed in [true, false] {
        let disk = SimDisk::new();
        let writer = open(&disk, small(), 1);
        let ear = Ear::on(&writer, "a");
        writer.append(&session("a"), BRANCH, vec![record("a", 1, 100)]);
        ear.wait(|heard| heard.durable == 1);
        if sealed {
            writer.seal().unwrap();
        }
        let image = disk.crash_image(Survival::Nothing);
        let (report, _) = read(&image, &[]).unwrap();
        assert_eq!(report.durable_upto, u64::from(sealed));
        let file = &report.segments[0].file;
        let bytes = read_all(&image, file, 1 << 20).unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
        image.tamper(file, end, &[bytes[usize::try_from(end).unwrap()] ^ 1]);
        let (report, _) = read(&image, &[]).unwrap();
        assert_eq!(matches!(report.verdict, Verdict::Corrupt(_)), sealed, "{:?}", report.verdict);
    }
}

#[test]
fn later_frames_promise_earlier_ones_without_a_seal() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let ear = Ear::on(&writer, "a");
    for seq in 1..=5 {
        writer.append(&session("a"), BRANCH, vec![record("a", seq, 100)]);
        ear.wait(|heard| heard.durable == seq);
    }
    let image = disk.crash_image(Survival::Nothing);
    let (report, _) = read(&image, &[]).unwrap();
    assert_eq!((report.durable_upto, report.applied_upto), (4, 5));
    image.tamper(&report.segments[0].file, DATA_AT + 500, &[0xaa; 20]);
    let (report, seen) = read(&image, &[]).unwrap();
    let Verdict::Corrupt(corruption) = report.verdict else { panic!("{:?}", report.verdict) };
    assert_eq!(corruption.durable_upto, 4);
    assert!(seqs(&seen, "a").len() < 4);
}

#[test]
fn the_header_of_a_new_segment_promises_what_lies_before_it() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let ear = Ear::on(&writer, "a");
    writer.append(&session("a"), BRANCH, vec![record("a", 1, 100)]);
    ear.wait(|heard| heard.durable == 1);
    // The seal cannot be written, so a segment is begun in its place.
    disk.inject(Fault::Error(disk.changes() + 2, InjectedError::Io));
    writer.seal().unwrap();
    let image = disk.crash_image(Survival::Nothing);
    let (report, _) = read(&image, &[]).unwrap();
    assert_eq!((report.verdict, report.segments.len()), (Verdict::Whole { closed: false }, 2));
    let file = &report.segments[0].file;
    let bytes = read_all(&image, file, 1 << 20).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    image.tamper(file, end, &[bytes[usize::try_from(end).unwrap()] ^ 1]);
    assert!(matches!(read(&image, &[]).unwrap().0.verdict, Verdict::Corrupt(_)));
}

#[test]
fn a_report_names_the_records_that_are_lost() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let ear = Ear::on(&writer, "a");
    for seq in 1..=150 {
        writer.append(&session("a"), BRANCH, vec![record("a", seq, 1000)]);
        ear.wait(|heard| heard.durable == seq);
    }
    writer.append(&session("b"), BRANCH, vec![record("b", 1, 10)]);
    writer.close().unwrap();
    let (report, _) = read(&disk, &[]).unwrap();
    let second = report.segments[1].clone();
    disk.tamper(&second.file, 20_000, &[0xaa; 40]);
    let (report, seen) = read(&disk, &[]).unwrap();
    let Verdict::Corrupt(corruption) = report.verdict else { panic!("{:?}", report.verdict) };
    let applied = *seqs(&seen, "a").last().unwrap();
    assert_eq!(corruption.cut.file, second.file);
    assert_eq!(corruption.cut.batch, report.applied_upto + 1);
    assert!(corruption.cut.offset <= 20_000 && corruption.cut.end > 20_000);
    let a = corruption.lost.iter().find(|lost| lost.session == session("a")).unwrap();
    assert_eq!((a.from, a.through), (applied + 1, 150));
    let b = corruption.lost.iter().find(|lost| lost.session == session("b")).unwrap();
    assert_eq!((b.from, b.through), (1, 1));
}
