//! A file system in which somebody else acts at the worst moment, and what storage does about it.

use crate::daemon::{Daemon, now};
use hotset::storage::vfs::{Open, SharedVfs, SimDisk, Stat, Survival, Vfs, VfsFile, read_all};
use hotset::storage::{SaveJob, Store};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const LIVE: &str = "session_snapshot.bin";

/// What is about to happen, or has just happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    AfterLink,
    BeforeSync,
}

type Meddle = Arc<dyn Fn(Moment, &Path) + Send + Sync>;

/// A disk with somebody else at it.
#[derive(Clone)]
struct Meddled {
    disk: SimDisk,
    meddle: Arc<Mutex<Meddle>>,
    /// Flips a bit in whatever is written to such files.
    garble: Arc<Mutex<Option<&'static str>>>,
}

struct MeddledFile {
    file: Box<dyn VfsFile>,
    path: PathBuf,
    of: Meddled,
}

impl Meddled {
    fn new() -> Self {
        let nobody: Meddle = Arc::new(|_, _| {});
        Self { disk: SimDisk::new(), meddle: Arc::new(Mutex::new(nobody)), garble: Arc::default() }
    }

    fn shared(&self) -> SharedVfs {
        Arc::new(self.clone())
    }

    fn let_meddle(&self, meddle: impl Fn(Moment, &Path) + Send + Sync + 'static) {
        *self.meddle.lock().unwrap() = Arc::new(meddle);
    }

    /// Whoever meddles may take long: others pass meanwhile.
    fn meddle(&self, moment: Moment, path: &Path) {
        let meddle = Arc::clone(&self.meddle.lock().unwrap());
        meddle(moment, path);
    }
}

impl Vfs for Meddled {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn VfsFile>> {
        let file = self.disk.open(path, how)?;
        Ok(Box::new(MeddledFile { file, path: path.into(), of: self.clone() }))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.link(from, to)?;
        self.meddle(Moment::AfterLink, to);
        Ok(())
    }
    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.disk.unlink(path)
    }
    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.disk.list(path)
    }
    fn stat(&self, path: &Path) -> io::Result<Stat> {
        self.disk.stat(path)
    }
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send>> {
        self.disk.lock(path)
    }
    fn free_space(&self) -> io::Result<u64> {
        self.disk.free_space()
    }
    fn display(&self, path: &Path) -> String {
        self.disk.display(path)
    }
}

impl VfsFile for MeddledFile {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let garble = *self.of.garble.lock().unwrap();
        if garble.is_none_or(|of| !self.path.to_str().unwrap().contains(of)) {
            return self.file.write_at(offset, parts);
        }
        let mut bytes = parts.concat();
        if let Some(last) = bytes.last_mut() {
            *last ^= 1;
        }
        self.file.write_at(offset, &[&bytes])
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn sync(&self) -> io::Result<()> {
        self.of.meddle(Moment::BeforeSync, &self.path);
        self.file.sync()
    }
    fn stat(&self) -> io::Result<Stat> {
        self.file.stat()
    }
}

fn overwrite(disk: &SimDisk, bytes: &[u8]) {
    let file = disk.open(Path::new(LIVE), Open::Write).unwrap();
    file.set_len(0).unwrap();
    file.write_at(0, &[bytes]).unwrap();
}

fn live(disk: &SimDisk) -> Vec<u8> {
    read_all(disk, Path::new(LIVE), 1 << 20).unwrap()
}

/// Two entries, two saves, and the first save's bytes.
fn used(vfs: &Meddled) -> (Daemon, Vec<u8>) {
    let mut daemon = Daemon::start(&vfs.shared()).unwrap();
    let mut first = None;
    for text in ["one", "two"] {
        assert!(daemon.say(text));
        daemon.save("auto-save").unwrap();
        first.get_or_insert(live(&vfs.disk));
    }
    (daemon, first.unwrap())
}

