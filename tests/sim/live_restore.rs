//! Restores while the daemon runs, and power cuts and errors in the middle of them.

use crate::daemon::{Daemon, options};
use crate::sampled;
use crate::toy::Toy;
use hotset::session::SessionName;
use hotset::storage::Store;
use hotset::storage::recovery::{self, Outcome};
use hotset::storage::restore::Source;
use hotset::storage::snapshot;
use hotset::storage::vfs::{Fault, InjectedError, Open, SharedVfs, SimDisk, Survival, Vfs, read_all};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LIVE: &str = "session_snapshot.bin";

fn shared(disk: &SimDisk) -> SharedVfs {
    Arc::new(disk.clone())
}

fn files(disk: &SimDisk, directory: &str) -> Vec<PathBuf> {
    let names = disk.list(Path::new(directory)).unwrap_or_default();
    names.iter().map(|name| Path::new(directory).join(name)).filter(|path| !disk.stat(path).unwrap().is_dir).collect()
}

fn numbers(upto: usize) -> Vec<String> {
    (1..=upto).map(|number| number.to_string()).collect()
}

fn and(texts: &[String], more: &[&str]) -> Vec<String> {
    texts.iter().cloned().chain(more.iter().map(|text| (*text).to_owned())).collect()
}

fn without_marks(texts: Vec<String>) -> Vec<String> {
    texts.into_iter().filter(|text| !text.starts_with("restored from")).collect()
}

/// Every state that some file under `backups/kept` holds.
fn kept_states(disk: &SimDisk) -> Vec<Vec<String>> {
    let load = |path: &PathBuf| snapshot::load::<Toy>(disk, path).map(|(toy, _)| without_marks(toy.texts()));
    files(disk, "backups/kept").iter().filter_map(|path| load(path).ok()).collect()
}

/// A daemon on this disk with four backups, and eight entries of which two are not saved.
fn running(disk: &SimDisk) -> Daemon {
    let mut options = options();
    options.keep.max_backups = 4;
    let mut daemon = Daemon::start_with(&shared(disk), &options).unwrap();
    for number in 1..=6 {
        assert!(daemon.say(&number.to_string()));
        daemon.save("auto-save").unwrap();
    }
    assert!(daemon.say("7") && daemon.say("8"));
    daemon
}

/// The oldest backup, which holds two entries, and which rotation would delete next.
fn oldest(disk: &SimDisk) -> String {
    files(disk, "backups")[0].display().to_string()
}

/// How many operations that change the disk `act` takes.
fn changes(act: impl Fn(&mut Daemon, &str)) -> u64 {
    let disk = SimDisk::new();
    let mut daemon = running(&disk);
    let (backup, before) = (oldest(&disk), disk.changes());
    act(&mut daemon, &backup);
    disk.changes() - before
}

fn restored_and_edited(daemon: &mut Daemon, backup: &str) {
    daemon.restore(backup).unwrap();
    assert!(daemon.say("after"));
    daemon.save("auto-save").unwrap();
    assert!(daemon.say("later"));
}

#[test]
fn a_backup_is_restored_while_the_daemon_runs_and_what_was_newer_is_kept() {
    let disk = SimDisk::new();
    let mut daemon = running(&disk);
    let before = daemon.store.resume_point(&daemon.session);
    let switched = daemon.restore(&oldest(&disk)).unwrap();
    assert!(switched.kept.unwrap().starts_with("backups/kept/pre_restore_"));
    assert_eq!(without_marks(daemon.toy.texts()), numbers(2));
    assert_eq!(kept_states(&disk), [numbers(8)]);
    let after = daemon.store.resume_point(&daemon.session);
    assert_ne!(before.branch, after.branch);
    assert_eq!(after.runs, [(before.run, 9)], "no seq of before is one of this branch");
    assert!(daemon.say("after"));
    daemon.stop();
    let again = Daemon::start(&shared(&disk)).unwrap();
    assert_eq!(without_marks(again.toy.texts()), and(&numbers(2), &["after"]));
    assert_eq!(again.restored.unwrap().pre_restore, None, "restored twice");
    assert_eq!(again.store.resume_point(&again.session).branch, after.branch);
    let looked = hotset::storage::fsck::fsck(&disk).unwrap();
    assert_eq!(looked.condition, hotset::storage::fsck::Condition::Clean);
}

#[test]
fn one_can_go_back_and_forth_and_nothing_is_kept_twice() {
    let disk = SimDisk::new();
    let mut daemon = running(&disk);
    let kept = daemon.restore(&oldest(&disk)).unwrap().kept.unwrap();
    assert!(daemon.say("after"));
    let other = daemon.restore(&kept).unwrap().kept.unwrap();
    assert_eq!(without_marks(daemon.toy.texts()), numbers(8));
    assert!(daemon.say("9"));
    daemon.save_with("backup", true).unwrap();
    let newest = daemon.store.backups(&daemon.session).unwrap()[0].file.display().to_string();
    let switched = daemon.restore(&newest).unwrap();
    assert_eq!(switched.kept, None, "nothing is newer than that");
    daemon.restore(&other).unwrap();
    assert_eq!(without_marks(daemon.toy.texts()), and(&numbers(2), &["after"]));
    daemon.stop();
    let again = Daemon::start(&shared(&disk)).unwrap();
    assert_eq!(without_marks(again.toy.texts()), and(&numbers(2), &["after"]));
}

