//! Saves: what they leave on disk, what they say, what they never touch.

use crate::daemon::{Daemon, Watch, now, options};
use crate::toy::Toy;
use hotset::session::SessionName;
use hotset::storage::fsck::{self, Condition};
use hotset::storage::vfs::{
    Fault, InjectedError, Open, OperationKind, RealVfs, SharedVfs, SimDisk, Survival, Vfs, read_all,
};
use hotset::storage::{Machine, SaveJob, SaveOutcome, SaveState, Sections, Store, Summary, pinning, snapshot};
use std::fmt::Debug;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const LIVE: &str = "session_snapshot.bin";

fn disk() -> (SimDisk, SharedVfs) {
    let disk = SimDisk::new();
    let shared = Arc::new(disk.clone());
    (disk, shared)
}

fn files(disk: &SimDisk, directory: &str) -> Vec<PathBuf> {
    let names = disk.list(Path::new(directory)).unwrap_or_default();
    names.iter().map(|name| Path::new(directory).join(name)).filter(|path| !disk.stat(path).unwrap().is_dir).collect()
}

/// A daemon that has saved `count` entries, one each.
fn saved(vfs: &SharedVfs, count: usize) -> Daemon {
    let mut daemon = Daemon::start(vfs).unwrap();
    for number in 1..=count {
        assert!(daemon.say(&number.to_string()));
        daemon.save("auto-save").unwrap();
    }
    daemon
}

/// Log lines of all threads of this process, with their level.
static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static LISTEN: Once = Once::new();

struct Listener;

impl<S: tracing::Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct Message(String, bool);
        impl Visit for Message {
            fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
                self.1 |= field.name() == "dur_ms";
            }
        }
        let mut message = Message(String::new(), false);
        event.record(&mut message);
        let timed = if message.1 { " (timed)" } else { "" };
        LINES.lock().unwrap().push(format!("{} {}{timed}", event.metadata().level(), message.0));
    }
}

fn listen() {
    LISTEN.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Listener)).unwrap();
    });
}

fn lines_with(text: &str) -> Vec<String> {
    LINES.lock().unwrap().iter().filter(|line| line.contains(text)).cloned().collect()
}

#[test]
fn each_reason_gets_one_exact_line_and_a_failure_says_why() {
    listen();
    let (sim, vfs) = disk();
    let mut daemon = Daemon::start(&vfs).unwrap();
    let (tell, told) = channel();
    for number in 0..20 {
        assert!(daemon.say("x"));
        let tell = tell.clone();
        daemon.store.save(SaveJob {
            session: daemon.session.clone(),
            state: Box::new(daemon.toy.clone()),
            reasons: vec![format!("user_disconnect:Reason{number:02}")],
            at: now(),
            also_backup: false,
            done: Box::new(move |outcome| tell.send(outcome).unwrap()),
        });
    }
    for _ in 0..20 {
        assert!(told.recv().unwrap().unwrap().published);
    }
    for number in 0..20 {
        let expected = format!("INFO Session saved to disk (reason: user_disconnect:Reason{number:02}) (timed)");
        assert_eq!(lines_with(&format!("Reason{number:02}")), [expected]);
    }
    assert!(daemon.say("unsaved"));
    let before = read_all(&sim, Path::new(LIVE), 1 << 20).unwrap();
    sim.inject(Fault::ErrorsFrom(sim.changes() + 3, InjectedError::Full));
    let why = daemon.save("user_disconnect:Unlucky").unwrap_err();
    sim.clear_faults();
    assert!(lines_with("Unlucky").is_empty());
    assert_eq!(lines_with(&format!("Failed to save: {why}")), [format!("ERROR Failed to save: {why}")]);
    assert_eq!(read_all(&sim, Path::new(LIVE), 1 << 20).unwrap(), before);
    daemon.save("user_disconnect:Lucky").unwrap();
    assert!(!files(&sim, "").iter().any(|path| path.extension().is_some_and(|e| e == "tmp")));
    assert_eq!(lines_with("Lucky").len(), 1);
}

#[test]
fn nothing_is_written_when_nothing_changed() {
    listen();
    let (sim, vfs) = disk();
    let mut patient = options();
    patient.keep.history = Duration::from_hours(1);
    let mut daemon = Daemon::start_with(&vfs, &patient).unwrap();
    assert!(daemon.say("something"));
    daemon.save("auto-save").unwrap();
    let before = sim.changes();
    assert!(daemon.save("user_disconnect:Idle").unwrap().published);
    assert_eq!(sim.changes(), before);
    assert!(lines_with("Idle").is_empty());
}

