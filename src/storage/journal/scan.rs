//! The scan: reads the journal back, decides whether it is whole, and never writes.

use super::Lineage;
use super::catalog::{Catalog, Segment};
use super::control::Control;
use super::positions::Positions;
use super::segment::Position;
use super::start::{KeptSegment, Start};
use super::walk::Walker;
use crate::session::SessionName;
use crate::storage::Branch;
use crate::storage::vfs::Vfs;
use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What a scan is to find.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The lineage whose segments count; unknown = that of the newest readable segment.
    pub lineage: Option<Lineage>,
    /// For each session the `seq` of the snapshot at hand: records up to it are not visited. Sessions that are not
    /// named are visited from their beginning.
    pub after: BTreeMap<SessionName, u64>,
    /// Visit only this session, and stop reading when `visit` breaks off: the verdict is then about what was read.
    pub only: Option<SessionName>,
}

impl Request {
    /// Up to which `seq` nothing of the session is wanted.
    pub(super) fn after(&self, session: &SessionName) -> u64 {
        if self.only.as_ref().is_some_and(|only| only != session) {
            return u64::MAX;
        }
        self.after.get(session).copied().unwrap_or(0)
    }
}

/// Something that the journal holds.
#[derive(Debug, Clone, Copy)]
pub enum Item<'a> {
    /// One event of one session, after what was asked for.
    Record {
        /// Whose.
        session: &'a SessionName,
        /// On which branch.
        branch: Branch,
        /// Its number.
        seq: u64,
        /// Its stored form.
        body: &'a [u8],
        /// Where it stands.
        place: Place,
    },
    /// A control record.
    Control {
        /// What it says.
        control: &'a Control,
        /// Where it stands.
        place: Place,
    },
}

/// Where something stands in the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The segment's number.
    pub segment: u64,
    /// The batch's number.
    pub batch: u64,
}

/// What a scan found out.
#[derive(Debug, Clone)]
pub struct Report {
    /// Whether the journal is whole.
    pub verdict: Verdict,
    /// Whose journal it is; `None` if it is empty.
    pub lineage: Option<Lineage>,
    /// The highest epoch in it, 0 if it is empty.
    pub epoch: u64,
    /// What is known after the last batch that was visited.
    pub positions: Positions,
    /// Every batch up to here was promised (seals, later frames and segments say so).
    pub durable_upto: u64,
    /// The last batch that was visited.
    pub applied_upto: u64,
    /// Records that were asked for and are older than the oldest segment.
    pub missing: Vec<MissingRecords>,
    /// All segments that count, in order.
    pub segments: Vec<SegmentReport>,
    /// Files in the journal's directory that do not count and were left alone.
    pub strays: Vec<Stray>,
    /// Where a writer begins; `None` if the verdict is corrupt or there is no segment ([`Start::fresh`] then).
    pub start: Option<Start>,
}

/// Whether the journal is whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Everything is there.
    Whole {
        /// Whether it was closed in order.
        closed: bool,
    },
    /// The last write was cut off before anybody was told of it: only the remains were left out.
    Torn(TornTail),
    /// Something that was promised is missing. Only what came before it was visited.
    Corrupt(Corruption),
}

/// The remains of a write that was cut off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// In which file, relative to the data directory.
    pub file: PathBuf,
    /// From where.
    pub offset: u64,
    /// To where.
    pub end: u64,
}

/// What is missing, as far as it can be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Corruption {
    /// For people: what is wrong.
    pub what: String,
    /// The place of it.
    pub cut: Cut,
    /// The last batch that was promised.
    pub durable_upto: u64,
    /// For each session of which it is known: the records that cannot be applied.
    pub lost: Vec<LostRecords>,
}

/// The place from which on nothing can be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// In which file, relative to the data directory.
    pub file: PathBuf,
    /// From where in it.
    pub offset: u64,
    /// To where in it, as far as it is known (the next readable frame, or the end).
    pub end: u64,
    /// The first batch that is missing.
    pub batch: u64,
}

