//! What is written comes back: across sessions, segments, restarts and large bodies.

use super::harness::*;
use crate::session::Timestamp;
use crate::storage::journal::{
    Control, FileMark, HistoryError, Positions, Published, Retention, Settings, Start, Verdict, Writer, history,
};
use crate::storage::vfs::{CountingVfs, Open, RealVfs, SimDisk, Survival, Vfs};
use crate::storage::{Branch, Early, Record, Run};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

fn append(writer: &Writer, name: &str, seqs: std::ops::RangeInclusive<u64>, len: usize) {
    let records: Vec<Record> = seqs.map(|seq| record(name, seq, len)).collect();
    writer.append(&session(name), BRANCH, records);
}

fn assert_seen(seen: &Seen, name: &str, expected: impl IntoIterator<Item = (u64, usize)>) {
    let expected: Vec<(u64, Vec<u8>)> = expected.into_iter().map(|(seq, len)| (seq, body(name, seq, len))).collect();
    assert_eq!(seen.get(name).map(Vec::as_slice).unwrap_or_default(), expected);
}

#[test]
fn records_of_two_sessions_come_back_after_a_close() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    writer.control(run(7)).unwrap();
    append(&writer, "a", 1..=10, 40);
    append(&writer, "b", 1..=3, 40);
    append(&writer, "a", 11..=12, 40);
    writer.close().unwrap();
    let (report, seen) = read(&disk.crash_image(Survival::Nothing), &[]).unwrap();
    assert_eq!(report.verdict, Verdict::Whole { closed: true });
    assert_seen(&seen, "a", (1..=12).map(|seq| (seq, 40)));
    assert_seen(&seen, "b", (1..=3).map(|seq| (seq, 40)));
    assert_eq!(report.positions.sessions[&session("a")].seq, 12);
    assert_eq!(report.positions.sessions[&session("a")].runs, [(Run(7), 1)]);
    let (_, later) = read(&disk, &[("a", 11), ("b", 3)]).unwrap();
    assert_eq!((seqs(&later, "a"), seqs(&later, "b")), (vec![12], vec![]));
}

#[test]
fn a_listener_hears_only_what_survives_a_power_cut() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let ear = Ear::on(&writer, "a");
    for seq in 1..=40 {
        append(&writer, "a", seq..=seq, 700);
        ear.wait(|heard| heard.durable == seq);
        let (_, seen) = read(&disk.crash_image(Survival::Nothing), &[]).unwrap();
        assert_eq!(seqs(&seen, "a"), (1..=seq).collect::<Vec<_>>());
    }
}

#[test]
fn a_batch_costs_one_write_and_one_sync() {
    let disk = SimDisk::new();
    let vfs = CountingVfs::new(Arc::new(disk.clone()));
    let writer = Writer::open(Arc::new(vfs.clone()), small(), start(&disk), 1).unwrap();
    let ear = Ear::on(&writer, "a");
    append(&writer, "a", 1..=1, 100);
    ear.wait(|heard| heard.durable == 1);
    let before = vfs.counts();
    append(&writer, "a", 2..=11, 100);
    ear.wait(|heard| heard.durable == 11);
    let after = vfs.counts();
    assert_eq!((after.writes - before.writes, after.syncs - before.syncs), (1, 1), "ten records together");
    assert_eq!(after.changes() - before.changes(), 2, "and nothing else");
}

#[test]
fn many_segments_are_read_from_the_newest_that_suffices() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let ear = Ear::on(&writer, "a");
    for seq in 1..=200 {
        append(&writer, "a", seq..=seq, 1500);
    }
    ear.wait(|heard| heard.durable == 200);
    append(&writer, "b", 1..=1, 10);
    writer.close().unwrap();
    let (report, seen) = read(&disk, &[]).unwrap();
    assert!(report.segments.len() >= 5, "{}", report.segments.len());
    assert_seen(&seen, "a", (1..=200).map(|seq| (seq, 1500)));
    let reads = disk.reads();
    let (report, seen) = read(&disk, &[("a", 195)]).unwrap();
    assert!(report.missing.is_empty());
    assert_eq!((seqs(&seen, "a"), seqs(&seen, "b")), ((196..=200).collect(), vec![1]));
    // Damage in a segment that is not needed does not matter.
    disk.tamper(&report.segments[0].file, 20_000, &[0xff; 100]);
    let (report, again) = read(&disk, &[("a", 195)]).unwrap();
    assert_eq!(report.verdict, Verdict::Whole { closed: true });
    assert!(again == seen);
    assert!(disk.reads() > reads);
}

