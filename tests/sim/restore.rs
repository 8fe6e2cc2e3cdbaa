//! Restores and recoveries, and power cuts in the middle of them.

use crate::daemon::{Daemon, options};
use crate::sampled;
use crate::toy::Toy;
use hotset::session::SessionName;
use hotset::storage::fsck::{self, Condition};
use hotset::storage::recovery::{self, Outcome};
use hotset::storage::restore::{self, RestoreError, Source};
use hotset::storage::snapshot;
use hotset::storage::vfs::{Fault, Open, SharedVfs, SimDisk, Survival, Vfs, read_all};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LIVE: &str = "session_snapshot.bin";

fn shared(disk: &SimDisk) -> SharedVfs {
    Arc::new(disk.clone())
}

fn default() -> SessionName {
    SessionName::default_session()
}

fn cp(disk: &SimDisk, from: &Path) {
    let bytes = read_all(disk, from, 1 << 30).unwrap();
    let file = disk.open(Path::new(LIVE), Open::Write).unwrap();
    file.set_len(0).unwrap();
    file.write_at(0, &[&bytes]).unwrap();
    file.sync().unwrap();
}

fn files(disk: &SimDisk, directory: &str) -> Vec<PathBuf> {
    let names = disk.list(Path::new(directory)).unwrap_or_default();
    names.iter().map(|name| Path::new(directory).join(name)).filter(|path| !disk.stat(path).unwrap().is_dir).collect()
}

/// Eleven saves of one entry each, so ten backups; two entries more, unsaved; stopped in order or by a power cut.
fn ten_backups(clean: bool) -> SimDisk {
    let disk = SimDisk::new();
    let mut options = options();
    options.keep.max_backups = 10;
    let mut daemon = Daemon::start_with(&shared(&disk), &options).unwrap();
    for number in 1..=11 {
        assert!(daemon.say(&number.to_string()));
        daemon.save("auto-save").unwrap();
    }
    assert!(daemon.say("12") && daemon.say("13"));
    if clean {
        daemon.save("shutdown").unwrap();
        daemon.stop();
        disk
    } else {
        let image = disk.crash_image(Survival::Nothing);
        daemon.store.close(Duration::ZERO);
        image
    }
}

fn numbers(upto: usize) -> Vec<String> {
    (1..=upto).map(|number| number.to_string()).collect()
}

fn without_marks(texts: Vec<String>) -> Vec<String> {
    texts.into_iter().filter(|text| !text.starts_with("restored from")).collect()
}

/// Every state that some file under `backups/kept` holds.
fn kept_states(disk: &SimDisk) -> Vec<Vec<String>> {
    let load = |path: &PathBuf| snapshot::load::<Toy>(disk, path).map(|(toy, _)| without_marks(toy.texts()));
    files(disk, "backups/kept").iter().filter_map(|path| load(path).ok()).collect()
}

#[test]
fn each_of_ten_backups_can_be_copied_back_and_nothing_newer_is_lost() {
    for clean in [true, false] {
        let before = ten_backups(clean);
        let backups = files(&before, "backups");
        assert_eq!(backups.len(), 10);
        for (index, backup) in backups.iter().enumerate() {
            let disk = before.fork();
            let contents: Vec<_> = backups.iter().map(|path| read_all(&disk, path, 1 << 20).unwrap()).collect();
            let expected = snapshot::load::<Toy>(&disk, backup).unwrap().0.texts();
            assert_eq!(expected, numbers(index + if clean { 2 } else { 1 }));
            cp(&disk, backup);
            let daemon = Daemon::start_with(&shared(&disk), &{
                let mut options = options();
                options.keep.max_backups = 20;
                options
            })
            .unwrap();
            assert_eq!(without_marks(daemon.toy.texts()), expected);
            assert!(kept_states(&disk).contains(&numbers(13)), "backup {index}: what was newer is not kept");
            for (path, content) in backups.iter().zip(&contents) {
                assert_eq!(read_all(&disk, path, 1 << 20).unwrap(), *content, "another backup changed");
            }
            daemon.stop();
            let again = Daemon::start(&shared(&disk)).unwrap();
            assert_eq!(without_marks(again.toy.texts()), expected);
            assert!(again.restored.unwrap().pre_restore.is_none(), "restored twice");
        }
    }
}

