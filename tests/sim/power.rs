//! The power test: whatever stops the machine, at whatever operation, what was acknowledged is there afterwards, and
//! nothing is there that was not sent.

use crate::daemon::{Daemon, options};
use crate::toy::Toy;
use crate::{long, sampled};
use hotset::storage::recovery::{self, Outcome};
use hotset::storage::vfs::{Fault, InjectedError, OperationKind, SharedVfs, SimDisk, Survival, Vfs};
use hotset::storage::{Machine, snapshot};
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const LIVE: &str = "session_snapshot.bin";

/// What a client knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Client {
    sent: Vec<String>,
    acked: usize,
}

impl Client {
    fn say(&mut self, daemon: &mut Daemon, number: usize, bytes: usize) {
        let text = format!("{number}:{}", "x".repeat(bytes));
        self.sent.push(text.clone());
        if daemon.say(&text) {
            self.acked = self.sent.len();
        }
    }

    /// Acked is there; there is nothing but what was sent, once, in order.
    fn check(&self, texts: &[String], what: &str) {
        assert!(texts.len() >= self.acked, "{what}: {} acknowledged, {} found", self.acked, texts.len());
        assert!(texts.len() <= self.sent.len(), "{what}: more than was sent");
        assert!(texts == &self.sent[..texts.len()], "{what}: something else than was sent");
    }
}

fn shared(disk: &SimDisk) -> SharedVfs {
    Arc::new(disk.clone())
}

/// Two lives of a daemon: small and large entries, segments that fill up, saves, backups that rotate, a restart.
fn script(disk: &SimDisk) -> Client {
    let mut client = Client::default();
    let vfs = shared(disk);
    for life in 0..2 {
        let Ok(mut daemon) = Daemon::start(&vfs) else { return client };
        for round in 0..5 {
            let number = life * 100 + round * 10;
            client.say(&mut daemon, number, 10);
            client.say(&mut daemon, number + 1, if round % 2 == 0 { 30_000 } else { 700 });
            if disk.has_stopped() {
                break;
            }
            // A failed save is no loss.
            drop(daemon.save_with("auto-save", round == 3));
        }
        client.say(&mut daemon, life * 100 + 99, 10);
        let alive = !disk.has_stopped();
        daemon.store.close(if alive { Duration::from_secs(30) } else { Duration::ZERO });
        if !alive {
            break;
        }
    }
    client
}