#[test]
fn a_body_larger_than_a_segment_lets_small_ones_pass() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let (big, little) = (Ear::on(&writer, "big"), Ear::on(&writer, "little"));
    append(&writer, "big", 1..=1, 150_000);
    append(&writer, "big", 2..=2, 10);
    for seq in 1..=20 {
        append(&writer, "little", seq..=seq, 100);
        little.wait(|heard| heard.durable == seq);
    }
    big.wait(|heard| heard.durable == 2);
    append(&writer, "big", 3..=3, 5_000);
    writer.close().unwrap();
    let (report, seen) = read(&disk, &[]).unwrap();
    assert!(report.segments.len() > 2);
    assert_seen(&seen, "big", [(1, 150_000), (2, 10), (3, 5_000)]);
    assert_seen(&seen, "little", (1..=20).map(|seq| (seq, 100)));
    // A start in the middle of the body finds its beginning.
    let (report, seen) = read(&disk, &[("little", 20)]).unwrap();
    assert_eq!(report.verdict, Verdict::Whole { closed: true });
    assert_seen(&seen, "big", [(1, 150_000), (2, 10), (3, 5_000)]);
}

/// Waits until the last of them is on disk.
fn wait_for(early: &[Arc<Early>]) {
    let mut tries = 0..10_000;
    while !early.iter().all(|early| early.is_durable()) {
        assert!(tries.next().is_some(), "they become durable");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn records_of_the_same_session_pass_what_is_written_early() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let ear = Ear::on(&writer, "a");
    let early = early_parts("a", 41, 150_000);
    writer.prepare(&session("a"), &early);
    for seq in 1..=40 {
        append(&writer, "a", seq..=seq, 100);
        ear.wait(|heard| heard.durable == seq);
    }
    wait_for(&early);
    let before = writer.stats().bytes;
    writer.append(&session("a"), BRANCH, vec![Record { early, ..record("a", 41, 150_000) }]);
    ear.wait(|heard| heard.durable == 41);
    assert!(writer.stats().bytes - before < 1_000, "what is there is not written again");
    append(&writer, "a", 42..=42, 10);
    writer.close().unwrap();
    let expected = || (1..=40).map(|seq| (seq, 100)).chain([(41, 150_000), (42, 10)]);
    let (report, seen) = read(&disk, &[]).unwrap();
    assert_eq!(report.verdict, Verdict::Whole { closed: true });
    assert_seen(&seen, "a", expected());
    // A start in the middle finds the beginning of what is written early.
    let (report, seen) = read(&disk, &[("a", 40)]).unwrap();
    assert_eq!(report.verdict, Verdict::Whole { closed: true });
    assert_seen(&seen, "a", expected().skip(40));
}

#[test]
fn what_is_written_early_and_given_up_keeps_no_segment() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let ear = Ear::on(&writer, "a");
    append(&writer, "a", 1..=1, 10);
    let (done, begun) = (early_parts("a", 1, 9_000), early_parts("a", 2, 90_000));
    writer.prepare(&session("a"), &done);
    wait_for(&done);
    writer.prepare(&session("a"), &begun);
    append(&writer, "a", 2..=2, 10);
    ear.wait(|heard| heard.durable == 2);
    drop((done, begun));
    for seq in 3..=300 {
        append(&writer, "a", seq..=seq, 1_000);
    }
    ear.wait(|heard| heard.durable == 300);
    let floors = BTreeMap::from([(session("a"), 300)]);
    let retention = Retention { floors, history: Duration::ZERO, history_bytes: 0, now_ms: i64::MAX };
    let kept = writer.retain(&retention).unwrap();
    assert!(kept.deleted > 2, "{kept:?}");
    writer.close().unwrap();
    let (report, _) = read(&disk, &[("a", 300)]).unwrap();
    assert_eq!(report.verdict, Verdict::Whole { closed: true });
}

#[test]
fn a_record_that_is_large_without_its_early_bytes_or_does_not_hold_them_is_written_whole() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let (others, mut half) = (early_parts("b", 7, 9_000), early_parts("a", 2, 30_000));
    half.truncate(1);
    for early in [&others, &half] {
        writer.prepare(&session("a"), early);
        wait_for(early);
    }
    let records = [(1, others), (2, half)].map(|(seq, early)| Record { early, ..record("a", seq, 30_000) });
    writer.append(&session("a"), BRANCH, records.into_iter().chain([record("a", 3, 9)]).collect());
    writer.close().unwrap();
    let (_, seen) = read(&disk, &[]).unwrap();
    assert_seen(&seen, "a", [(1, 30_000), (2, 30_000), (3, 9)]);
}

