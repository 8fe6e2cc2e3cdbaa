//! Checks a data directory and lists its backups without changing anything. May run beside the daemon.

use crate::session::{SessionName, Timestamp};
use crate::storage::backups::{self, Backup, SessionFiles, names};
use crate::storage::journal::{self, Request, ScanError, Verdict};
use crate::storage::metadata::iso;
use crate::storage::snapshot::{self, SnapshotError};
use crate::storage::state_file::{self, Found, STATE_FILE};
use crate::storage::vfs::Vfs;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// The condition of a file or of the whole directory; the worst counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// Nothing is wrong; `hotset fsck` succeeds.
    Clean,
    /// A write was cut off before anybody was told of it: nothing is lost, and `hotset fsck` succeeds.
    TornTail,
    /// Something that was written is damaged or missing: `hotset fsck` fails, with exit code 65.
    Corrupt,
}

/// What was found about one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, relative to the data directory.
    pub file: PathBuf,
    /// Its condition.
    pub condition: Condition,
    /// For people.
    pub detail: String,
}

/// What was found about a data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst of all findings.
    pub condition: Condition,
    /// One for each file that was looked at.
    pub findings: Vec<Finding>,
}

/// One backup, as lists show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackupInfo {
    /// The file, relative to the data directory.
    pub file: PathBuf,
    /// Bytes.
    pub bytes: u64,
    /// The moment it holds, milliseconds since 1970.
    pub at_ms: i64,
    /// The same, UTC.
    pub datetime: String,
    /// Its newest event.
    pub seq: u64,
    /// Members online at that moment.
    pub users: u64,
    /// Nodes.
    pub nodes: u64,
    /// Tasks.
    pub tasks: u64,
    /// Chat messages.
    pub messages: u64,
    /// Why it was written.
    pub reasons: Vec<String>,
    /// Whether rotation leaves it alone.
    pub kept: bool,
    /// Why it cannot be used, if so.
    pub problem: Option<String>,
}

/// As [`fsck`], but reads only what is quick to read: STATE, and the headers of snapshots and backups.
pub fn glance(vfs: &dyn Vfs) -> io::Result<Vec<Finding>> {
    let mut findings = vec![check_state(vfs)?];
    for name in session_names(vfs)? {
        let backups = list_backups(vfs, &name)?;
        for file in newest_save(vfs, &name)?.into_iter().chain(backups) {
            let condition = if file.problem.is_some() { Condition::Corrupt } else { Condition::Clean };
            let detail = file.problem.unwrap_or_else(|| format!("seq {}", file.seq));
            findings.push(Finding { file: file.file, condition, detail });
        }
    }
    Ok(findings)
}

fn check_state(vfs: &dyn Vfs) -> io::Result<Finding> {
    let (condition, detail) = match state_file::read(vfs)? {
        Found::Valid(_) => (Condition::Clean, "valid".to_owned()),
        Found::Missing => (Condition::Clean, "missing: the directory was never used".to_owned()),
        Found::Damaged => (Condition::Corrupt, "no valid slot; the journal has the same facts".to_owned()),
    };
    Ok(Finding { file: STATE_FILE.into(), condition, detail })
}

/// Checks everything that recovery would read, and every backup. `Err` only if a directory cannot be listed.
pub fn fsck(vfs: &dyn Vfs) -> io::Result<Report> {
    let mut findings = vec![check_state(vfs)?];
    let mut after = BTreeMap::new();
    for name in session_names(vfs)? {
        let files = SessionFiles::of(&name);
        if let Some(seq) = check_session(vfs, &files, &mut findings)? {
            after.insert(name, seq);
        }
    }
    check_journal(vfs, after, &mut findings);
    let condition = findings.iter().map(|finding| finding.condition).max().unwrap_or(Condition::Clean);
    Ok(Report { condition, findings })
}

fn check_session(vfs: &dyn Vfs, files: &SessionFiles, findings: &mut Vec<Finding>) -> io::Result<Option<u64>> {
    let live = files.live();
    let mut seq = None;
    if backups::stat_or_missing(vfs, &live)?.is_some() {
        let verified = snapshot::verify(vfs, &live);
        seq = verified.as_ref().ok().map(|verified| verified.header.seq);
        findings.push(finding(live, verified));
    }
    for directory in [files.backups(), files.kept()] {
        for backup in backups::list(vfs, &directory, 0)? {
            let verified = snapshot::verify(vfs, &backup.path);
            findings.push(finding(backup.path, verified));
        }
    }
    Ok(seq)
}

fn finding(file: PathBuf, verified: Result<snapshot::Verified, SnapshotError>) -> Finding {
    match verified {
        Ok(verified) => {
            let detail = format!("seq {}, {} bytes", verified.header.seq, verified.bytes);
            Finding { file, condition: Condition::Clean, detail }
        }
        Err(error) => Finding { file, condition: Condition::Corrupt, detail: error.to_string() },
    }
}

