//! Whole data directories of right, damaged and foreign files: a start deletes nothing, and writes nothing where it
//! serves nobody.

use crate::campaign::{Chance, cases};
use crate::sealing;
use crate::sessions::{directory, image, options};
use hotset::live::machine::SessionMachine;
use hotset::storage::recovery::{self, Outcome};
use hotset::storage::snapshot;
use hotset::storage::vfs::{Open, SharedVfs, SimDisk, Vfs};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

type Image = BTreeMap<PathBuf, Option<Vec<u8>>>;

/// Names that mean something, and some that mean nothing.
const NAMES: &[&str] = &[
    "session_snapshot.bin",
    "session_metadata.json",
    "STATE",
    "backups/snapshot_20250112_143225.bin",
    "backups/snapshot_20250112_143225_01.bin",
    "backups/holiday.bin",
    "backups/kept/pre_restore_20250112_143225.bin",
    "journal/0000000000000001.seg",
    "journal/0000000000000002.seg",
    "journal/0000000000000003.seg",
    "journal/0000000000000009.seg",
    "journal/ffffffffffffffff.seg",
    "journal/notes.txt",
    "sessions/other/session_snapshot.bin",
    "sessions/Other/session_snapshot.bin",
    "quarantine/20250112_143225_rot/session_snapshot.bin",
    "session_snapshot.pkl",
    "notes.txt",
];

fn whole_directories() -> Vec<Image> {
    [true, false].map(|in_order| image(&directory(in_order))).into()
}

fn bytes_of(directories: &[Image], chance: &mut Chance) -> Vec<u8> {
    let files: Vec<&Vec<u8>> = chance.one_of(directories).values().flatten().collect();
    let mut bytes = (*chance.one_of(&files)).clone();
    match chance.below(6) {
        0 => bytes.truncate(chance.below(bytes.len() + 1)),
        1 => {
            for _ in 0..=chance.below(3) {
                let at = chance.below(bytes.len().max(1));
                bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = chance.byte());
            }
        }
        2 => chance.damage(&mut bytes, &[b"HSSNAP1\n", b"HSJSEG1\0"]),
        3 if bytes.len() >= sealing::BLOCK => {
            let at = 8 * chance.below(24);
            let number = chance.number(sealing::number(&bytes, at, 8));
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            sealing::seal_block(&mut bytes[..sealing::BLOCK]);
            sealing::seal_segment_header(&mut bytes);
        }
        4 => bytes.clear(),
        _ => {}
    }
    bytes
}

/// A directory to start with, some of whose files are replaced, missing, added, or folders.
fn made_up(directories: &[Image], chance: &mut Chance) -> Image {
    let mut files = if chance.once_in(8) { Image::new() } else { chance.one_of(directories).clone() };
    for _ in 0..=chance.below(4) {
        let known: Vec<PathBuf> = files.keys().cloned().collect();
        let path = if known.is_empty() || chance.once_in(2) {
            PathBuf::from(*chance.one_of(NAMES))
        } else {
            chance.one_of(&known).clone()
        };
        match chance.below(5) {
            0 => files.retain(|other, _| !other.starts_with(&path)),
            1 if !files.keys().any(|other| other != &path && other.starts_with(&path)) => {
                drop(files.insert(path, None));
            }
            _ if files.get(&path) != Some(&None) => drop(files.insert(path, Some(bytes_of(directories, chance)))),
            _ => {}
        }
    }
    files
}

fn on_disk(files: &Image) -> Option<SimDisk> {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("")).unwrap();
    for (path, content) in files {
        let mut folder = PathBuf::new();
        for part in path.parent().into_iter().flat_map(Path::components) {
            folder.push(part);
            disk.create_dir(&folder).ok()?;
        }
        match content {
            None => disk.create_dir(path).ok()?,
            Some(bytes) => {
                let file = disk.open(path, Open::CreateNew).ok()?;
                file.write_at(0, &[bytes]).unwrap();
                file.sync().unwrap();
            }
        }
        disk.sync_dir(path.parent().unwrap()).unwrap();
    }
    Some(disk)
}

/// What a start may replace: it says the same again, or was never more than scrap.
fn may_go(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    let scrap = name.ends_with(".tmp") || name.ends_with(".old") || name == "spare.next";
    scrap || name == "session_metadata.json" || path == Path::new("STATE")
}

/// Whether a snapshot in place, which is written anew when a branch begins, holds what it held.
fn goes_on(path: &Path, before: &[u8], after: &Image) -> bool {
    let held = |bytes: &[u8]| {
        let disk = on_disk(&Image::from([(PathBuf::from("snapshot"), Some(bytes.to_vec()))]))?;
        let (machine, _) = snapshot::load::<SessionMachine>(&disk, Path::new("snapshot")).ok()?;
        let totals = machine.into_session().totals();
        Some([totals.nodes, totals.payload_bytes, totals.tasks, totals.messages])
    };
    let now = after.get(path).and_then(Option::as_ref).and_then(|now| held(now));
    path == Path::new("session_snapshot.bin") && now.is_some_and(|now| held(before) == Some(now))
}

/// Everything that was there is there, under its name or another. Segments that go on get a seal, and no more.
fn nothing_is_gone(before: &Image, after: &Image) {
    let contents: Vec<&Vec<u8>> = after.values().flatten().collect();
    for (path, content) in before {
        let Some(content) = content.as_ref().filter(|content| !content.is_empty() && !may_go(path)) else { continue };
        let sealed = after.get(path).and_then(Option::as_ref).is_some_and(|now| {
            path.starts_with("journal")
                && now.len() == content.len()
                && now
                    .iter()
                    .zip(content)
                    .enumerate()
                    .all(|(at, (now, then))| now == then || (4096..12288).contains(&at))
        });
        let kept = sealed || contents.contains(&content) || goes_on(path, content, after);
        assert!(kept, "{} is gone", path.display());
    }
}

#[test]
fn a_start_deletes_nothing_and_writes_nothing_where_it_serves_nobody() {
    let directories = whole_directories();
    cases("directory", |chance| {
        let files = made_up(&directories, chance);
        let Some(disk) = on_disk(&files) else { return false };
        let before = image(&disk);
        let vfs: SharedVfs = Arc::new(disk.clone());
        let opened = recovery::open::<SessionMachine>(&vfs, &options(9));
        let serving = opened.as_ref().is_ok_and(|opened| {
            opened.sessions.iter().any(|session| matches!(session.outcome, Outcome::Serving { .. }))
        });
        if let Ok(opened) = opened {
            opened.store.close(Duration::from_secs(30));
        }
        let after = image(&disk);
        if serving {
            nothing_is_gone(&before, &after);
            starts_again(&vfs);
        } else {
            assert!(before == after, "nobody is served, and something was written");
        }
        serving
    });
}

/// Whoever was served once is served again, with the same state.
fn starts_again(vfs: &SharedVfs) {
    let serve = |run| {
        let opened = recovery::open::<SessionMachine>(vfs, &options(run)).expect("it was opened before");
        opened.store.close(Duration::from_secs(30));
        let states = opened.sessions.into_iter().filter_map(|session| match session.outcome {
            Outcome::Serving { machine, .. } => Some((session.name, machine.into_session())),
            Outcome::ReadOnly { .. } | Outcome::Refused { .. } => None,
        });
        states.collect::<BTreeMap<_, _>>()
    };
    let second = serve(10);
    assert!(!second.is_empty(), "the second start serves nobody");
    assert!(serve(11) == second, "the third start differs");
}
