//! What the next start makes of what the last one, the disk and the operator left behind.

use crate::daemon::{Daemon, options};
use crate::toy::Toy;
use hotset::session::SessionName;
use hotset::storage::recovery::{self, OpenError, Outcome};
use hotset::storage::vfs::{Fault, InjectedError, Open, RealVfs, SharedVfs, SimDisk, Survival, Vfs, read_all};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LIVE: &str = "session_snapshot.bin";

fn disk() -> (SimDisk, SharedVfs) {
    let disk = SimDisk::new();
    {
        let shared = Arc::new(disk.clone());
        (disk, shared)
    }
}

/// Overwrites in place, as `cp` does: the inode stays.
fn cp(vfs: &dyn Vfs, from: &Path, to: &Path) {
    let bytes = read_all(vfs, from, 1 << 30).unwrap();
    let file = match vfs.open(to, Open::Write) {
        Ok(file) => file,
        Err(_) => vfs.open(to, Open::CreateNew).unwrap(),
    };
    file.set_len(0).unwrap();
    file.write_at(0, &[&bytes]).unwrap();
    file.sync().unwrap();
    vfs.sync_dir(Path::new("")).unwrap();
}

fn backups(vfs: &dyn Vfs, directory: &str) -> Vec<PathBuf> {
    let names = vfs.list(Path::new(directory)).unwrap_or_default();
    names.iter().map(|name| Path::new(directory).join(name)).filter(|path| !vfs.stat(path).unwrap().is_dir).collect()
}

/// Every file with its content.
fn all_files(vfs: &dyn Vfs, directory: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for name in vfs.list(directory).unwrap() {
        let path = directory.join(name);
        if vfs.stat(&path).unwrap().is_dir {
            all_files(vfs, &path, into);
        } else if path != Path::new("LOCK") {
            into.insert(path.clone(), read_all(vfs, &path, 1 << 30).unwrap());
        }
    }
}

fn image(vfs: &dyn Vfs) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    all_files(vfs, Path::new(""), &mut files);
    files
}

fn outcome(vfs: &SharedVfs) -> Outcome<Toy> {
    let opened = recovery::open::<Toy>(vfs, &options()).unwrap();
    opened.sessions.into_iter().find(|session| session.name.is_default()).unwrap().outcome
}

/// A directory in which `one` to `six` were said, with saves between, the last two unsaved.
fn used() -> (SimDisk, SharedVfs) {
    let (sim, vfs) = disk();
    let mut daemon = Daemon::start(&vfs).unwrap();
    for (text, save) in
        [("one", true), ("two", false), ("three", true), ("four", true), ("five", false), ("six", false)]
    {
        assert!(daemon.say(text));
        if save {
            assert!(daemon.save("auto-save").unwrap().published);
        }
    }
    daemon.stop();
    (sim, vfs)
}

const ALL: [&str; 6] = ["one", "two", "three", "four", "five", "six"];

#[test]
fn a_directory_on_real_files_comes_back_after_a_clean_stop() {
    let folder = tempfile::tempdir().unwrap();
    let vfs: SharedVfs = Arc::new(RealVfs::new(folder.path().join("data")));
    let mut daemon = Daemon::start(&vfs).unwrap();
    assert!(daemon.restored.is_none());
    for text in ALL {
        assert!(daemon.say(text));
        assert!(daemon.save("auto-save").unwrap().published);
    }
    assert_eq!(vfs.stat(Path::new(LIVE)).unwrap().links, 1);
    assert_eq!(backups(&*vfs, "backups").len(), 3);
    assert!(matches!(Daemon::start(&vfs), Err(OpenError::Locked { pid: Some(_), .. })));
    daemon.stop();
    let daemon = Daemon::start(&vfs).unwrap();
    assert_eq!(daemon.toy.texts(), ALL);
    let restored = daemon.restored.clone().unwrap();
    assert_eq!((restored.seq, restored.replayed), (6, 0));
    let metadata = std::fs::read_to_string(folder.path().join("data/session_metadata.json")).unwrap();
    assert!(metadata.contains("\"reason\": \"auto-save\""), "{metadata}");
    daemon.stop();
}

#[test]
fn what_was_not_saved_is_replayed() {
    let (_, vfs) = used();
    let daemon = Daemon::start(&vfs).unwrap();
    assert_eq!(daemon.toy.texts(), ALL);
    assert_eq!(daemon.restored.unwrap().replayed, 2);
}