#[test]
fn a_session_in_which_nothing_has_happened_can_be_given_a_state_from_elsewhere() {
    let elsewhere = SimDisk::new();
    let daemon = running(&elsewhere);
    let bytes = read_all(&elsewhere, Path::new(&oldest(&elsewhere)), 1 << 20).unwrap();
    daemon.stop();
    let start = |disk: &SimDisk| {
        let daemon = Daemon::start(&shared(disk)).unwrap();
        let file = disk.open(Path::new("backups/snapshot_20250112_143225.bin"), Open::CreateNew).unwrap();
        file.write_at(0, &[&bytes]).unwrap();
        file.sync().unwrap();
        daemon
    };
    let disk = SimDisk::new();
    let (mut daemon, before) = (start(&disk), disk.changes());
    assert_eq!(daemon.restore(&oldest(&disk)).unwrap().kept, None);
    let total = disk.changes() - before;
    for number in sampled(1..=total, 60) {
        let disk = SimDisk::new();
        let mut daemon = start(&disk);
        disk.inject(Fault::CrashAfter(disk.changes() + number));
        let done = daemon.restore(&oldest(&disk));
        daemon.store.close(Duration::ZERO);
        for survival in [Survival::Nothing, Survival::Everything, Survival::Seed(number)] {
            let again = Daemon::start(&shared(&disk.crash_image(survival))).unwrap();
            let texts = without_marks(again.toy.texts());
            assert!(texts == numbers(2) || (done.is_err() && texts.is_empty()), "{number}, {survival:?}: {texts:?}");
        }
    }
}

#[test]
fn no_power_cut_during_a_live_restore_leaves_a_mixture_or_loses_either_side() {
    let total = changes(restored_and_edited);
    for number in sampled(1..=total, 60) {
        for after in [false, true] {
            let disk = SimDisk::new();
            let mut daemon = running(&disk);
            let backup = oldest(&disk);
            let at = disk.changes() + number;
            disk.inject(if after { Fault::CrashAfter(at) } else { Fault::CrashBefore(at) });
            let done = daemon.restore(&backup).is_ok();
            // What is acknowledged on the new branch is there as well.
            let acknowledged = done && daemon.say("after");
            let later = acknowledged && daemon.save("auto-save").is_ok() && daemon.say("later");
            daemon.store.close(Duration::ZERO);
            for survival in [Survival::Nothing, Survival::Everything, Survival::Seed(number)] {
                let what = format!("{number} of {total}, {after}, {survival:?}, {done}");
                let image = disk.crash_image(survival);
                let again = Daemon::start(&shared(&image)).unwrap_or_else(|error| panic!("{what}: {error}"));
                let texts = without_marks(again.toy.texts());
                let possible = [
                    (!done).then(|| numbers(8)),
                    (!acknowledged).then(|| numbers(2)),
                    (done && !later).then(|| and(&numbers(2), &["after"])),
                    acknowledged.then(|| and(&numbers(2), &["after", "later"])),
                ];
                assert!(possible.contains(&Some(texts.clone())), "{what}: {texts:?}");
                let kept = kept_states(&image).contains(&numbers(8));
                assert!(texts == numbers(8) || kept, "{what}: what was newer is not kept");
                again.store.close(Duration::ZERO);
            }
        }
    }
}

#[test]
fn an_error_during_a_live_restore_leaves_the_session_as_it_was() {
    let total = changes(|daemon, backup| drop(daemon.restore(backup).unwrap()));
    let mut failed = 0;
    for number in sampled(1..=total, 120) {
        for error in [InjectedError::Io, InjectedError::Full] {
            let disk = SimDisk::new();
            let mut daemon = running(&disk);
            let backup = oldest(&disk);
            disk.inject(Fault::Error(disk.changes() + number, error));
            let outcome = daemon.restore(&backup);
            let (base, what) = (
                if outcome.is_ok() { numbers(2) } else { numbers(8) },
                format!("{number} of {total}, {error:?}, {outcome:?}"),
            );
            failed += u64::from(outcome.is_err());
            let at_once = disk.crash_image(Survival::Nothing);
            daemon.say_at_last("after");
            assert_eq!(without_marks(daemon.toy.texts()), and(&base, &["after"]), "{what}");
            assert!(disk.stat(Path::new(&backup)).is_ok() || outcome.is_ok(), "{what}: the backup is gone");
            let later = disk.crash_image(Survival::Seed(number));
            assert!(daemon.save("auto-save").unwrap().published, "{what}");
            let saved = disk.crash_image(Survival::Nothing);
            // And it can be tried again.
            if outcome.is_err() {
                let kept = kept_states(&disk).len();
                // The save has deleted the oldest backup, as it should.
                daemon.restore(&oldest(&disk)).unwrap_or_else(|error| panic!("{what}, again: {error}"));
                assert!(kept <= 1, "{what}");
                assert!(kept_states(&disk).contains(&and(&base, &["after"])), "{what}");
            }
            daemon.stop();
            let looked = hotset::storage::fsck::fsck(&saved).unwrap().condition;
            assert!(looked <= hotset::storage::fsck::Condition::TornTail, "{what}: {looked:?}");
            for (image, texts) in
                [(at_once, base.clone()), (later, and(&base, &["after"])), (saved, and(&base, &["after"]))]
            {
                let again = Daemon::start(&shared(&image)).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(without_marks(again.toy.texts()), texts, "{what}");
                assert!(again.restored.is_some_and(|restored| restored.pre_restore.is_none()), "{what}");
                again.store.close(Duration::ZERO);
            }
        }
    }
    assert!(failed > total, "only {failed} of {total} failed");
}