#[test]
fn a_hint_that_is_too_small_changes_nothing() {
    struct Liar(u64);
    impl crate::storage::RecordBody for Liar {
        fn encode(&self, out: &mut Vec<u8>) {
            out.extend_from_slice(&body("a", self.0, 9000));
        }
        fn size_hint(&self) -> usize {
            1
        }
    }
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let liar = |seq| Record::new(seq, Arc::new(Liar(seq)));
    writer.append(&session("a"), BRANCH, vec![record("a", 1, 9), liar(2), record("a", 3, 9), liar(4), liar(5)]);
    writer.close().unwrap();
    let (_, seen) = read(&disk, &[]).unwrap();
    assert_seen(&seen, "a", [(1, 9), (2, 9000), (3, 9), (4, 9000), (5, 9000)]);
}

#[test]
fn restarts_go_on_where_the_last_one_ended() {
    let disk = SimDisk::new();
    for epoch in 1..=8 {
        let writer = open(&disk, small(), epoch);
        writer.control(run(u128::from(epoch))).unwrap();
        append(&writer, "a", epoch * 10 - 9..=epoch * 10, 300);
        if epoch % 2 == 0 { writer.close().unwrap() } else { writer.seal().unwrap() }
    }
    let (report, seen) = read(&disk, &[]).unwrap();
    assert_seen(&seen, "a", (1..=80).map(|seq| (seq, 300)));
    assert_eq!((report.epoch, report.positions.runs.len(), report.segments.len()), (8, 8, 8));
    assert_eq!(report.positions.sessions[&session("a")].runs[3], (Run(4), 31));
}

#[test]
fn control_records_are_known_from_then_on() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let a = session("a");
    append(&writer, "a", 1..=5, 10);
    let file = FileMark { inode: 4, len: 5, mtime_ns: 6 };
    let published = Published { branch: BRANCH, snapshot: 2, seq: 5, at: Timestamp(3), file };
    writer.control(Control::Published { session: a.clone(), published }).unwrap();
    let branch = Control::Branch { session: a.clone(), branch: Branch(9), parent: BRANCH, snapshot: 2, first_seq: 6 };
    writer.control(branch).unwrap();
    writer.append(&a, Branch(9), vec![record("a", 6, 10)]);
    writer.close().unwrap();
    let (report, _) = read(&disk, &[]).unwrap();
    let known = &report.positions.sessions[&a];
    assert_eq!((known.branch, known.seq, known.published), (Some(Branch(9)), 6, Some(published)));
    assert_eq!(known.branched.map(|branched| branched.first_seq), Some(6));
    // Also when only the position of a later segment says so.
    open(&disk, small(), 2).close().unwrap();
    let (report, _) = read(&disk, &[("a", 6)]).unwrap();
    assert_eq!(report.positions.sessions[&a].published, Some(published));
}

#[test]
fn old_segments_go_when_snapshots_and_history_allow_it() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    for seq in 1..=300 {
        append(&writer, "a", seq..=seq, 1000);
    }
    writer.seal().unwrap();
    let (before, _) = read(&disk, &[]).unwrap();
    let floors = |seq| BTreeMap::from([(session("a"), seq)]);
    let now_ms = before.segments.last().unwrap().created_ms;
    let hour = Duration::from_hours(1);
    let retain = |seq, history, history_bytes, now_ms| {
        writer.retain(&Retention { floors: floors(seq), history, history_bytes, now_ms }).unwrap()
    };
    assert_eq!(retain(300, hour, u64::MAX, now_ms).deleted, 0, "young");
    assert_eq!(retain(0, Duration::ZERO, 0, now_ms).deleted, 0, "needed");
    let kept = retain(300, hour, 3 * (64 << 10), now_ms);
    assert_eq!((kept.segments, kept.bytes), (3, 3 * (64 << 10)));
    let later = now_ms + 3_600_001;
    assert_eq!(retain(300, hour, u64::MAX, later).segments, 1);
    append(&writer, "a", 301..=301, 10);
    writer.close().unwrap();
    let after = disk.crash_image(Survival::Nothing);
    let (report, seen) = read(&after, &[("a", 300)]).unwrap();
    assert_eq!((report.verdict, seqs(&seen, "a")), (Verdict::Whole { closed: true }, vec![301]));
    let (report, _) = read(&after, &[("a", 10)]).unwrap();
    assert_eq!(report.missing[0].from, 11);
    assert!(disk.used() < 3 * (64 << 10));
}

