//! Power cuts and kills at every operation: what was promised survives, and nothing appears that was never sent.

use super::harness::*;
use crate::storage::Record;
use crate::storage::journal::effect::Effect;
use crate::storage::journal::frame::Kind;
use crate::storage::journal::log::{Log, Pending};
use crate::storage::journal::queue::Queue;
use crate::storage::journal::retain::retain_in;
use crate::storage::journal::{Retention, Settings, Verdict};
use crate::storage::vfs::{Fault, InjectedError, OperationKind, SimDisk, Survival};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What was sent and what was promised, by session.
#[derive(Default, Clone)]
pub(super) struct Oracle {
    sent: BTreeMap<String, Vec<usize>>,
    promised: BTreeMap<String, u64>,
}

impl Oracle {
    fn note(&mut self, pending: &Pending) {
        if let Effect::Spans(spans) = &pending.effect {
            for span in spans {
                let promised = self.promised.entry(span.session.as_str().into()).or_default();
                assert_eq!(span.first, *promised + 1, "out of order");
                *promised = span.last;
            }
        }
    }

    /// Whether a disk, as the next start finds it, holds what was promised and nothing that was not sent.
    pub(super) fn check(&self, disk: &SimDisk, what: &str) -> BTreeMap<String, u64> {
        let changes = disk.changes();
        let (report, seen) = read(disk, &[]).unwrap();
        assert_eq!(disk.changes(), changes, "a scan has written");
        assert!(!matches!(report.verdict, Verdict::Corrupt(_)), "{what}: {:?}", report.verdict);
        let mut held = BTreeMap::new();
        for (name, records) in &seen {
            for (index, (seq, bytes)) in records.iter().enumerate() {
                assert_eq!(*seq, index as u64 + 1, "{what}: order of {name}");
                let len = *self.sent.get(name).and_then(|sent| sent.get(index)).expect("a record that was sent");
                assert_eq!(*bytes, body(name, *seq, len), "{what}: {name}/{seq}");
            }
            held.insert(name.clone(), records.len() as u64);
        }
        for (name, promised) in &self.promised {
            let held = held.get(name).copied().unwrap_or(0);
            assert!(held >= *promised, "{what}: {name} holds {held} of {promised}");
        }
        held
    }
}

/// How the script takes a failed write.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnError {
    /// The machine is dead.
    Stop,
    /// Make room or wait until the fault is over, and write again.
    Retry,
}

struct Script<'a> {
    disk: &'a SimDisk,
    oracle: Oracle,
    on_error: OnError,
    settings: Settings,
}