#[test]
fn a_missing_snapshot_costs_nothing() {
    let (_, vfs) = used();
    vfs.unlink(Path::new(LIVE)).unwrap();
    let daemon = Daemon::start(&vfs).unwrap();
    assert_eq!(daemon.toy.texts(), ALL);
    assert!(vfs.stat(Path::new(LIVE)).is_ok());
    daemon.stop();
    assert_eq!(Daemon::start(&vfs).unwrap().toy.texts(), ALL);
}

#[test]
fn a_rotten_snapshot_costs_nothing_and_is_kept_for_inspection() {
    let (sim, vfs) = used();
    sim.tamper(Path::new(LIVE), 4200, b"rot");
    let rotten = read_all(&*vfs, Path::new(LIVE), 1 << 20).unwrap();
    let daemon = Daemon::start(&vfs).unwrap();
    assert_eq!(daemon.toy.texts(), ALL);
    assert_eq!(daemon.notes.len(), 1);
    let after = image(&*vfs);
    assert!(after.iter().any(|(path, bytes)| path.starts_with("quarantine") && *bytes == rotten));
}

#[test]
fn a_rotten_snapshot_is_kept_for_inspection_through_a_power_cut() {
    let (sim, vfs) = used();
    sim.tamper(Path::new(LIVE), 4200, b"rot");
    let rotten = read_all(&*vfs, Path::new(LIVE), 1 << 20).unwrap();
    drop(Daemon::start(&vfs).unwrap());
    let after = image(&sim.crash_image(Survival::Nothing));
    assert!(after.iter().any(|(path, bytes)| path.starts_with("quarantine") && *bytes == rotten));
}

#[test]
fn a_cut_copy_over_the_snapshot_is_refused_and_nothing_changes() {
    let (_, vfs) = used();
    let backup = backups(&*vfs, "backups").remove(0);
    cp(&*vfs, &backup, Path::new(LIVE));
    let len = vfs.stat(Path::new(LIVE)).unwrap().len;
    vfs.open(Path::new(LIVE), Open::Write).unwrap().set_len(len - 5000).unwrap();
    let before = image(&*vfs);
    let Outcome::Refused { reason, command } = outcome(&vfs) else { panic!("served") };
    assert!(reason.contains("changed by hand"), "{reason}");
    assert!(command.starts_with("cp ") && command.contains("backups/snapshot_"), "{command}");
    assert_eq!(image(&*vfs), before);
    // The command works.
    cp(&*vfs, &backup, Path::new(LIVE));
    assert_eq!(Daemon::start(&vfs).unwrap().toy.texts()[0], "one");
}

#[test]
fn a_backup_copied_over_the_snapshot_is_restored_and_what_was_newer_is_kept() {
    let (_, vfs) = used();
    let oldest = backups(&*vfs, "backups").remove(0);
    cp(&*vfs, &oldest, Path::new(LIVE));
    let mut daemon = Daemon::start(&vfs).unwrap();
    let texts = daemon.toy.texts();
    assert_eq!(texts[0], "one");
    assert!(texts[1].starts_with("restored from the snapshot of 2025-01-12T"), "{texts:?}");
    let restored = daemon.restored.clone().unwrap();
    assert_eq!(restored.seq, 7);
    let kept = restored.pre_restore.unwrap();
    assert!(daemon.say("after"));
    daemon.stop();
    let daemon = Daemon::start(&vfs).unwrap();
    assert_eq!(daemon.toy.texts().len(), 3);
    daemon.stop();
    // And back again.
    cp(&*vfs, Path::new(&kept), Path::new(LIVE));
    let daemon = Daemon::start(&vfs).unwrap();
    assert_eq!(daemon.toy.texts()[..6], ALL);
    assert_eq!(daemon.toy.texts().len(), 7);
}

#[test]
fn a_restore_while_the_daemon_runs_is_not_overwritten() {
    let (_, vfs) = used();
    let mut daemon = Daemon::start(&vfs).unwrap();
    let oldest = backups(&*vfs, "backups").remove(0);
    let wanted = read_all(&*vfs, &oldest, 1 << 20).unwrap();
    cp(&*vfs, &oldest, Path::new(LIVE));
    for text in ["seven", "eight"] {
        assert!(daemon.say(text));
        let saved = daemon.save("auto-save").unwrap();
        assert!(!saved.published);
        assert!(saved.file.starts_with("backups/kept/pre_restore_"), "{}", saved.file);
    }
    assert!(daemon.say("nine"));
    daemon.stop();
    assert_eq!(read_all(&*vfs, Path::new(LIVE), 1 << 20).unwrap(), wanted);
    assert_eq!(read_all(&*vfs, &oldest, 1 << 20).unwrap(), wanted);
    assert_eq!(backups(&*vfs, "backups/kept").len(), 1);
    let daemon = Daemon::start(&vfs).unwrap();
    assert_eq!(daemon.toy.texts()[0], "one");
    assert_eq!(daemon.toy.texts().len(), 2);
    let kept = daemon.restored.unwrap().pre_restore.unwrap();
    let (kept, _) = hotset::storage::snapshot::load::<Toy>(&*vfs, Path::new(&kept)).unwrap();
    assert_eq!(kept.texts().len(), 9);
}

