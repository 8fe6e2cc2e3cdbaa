//! The writer's thread while the disk fails: people are told at once, and everything goes on by itself.

use super::crashes::assert_never_synced_again;
use super::harness::*;
use crate::storage::journal::{Settings, Verdict};
use crate::storage::vfs::{Fault, InjectedError, SimDisk, Survival};
use std::time::{Duration, Instant};

#[test]
fn one_failed_sync_is_made_good_in_a_new_segment() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let ear = Ear::on(&writer, "a");
    writer.append(&session("a"), BRANCH, vec![record("a", 1, 100)]);
    ear.wait(|heard| heard.durable == 1);
    disk.start_trace();
    disk.inject(Fault::Error(disk.changes() + 2, InjectedError::Io));
    writer.append(&session("a"), BRANCH, vec![record("a", 2, 100)]);
    let heard = ear.wait(|heard| heard.durable == 2);
    assert!(heard.troubles.is_empty());
    assert_never_synced_again(&disk);
    let (report, seen) = read(&disk.crash_image(Survival::Nothing), &[]).unwrap();
    assert_eq!((seqs(&seen, "a"), report.segments.len()), (vec![1, 2], 2));
    writer.close().unwrap();
    assert_eq!(read(&disk, &[]).unwrap().0.verdict, Verdict::Whole { closed: true });
}

#[test]
#[expect(clippy::disallowed_methods, reason = "it measures how long people wait")]
fn a_full_disk_is_told_at_once_and_over_by_itself() {
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let (ear, late) = (Ear::on(&writer, "a"), "late");
    let mut seq = 0;
    disk.set_quota(Some(disk.used()));
    let began = loop {
        seq += 1;
        let began = Instant::now();
        writer.append(&session("a"), BRANCH, vec![record("a", seq, 1000)]);
        let heard = ear.wait(|heard| heard.durable == seq || !heard.troubles.is_empty());
        if heard.durable < seq {
            break began;
        }
        assert!(seq < 1000);
    };
    assert!(began.elapsed() < Duration::from_millis(500));
    let trouble = ear.heard().troubles[0].clone().unwrap();
    assert!(trouble.disk_full && trouble.message.contains("journal/"), "{trouble:?}");
    assert!(writer.control(run(1)).unwrap_err().disk_full);
    let later = Ear::on(&writer, late);
    assert!(later.heard().troubles[0].is_some());
    writer.append(&session("a"), BRANCH, vec![record("a", seq + 1, 1000)]);
    writer.append(&session(late), BRANCH, vec![record(late, 1, 10)]);
    std::thread::sleep(Duration::from_millis(60));
    assert_eq!(ear.heard().durable, seq - 1);
    let image = disk.crash_image(Survival::Nothing);
    assert_eq!(seqs(&read(&image, &[]).unwrap().1, "a"), (1..seq).collect::<Vec<_>>());
    disk.set_quota(None);
    let heard = ear.wait(|heard| heard.durable == seq + 1 && heard.troubles.len() >= 2);
    assert_eq!(heard.troubles.last(), Some(&None));
    later.wait(|heard| heard.durable == 1);
    writer.control(run(1)).unwrap();
    assert_eq!(writer.stats().troubles, 1);
    writer.close().unwrap();
    let (report, seen) = read(&disk.crash_image(Survival::Nothing), &[]).unwrap();
    assert_eq!(report.verdict, Verdict::Whole { closed: true });
    assert_eq!(seqs(&seen, "a"), (1..=seq + 1).collect::<Vec<_>>());
}

#[test]
fn closing_while_writing_fails_says_so_and_ends() {
    let disk = SimDisk::new();
    let writer = open(&disk, Settings { probe_every: Duration::from_mins(1), ..small() }, 1);
    let ear = Ear::on(&writer, "a");
    disk.inject(Fault::ErrorsFrom(0, InjectedError::Io));
    writer.append(&session("a"), BRANCH, vec![record("a", 1, 100)]);
    ear.wait(|heard| !heard.troubles.is_empty());
    assert!(writer.seal().is_err());
    let trouble = writer.close().unwrap_err();
    assert!(!trouble.disk_full);
    assert_eq!(writer.close(), Err(trouble));
    assert!(writer.control(run(2)).is_err());
    assert_eq!(ear.heard().durable, 0);
}

#[test]
fn a_body_that_cannot_be_encoded_is_no_silent_death() {
    struct Broken;
    impl crate::storage::RecordBody for Broken {
        fn encode(&self, _: &mut Vec<u8>) {
            panic!("cannot be encoded");
        }
        fn size_hint(&self) -> usize {
            1
        }
    }
    let disk = SimDisk::new();
    let writer = open(&disk, small(), 1);
    let ear = Ear::on(&writer, "a");
    let broken = crate::storage::Record::new(1, std::sync::Arc::new(Broken));
    writer.append(&session("a"), BRANCH, vec![broken]);
    ear.wait(|heard| !heard.troubles.is_empty());
    assert!(writer.control(run(2)).is_err());
    assert!(writer.close().is_err());
}

#[test]
fn syncs_can_be_spaced_and_share_what_comes_meanwhile() {
    let disk = SimDisk::new();
    let writer = open(&disk, Settings { sync_spacing: Duration::from_millis(20), ..small() }, 1);
    let ear = Ear::on(&writer, "a");
    for seq in 1..=100 {
        writer.append(&session("a"), BRANCH, vec![record("a", seq, 10)]);
        std::thread::sleep(Duration::from_millis(1));
    }
    ear.wait(|heard| heard.durable == 100);
    let stats = writer.stats();
    assert_eq!(stats.records, 100);
    assert!(stats.syncs <= 30, "{stats:?}");
}