#[test]
fn no_power_cut_during_a_restore_loses_either_side() {
    let start = ten_backups(false);
    cp(&start, &files(&start, "backups")[4]);
    let probe = start.fork();
    Daemon::start(&shared(&probe)).unwrap().stop();
    let total = probe.changes() - start.changes();
    for number in sampled(1..=total, 30) {
        for fault in [Fault::CrashBefore(start.changes() + number), Fault::CrashAfter(start.changes() + number)] {
            let disk = start.fork();
            disk.inject(fault);
            if let Ok(daemon) = Daemon::start(&shared(&disk)) {
                daemon.store.close(Duration::ZERO);
            }
            for survival in [Survival::Nothing, Survival::Everything, Survival::Seed(number)] {
                let what = format!("{number} of {total}, {survival:?}");
                let image = disk.crash_image(survival);
                let daemon = Daemon::start(&shared(&image)).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(without_marks(daemon.toy.texts()), numbers(5), "{what}");
                assert!(kept_states(&image).contains(&numbers(13)), "{what}: what was newer is not kept");
                daemon.store.close(Duration::ZERO);
            }
        }
    }
}

#[test]
fn no_power_cut_during_the_first_restore_of_a_directory_loses_what_was_in_it() {
    let elsewhere = ten_backups(true);
    let start = SimDisk::new();
    let mut daemon = Daemon::start(&shared(&start)).unwrap();
    assert!((1..=3).all(|number| daemon.say(&number.to_string())));
    daemon.stop();
    let bytes = read_all(&elsewhere, Path::new(LIVE), 1 << 20).unwrap();
    let file = start.open(Path::new(LIVE), Open::CreateNew).unwrap();
    file.write_at(0, &[&bytes]).unwrap();
    file.sync().unwrap();
    start.sync_dir(Path::new("")).unwrap();
    let probe = start.fork();
    Daemon::start(&shared(&probe)).unwrap().stop();
    for number in 1..=probe.changes() - start.changes() {
        let disk = start.fork();
        disk.inject(Fault::CrashAfter(start.changes() + number));
        if let Ok(daemon) = Daemon::start(&shared(&disk)) {
            daemon.store.close(Duration::ZERO);
        }
        let image = disk.crash_image(Survival::Nothing);
        let daemon = Daemon::start(&shared(&image)).unwrap();
        assert_eq!(without_marks(daemon.toy.texts()), numbers(13), "{number}");
        assert!(kept_states(&image).contains(&numbers(3)), "{number}: what was newer is not kept");
        daemon.store.close(Duration::ZERO);
    }
}

#[test]
fn the_restore_command_does_the_same_and_is_atomic() {
    let start = ten_backups(false);
    let name = files(&start, "backups")[2].file_name().unwrap().to_str().unwrap().to_owned();
    let run =
        |disk: &SimDisk| restore::restore::<Toy>(&shared(disk), &default(), &Source::Backup(name.clone()), &options());
    let probe = start.fork();
    let opened = run(&probe).unwrap();
    let Outcome::Serving { machine, restored } = &opened.sessions[0].outcome else { panic!("not serving") };
    assert_eq!(without_marks(machine.texts()), numbers(3));
    assert!(restored.as_ref().unwrap().pre_restore.is_some());
    opened.store.close(Duration::ZERO);
    let total = probe.changes() - start.changes();
    for number in sampled(1..=total, 30) {
        let disk = start.fork();
        disk.inject(Fault::CrashAfter(start.changes() + number));
        if let Ok(opened) = run(&disk) {
            opened.store.close(Duration::ZERO);
        }
        for survival in [Survival::Nothing, Survival::Everything, Survival::Seed(number)] {
            let what = format!("{number} of {total}, {survival:?}");
            let image = disk.crash_image(survival);
            let daemon = Daemon::start(&shared(&image)).unwrap_or_else(|error| panic!("{what}: {error}"));
            let texts = without_marks(daemon.toy.texts());
            let newer_is_kept = kept_states(&image).contains(&numbers(13));
            assert!(texts == numbers(13) || (texts == numbers(3) && newer_is_kept), "{what}: {texts:?}");
            daemon.store.close(Duration::ZERO);
        }
    }
}