#[test]
fn a_backup_on_request_exists_at_once_and_only_once() {
    let (sim, vfs) = disk();
    let mut daemon = saved(&vfs, 1);
    assert!(files(&sim, "backups").is_empty());
    for _ in 0..2 {
        daemon.save_with("backup", true).unwrap();
    }
    assert_eq!(files(&sim, "backups").len(), 1);
    assert_eq!(
        read_all(&sim, &files(&sim, "backups")[0], 1 << 20).unwrap(),
        read_all(&sim, Path::new(LIVE), 1 << 20).unwrap()
    );
    assert!(daemon.say("more"));
    daemon.save("auto-save").unwrap();
    assert_eq!(files(&sim, "backups").len(), 1, "the same snapshot is a backup already");
}

/// A state that is being written until it is told to go on.
struct Slow {
    toy: Toy,
    begun: Sender<()>,
    go_on: Receiver<()>,
}

impl SaveState for Slow {
    fn write_sections(&self, out: &mut dyn Sections) -> io::Result<()> {
        self.begun.send(()).unwrap();
        self.go_on.recv().unwrap();
        Machine::write_sections(&self.toy, out)
    }
    fn seq(&self) -> u64 {
        Machine::seq(&self.toy)
    }
    fn summary(&self) -> Summary {
        Machine::summary(&self.toy)
    }
}

#[test]
fn a_session_can_be_made_while_another_one_is_being_saved() {
    let (_, vfs) = disk();
    let mut daemon = Daemon::start(&vfs).unwrap();
    assert!(daemon.say("large"));
    let ((begun, has_begun), (tell_on, go_on), (tell, told)) = (channel(), channel(), channel());
    let toy = daemon.toy.clone();
    daemon.store.save(SaveJob {
        session: daemon.session.clone(),
        state: Box::new(Slow { toy, begun, go_on }),
        reasons: vec!["auto-save".into()],
        at: now(),
        also_backup: false,
        done: Box::new(move |outcome| tell.send(outcome).unwrap()),
    });
    has_begun.recv().unwrap();
    let (store, (made, is_made)) = (Arc::clone(&daemon.store), channel());
    let making = std::thread::spawn(move || made.send(store.create_session(&SessionName::new("new").unwrap())));
    let answer = is_made.recv_timeout(Duration::from_secs(20));
    tell_on.send(()).unwrap();
    answer.expect("it does not wait for the save").unwrap();
    making.join().unwrap().unwrap();
    assert!(told.recv().unwrap().unwrap().published);
}

#[test]
fn metadata_describes_the_newest_save() {
    let (sim, vfs) = disk();
    let daemon = saved(&vfs, 2);
    let saved = daemon.save("auto-save").unwrap();
    let text = read_all(&sim, Path::new("session_metadata.json"), 1 << 20).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["timestamp", "datetime", "reason", "user_count", "node_count", "task_count", "message_count"];
    assert_eq!(keys, [&expected[..], &["seq", "bytes", "checksum", "format"]].concat());
    assert_eq!((json["node_count"].as_u64(), json["bytes"].as_u64()), (Some(2), Some(saved.bytes)));
    assert!(json["timestamp"].is_f64());
    assert_eq!(json["datetime"].as_str().unwrap().len(), "2025-01-12T14:32:25".len());
    let root = snapshot::verify(&sim, Path::new(LIVE)).unwrap().root;
    assert_eq!(json["checksum"].as_str().unwrap(), root.to_hex().as_str());
}