#[test]
fn when_the_disk_fails_for_good_during_a_live_restore_one_of_both_states_is_there_and_the_other_is_kept() {
    let total = changes(|daemon, backup| drop(daemon.restore(backup).unwrap()));
    for number in sampled(1..=total, 60) {
        let disk = SimDisk::new();
        let mut daemon = running(&disk);
        let backup = oldest(&disk);
        disk.inject(Fault::ErrorsFrom(disk.changes() + number, InjectedError::Io));
        let done = daemon.restore(&backup).is_ok();
        daemon.store.close(Duration::ZERO);
        for survival in [Survival::Nothing, Survival::Everything, Survival::Seed(number)] {
            let image = disk.crash_image(survival);
            image.clear_faults();
            let again = Daemon::start(&shared(&image)).unwrap();
            let texts = without_marks(again.toy.texts());
            let kept = kept_states(&image).contains(&numbers(8));
            assert!(
                (texts == numbers(8) && !done) || (texts == numbers(2) && kept),
                "{number}, {survival:?}: {texts:?}"
            );
            again.store.close(Duration::ZERO);
        }
    }
}

#[test]
fn a_backup_that_is_not_whole_changes_nothing() {
    let disk = SimDisk::new();
    let daemon = running(&disk);
    let backup = oldest(&disk);
    disk.tamper(Path::new(&backup), 4300, b"damage");
    let before = disk.changes();
    for name in [backup.as_str(), "nothing.bin", "../outside.bin"] {
        assert!(daemon.store.choose::<Toy>(&daemon.session, &Source::Backup(name.into())).is_err(), "{name}");
    }
    assert_eq!(disk.changes(), before);
    assert!(daemon.store.backup(&daemon.session, "no-such-backup").is_err());
}

#[test]
fn a_snapshot_that_was_put_in_place_by_hand_is_neither_overwritten_nor_hidden_by_a_live_restore() {
    let disk = SimDisk::new();
    let mut daemon = running(&disk);
    let backups = files(&disk, "backups");
    let bytes = read_all(&disk, &backups[2], 1 << 20).unwrap();
    let file = disk.open(Path::new(LIVE), Open::Write).unwrap();
    file.set_len(0).unwrap();
    file.write_at(0, &[&bytes]).unwrap();
    file.sync().unwrap();
    let refused = daemon.restore(&oldest(&disk)).unwrap_err();
    assert!(refused.contains("a restore is pending already"), "{refused}");
    assert_eq!(read_all(&disk, Path::new(LIVE), 1 << 20).unwrap(), bytes);
    assert!(daemon.say("9"));
    daemon.stop();
    let again = Daemon::start(&shared(&disk)).unwrap();
    assert_eq!(without_marks(again.toy.texts()), numbers(4));
    assert!(kept_states(&disk).contains(&numbers(9)));
}

#[test]
fn one_session_of_several_is_restored_and_the_others_go_on() {
    let disk = SimDisk::new();
    let opened = recovery::open::<Toy>(&shared(&disk), &options()).unwrap();
    let name = SessionName::new("other").unwrap();
    opened.store.create_session(&name).unwrap();
    let store = Arc::clone(&opened.store);
    let mut default = Daemon::of(opened, &SessionName::default_session());
    let watch = Arc::new(crate::daemon::Watch::default());
    store.listen(&name, watch.clone());
    let mut other =
        Daemon { store, session: name.clone(), toy: Toy::default(), watch, restored: None, notes: Vec::new() };
    for number in ["1", "2", "3"] {
        assert!(default.say(number) && other.say(number));
        other.save("auto-save").unwrap();
    }
    let backup = files(&disk, "sessions/other/backups")[0].display().to_string();
    other.restore(&backup).unwrap();
    assert!(default.say("4") && other.say("after"));
    drop(other);
    default.stop();
    let opened = recovery::open::<Toy>(&shared(&disk), &options()).unwrap();
    let texts = |name: &SessionName| {
        let found = opened.sessions.iter().find(|session| session.name == *name).unwrap();
        let Outcome::Serving { machine, .. } = &found.outcome else { panic!("not serving") };
        without_marks(machine.texts())
    };
    assert_eq!(texts(&SessionName::default_session()), numbers(4));
    assert_eq!(texts(&name), ["1", "after"]);
}