fn check_journal(vfs: &dyn Vfs, after: BTreeMap<SessionName, u64>, findings: &mut Vec<Finding>) {
    let request = Request { lineage: None, after, only: None };
    let file = PathBuf::from(journal::DIRECTORY);
    let report = match journal::scan(vfs, &request, &mut |_| ControlFlow::Continue(())) {
        Ok(report) => report,
        Err(error @ (ScanError::Io { .. } | ScanError::Unsupported { .. })) => {
            return findings.push(Finding { file, condition: Condition::Corrupt, detail: error.to_string() });
        }
    };
    for missing in &report.missing {
        let detail = format!("{}: events {}..={} are in no snapshot", missing.session, missing.from, missing.through);
        findings.push(Finding { file: file.clone(), condition: Condition::Corrupt, detail });
    }
    findings.push(match report.verdict {
        Verdict::Whole { closed } => {
            let how = if closed { "closed in order" } else { "not closed" };
            let detail = format!("{} segments, whole, {how}", report.segments.len());
            Finding { file, condition: Condition::Clean, detail }
        }
        Verdict::Torn(tail) => {
            let detail = format!("bytes {}..{} were never acknowledged", tail.offset, tail.end);
            Finding { file: tail.file, condition: Condition::TornTail, detail }
        }
        Verdict::Corrupt(corruption) => {
            let (from, to) = (corruption.cut.offset, corruption.cut.end);
            let detail = format!("bytes {from}..{to}: {}", corruption.what);
            Finding { file: corruption.cut.file, condition: Condition::Corrupt, detail }
        }
    });
}

/// The backups of one session, newest first: the rotated ones, then the kept ones. Reads only headers.
pub fn list_backups(vfs: &dyn Vfs, session: &SessionName) -> io::Result<Vec<BackupInfo>> {
    let files = SessionFiles::of(session);
    let mut all = Vec::new();
    for (directory, kept) in [(files.backups(), false), (files.kept(), true)] {
        all.extend(backups::list(vfs, &directory, 0)?.into_iter().map(|backup| describe(backup, kept)));
    }
    Ok(all)
}

/// What the snapshot in place says of itself, if there is one. Reads only its header.
pub(crate) fn newest_save(vfs: &dyn Vfs, session: &SessionName) -> io::Result<Option<BackupInfo>> {
    let path = SessionFiles::of(session).live();
    let Some(stat) = backups::stat_or_missing(vfs, &path)? else { return Ok(None) };
    let header = snapshot::read_header(vfs, &path);
    Ok(Some(describe(Backup { path, identity: stat.into(), header }, false)))
}

/// Checks every hash of one backup, named by its file name or its path below the data directory.
pub fn verify_backup(vfs: &dyn Vfs, session: &SessionName, name: &str) -> Result<BackupInfo, SnapshotError> {
    let path = find_backup(vfs, session, name)?;
    let identity = vfs.stat(&path)?.into();
    let verified = snapshot::verify(vfs, &path)?;
    let kept = path.starts_with(SessionFiles::of(session).kept());
    Ok(describe(Backup { path, identity, header: Ok(verified.header) }, kept))
}

/// The path of a backup of a session, given its file name or its path below the data directory.
pub(crate) fn find_backup(vfs: &dyn Vfs, session: &SessionName, name: &str) -> io::Result<PathBuf> {
    let files = SessionFiles::of(session);
    let candidates = [files.backups().join(name), files.kept().join(name), PathBuf::from(name)];
    for path in candidates {
        let inside = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if inside && backups::stat_or_missing(vfs, &path)?.is_some_and(|stat| !stat.is_dir && !stat.is_symlink) {
            return Ok(path);
        }
    }
    let place = vfs.display(&files.backups());
    Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no backup {name:?} in {place}")))
}

fn describe(backup: Backup, kept: bool) -> BackupInfo {
    let Backup { path: file, identity, header } = backup;
    let bytes = identity.len;
    match header {
        Ok(header) => BackupInfo {
            file,
            bytes,
            at_ms: header.at.0,
            datetime: iso(header.at),
            seq: header.seq,
            users: header.summary.users,
            nodes: header.summary.nodes,
            tasks: header.summary.tasks,
            messages: header.summary.messages,
            reasons: header.reasons,
            kept,
            problem: None,
        },
        Err(error) => BackupInfo {
            file,
            bytes,
            at_ms: 0,
            datetime: iso(Timestamp(0)),
            seq: 0,
            users: 0,
            nodes: 0,
            tasks: 0,
            messages: 0,
            reasons: Vec::new(),
            kept,
            problem: Some(error.to_string()),
        },
    }
}

/// All sessions that have a folder, and the default one.
pub(crate) fn session_names(vfs: &dyn Vfs) -> io::Result<BTreeSet<SessionName>> {
    let folders = names(vfs, Path::new("sessions"))?;
    let named = folders.iter().filter_map(|folder| SessionName::new(folder.to_str()?).ok());
    Ok(named.chain([SessionName::default_session()]).collect())
}