#[test]
fn rotation_keeps_the_newest_whole_backups_and_nothing_of_others() {
    let (sim, vfs) = disk();
    let mut daemon = saved(&vfs, 4);
    let backups = files(&sim, "backups");
    assert_eq!(backups.len(), 3);
    // Rot that this run cannot know of: the two newest. And a file of somebody else.
    daemon.store.close(Duration::from_secs(9));
    for path in &backups[1..] {
        sim.tamper(path, 4200, b"rot");
    }
    sim.open(Path::new("backups/notes.txt"), Open::CreateNew).unwrap().write_at(0, &[b"mine"]).unwrap();
    daemon = Daemon::start(&vfs).unwrap();
    for text in ["5", "6"] {
        assert!(daemon.say(text));
        daemon.save("auto-save").unwrap();
    }
    let left = files(&sim, "backups");
    assert!(left.contains(&backups[0]), "the last old backup that is whole was deleted");
    assert!(!left.contains(&backups[1]) && !left.contains(&backups[2]));
    assert!(left.contains(&PathBuf::from("backups/notes.txt")));
    let quarantined = sim.list(Path::new("quarantine")).unwrap();
    assert!(quarantined.iter().all(|name| name.to_str().unwrap().ends_with("_damaged_backup")));
    // Backups may vanish at any time.
    for path in files(&sim, "backups") {
        sim.unlink(&path).unwrap();
    }
    for text in ["7", "8", "9", "10", "11"] {
        assert!(daemon.say(text));
        daemon.save("auto-save").unwrap();
        assert_eq!(sim.stat(Path::new(LIVE)).unwrap().links, 1);
    }
    assert_eq!(files(&sim, "backups").len(), 3);
}

#[test]
fn with_the_newest_backups_damaged_and_the_snapshot_gone_the_next_one_is_used() {
    for damaged in 0..3 {
        let (sim, vfs) = disk();
        let mut options = options();
        options.keep.history = Duration::from_hours(1);
        let mut daemon = Daemon::start_with(&vfs, &options).unwrap();
        for number in 1..=4 {
            assert!(daemon.say(&number.to_string()));
            daemon.save("auto-save").unwrap();
        }
        daemon.store.close(Duration::from_secs(9));
        for path in files(&sim, "backups").iter().rev().take(damaged) {
            sim.tamper(path, 4200, b"rot");
        }
        sim.unlink(Path::new(LIVE)).unwrap();
        assert_eq!(Daemon::start(&vfs).unwrap().toy.texts(), ["1", "2", "3", "4"], "{damaged} damaged");
    }
}

#[test]
fn a_backup_is_durable_before_the_journal_lets_go_of_what_led_to_it() {
    let (sim, vfs) = disk();
    let mut options = options();
    options.keep.max_backups = 20;
    let mut daemon = Daemon::start_with(&vfs, &options).unwrap();
    for round in 0..12 {
        for part in 0..25 {
            daemon.send(&format!("{round} {part} {}", "x".repeat(3900)));
        }
        assert!(daemon.acknowledged());
        daemon.save("auto-save").unwrap();
    }
    let image = sim.crash_image(Survival::Nothing);
    let segments = files(&image, "journal").iter().filter(|path| path.extension().is_some_and(|e| e == "seg")).count();
    assert!(segments < 5, "the journal lets go of nothing: {segments} segments");
    image.tamper(Path::new(LIVE), 4096, b"rot");
    let shared: SharedVfs = Arc::new(image);
    assert!(Daemon::start(&shared).unwrap().toy.texts() == daemon.toy.texts());
}

#[test]
fn something_else_in_place_of_the_backups_folder_does_not_stop_saves() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let vfs: SharedVfs = Arc::new(RealVfs::new(data.clone()));
    let mut daemon = saved(&vfs, 2);
    std::fs::rename(data.join("backups"), folder.path().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), data.join("backups")).unwrap();
    assert!(daemon.say("3"));
    assert!(daemon.save("auto-save").unwrap().published);
    assert_eq!(std::fs::read_dir(folder.path().join("elsewhere")).unwrap().count(), 2, "the link was followed");
    assert!(daemon.say("4"));
    daemon.stop();
}

#[test]
fn an_idle_session_does_not_pin_the_journal() {
    let (sim, vfs) = disk();
    let mut daemon = Daemon::start(&vfs).unwrap();
    let other = SessionName::new("idle").unwrap();
    daemon.store.create_session(&other).unwrap();
    let watch = Arc::new(Watch::default());
    daemon.store.listen(&other, watch.clone());
    let store = Arc::clone(&daemon.store);
    let mut idle = Daemon { store, session: other, toy: Toy::default(), watch, restored: None, notes: Vec::new() };
    assert!(idle.say("only this"));
    idle.save("auto-save").unwrap();
    for round in 0..30 {
        assert!(daemon.say(&format!("{round}{}", "x".repeat(30_000))));
        daemon.save("auto-save").unwrap();
    }
    let segments = files(&sim, "journal").len();
    assert!(segments <= 4, "{segments} segments are kept");
    // And it is as safe as any: its snapshot may rot, also after a power cut.
    let cut = sim.crash_image(Survival::Nothing);
    daemon.store.close(Duration::from_secs(9));
    for image in [sim, cut] {
        image.tamper(Path::new("sessions/idle/session_snapshot.bin"), 4200, b"rot");
        let shared: SharedVfs = Arc::new(image);
        let opened = hotset::storage::open::<Toy>(&shared, &options()).unwrap();
        assert_eq!(opened.sessions[1].outcome.machine().unwrap().texts(), ["only this"]);
    }
}