#[test]
fn a_snapshot_without_its_journal_is_a_machine_that_moved() {
    let (_, old) = used();
    let (_, vfs) = disk();
    let bytes = read_all(&*old, Path::new(LIVE), 1 << 20).unwrap();
    let file = vfs.open(Path::new(LIVE), Open::CreateNew).unwrap();
    file.write_at(0, &[&bytes]).unwrap();
    let daemon = Daemon::start(&vfs).unwrap();
    assert_eq!(daemon.toy.texts()[..4], ALL[..4]);
    assert_eq!(daemon.toy.texts().len(), 5);
    daemon.stop();
    assert_eq!(Daemon::start(&vfs).unwrap().toy.texts().len(), 5);
}

#[test]
fn a_directory_with_only_backups_is_refused() {
    let (_, old) = used();
    let (_, vfs) = disk();
    vfs.create_dir(Path::new("backups")).unwrap();
    let backup = backups(&*old, "backups").remove(0);
    let bytes = read_all(&*old, &backup, 1 << 20).unwrap();
    vfs.open(&backup, Open::CreateNew).unwrap().write_at(0, &[&bytes]).unwrap();
    assert!(matches!(outcome(&vfs), Outcome::Refused { .. }));
}

#[test]
fn a_directory_whose_files_were_all_removed_but_state_does_not_begin_with_nothing() {
    let (_, old) = used();
    let (_, vfs) = disk();
    let bytes = read_all(&*old, Path::new("STATE"), 1 << 20).unwrap();
    vfs.open(Path::new("STATE"), Open::CreateNew).unwrap().write_at(0, &[&bytes]).unwrap();
    assert!(matches!(outcome(&vfs), Outcome::Refused { .. }));
}

#[test]
fn when_everything_is_damaged_nobody_is_served_and_nothing_is_changed() {
    let (sim, vfs) = used();
    for path in image(&*vfs).keys() {
        sim.tamper(path, 100, b"damage");
        sim.tamper(path, 4100, b"damage");
    }
    let before = image(&*vfs);
    assert!(matches!(outcome(&vfs), Outcome::Refused { .. }));
    assert_eq!(image(&*vfs), before);
}

#[test]
fn damaged_acknowledged_events_make_the_session_read_only() {
    let (sim, vfs) = used();
    let segments = backups(&*vfs, "journal");
    let newest = segments.iter().rfind(|path| path.extension().is_some_and(|e| e == "seg")).unwrap();
    let bytes = read_all(&*vfs, newest, 1 << 20).unwrap();
    let at = bytes.windows(4).position(|window| window == b"five").unwrap();
    sim.tamper(newest, at as u64, b"FIVE");
    let before = image(&*vfs);
    let Outcome::ReadOnly { machine, damage, command, .. } = outcome(&vfs) else { panic!("not read-only") };
    assert_eq!(machine.texts(), ALL[..4]);
    assert!(damage.contains("events 5..=6"), "{damage}");
    assert!(command.contains("recover"), "{command}");
    assert_eq!(image(&*vfs), before);
    // A restore by hand is a way out as well.
    let backup = backups(&*vfs, "backups").remove(0);
    cp(&*vfs, &backup, Path::new(LIVE));
    let daemon = Daemon::start(&vfs).unwrap();
    assert_eq!(daemon.toy.texts()[0], "one");
    let kept = daemon.restored.unwrap().pre_restore.unwrap();
    let (kept, _) = hotset::storage::snapshot::load::<Toy>(&*vfs, Path::new(&kept)).unwrap();
    assert_eq!(kept.texts(), ALL[..4]);
}

#[test]
fn starts_of_an_empty_session_write_no_snapshot() {
    let (_, vfs) = disk();
    Daemon::start(&vfs).unwrap().stop();
    for _ in 0..2 {
        let daemon = Daemon::start(&vfs).unwrap();
        let restored = daemon.restored.clone().unwrap();
        assert_eq!((restored.seq, restored.saved), (0, 0));
        daemon.stop();
        assert!(vfs.stat(Path::new(LIVE)).is_err());
        assert!(backups(&*vfs, "backups").is_empty());
    }
    let mut daemon = Daemon::start(&vfs).unwrap();
    assert!(daemon.say("something"));
    daemon.stop();
    let restored = Daemon::start(&vfs).unwrap().restored.unwrap();
    assert_eq!((restored.seq, restored.saved), (1, 1), "what is saved at the start needs no other save");
}