/// Records that cannot be applied, because they or something before them is damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRecords {
    /// Whose.
    pub session: SessionName,
    /// The first.
    pub from: u64,
    /// The last one known of.
    pub through: u64,
}

/// Records that were asked for and are older than the oldest segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingRecords {
    /// Whose.
    pub session: SessionName,
    /// The first that was asked for.
    pub from: u64,
    /// The last one that is not there.
    pub through: u64,
}

/// One segment that counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its number.
    pub number: u64,
    /// Its file, relative to the data directory.
    pub file: PathBuf,
    /// The epoch of the start that wrote it.
    pub epoch: u64,
    /// The first batch in it.
    pub first_batch: u64,
    /// When it was begun, milliseconds since 1970.
    pub created_ms: i64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Each session's newest `seq` when it was begun (so the one before holds nothing newer).
    pub seqs: BTreeMap<SessionName, u64>,
}

/// A file that does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Which, relative to the data directory.
    pub file: PathBuf,
    /// For people: why not.
    pub why: String,
}

/// Why a journal could not be read at all. Nothing was decided about it.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The disk failed.
    #[error("cannot read {file}: {source}")]
    Io {
        /// Which file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The journal was written by a newer program.
    #[error("{file} is of a newer program: {what}")]
    Unsupported {
        /// Which file.
        file: String,
        /// What is unknown about it.
        what: String,
    },
}

impl ScanError {
    pub(super) fn io(vfs: &dyn Vfs, path: &Path, source: io::Error) -> Self {
        Self::Io { file: vfs.display(path), source }
    }
}

/// Reads the journal and visits what `request` asks for, in order, as far as it is intact without a gap. When `visit`
/// breaks off, nothing more is visited, and the verdict is still about the whole journal.
///
/// Only the segments from the newest one whose position is not ahead of any wanted record are read.
pub fn scan(
    vfs: &dyn Vfs,
    request: &Request,
    visit: &mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
) -> Result<Report, ScanError> {
    let catalog = Catalog::read(vfs, request.lineage)?;
    let Some(newest) = catalog.segments.last() else { return Ok(empty(catalog)) };
    let plan = Plan::new(&catalog.segments, request);
    if request.only.is_some() && !plan.missing.is_empty() {
        return Ok(empty_of(catalog, plan.missing));
    }
    let mut walker = Walker::new(vfs, request, visit, &catalog.segments[plan.from].header, plan.position.clone());
    for (index, segment) in catalog.segments.iter().enumerate().skip(plan.from) {
        let before = (index > plan.from).then(|| &catalog.segments[index - 1]);
        walker.segment(before, segment, catalog.segments.get(index + 1))?;
        if walker.is_done() {
            break;
        }
    }
    if let Some((number, path)) = catalog.unreadable.range(newest.header.number + 1..).next() {
        walker.force_cut(format!("the header of segment {number:016x} cannot be read"), path, 0);
    }
    if let Some(number) = newest.continued_in {
        let what = format!("segment {number:016x} is missing");
        walker.force_cut(what, &super::segment::segment_path(number), 0); // durability: J20
    }
    if !plan.known {
        walker.force_cut("what was known at its beginning cannot be read".into(), &catalog.segments[0].path, 0);
    }
    Ok(report(catalog, walker.finish(), plan.missing))
}

fn empty(catalog: Catalog) -> Report {
    let verdict = match catalog.unreadable.first_key_value() {
        None => Verdict::Whole { closed: false },
        Some((_, file)) => Verdict::Corrupt(Corruption {
            what: "no segment has a readable header".into(),
            cut: Cut { file: file.clone(), offset: 0, end: 0, batch: 0 },
            durable_upto: 0,
            lost: Vec::new(),
        }),
    };
    Report { verdict, ..empty_of(catalog, Vec::new()) }
}