#[test]
fn a_forgotten_session_does_not_come_back_and_its_files_are_not_deleted() {
    let (sim, vfs) = disk();
    let mut daemon = Daemon::start(&vfs).unwrap();
    assert!(daemon.say("stays"));
    let other = SessionName::new("other").unwrap();
    daemon.store.create_session(&other).unwrap();
    let watch = Arc::new(Watch::default());
    daemon.store.listen(&other, watch.clone());
    let store = Arc::clone(&daemon.store);
    let mut second = Daemon { store, session: other, toy: Toy::default(), watch, restored: None, notes: Vec::new() };
    assert!(second.say("goes"));
    second.save("auto-save").unwrap();
    let place = daemon.store.forget_session(&second.session).unwrap();
    assert_eq!(snapshot::load::<Toy>(&sim, &place.join(LIVE)).unwrap().0.texts(), ["goes"]);
    assert!(daemon.store.forget_session(&daemon.session).is_err());
    let image: SharedVfs = Arc::new(sim.crash_image(Survival::Nothing));
    let opened = hotset::storage::open::<Toy>(&image, &options()).unwrap();
    assert_eq!(opened.sessions.len(), 1);
    assert_eq!(snapshot::load::<Toy>(&*image, &place.join(LIVE)).unwrap().0.texts(), ["goes"]);
    opened.store.create_session(&second.session).unwrap();
}

#[test]
fn a_close_that_cannot_wait_publishes_nothing_half() {
    let (sim, vfs) = disk();
    let mut daemon = saved(&vfs, 2);
    assert!(daemon.say("3"));
    let (tell, told) = channel();
    daemon.store.save(SaveJob {
        session: daemon.session.clone(),
        state: Box::new(daemon.toy.clone()),
        reasons: vec!["shutdown".into()],
        at: now(),
        also_backup: false,
        done: Box::new(move |outcome| tell.send(outcome).unwrap()),
    });
    daemon.store.close(Duration::ZERO);
    drop(told);
    let (late, answer) = channel();
    daemon.store.save(SaveJob {
        session: daemon.session.clone(),
        state: Box::new(daemon.toy.clone()),
        reasons: vec!["late".into()],
        at: now(),
        also_backup: false,
        done: Box::new(move |outcome| late.send(outcome).unwrap()),
    });
    assert!(answer.recv().unwrap().is_err());
    let image = sim.crash_image(Survival::Nothing);
    let shared: SharedVfs = Arc::new(image);
    assert_eq!(Daemon::start(&shared).unwrap().toy.texts(), ["1", "2", "3"]);
}

#[test]
fn a_pinned_backup_stays_when_the_others_are_pruned() {
    let (sim, vfs) = disk();
    let mut daemon = saved(&vfs, 4);
    let backups = files(&sim, "backups");
    let oldest = backups[0].file_name().unwrap().to_str().unwrap();
    let pinned = pinning::pin_backup(&sim, &daemon.session, oldest).unwrap();
    assert_eq!(pinning::pin_backup(&sim, &daemon.session, oldest).unwrap(), pinned);
    assert!(pinning::pin_backup(&sim, &daemon.session, "nothing.bin").is_err());
    let gone = pinning::prune_backups(&sim, &daemon.session, 0).unwrap();
    assert_eq!((gone.len(), files(&sim, "backups").len()), (1, 1));
    for text in ["5", "6", "7", "8", "9"] {
        assert!(daemon.say(text));
        daemon.save("auto-save").unwrap();
    }
    assert_eq!(snapshot::load::<Toy>(&sim, &pinned).unwrap().0.texts(), ["1"]);
}

