//! Journals, damaged with and without their checksums made right: what is read is a beginning of what was written.

use crate::campaign::{Chance, cases};
use crate::sealing::{self, FRAME_HEADER};
use hotset::session::{SessionName, Timestamp};
use hotset::storage::journal::{
    Control, Item, Lineage, Positions, Report, Request, Settings, Start, Verdict, Writer, scan,
};
use hotset::storage::vfs::{Open, SharedVfs, SimDisk, Survival, Vfs, read_all};
use hotset::storage::{Branch, Record, RecordBody, Run};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const LINEAGE: Lineage = Lineage(0xfeed);

/// What was written, or is read: by session, number and body.
type Told = BTreeMap<SessionName, Vec<(u64, Vec<u8>)>>;

type Files = BTreeMap<PathBuf, Vec<u8>>;

struct Body(Vec<u8>);

impl RecordBody for Body {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn size_hint(&self) -> usize {
        self.0.len()
    }
}

/// Small segments, nothing in the background, nothing by the clock.
fn settings() -> Settings {
    Settings {
        segment_bytes: 98 << 10,
        chunk_bytes: 2 << 10,
        group_bytes: 8 << 10,
        seal_after: None,
        sync_spacing: Duration::ZERO,
        probe_every: Duration::from_millis(20),
        background_spare: false,
    }
}

fn read(vfs: &dyn Vfs) -> Result<(Report, Told), String> {
    let mut told = Told::new();
    let request = Request { lineage: Some(LINEAGE), ..Request::default() };
    let report = scan(vfs, &request, &mut |item| {
        if let Item::Record { session, seq, body, .. } = item {
            told.entry(session.clone()).or_default().push((seq, body.to_vec()));
        }
        ControlFlow::Continue(())
    });
    report.map(|report| (report, told)).map_err(|error| error.to_string())
}

fn files(disk: &SimDisk) -> Files {
    let folder = Path::new("journal");
    let paths = disk.list(folder).unwrap().into_iter().map(|name| folder.join(name));
    paths.map(|path| (path.clone(), read_all(disk, &path, 1 << 20).unwrap())).collect()
}

