//! Copies of the data directory made while the daemon runs, file by file, in any order.

use crate::daemon::{Daemon, options};
use crate::long;
use crate::toy::Toy;
use hotset::storage::Machine;
use hotset::storage::recovery::Outcome;
use hotset::storage::snapshot;
use hotset::storage::vfs::{Open, SharedVfs, SimDisk, Vfs, read_all};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

fn all_paths(disk: &SimDisk, directory: &Path, files: &mut BTreeSet<PathBuf>, folders: &mut BTreeSet<PathBuf>) {
    for name in disk.list(directory).unwrap() {
        let path = directory.join(name);
        if disk.stat(&path).unwrap().is_dir {
            folders.insert(path.clone());
            all_paths(disk, &path, files, folders);
        } else {
            files.insert(path);
        }
    }
}

/// The disk at several moments of a busy life, with what was acknowledged at each.
fn moments() -> (Vec<(SimDisk, usize)>, Vec<String>) {
    let disk = SimDisk::new();
    let vfs: SharedVfs = Arc::new(disk.clone());
    let mut daemon = Daemon::start(&vfs).unwrap();
    let (mut moments, mut sent) = (Vec::new(), Vec::new());
    for round in 0..14 {
        let text = format!("{round}{}", "x".repeat(if round % 3 == 0 { 30_000 } else { 10 }));
        sent.push(text.clone());
        assert!(daemon.say(&text));
        moments.push((disk.fork(), sent.len()));
        if round % 2 == 1 {
            daemon.save("auto-save").unwrap();
            moments.push((disk.fork(), sent.len()));
        }
    }
    daemon.store.close(Duration::ZERO);
    (moments, sent)
}

/// Its name, and which files are copied first.
type Order = (&'static str, fn(&Path) -> bool);

/// Copies each file as it was at the moment that `choose` says.
fn copied(moments: &[(SimDisk, usize)], choose: &mut dyn FnMut(&Path) -> usize) -> SimDisk {
    let (mut files, mut folders) = (BTreeSet::new(), BTreeSet::new());
    for (disk, _) in moments {
        all_paths(disk, Path::new(""), &mut files, &mut folders);
    }
    let copy = SimDisk::new();
    for folder in folders {
        copy.create_dir(&folder).unwrap();
    }
    for path in files {
        let (disk, _) = &moments[choose(&path)];
        if let Ok(bytes) = read_all(disk, &path, 1 << 30) {
            copy.open(&path, Open::CreateNew).unwrap().write_at(0, &[&bytes]).unwrap();
        }
    }
    copy
}

/// The longest history that is served or kept as a file, or `None` if nobody is served.
fn found(copy: &SimDisk, sent: &[String], what: &str) -> Option<usize> {
    let vfs: SharedVfs = Arc::new(copy.clone());
    let opened = hotset::storage::open::<Toy>(&vfs, &options()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let mut best = None;
    let check = |toy: &Toy| {
        let texts: Vec<_> = toy.texts().into_iter().filter(|text| !text.starts_with("restored")).collect();
        assert!(texts == sent[..texts.len()], "{what}: something that never was");
        texts.len()
    };
    match &opened.sessions[0].outcome {
        Outcome::Serving { machine, .. } => best = Some(check(machine)),
        Outcome::ReadOnly { machine, damage, .. } => {
            check(machine);
            assert!(damage.contains("events"), "{what}: {damage}");
        }
        Outcome::Refused { reason, .. } => assert!(!reason.is_empty()),
    }
    opened.store.close(Duration::ZERO);
    let served = best?;
    for name in copy.list(Path::new("backups/kept")).unwrap_or_default() {
        let (toy, _) = snapshot::load::<Toy>(copy, &Path::new("backups/kept").join(name)).unwrap();
        assert!(Machine::seq(&toy) > 0);
        best = best.max(Some(check(&toy)));
    }
    best.max(Some(served))
}

#[test]
fn a_copy_in_order_of_time_has_everything_from_before_it_began() {
    let (moments, sent) = moments();
    let last = moments.len() - 1;
    let orders: [Order; 2] = [
        ("snapshots first", |path| !path.starts_with("journal")),
        ("journal first", |path| path.starts_with("journal")),
    ];
    for (order, is_first) in orders {
        for begin in 0..last {
            for end in begin..=last.min(begin + 6) {
                let what = format!("{order}, from {begin} to {end}");
                let copy = copied(&moments, &mut |path| if is_first(path) { begin } else { end });
                let best = found(&copy, &sent, &what);
                if let Some(best) = best {
                    assert!(best >= moments[begin].1, "{what}: {best} of {} found", moments[begin].1);
                }
                // Within one save of each other, a copy is always good for service.
                assert!(best.is_some() || end > begin + 2, "{what}: nobody is served");
            }
        }
    }
}

#[test]
fn a_copy_in_wild_disorder_serves_nothing_that_never_was() {
    let (moments, sent) = moments();
    for seed in 0..if long() { 3000 } else { 60 } {
        let mut state = (seed + 1_u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let copy = copied(&moments, &mut |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % moments.len() as u64).unwrap()
        });
        found(&copy, &sent, &format!("seed {seed}"));
    }
}