#[test]
fn a_restored_snapshot_is_reported_as_it_was_made() {
    let (_, vfs) = used();
    let oldest = backups(&*vfs, "backups").remove(0);
    cp(&*vfs, &oldest, Path::new(LIVE));
    let restored = Daemon::start(&vfs).unwrap().restored.unwrap();
    assert_eq!(restored.summary.nodes, 1, "the mark of the restore is not counted");
}

#[test]
fn a_start_on_a_full_disk_says_where() {
    let (used, _) = used();
    for operation in 5..40 {
        let sim = used.fork();
        sim.inject(Fault::ErrorsFrom(sim.changes() + operation, InjectedError::Full));
        let vfs: SharedVfs = Arc::new(sim);
        let Err(error) = Daemon::start(&vfs) else { continue };
        let (place, said) = (vfs.display(Path::new("")), error.to_string());
        assert!(said.contains(&place), "operation {operation}: {said}");
    }
}

#[test]
fn a_session_that_needs_repair_is_not_covered_by_an_empty_one() {
    let (_, vfs) = disk();
    let daemon = Daemon::start(&vfs).unwrap();
    let other = SessionName::new("other").unwrap();
    daemon.store.create_session(&other).unwrap();
    let watch = Arc::new(crate::daemon::Watch::default());
    hotset::storage::Store::listen(&*daemon.store, &other, watch.clone());
    let mut second = Daemon { session: other.clone(), toy: Toy::default(), watch, ..daemon };
    assert!(second.say("there"));
    assert!(second.save("auto-save").unwrap().published);
    second.stop();
    let live = Path::new("sessions/other/session_snapshot.bin");
    let bytes = read_all(&*vfs, live, 1 << 20).unwrap();
    vfs.open(live, Open::Write).unwrap().set_len(bytes.len() as u64 - 100).unwrap();
    let opened = recovery::open::<Toy>(&vfs, &options()).unwrap();
    assert!(matches!(opened.sessions[1].outcome, Outcome::Refused { .. }));
    assert!(opened.store.create_session(&other).is_err());
    assert!(hotset::storage::Store::create_session(&*opened.store, &other).is_err());
    opened.store.forget_session(&other).unwrap();
    opened.store.create_session(&other).unwrap();
}

#[test]
fn the_past_is_that_of_the_current_branch_and_is_not_read_further_than_wanted() {
    let (_, vfs) = used();
    let oldest = backups(&*vfs, "backups").remove(0);
    cp(&*vfs, &oldest, Path::new(LIVE));
    let mut daemon = Daemon::start(&vfs).unwrap();
    assert!(daemon.say("after"));
    let past = |first: u64, most: usize| {
        let mut seen = Vec::new();
        daemon.store.past(&daemon.session, first, 8, &mut |seq, body| {
            seen.push((seq, body.to_vec()));
            if seen.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        seen
    };
    assert_eq!(past(1, 9).iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [7, 8]);
    assert_eq!(past(8, 9), [(8, b"after".to_vec())]);
    assert_eq!(past(1, 1).len(), 1);
}

#[test]
fn sessions_are_kept_apart() {
    let (sim, vfs) = disk();
    let mut daemon = Daemon::start(&vfs).unwrap();
    let other = SessionName::new("other").unwrap();
    daemon.store.create_session(&other).unwrap();
    assert!(daemon.store.create_session(&other).is_err());
    assert!(daemon.say("here"));
    let watch = Arc::new(crate::daemon::Watch::default());
    let store = Arc::clone(&daemon.store);
    hotset::storage::Store::listen(&*store, &other, watch.clone());
    let mut second = Daemon { session: other, toy: Toy::default(), watch, ..daemon };
    assert!(second.say("there"));
    assert!(second.save("auto-save").unwrap().published);
    assert!(second.say("everywhere"));
    let after: SharedVfs = Arc::new(sim.crash_image(Survival::Nothing));
    let opened = recovery::open::<Toy>(&after, &options()).unwrap();
    let texts: Vec<_> = opened.sessions.iter().map(|s| s.outcome.machine().unwrap().texts()).collect();
    assert_eq!(texts, [vec!["here"], vec!["there", "everywhere"]]);
    assert!(after.stat(Path::new("sessions/other/session_snapshot.bin")).is_ok());
}