#[test]
fn a_pinned_backup_is_pinned_for_good() {
    let (sim, vfs) = disk();
    let daemon = saved(&vfs, 3);
    let oldest = files(&sim, "backups").remove(0);
    let pinned = pinning::pin_backup(&sim, &daemon.session, oldest.file_name().unwrap().to_str().unwrap()).unwrap();
    let image = sim.crash_image(Survival::Nothing);
    assert_eq!(snapshot::load::<Toy>(&image, &pinned).unwrap().0.texts(), ["1"]);
}

#[test]
fn a_new_session_survives_with_all_that_the_journal_has_let_go_of() {
    let (sim, vfs) = disk();
    let daemon = Daemon::start(&vfs).unwrap();
    let session = SessionName::new("new").unwrap();
    daemon.store.create_session(&session).unwrap();
    let watch = Arc::new(Watch::default());
    daemon.store.listen(&session, watch.clone());
    let mut new = Daemon { session, watch, ..daemon };
    for round in 0..30 {
        assert!(new.say(&format!("{round}{}", "x".repeat(30_000))));
        new.save("auto-save").unwrap();
    }
    let segments = files(&sim, "journal").len();
    assert!(segments <= 4, "{segments} segments are kept");
    let image: SharedVfs = Arc::new(sim.crash_image(Survival::Nothing));
    let opened = hotset::storage::open::<Toy>(&image, &options()).unwrap();
    let texts = opened.sessions.get(1).and_then(|session| session.outcome.machine()).map(Toy::texts);
    assert!(texts == Some(new.toy.texts()), "the session is lost");
}

#[test]
fn a_snapshot_is_recorded_only_when_its_name_is_durable() {
    let (before, vfs) = disk();
    saved(&vfs, 2).stop();
    let named = {
        let probe = before.fork();
        let shared: SharedVfs = Arc::new(probe.clone());
        let mut daemon = Daemon::start(&shared).unwrap();
        assert!(daemon.say("3"));
        let from = probe.changes();
        probe.start_trace();
        daemon.save("auto-save").unwrap();
        let trace = probe.trace();
        let renamed = trace.iter().position(|done| done.kind == OperationKind::Rename).unwrap();
        from + renamed as u64 + 2
    };
    for later in 1..20 {
        let sim = before.fork();
        let shared: SharedVfs = Arc::new(sim.clone());
        let mut daemon = Daemon::start(&shared).unwrap();
        assert!(daemon.say("3"));
        sim.inject(Fault::Error(named, InjectedError::Io));
        daemon.save("auto-save").unwrap_err();
        sim.clear_faults();
        assert!(daemon.say("4"));
        sim.inject(Fault::CrashAfter(sim.changes() + later));
        drop(daemon.save("auto-save"));
        let image: SharedVfs = Arc::new(sim.crash_image(Survival::Nothing));
        daemon.store.close(Duration::ZERO);
        assert_eq!(Daemon::start(&image).unwrap().toy.texts(), ["1", "2", "3", "4"], "{later} operations later");
    }
}

#[test]
fn fsck_tells_clean_from_torn_from_damaged() {
    let (sim, vfs) = disk();
    let daemon = saved(&vfs, 3);
    daemon.store.close(Duration::from_secs(9));
    assert_eq!(fsck::fsck(&sim).unwrap().condition, Condition::Clean);
    let before = sim.changes();
    sim.tamper(Path::new(LIVE), 4200, b"rot");
    let report = fsck::fsck(&sim).unwrap();
    assert_eq!(report.condition, Condition::Corrupt);
    let of_live = report.findings.iter().find(|finding| finding.file == Path::new(LIVE)).unwrap();
    assert_eq!(of_live.condition, Condition::Corrupt);
    assert_eq!(sim.changes(), before, "fsck changed something");
}

#[test]
fn every_flipped_bit_of_state_leaves_the_same_content_served() {
    let (sim, vfs) = disk();
    saved(&vfs, 2).store.close(Duration::from_secs(9));
    Daemon::start(&vfs).unwrap().stop();
    let state = Path::new("STATE");
    let bytes = read_all(&sim, state, 1 << 20).unwrap();
    let step = if crate::long() { 1 } else { 257 };
    for bit in (0..bytes.len() * 8).step_by(step).chain((0..48 * 8).step_by(5)) {
        let image = sim.fork();
        image.tamper(state, bit as u64 / 8, &[bytes[bit / 8] ^ (1 << (bit % 8))]);
        let shared: SharedVfs = Arc::new(image);
        let daemon = Daemon::start(&shared).unwrap();
        assert_eq!(daemon.toy.texts(), ["1", "2"], "bit {bit}");
        daemon.store.close(Duration::ZERO);
    }
}