#[test]
fn the_current_backup_can_be_restored_too_and_drops_what_came_after() {
    let disk = ten_backups(false);
    let copy = Path::new("copy.bin");
    let bytes = read_all(&disk, Path::new(LIVE), 1 << 20).unwrap();
    disk.open(copy, Open::CreateNew).unwrap().write_at(0, &[&bytes]).unwrap();
    let source = Source::File(shared(&disk), copy.into());
    let opened = restore::restore::<Toy>(&shared(&disk), &default(), &source, &options()).unwrap();
    let texts = opened.sessions[0].outcome.machine().unwrap().texts();
    assert_eq!(without_marks(texts), numbers(11));
    assert!(kept_states(&disk).contains(&numbers(13)));
}

#[test]
fn a_damaged_or_unknown_backup_is_not_restored_and_nothing_changes() {
    let disk = ten_backups(true);
    let backup = files(&disk, "backups").remove(3);
    disk.tamper(&backup, 4300, b"damage");
    let live = read_all(&disk, Path::new(LIVE), 1 << 20).unwrap();
    let name = backup.file_name().unwrap().to_str().unwrap().to_owned();
    for name in [name, "nothing.bin".into(), "../outside.bin".into(), "/etc/passwd".into()] {
        let refused = restore::restore::<Toy>(&shared(&disk), &default(), &Source::Backup(name), &options());
        assert!(matches!(refused, Err(RestoreError::Source { .. } | RestoreError::Io(_))));
    }
    assert_eq!(read_all(&disk, Path::new(LIVE), 1 << 20).unwrap(), live);
    assert_eq!(fsck::fsck(&disk).unwrap().condition, Condition::Corrupt);
    assert_eq!(fsck::list_backups(&disk, &default()).unwrap().len(), 10);
}

/// As [`ten_backups`], with the last two entries damaged on disk.
fn damaged() -> SimDisk {
    let disk = ten_backups(true);
    let segment =
        files(&disk, "journal").into_iter().rfind(|path| path.extension().is_some_and(|e| e == "seg")).unwrap();
    let mut daemon = Daemon::start(&shared(&disk)).unwrap();
    assert!(daemon.say("fourteen") && daemon.say("fifteen"));
    daemon.stop();
    let newest =
        files(&disk, "journal").into_iter().rfind(|path| path.extension().is_some_and(|e| e == "seg")).unwrap();
    assert_ne!(segment, newest);
    let bytes = read_all(&disk, &newest, 1 << 20).unwrap();
    let at = bytes.windows(8).position(|window| window == b"fourteen").unwrap();
    disk.tamper(&newest, at as u64, b"FOUR");
    disk
}

#[test]
fn damage_is_left_behind_only_after_a_confirmation_that_fits_it() {
    let disk = damaged();
    assert!(matches!(restore::accept_loss::<Toy>(&shared(&disk), "0123", &options()), Err(RestoreError::WrongToken)));
    let loss = restore::assess_loss::<Toy>(&shared(&disk)).unwrap();
    assert_eq!(loss.sessions.len(), 1);
    assert!(loss.sessions[0].damage.as_ref().unwrap().contains("events 14..=15"), "{loss:?}");
    let total = {
        let probe = disk.fork();
        let opened = restore::accept_loss::<Toy>(&shared(&probe), &loss.token, &options()).unwrap();
        let texts = opened.sessions[0].outcome.machine().unwrap().texts();
        assert_eq!(without_marks(texts), numbers(13));
        opened.store.close(Duration::ZERO);
        assert!(probe.list(Path::new("quarantine")).unwrap()[0].to_str().unwrap().ends_with("_damaged_journal"));
        assert!(matches!(restore::assess_loss::<Toy>(&shared(&probe)), Err(RestoreError::NothingToRecover)));
        Daemon::start(&shared(&probe)).unwrap().stop();
        probe.changes() - disk.changes()
    };
    for number in sampled(1..=total, 25) {
        let image = disk.fork();
        image.inject(Fault::CrashAfter(disk.changes() + number));
        if let Ok(opened) = restore::accept_loss::<Toy>(&shared(&image), &loss.token, &options()) {
            opened.store.close(Duration::ZERO);
        }
        for survival in [Survival::Nothing, Survival::Everything, Survival::Seed(number)] {
            let after = image.crash_image(survival);
            let opened = recovery::open::<Toy>(&shared(&after), &options()).unwrap();
            let texts = opened.sessions[0].outcome.machine().map(Toy::texts).unwrap();
            assert_eq!(without_marks(texts), numbers(13), "{number} of {total}, {survival:?}");
            opened.store.close(Duration::ZERO);
        }
    }
}