fn on_disk(files: &Files) -> SimDisk {
    let disk = SimDisk::new();
    disk.create_dir(Path::new("")).unwrap();
    disk.create_dir(Path::new("journal")).unwrap();
    for (path, bytes) in files {
        let file = disk.open(path, Open::CreateNew).unwrap();
        file.write_at(0, &[bytes]).unwrap();
        file.sync().unwrap();
    }
    disk.sync_dir(Path::new("journal")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    disk
}

/// A journal of three runs of two sessions: records of all sizes, in several segments; and what is in it.
fn written(in_order: bool) -> (Files, Told) {
    let disk = SimDisk::new();
    let vfs: SharedVfs = Arc::new(disk.clone());
    let mut told = Told::new();
    for epoch in 1..=3 {
        let start = match read(&disk) {
            Ok((Report { start: Some(start), .. }, _)) => start,
            _ => Start::fresh(LINEAGE, Positions::default()),
        };
        let writer = Writer::open(Arc::clone(&vfs), settings(), start, epoch).unwrap();
        writer.control(Control::Run { run: Run(epoch.into()), epoch, at: Timestamp(0) }).unwrap();
        for number in 0..16_u8 {
            for name in ["default", "other"] {
                let session = SessionName::new(name).unwrap();
                let records = told.entry(session.clone()).or_default();
                let seq = records.len() as u64 + 1;
                let len = [3, 700, 40, 20_000][usize::from(number) % 4];
                let body = [name.as_bytes(), &seq.to_le_bytes(), &vec![number; len]].concat();
                records.push((seq, body.clone()));
                writer.append(&session, Branch(1), vec![Record::new(seq, Arc::new(Body(body)))]);
            }
            if number % 2 == 1 {
                writer.seal().unwrap();
            }
        }
        if in_order || epoch < 3 {
            writer.close().unwrap();
        } else {
            writer.control(Control::Run { run: Run(9), epoch, at: Timestamp(0) }).unwrap();
            disk.stop();
            drop(writer.close());
        }
    }
    let disk = disk.crash_image(Survival::Nothing);
    let (report, found) = read(&disk).unwrap();
    assert!(!matches!(report.verdict, Verdict::Corrupt(_)), "{:?}", report.verdict);
    assert!(found == told && report.segments.len() > 3, "{} segments", report.segments.len());
    (files(&disk), told)
}

/// Damage to the files as such, or to any of their bytes.
fn damage_bytes(files: &mut Files, chance: &mut Chance) {
    let paths: Vec<PathBuf> = files.keys().cloned().collect();
    let (path, other) = (chance.one_of(&paths).clone(), chance.one_of(&paths).clone());
    let donor = files[&other].clone();
    let bytes = files.get_mut(&path).unwrap();
    let used = sealing::frames(bytes).last().map_or(bytes.len(), |at| at + 256).min(bytes.len());
    let at = chance.below(used);
    let end = (at + 1 + chance.below(600)).min(bytes.len());
    match chance.below(12) {
        0..=2 => bytes[at] ^= 1 << chance.below(8),
        3 => bytes[at..end].fill(0),
        4 => bytes[at..end].fill_with(|| chance.byte()),
        5 => {
            let from = chance.below(donor.len() - (end - at));
            bytes[at..end].copy_from_slice(&donor[from..from + (end - at)]);
        }
        6 => bytes.truncate(at),
        7 => bytes.resize(bytes.len() + 8 * chance.below(1000), 0),
        8 => drop(files.remove(&path)),
        9 => drop(files.insert(path, donor)),
        10 => drop(files.insert(PathBuf::from(format!("journal/{:016x}.seg", chance.number(3))), donor)),
        _ => move_frame(bytes, &donor, chance),
    }
}

/// Puts a frame where another one was, or behind the last one.
fn move_frame(bytes: &mut [u8], donor: &[u8], chance: &mut Chance) {
    let (from, to) = (sealing::frames(donor), sealing::frames(bytes));
    if from.is_empty() || to.is_empty() {
        return;
    }
    let (from, to) = (*chance.one_of(&from), *chance.one_of(&to));
    let len = FRAME_HEADER + usize::try_from(sealing::number(donor, from + 8, 4)).unwrap();
    if let (Some(source), Some(target)) = (donor.get(from..from + len), bytes.get_mut(to..to + len)) {
        target.copy_from_slice(source);
    }
}

/// Damage to fields and payloads, sealed again so that it gets past the checksums.
fn damage_sealed(files: &mut Files, chance: &mut Chance) {
    let paths: Vec<PathBuf> = files.keys().cloned().collect();
    let bytes = files.get_mut(chance.one_of(&paths)).unwrap();
    let frames = sealing::frames(bytes);
    if chance.once_in(4) || frames.is_empty() {
        if let Some(at) = Some(8 * chance.below(15)).filter(|at| at + 8 <= bytes.len()) {
            let number = chance.number(sealing::number(bytes, at, 8));
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
            sealing::seal_segment_header(bytes);
        }
        // What was sealed with the old header is sealed with the new one.
        sealing::seal_frames(bytes, &frames);
        return;
    }
    let frame = *chance.one_of(&frames);
    let len = usize::try_from(sealing::number(bytes, frame + 8, 4)).unwrap();
    if chance.once_in(2) || len == 0 {
        let at = frame + *chance.one_of(&[4, 8, 12, 16, 24]);
        let width = if at == frame + 4 {
            2
        } else if at < frame + 16 {
            4
        } else {
            8
        };
        let number = chance.number(sealing::number(bytes, at, width)).to_le_bytes();
        bytes[at..at + width].copy_from_slice(&number[..width]);
    } else {
        let payload = frame + FRAME_HEADER;
        for _ in 0..=chance.below(3) {
            let at = payload + if chance.once_in(2) { chance.below(len.min(80)) } else { chance.below(len) };
            bytes[at] = if chance.once_in(2) { chance.byte() } else { bytes[at] ^ (1 << chance.below(8)) };
        }
    }
    sealing::seal_frames(bytes, &[frame]);
}

/// What was read is, for each session, a beginning of what was written; or of what lies behind the records that are
/// reported to be missing.
fn is_beginning(found: &Told, written: &Told, report: &Report) -> bool {
    let missing = |session: &SessionName| {
        let missing = report.missing.iter().find(|missing| missing.session == *session);
        missing.map_or(0, |missing| usize::try_from(missing.through).unwrap())
    };
    found.iter().all(|(session, records)| {
        written.get(session).and_then(|all| all.get(missing(session)..)).is_some_and(|all| all.starts_with(records))
    })
}

/// Reading changes nothing; and where a writer may go on, the next start reads the same, and then what was added.
fn read_and_go_on(disk: &SimDisk) -> Option<(Report, Told)> {
    let changes = disk.changes();
    let (report, told) = read(disk).ok()?;
    let (_, again) = read(disk).expect("it was read before");
    assert!(again == told, "reading twice differs");
    assert_eq!(disk.changes(), changes, "reading has written");
    if matches!(report.verdict, Verdict::Corrupt(_)) {
        return Some((report, told));
    }
    if let Some(start) = report.start.clone() {
        let Some(epoch) = report.epoch.checked_add(1) else { return Some((report, told)) };
        let Ok(writer) = Writer::open(Arc::new(disk.clone()), settings(), start, epoch) else {
            return Some((report, told));
        };
        writer.close().unwrap();
        let (next, told_next) = read(disk).expect("it was written just now");
        assert!(!matches!(next.verdict, Verdict::Corrupt(_)), "{:?} became {:?}", report.verdict, next.verdict);
        assert!(told_next == told, "the next start reads something else");
    }
    Some((report, told))
}

#[test]
fn what_is_read_of_a_damaged_journal_is_a_beginning_of_what_was_written() {
    let journals = [written(true), written(false)];
    cases("journal", |chance| {
        let (mut files, told) = chance.one_of(&journals).clone();
        for _ in 0..=chance.below(3) {
            if !files.is_empty() {
                damage_bytes(&mut files, chance);
            }
        }
        let Some((report, found)) = read_and_go_on(&on_disk(&files)) else { return false };
        assert!(is_beginning(&found, &told, &report), "something else than was written");
        found.len() == 2
    });
}

#[test]
fn damage_under_right_checksums_is_read_the_same_way_every_time() {
    let journals = [written(true), written(false)];
    cases("journal sealed", |chance| {
        let (mut files, _) = chance.one_of(&journals).clone();
        for _ in 0..=chance.below(2) {
            damage_sealed(&mut files, chance);
        }
        read_and_go_on(&on_disk(&files)).is_some_and(|(_, found)| found.len() == 2)
    });
}