impl Script<'_> {
    /// Runs everything that a journal does in its life: begin, append, large bodies, seals, new segments, kill,
    /// restart, close, restart. `None` if the machine stopped.
    fn run(&mut self) -> Option<()> {
        for epoch in 1..=3 {
            let mut log = self.open(epoch)?;
            let mut queue = Queue::default();
            for round in 0..10 {
                self.send(&mut queue, "a", 1 + round % 3, 100 + round * 90);
                if round == 4 {
                    self.send(&mut queue, "b", 1, 6_000);
                }
                if round == 5 {
                    self.send_early(&mut queue, &mut log, "b", 9_000)?;
                }
                if round == 7 {
                    self.send(&mut queue, "b", 2, 30);
                    self.send(&mut queue, "a", 9, 1_700);
                }
                self.drain(&mut queue, &mut log)?;
                if round % 4 == 3 {
                    self.until_done(|_| log.seal(Kind::Seal).is_ok())?;
                }
            }
            // The first run is killed, the second and third are closed.
            if epoch > 1 {
                self.until_done(|_| log.seal(Kind::Close).is_ok())?;
            }
        }
        Some(())
    }

    fn open(&mut self, epoch: u64) -> Option<Log> {
        let mut log = None;
        self.until_done(|script| {
            let Ok((report, _)) = read(script.disk, &[]) else { return false };
            assert!(!matches!(report.verdict, Verdict::Corrupt(_)), "{:?}", report.verdict);
            let fresh = crate::storage::journal::Start::fresh(LINEAGE, report.positions);
            // A record that was read at a start counts as promised: people see it.
            let start = report.start.unwrap_or(fresh);
            let opened = Log::open(Arc::new(script.disk.clone()), script.settings.clone(), start, epoch);
            log = opened.ok();
            log.is_some()
        })?;
        let (_, seen) = read(self.disk, &[]).ok()?;
        for (name, records) in &seen {
            self.oracle.promised.insert(name.clone(), records.len() as u64);
            self.oracle.sent.entry(name.clone()).or_default().truncate(records.len());
        }
        self.oracle.sent.retain(|name, _| seen.contains_key(name));
        log
    }

    fn send(&mut self, queue: &mut Queue, name: &str, count: usize, len: usize) {
        let sent = self.oracle.sent.entry(name.into()).or_default();
        let first = sent.len() as u64 + 1;
        sent.extend(std::iter::repeat_n(len, count));
        let records = (first..first + count as u64).map(|seq| record(name, seq, len)).collect();
        queue.push_records(session(name), BRANCH, records);
    }

    /// Sends a record of which most is written before, and gives up another half way.
    fn send_early(&mut self, queue: &mut Queue, log: &mut Log, name: &str, len: usize) -> Option<()> {
        let seq = self.oracle.sent.get(name).map_or(0, Vec::len) as u64 + 1;
        let (early, given_up) = (early_parts(name, seq, len), early_parts("c", 1, len));
        for parts in [&given_up, &early] {
            queue.push_early(session(name), parts.iter().map(Arc::downgrade).collect());
        }
        queue.stage(log, &self.settings);
        drop(given_up);
        while early.iter().any(|early| early.place().is_none()) || log.has_pending() {
            // Others go on meanwhile.
            self.send(queue, "a", 1, 50);
            if !log.has_pending() {
                queue.stage(log, &self.settings);
            }
            self.commit(log)?;
        }
        self.oracle.sent.entry(name.into()).or_default().push(len);
        queue.push_records(session(name), BRANCH, vec![Record { early, ..record(name, seq, len) }]);
        Some(())
    }

    fn drain(&mut self, queue: &mut Queue, log: &mut Log) -> Option<()> {
        while !queue.is_empty() || log.has_pending() {
            if !log.has_pending() {
                queue.stage(log, &self.settings);
            }
            self.commit(log)?;
        }
        Some(())
    }

    fn commit(&mut self, log: &mut Log) -> Option<()> {
        self.until_done(|script| {
            let oracle = &mut script.oracle;
            log.commit(&mut |pending| oracle.note(pending)).is_ok()
        })
    }

    fn until_done(&mut self, mut attempt: impl FnMut(&mut Self) -> bool) -> Option<()> {
        for _ in 0..3 {
            if attempt(self) {
                return Some(());
            }
            if self.on_error == OnError::Stop || self.disk.has_stopped() {
                return None;
            }
            self.oracle.check(&self.disk.crash_image(Survival::Nothing), "while writing fails");
            self.oracle.check(&self.disk.crash_image(Survival::Everything), "while writing fails");
            self.disk.clear_faults();
            self.disk.set_quota(None);
        }
        panic!("writing fails although nothing is wrong any more");
    }
}

fn script(disk: &SimDisk, on_error: OnError) -> Oracle {
    script_with(disk, on_error, Oracle::default())
}

fn script_with(disk: &SimDisk, on_error: OnError, oracle: Oracle) -> Oracle {
    let settings = Settings { segment_bytes: 40 << 10, ..small() };
    let mut script = Script { disk, oracle, on_error, settings };
    let done = script.run();
    assert!(done.is_some() || disk.has_stopped() || on_error == OnError::Stop);
    script.oracle
}