/// A report of which nothing was read.
fn empty_of(catalog: Catalog, missing: Vec<MissingRecords>) -> Report {
    Report {
        verdict: Verdict::Whole { closed: false },
        lineage: catalog.lineage,
        epoch: 0,
        positions: Positions::default(),
        durable_upto: 0,
        applied_upto: 0,
        missing,
        segments: Vec::new(),
        strays: catalog.strays,
        start: None,
    }
}

/// From where to read.
struct Plan {
    from: usize,
    position: Position,
    /// Whether `position` is what the journal says, and not just nothing.
    known: bool,
    missing: Vec<MissingRecords>,
}

impl Plan {
    fn new(segments: &[Segment], request: &Request) -> Self {
        let wanted = |session: &SessionName| request.after(session);
        let enough = |segment: &Segment| {
            let Some(position) = &segment.position else { return false };
            position.positions.sessions.iter().all(|(session, known)| known.seq <= wanted(session))
        };
        let newest_enough = segments.iter().rposition(enough);
        let mut from = newest_enough.unwrap_or(0);
        // A record after this point may have begun before it.
        let oldest_blob = segments[from].position.as_ref().and_then(|p| p.open_blobs.values().min().copied());
        while from > 0
            && (segments[from].position.is_none() || oldest_blob.is_some_and(|no| no < segments[from].header.number))
        {
            from -= 1;
        }
        let position = segments[from].position.clone();
        let known = position.is_some() || segments[from].header.first_batch <= 1;
        let position = position.unwrap_or_default();
        let mut missing = Vec::new();
        if newest_enough.is_none() {
            for (session, known) in &position.positions.sessions {
                if known.seq > wanted(session) {
                    let (from, through) = (wanted(session) + 1, known.seq);
                    missing.push(MissingRecords { session: session.clone(), from, through });
                }
            }
        }
        Self { from, position, known, missing }
    }
}

fn report(catalog: Catalog, walked: super::walk::Walked, missing: Vec<MissingRecords>) -> Report {
    let newest = catalog.segments.last().map(|segment| &segment.header);
    let start = match (newest, &walked.verdict) {
        (Some(newest), Verdict::Whole { .. } | Verdict::Torn(_)) => Some(Start {
            lineage: newest.lineage,
            next_segment: catalog.highest_no + 1,
            previous: newest.number,
            first_batch: walked.durable_upto + 1,
            chain: walked.chain,
            positions: walked.base.positions,
            open_blobs: walked.base.open_blobs,
            tail: walked.tail,
            segments: catalog.segments.iter().map(kept).collect(),
        }),
        (_, Verdict::Corrupt(_)) | (None, _) => None,
    };
    Report {
        verdict: walked.verdict,
        lineage: catalog.lineage,
        epoch: catalog.segments.iter().map(|segment| segment.header.epoch).max().unwrap_or(0),
        positions: walked.positions,
        durable_upto: walked.durable_upto,
        applied_upto: walked.applied_upto,
        missing,
        segments: catalog.segments.iter().map(segment_report).collect(),
        strays: catalog.strays,
        start,
    }
}

fn seqs(segment: &Segment) -> BTreeMap<SessionName, u64> {
    let sessions = segment.position.iter().flat_map(|position| &position.positions.sessions);
    sessions.map(|(session, known)| (session.clone(), known.seq)).collect()
}

fn segment_report(segment: &Segment) -> SegmentReport {
    SegmentReport {
        number: segment.header.number,
        file: segment.path.clone(),
        epoch: segment.header.epoch,
        first_batch: segment.header.first_batch,
        created_ms: segment.header.created_ms,
        bytes: segment.len,
        seqs: seqs(segment),
    }
}

fn kept(segment: &Segment) -> KeptSegment {
    KeptSegment {
        number: segment.header.number,
        created_ms: segment.header.created_ms,
        bytes: segment.len,
        seqs: seqs(segment),
        position_known: segment.position.is_some(),
        oldest_blob: segment.position.as_ref().and_then(|position| position.open_blobs.values().min().copied()),
    }
}