#[test]
fn a_snapshot_that_the_disk_garbled_is_never_published() {
    let vfs = Meddled::new();
    let (mut daemon, _) = used(&vfs);
    let before = live(&vfs.disk);
    *vfs.garble.lock().unwrap() = Some(LIVE);
    assert!(daemon.say("three"));
    assert!(daemon.save("auto-save").is_err());
    *vfs.garble.lock().unwrap() = None;
    assert_eq!(live(&vfs.disk), before);
}

#[test]
fn a_copy_that_begins_just_after_the_link_is_neither_overwritten_nor_kept_as_a_backup() {
    let vfs = Meddled::new();
    let (mut daemon, wanted) = used(&vfs);
    let (disk, bytes) = (vfs.disk.clone(), wanted.clone());
    vfs.let_meddle(move |moment, _| {
        if moment == Moment::AfterLink {
            overwrite(&disk, &bytes);
        }
    });
    assert!(daemon.say("three"));
    assert!(!daemon.save("auto-save").unwrap().published);
    assert_eq!(live(&vfs.disk), wanted);
    assert_eq!(vfs.disk.stat(Path::new(LIVE)).unwrap().links, 1);
}

#[test]
fn half_a_copy_over_the_snapshot_is_left_alone_while_the_daemon_runs() {
    let vfs = Meddled::new();
    let (mut daemon, wanted) = used(&vfs);
    overwrite(&vfs.disk, &wanted[..100]);
    assert!(daemon.say("three"));
    assert!(!daemon.save("auto-save").unwrap().published);
    assert_eq!(live(&vfs.disk), wanted[..100]);
}

#[test]
fn a_copy_of_the_newest_save_is_restored_as_well_when_that_was_said() {
    let vfs = Meddled::new();
    let (mut daemon, _) = used(&vfs);
    let (wanted, texts) = (live(&vfs.disk), daemon.toy.texts());
    assert!(daemon.say("three"));
    overwrite(&vfs.disk, &wanted);
    assert!(!daemon.save("auto-save").unwrap().published, "a restore is pending");
    assert!(daemon.say("four"));
    daemon.store.close(Duration::ZERO);
    let daemon = Daemon::start(&vfs.shared()).unwrap();
    assert!(daemon.restored.is_some_and(|restored| restored.pre_restore.is_some()));
    assert_eq!(daemon.toy.texts()[..texts.len()], texts);
    assert_eq!(daemon.toy.texts().len(), texts.len() + 1, "the last one says that it was restored");
}

#[test]
fn a_pending_restore_that_is_called_off_costs_nothing() {
    let vfs = Meddled::new();
    let (mut daemon, _) = used(&vfs);
    overwrite(&vfs.disk, &live(&vfs.disk));
    assert!(daemon.say("three"));
    assert!(!daemon.save("auto-save").unwrap().published);
    vfs.disk.unlink(Path::new(LIVE)).unwrap();
    for save in [false, true] {
        assert!(daemon.say("four"));
        if save {
            assert!(daemon.save("auto-save").unwrap().published);
            assert!(daemon.say("five"));
        }
        let texts = daemon.toy.texts();
        let image = vfs.disk.crash_image(Survival::Everything);
        let started = Daemon::start(&(Arc::new(image) as SharedVfs)).unwrap();
        assert_eq!(started.toy.texts(), texts, "saved since: {save}");
        assert_eq!(started.restored.and_then(|restored| restored.pre_restore), None, "nothing was restored");
    }
}

#[test]
fn another_snapshot_of_the_same_size_and_date_is_left_alone_too() {
    let vfs = Meddled::new();
    let (mut daemon, wanted) = used(&vfs);
    assert_eq!(wanted.len(), live(&vfs.disk).len());
    vfs.disk.tamper(Path::new(LIVE), 0, &wanted);
    assert!(daemon.say("three"));
    assert!(!daemon.save("auto-save").unwrap().published);
    assert_eq!(live(&vfs.disk), wanted);
}