#[test]
fn every_flipped_bit_and_every_cut_of_the_snapshot_costs_nothing_or_is_refused() {
    let (sim, vfs) = disk();
    saved(&vfs, 3).store.close(Duration::from_secs(9));
    let live = Path::new(LIVE);
    let bytes = read_all(&sim, live, 1 << 20).unwrap();
    for bit in (0..bytes.len() * 8).step_by(if crate::long() { 1 } else { 1499 }) {
        let image = sim.fork();
        image.tamper(live, bit as u64 / 8, &[bytes[bit / 8] ^ (1 << (bit % 8))]);
        let shared: SharedVfs = Arc::new(image);
        let daemon = Daemon::start(&shared).unwrap();
        assert_eq!(daemon.toy.texts(), ["1", "2", "3"], "bit {bit}");
        daemon.store.close(Duration::ZERO);
    }
    // An interrupted `cp` of a backup.
    let backup = read_all(&sim, &files(&sim, "backups")[0], 1 << 20).unwrap();
    for cut in (0..backup.len()).step_by(if crate::long() { 64 } else { 1021 }) {
        let image = sim.fork();
        let file = image.open(live, Open::Write).unwrap();
        file.set_len(0).unwrap();
        file.write_at(0, &[&backup[..cut]]).unwrap();
        drop(file);
        let shared: SharedVfs = Arc::new(image.clone());
        let before = image.changes();
        let opened = hotset::storage::open::<Toy>(&shared, &options()).unwrap();
        assert!(opened.sessions[0].outcome.machine().is_none(), "cut at {cut}");
        let lock_and_its_pid = 4;
        assert!(image.changes() - before <= lock_and_its_pid, "cut at {cut}: something was written");
    }
}

/// Archives the state, and waits for it.
fn archive(daemon: &Daemon) -> SaveOutcome {
    let (tell, told) = channel();
    daemon.store.archive(SaveJob {
        session: daemon.session.clone(),
        state: Box::new(daemon.toy.clone()),
        reasons: vec!["archive".into()],
        at: now(),
        also_backup: false,
        done: Box::new(move |outcome| tell.send(outcome).unwrap()),
    });
    told.recv().unwrap()
}

#[test]
fn an_archive_is_there_for_good_before_anybody_is_told() {
    let (sim, vfs) = disk();
    let mut daemon = saved(&vfs, 2);
    assert!(daemon.say("the end"));
    let before = read_all(&sim, Path::new(LIVE), 1 << 20).unwrap();
    let kept = archive(&daemon).unwrap();
    assert!(kept.file.starts_with("backups/kept/archived_") && kept.seq == 3, "{kept:?}");
    assert_eq!(read_all(&sim, Path::new(LIVE), 1 << 20).unwrap(), before, "the snapshot in place stays");
    let cut = sim.crash_image(Survival::Nothing);
    let name = Path::new(&kept.file).file_name().unwrap().to_str().unwrap();
    let found = fsck::verify_backup(&cut, &daemon.session, name).unwrap();
    assert!(found.kept && found.seq == 3, "{found:?}");
    for number in 0..9 {
        assert!(daemon.say(&number.to_string()));
        daemon.save("auto-save").unwrap();
    }
    assert_eq!(files(&sim, "backups").len(), 3, "rotation goes on");
    fsck::verify_backup(&sim, &daemon.session, name).expect("and leaves archives alone");
}

#[test]
fn wherever_the_disk_fails_an_archive_is_whole_or_an_error() {
    for step in 0..40 {
        let (sim, vfs) = disk();
        let daemon = saved(&vfs, 1);
        sim.inject(Fault::ErrorsFrom(sim.changes() + step, InjectedError::Full));
        let kept = archive(&daemon);
        sim.clear_faults();
        let whole = files(&sim, "backups/kept").iter().all(|path| snapshot::verify(&sim, path).is_ok());
        assert!(whole, "step {step}: half an archive is under an archive's name");
        if let Ok(kept) = kept {
            assert!(step > 3 && files(&sim, "backups/kept") == [PathBuf::from(kept.file)]);
            return;
        }
        archive(&daemon).expect("once the disk works again");
        assert!(!files(&sim, "").iter().any(|path| path.extension().is_some_and(|e| e == "tmp")), "step {step}");
    }
    panic!("it never succeeded");
}