fn operations() -> u64 {
    let disk = SimDisk::new();
    let oracle = script(&disk, OnError::Stop);
    let held = oracle.check(&disk.crash_image(Survival::Nothing), "after the script");
    assert_eq!(held["a"], oracle.sent["a"].len() as u64);
    disk.changes()
}

fn survivals(number: u64) -> Vec<Survival> {
    let seeds = if long() { 0..200 } else { number..number + 2 };
    [Survival::Nothing, Survival::Everything].into_iter().chain(seeds.map(Survival::Seed)).collect()
}

#[test]
fn a_crash_before_or_after_any_operation_loses_nothing_promised() {
    let total = operations();
    assert!(total > 150, "{total}");
    for number in 1..=total {
        for fault in [Fault::CrashBefore(number), Fault::CrashAfter(number)] {
            let disk = SimDisk::new();
            disk.inject(fault);
            let oracle = script(&disk, OnError::Stop);
            for survival in survivals(number) {
                oracle.check(&disk.crash_image(survival), &format!("{fault:?} {survival:?}"));
            }
        }
    }
}

#[test]
fn a_second_crash_during_the_restart_loses_nothing_either() {
    let total = operations();
    let step = if long() { 1 } else { 11 };
    for number in (1..=total).step_by(step) {
        let disk = SimDisk::new();
        disk.inject(Fault::CrashBefore(number));
        let oracle = script(&disk, OnError::Stop);
        let first = disk.crash_image(Survival::Seed(number));
        let held = oracle.check(&first, "after the first crash");
        for second in 1..20 {
            let disk = first.fork();
            disk.inject(Fault::CrashAfter(second));
            let start = start(&disk);
            let opened = Log::open(Arc::new(disk.clone()), small(), start, 9);
            // Whatever the first scan showed to people must stay.
            let promised = if opened.is_ok() { held.clone() } else { oracle.promised.clone() };
            let again = Oracle { promised, ..oracle.clone() };
            for survival in [Survival::Nothing, Survival::Seed(second)] {
                again.check(&disk.crash_image(survival), &format!("{number}, then {second}, {survival:?}"));
            }
        }
    }
}

#[test]
fn every_subset_of_the_sectors_of_the_last_write_leaves_a_prefix() {
    let disk = SimDisk::new();
    let settings = small();
    let start = start(&disk);
    let mut log = Log::open(Arc::new(disk.clone()), settings.clone(), start, 1).unwrap();
    let mut oracle = Oracle::default();
    for (round, count) in [(0, 3), (1, 5)] {
        for seq in 1..=count {
            let seq = seq + round * 3;
            oracle.sent.entry("a".into()).or_default().push(900);
            let mut queue = Queue::default();
            queue.push_records(session("a"), BRANCH, vec![record("a", seq, 900)]);
            queue.stage(&mut log, &settings);
        }
        if round == 1 {
            disk.inject(Fault::CrashAfter(disk.changes() + 1));
        }
        log.commit(&mut |pending| oracle.note(pending)).ok();
    }
    let unsynced = disk.unsynced().len();
    assert!((9..=12).contains(&unsynced), "{unsynced}");
    let mut lengths = std::collections::BTreeSet::new();
    for mask in 0..1 << unsynced {
        lengths.insert(oracle.check(&disk.crash_image(Survival::Mask(mask)), &format!("mask {mask:b}"))["a"]);
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), (3..=8).collect::<Vec<_>>());
}

#[test]
fn one_error_at_any_operation_delays_and_loses_nothing() {
    let step = if long() { 1 } else { 3 };
    for (first, error) in [(1, InjectedError::Io), (2, InjectedError::Full)] {
        for number in (first..=operations()).step_by(step) {
            for fault in [Fault::Error(number, error), Fault::ErrorsFrom(number, error)] {
                let disk = SimDisk::new();
                disk.inject(fault);
                disk.start_trace();
                let oracle = script(&disk, OnError::Retry);
                let held = oracle.check(&disk.crash_image(Survival::Nothing), &format!("{fault:?}"));
                assert_eq!(held["a"], oracle.sent["a"].len() as u64);
                assert_never_synced_again(&disk);
            }
        }
    }
}