#[test]
fn a_session_without_a_floor_keeps_everything() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    append(&writer, "other", 1..=1, 10);
    for seq in 1..=200 {
        append(&writer, "a", seq..=seq, 1000);
    }
    writer.seal().unwrap();
    let floors = BTreeMap::from([(session("a"), 200)]);
    let retention = Retention { floors, history: Duration::ZERO, history_bytes: 0, now_ms: i64::MAX };
    assert_eq!(writer.retain(&retention).unwrap().deleted, 0);
    writer.control(Control::Forgotten { session: session("other") }).unwrap();
    append(&writer, "a", 201..=300, 1000);
    writer.seal().unwrap();
    let retention = Retention { floors: BTreeMap::from([(session("a"), 300)]), ..retention };
    assert!(writer.retain(&retention).unwrap().deleted > 2);
}

#[test]
fn history_is_read_while_the_journal_goes_on() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    for seq in 1..=150 {
        append(&writer, "a", seq..=seq, 1000);
        append(&writer, "b", seq..=seq, 100);
    }
    writer.seal().unwrap();
    let past = |range: std::ops::RangeInclusive<u64>| {
        let mut seen = Vec::new();
        history(&disk, LINEAGE, &session("a"), range, &mut |item| {
            assert_eq!(item.body, body("a", item.seq, 1000));
            seen.push(item.seq);
            ControlFlow::Continue(())
        })
        .map(|()| seen)
    };
    assert_eq!(past(60..=75).unwrap(), (60..=75).collect::<Vec<_>>());
    assert_eq!(past(1..=150).unwrap().len(), 150);
    assert!(matches!(past(150..=151), Err(HistoryError::Incomplete { reached: 150 })));
    let floors = BTreeMap::from([(session("a"), 150), (session("b"), 150)]);
    writer.retain(&Retention { floors, history: Duration::ZERO, history_bytes: 0, now_ms: i64::MAX }).unwrap();
    assert!(matches!(past(60..=75), Err(HistoryError::Gone { .. })));
}

#[test]
fn an_idle_journal_seals_itself() {
    let disk = SimDisk::new();
    let settings = Settings { seal_after: Some(Duration::from_millis(20)), ..small() };
    let writer = open(&disk, settings, 1);
    let ear = Ear::on(&writer, "a");
    append(&writer, "a", 1..=1, 10);
    ear.wait(|heard| heard.durable == 1);
    let sealed = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        read(&disk, &[]).unwrap().0.durable_upto == 1
    });
    assert!(sealed);
}

#[test]
fn real_files_do_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let vfs: Arc<RealVfs> = Arc::new(RealVfs::new(dir.path().to_path_buf()));
    let settings = Settings { background_spare: true, ..small() };
    for epoch in 1..=3 {
        let (report, _) = read(&*vfs, &[]).unwrap();
        let start = report.start.unwrap_or_else(|| Start::fresh(LINEAGE, report.positions));
        let writer = Writer::open(vfs.clone(), settings.clone(), start, epoch).unwrap();
        append(&writer, "a", epoch * 100 - 99..=epoch * 100, 2000);
        writer.close().unwrap();
        assert!(writer.stats().records == 100 && writer.stats().syncs <= writer.stats().batches);
    }
    let (report, seen) = read(&*vfs, &[]).unwrap();
    assert_eq!(report.verdict, Verdict::Whole { closed: true });
    assert_seen(&seen, "a", (1..=300).map(|seq| (seq, 2000)));
    assert!(vfs.open(Path::new("journal/spare.next"), Open::Read).is_ok());
}

#[test]
fn the_daemons_own_settings_work_on_real_files() {
    let dir = tempfile::tempdir().unwrap();
    let vfs: Arc<RealVfs> = Arc::new(RealVfs::new(dir.path().to_path_buf()));
    let fresh = Start::fresh(LINEAGE, Positions::default());
    let writer = Writer::open(vfs.clone(), Settings::default(), fresh, 1).unwrap();
    let ear = Ear::on(&writer, "a");
    append(&writer, "big", 1..=3, 6 << 20);
    append(&writer, "a", 1..=500, 200);
    ear.wait(|heard| heard.durable == 500);
    writer.close().unwrap();
    let (report, seen) = read(&*vfs, &[]).unwrap();
    assert_eq!((report.verdict, report.segments.len()), (Verdict::Whole { closed: true }, 2));
    assert!(seqs(&seen, "a").len() == 500 && seqs(&seen, "big") == [1, 2, 3]);
    assert!(seen["big"].iter().all(|(seq, bytes)| *bytes == body("big", *seq, 6 << 20)));
}

#[test]
fn large_parts_that_are_no_more_than_a_piece_together_share_a_sync() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let early: Vec<_> = (0..8).map(|n| Arc::new(Early::new(vec![n; 500].into()))).collect();
    let before = writer.stats().syncs;
    writer.prepare(&session("a"), &early);
    assert!((0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        early.iter().all(|early| early.is_durable())
    }));
    let syncs = writer.stats().syncs - before;
    assert!(syncs <= 3, "{syncs}");
}