/// The texts that the next start serves, and the directory in use for a while.
fn recovered(disk: &SimDisk, what: &str) -> Vec<String> {
    let daemon = Daemon::start(&shared(disk)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let texts = daemon.toy.texts();
    daemon.store.close(Duration::ZERO);
    texts
}

/// Recovers twice, the second time after a little work, and compares.
fn recover_and_check(disk: &SimDisk, client: &Client, what: &str) {
    let mut daemon = Daemon::start(&shared(disk)).unwrap_or_else(|error| panic!("{what}: {error}"));
    let texts = daemon.toy.texts();
    client.check(&texts, what);
    if let Ok(live) = disk.stat(Path::new(LIVE)) {
        assert_eq!(live.links, 1, "{what}: the snapshot has a second name");
    }
    for name in disk.list(Path::new("backups")).unwrap_or_default() {
        let path = Path::new("backups").join(&name);
        let whole = disk.stat(&path).unwrap().is_dir || snapshot::verify(disk, &path).is_ok();
        assert!(whole, "{what}: {} is not whole", path.display());
    }
    assert!(daemon.say("more"), "{what}");
    if texts.len().is_multiple_of(2) {
        daemon.save("auto-save").unwrap_or_else(|error| panic!("{what}: {error}"));
        let live = disk.stat(Path::new(LIVE)).unwrap();
        assert_eq!(live.links, 1, "{what}: the snapshot has a second name");
    }
    daemon.store.close(Duration::ZERO);
    let mut expected = texts;
    expected.push("more".into());
    assert!(recovered(&disk.crash_image(Survival::Nothing), what) == expected, "{what}: the second start differs");
}

fn survivals() -> Vec<Survival> {
    let seeds = if long() { 8 } else { 1 };
    [Survival::Nothing, Survival::Everything].into_iter().chain((0..seeds).map(Survival::Seed)).collect()
}

fn operations_of(run: impl FnOnce(&SimDisk)) -> u64 {
    let disk = SimDisk::new();
    run(&disk);
    disk.changes()
}

#[test]
fn no_power_cut_loses_anything() {
    let total = operations_of(|disk| {
        let client = script(disk);
        assert_eq!(client.acked, 22);
        client.check(&recovered(disk, "no fault"), "no fault");
    });
    assert!(total > 200, "{total}");
    for number in sampled(1..=total, 45) {
        for fault in [Fault::CrashBefore(number), Fault::CrashAfter(number)] {
            let disk = SimDisk::new();
            disk.inject(fault);
            let client = script(&disk);
            for survival in survivals() {
                let what = format!("{fault:?} of {total}, {survival:?}");
                recover_and_check(&disk.crash_image(survival), &client, &what);
            }
        }
    }
}

#[test]
fn no_power_cut_around_a_change_of_names_loses_anything() {
    let disk = SimDisk::new();
    disk.start_trace();
    script(&disk);
    let names = |kind| matches!(kind, OperationKind::Rename | OperationKind::Link | OperationKind::Unlink);
    let trace = disk.trace();
    let changes = trace.iter().enumerate().filter(|(_, operation)| names(operation.kind));
    // The operations that follow are where a missing sync of the directory shows.
    let near: BTreeSet<u64> = changes.flat_map(|(index, _)| index as u64 + 1..index as u64 + 5).collect();
    for number in near {
        let disk = SimDisk::new();
        disk.inject(Fault::CrashAfter(number));
        let client = script(&disk);
        let what = format!("after {number}: {:?}", trace.get(usize::try_from(number).unwrap() - 1));
        recover_and_check(&disk.crash_image(Survival::Nothing), &client, &what);
    }
}

#[test]
fn no_power_cut_during_recovery_loses_anything() {
    let total = operations_of(|disk| drop(script(disk)));
    for number in sampled(1..=total, 9) {
        let disk = SimDisk::new();
        disk.inject(Fault::CrashBefore(number));
        let client = script(&disk);
        let first = disk.crash_image(Survival::Seed(number));
        let probe = first.fork();
        recovered(&probe, "probe");
        for nested in sampled(1..=probe.changes() - first.changes(), 9) {
            let again = first.fork();
            again.inject(Fault::CrashAfter(first.changes() + nested));
            if let Ok(daemon) = Daemon::start(&shared(&again)) {
                client.check(&daemon.toy.texts(), "interrupted");
                daemon.store.close(Duration::ZERO);
            }
            for survival in survivals() {
                let what = format!("cut {number} of {total}, then {nested}, {survival:?}");
                recover_and_check(&again.crash_image(survival), &client, &what);
            }
        }
    }
}

#[test]
fn a_snapshot_that_rots_after_a_power_cut_costs_nothing_either() {
    let total = operations_of(|disk| drop(script(disk)));
    for number in sampled(1..=total, 45) {
        let disk = SimDisk::new();
        disk.inject(Fault::CrashBefore(number));
        let client = script(&disk);
        for survival in [Survival::Nothing, Survival::Seed(number)] {
            let what = format!("cut {number} of {total}, {survival:?}");
            let image = disk.crash_image(survival);
            // The start settles what the cut has left open; from then on any one snapshot may rot.
            client.check(&recovered(&image, &what), &what);
            if image.stat(Path::new(LIVE)).is_ok() {
                image.tamper(Path::new(LIVE), 4096, b"rot");
                client.check(&recovered(&image, &what), &what);
            }
        }
    }
}

#[test]
fn no_torn_write_loses_anything() {
    let total = operations_of(|disk| drop(script(disk)));
    for number in sampled(1..=total, 20) {
        let disk = SimDisk::new();
        disk.inject(Fault::CrashBefore(number));
        let client = script(&disk);
        let unsynced = disk.unsynced().len().min(63);
        let every = 1u64 << unsynced;
        let masks = if unsynced <= 12 && (long() || unsynced <= 5) { every } else { 0 };
        for mask in 0..masks {
            let what = format!("cut {number} of {total}, mask {mask:b}");
            client.check(&recovered(&disk.crash_image(Survival::Mask(mask)), &what), &what);
        }
        for seed in 0..if masks == 0 { if long() { 2_000 } else { 12 } } else { 0 } {
            let what = format!("cut {number} of {total}, seed {seed}");
            client.check(&recovered(&disk.crash_image(Survival::Seed(seed)), &what), &what);
        }
    }
}

#[test]
fn a_full_disk_loses_nothing_whenever_it_is_full() {
    let used = {
        let disk = SimDisk::new();
        script(&disk);
        disk.used()
    };
    for blocks in sampled(0..=used / 4096 + 16, 30) {
        let disk = SimDisk::new();
        disk.set_quota(Some(blocks * 4096));
        let client = script(&disk);
        for survival in [Survival::Nothing, Survival::Everything] {
            let image = disk.crash_image(survival);
            image.set_quota(None);
            recover_and_check(&image, &client, &format!("{blocks} blocks, {survival:?}"));
        }
    }
}

#[test]
fn one_error_of_the_disk_loses_nothing_wherever_it_comes() {
    let total = operations_of(|disk| drop(script(disk)));
    for number in sampled(1..=total, 40) {
        for error in [InjectedError::Io, InjectedError::Full] {
            let disk = SimDisk::new();
            disk.inject(Fault::Error(number, error));
            let client = script(&disk);
            for survival in [Survival::Nothing, Survival::Everything] {
                let what = format!("{error:?} at {number} of {total}, {survival:?}");
                recover_and_check(&disk.crash_image(survival), &client, &what);
            }
        }
    }
}

#[test]
fn a_disk_that_fails_for_good_acknowledges_nothing_more_and_loses_nothing() {
    let total = operations_of(|disk| drop(script(disk)));
    for number in sampled(1..=total, 20) {
        let disk = SimDisk::new();
        disk.inject(Fault::ErrorsFrom(number, InjectedError::Io));
        let client = script(&disk);
        disk.clear_faults();
        recover_and_check(&disk.crash_image(Survival::Nothing), &client, &format!("errors from {number}"));
    }
}

#[test]
fn one_read_error_at_the_start_loses_nothing() {
    let disk = SimDisk::new();
    let client = script(&disk);
    let probe = disk.fork();
    recovered(&probe, "probe");
    for number in sampled(disk.reads() + 1..=probe.reads(), 80) {
        let image = disk.fork();
        image.inject(Fault::ReadError(number));
        let what = format!("read {number}");
        if let Ok(opened) = recovery::open::<Toy>(&shared(&image), &options()) {
            if let Outcome::Serving { machine, .. } = &opened.sessions[0].outcome {
                client.check(&machine.texts(), &what);
                assert!(Machine::seq(machine) > 0, "{what}");
            }
            opened.store.close(Duration::ZERO);
        }
        image.clear_faults();
        recover_and_check(&image, &client, &what);
    }
}