/// No file whose sync failed may ever be synced again: it would claim success for data that is gone.
pub(super) fn assert_never_synced_again(disk: &SimDisk) {
    let syncs: Vec<_> = disk.trace().into_iter().filter(|op| op.kind == OperationKind::Sync).collect();
    for (index, failed) in syncs.iter().enumerate().filter(|(_, op)| !op.ok) {
        assert!(syncs[index + 1..].iter().all(|op| op.inode != failed.inode), "{} synced again", failed.path.display());
    }
}

#[test]
fn a_disk_of_any_size_loses_nothing_and_goes_on_when_there_is_room() {
    for quota in (0..if long() { 2048 << 10 } else { 400 << 10 }).step_by(4 << 10) {
        let disk = SimDisk::new();
        disk.set_quota(Some(quota));
        let oracle = script(&disk, OnError::Retry);
        let held = oracle.check(&disk.crash_image(Survival::Nothing), &format!("quota {quota}"));
        assert_eq!(held["a"], oracle.sent["a"].len() as u64);
    }
}

#[test]
fn a_read_error_is_reported_and_decides_nothing() {
    let disk = SimDisk::new();
    script(&disk, OnError::Stop);
    let before = disk.reads();
    read(&disk, &[]).unwrap();
    for number in 1..=disk.reads() - before {
        let fork = disk.fork();
        fork.inject(Fault::ReadError(fork.reads() + number));
        assert!(read(&fork, &[]).is_err(), "read {number}");
    }
}

#[test]
fn a_crash_while_old_segments_are_deleted_leaves_a_journal_without_holes() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let ear = Ear::on(&writer, "a");
    writer.append(&session("a"), BRANCH, (1..=200).map(|seq| record("a", seq, 1000)).collect());
    ear.wait(|heard| heard.durable == 200);
    let before = disk.changes();
    let floors = BTreeMap::from([(session("a"), 200)]);
    let retention = Retention { floors, history: Duration::ZERO, history_bytes: 0, now_ms: i64::MAX };
    let mut images = Vec::new();
    for number in 1.. {
        let fork = disk.fork();
        fork.inject(Fault::CrashAfter(before + number));
        let kept = Arc::new(Mutex::new(writer.shared.kept.lock().unwrap().clone()));
        let done = retain_in(&fork, &kept, &retention).is_ok();
        for seed in 0..if long() { 500 } else { 30 } {
            let image = fork.crash_image(Survival::Seed(seed));
            let (report, _) = read(&image, &[]).unwrap();
            assert!(!matches!(report.verdict, Verdict::Corrupt(_)), "{number} {seed} {:?}", report.verdict);
            let (report, _) = read(&image, &[("a", 200)]).unwrap();
            assert!(report.missing.is_empty());
            assert_eq!(report.positions.sessions[&session("a")].seq, 200);
            images.push(report.segments.len());
        }
        if done {
            break;
        }
    }
    assert!(images.contains(&1) && images.iter().any(|segments| *segments > 2));
}

#[test]
fn a_record_waits_for_one_piece_of_what_is_written_early() {
    let disk = SimDisk::new();
    let mut script = Script { disk: &disk, oracle: Oracle::default(), on_error: OnError::Stop, settings: small() };
    let (mut log, mut queue) = (script.open(1).unwrap(), Queue::default());
    let early = early_parts("b", 1, 80_000);
    queue.push_early(session("a"), early.iter().map(Arc::downgrade).collect());
    let mut seq = 0;
    while early.iter().any(|early| early.place().is_none()) {
        seq += 1;
        script.send(&mut queue, "a", 1, 100);
        queue.stage(&mut log, &script.settings);
        script.commit(&mut log).unwrap();
        assert_eq!(script.oracle.promised["a"], seq);
    }
    assert_eq!(seq, 79_800_u64.div_ceil(2 << 10), "one for each piece of 2 KB");
}