#[test]
fn a_deleted_snapshot_is_written_again() {
    let vfs = Meddled::new();
    let (daemon, _) = used(&vfs);
    vfs.disk.unlink(Path::new(LIVE)).unwrap();
    assert!(daemon.save("auto-save").unwrap().published);
    assert!(vfs.disk.stat(Path::new(LIVE)).is_ok());
}

#[test]
fn nothing_is_published_before_its_events_are_durable() {
    let vfs = Meddled::new();
    let (mut daemon, _) = used(&vfs);
    let before = live(&vfs.disk);
    let (arrived, arrival) = channel();
    let (release, released) = channel::<()>();
    let released = Mutex::new(released);
    vfs.let_meddle(move |moment, path| {
        if moment == Moment::BeforeSync && path.starts_with("journal") {
            arrived.send(()).ok();
            released.lock().unwrap().recv().ok();
        }
    });
    daemon.send("three");
    arrival.recv().unwrap();
    // From here on the journal's thread waits for its disk.
    let (tell, told) = channel();
    daemon.store.save(SaveJob {
        session: daemon.session.clone(),
        state: Box::new(daemon.toy.clone()),
        reasons: vec!["auto-save".into()],
        at: now(),
        also_backup: false,
        done: Box::new(move |outcome| tell.send(outcome).unwrap()),
    });
    assert!(told.recv_timeout(Duration::from_millis(300)).is_err(), "it did not wait");
    assert_eq!(live(&vfs.disk), before);
    drop(release);
    assert!(told.recv().unwrap().unwrap().published);
}

#[test]
fn a_newer_snapshot_after_a_rollback_of_the_machine_is_a_restore_and_not_mixed_with_the_other_history() {
    for saves in [1, 2] {
        let vfs = Meddled::new();
        let (mut daemon, _) = used(&vfs);
        let rolled_back = vfs.disk.fork();
        for save in 0..saves {
            assert!(daemon.say(&format!("lost future {save}")));
            daemon.save("auto-save").unwrap();
        }
        let newer = live(&vfs.disk);
        let shared: SharedVfs = Arc::new(rolled_back.clone());
        let mut other = Daemon::start(&shared).unwrap();
        for text in ["a", "b", "c", "d"] {
            assert!(other.say(text));
        }
        other.store.close(Duration::ZERO);
        overwrite(&rolled_back, &newer);
        let restored = Daemon::start(&shared).unwrap();
        let texts = restored.toy.texts();
        assert_eq!(texts[..3], ["one", "two", "lost future 0"]);
        assert_eq!(texts.len(), 2 + saves + 1, "{texts:?}");
        assert!(texts.last().unwrap().starts_with("restored"));
        let kept = restored.restored.unwrap().pre_restore.unwrap();
        let (kept, _) = hotset::storage::snapshot::load::<crate::toy::Toy>(&rolled_back, Path::new(&kept)).unwrap();
        assert_eq!(kept.texts(), ["one", "two", "a", "b", "c", "d"]);
    }
}

#[test]
fn a_snapshot_that_does_not_follow_the_one_the_journal_knows_is_a_restore_even_of_the_newest_run() {
    let vfs = Meddled::new();
    let (mut daemon, _) = used(&vfs);
    let rolled_back = vfs.disk.fork();
    for text in ["lost future 0", "lost future 1"] {
        assert!(daemon.say(text));
        daemon.save("auto-save").unwrap();
    }
    overwrite(&rolled_back, &live(&vfs.disk));
    let shared: SharedVfs = Arc::new(rolled_back);
    let restored = Daemon::start(&shared).unwrap();
    let texts = restored.toy.texts();
    assert_eq!(texts[..4], ["one", "two", "lost future 0", "lost future 1"]);
    assert!(texts[4..].iter().any(|text| text.starts_with("restored")), "{texts:?}");
}
