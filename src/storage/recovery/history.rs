//! What the journal knows of each session, and the replay of its events onto a state.

use crate::session::SessionName;
use crate::storage::backups::Identity;
use crate::storage::journal::{self, Item, Lineage, Report, Request, ScanError, SessionPosition, Verdict};
use crate::storage::snapshot::{Header, SnapshotId};
use crate::storage::vfs::Vfs;
use crate::storage::{Branch, Machine, Run};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

/// The journal as the newest segments describe it.
pub(crate) struct History {
    report: Report,
    lineage: Lineage,
}

/// What the journal knows of one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Past {
    /// The session's current branch; `None`: the journal has never heard of the session.
    pub(crate) branch: Option<Branch>,
    /// The snapshot published last on that branch.
    pub(crate) published: Option<Published>,
    /// Runs on that branch, oldest first, with the first `seq` each could issue.
    pub(crate) runs: Vec<(Run, u64)>,
    /// The newest event in the journal.
    pub(crate) last_seq: u64,
    /// The branch before the current one, and the first `seq` that could be issued on the current one.
    pub(crate) began: Option<(Branch, SnapshotId, u64)>,
}

/// A publication that the journal has recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Published {
    /// Which snapshot.
    pub(crate) id: SnapshotId,
    /// The newest event in it.
    pub(crate) seq: u64,
    /// The file as it was then.
    pub(crate) identity: Identity,
}

impl Past {
    fn of(position: &SessionPosition) -> Self {
        let published = position.published.filter(|published| Some(published.branch) == position.branch);
        Self {
            branch: position.branch,
            published: published.map(|published| Published {
                id: SnapshotId(published.snapshot),
                seq: published.seq,
                identity: published.file.into(),
            }),
            runs: position.runs.clone(),
            last_seq: position.seq,
            began: position.branched.map(|b| (b.parent, SnapshotId(b.snapshot), b.first_seq)),
        }
    }

    /// Whether a restore began the current branch and was interrupted before anybody was served on it: until then it
    /// holds nothing but the event that marks the restore.
    pub(crate) fn is_barren(&self) -> bool {
        let restored = self.began.filter(|(_, base, _)| *base != SnapshotId::NONE);
        self.published.is_none() && restored.is_some_and(|(_, _, first)| self.last_seq <= first)
    }

    /// Whether the run that wrote a snapshot is the last one that issued any event: nobody else can have been
    /// interrupted while publishing.
    pub(crate) fn is_newest_writer(&self, header: &Header) -> bool {
        let Some((writer, _)) = header.runs.last() else { return false };
        let later = self.runs.iter().skip_while(|(run, _)| run != writer).nth(1);
        self.runs.iter().any(|(run, _)| run == writer) && later.is_none_or(|(_, first)| self.last_seq < *first)
    }

    /// Whether the current branch began with no state, so that its events alone lead to its newest state.
    pub(crate) fn began_with_nothing(&self) -> bool {
        self.began.is_none_or(|(_, base, _)| base == SnapshotId::NONE)
    }

    /// The branch that a restore leaves.
    pub(crate) fn branch_left(&self) -> Option<Branch> {
        if self.is_barren() { self.began.map(|(parent, ..)| parent) } else { self.branch }
    }
}

impl History {
    /// Reads as little of the journal as tells what it knows of `sessions`. `witnessed` is the lineage in `STATE`,
    /// `fresh` the one of a directory that has none yet.
    pub(crate) fn read(
        vfs: &dyn Vfs,
        sessions: &BTreeSet<SessionName>,
        witnessed: Option<u128>,
        fresh: u128,
    ) -> Result<Self, ScanError> {
        let after = sessions.iter().map(|name| (name.clone(), u64::MAX)).collect();
        let request = Request { lineage: witnessed.map(Lineage), after, only: None };
        let mut report = journal::scan(vfs, &request, &mut |_| ControlFlow::Continue(()))?;
        if report.segments.is_empty() && !report.strays.is_empty() && witnessed.is_some() {
            // A journal of another directory was copied here without its STATE: it is the only journal there is.
            report =
                journal::scan(vfs, &Request { lineage: None, ..request.clone() }, &mut |_| ControlFlow::Continue(()))?;
        }
        let lineage = report.lineage.or(request.lineage).unwrap_or(Lineage(fresh));
        Ok(Self { report, lineage })
    }

    /// The directory's identity.
    pub(crate) fn lineage(&self) -> u128 {
        self.lineage.0
    }

    /// What was found out.
    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    /// Whether there is anything at all in the journal's folder.
    pub(crate) fn has_traces(&self) -> bool {
        self.has_segments() || self.is_corrupt() || !self.report.strays.is_empty()
    }

    /// Whether there is any journal of this directory.
    pub(crate) fn has_segments(&self) -> bool {
        !self.report.segments.is_empty()
    }

    /// What is known of a session.
    pub(crate) fn past(&self, name: &SessionName) -> Past {
        self.report.positions.sessions.get(name).map(Past::of).unwrap_or_default()
    }

    /// Applies to `machine` the events of `branch` that follow it. Returns how many there were, and what is missing
    /// of those that were acknowledged.
    pub(crate) fn replay<M: Machine>(
        &self,
        vfs: &dyn Vfs,
        name: &SessionName,
        branch: Branch,
        machine: &mut M,
    ) -> Result<(u64, Option<String>), ScanError> {
        if !self.has_segments() && !self.is_corrupt() {
            return Ok((0, None));
        }
        let (mut replayed, mut fault) = (0, None);
        let after = BTreeMap::from([(name.clone(), machine.seq())]);
        let request = Request { lineage: Some(self.lineage), after, only: Some(name.clone()) };
        let report = journal::scan(vfs, &request, &mut |item| {
            let Item::Record { session, branch: of, seq, body, .. } = item else { return ControlFlow::Continue(()) };
            if session != name || of != branch || seq <= machine.seq() {
                return ControlFlow::Continue(());
            }
            match step(machine, seq, body) {
                Ok(()) => {
                    replayed += 1;
                    ControlFlow::Continue(())
                }
                Err(why) => {
                    fault = Some(why);
                    ControlFlow::Break(())
                }
            }
        })?;
        let missing = fault.or_else(|| describe_loss(vfs, &report, name, machine.seq()));
        Ok((replayed, missing))
    }

    /// Whether something that was acknowledged is damaged in the newest part of the journal.
    pub(crate) fn is_corrupt(&self) -> bool {
        matches!(self.report.verdict, Verdict::Corrupt(_))
    }

    /// Bytes of a write that was cut off before anybody was told of it.
    pub(crate) fn discarded_bytes(&self) -> u64 {
        match &self.report.verdict {
            Verdict::Torn(tail) => tail.end.saturating_sub(tail.offset),
            Verdict::Whole { .. } | Verdict::Corrupt(_) => 0,
        }
    }
}

fn step<M: Machine>(machine: &mut M, seq: u64, body: &[u8]) -> Result<(), String> {
    let expected = machine.seq() + 1;
    if seq != expected {
        return Err(format!("events {expected}..={} are missing", seq - 1));
    }
    machine.apply(seq, body).map_err(|error| format!("event {seq} is intact and cannot be applied: {error}"))
}

fn describe_loss(vfs: &dyn Vfs, report: &Report, name: &SessionName, reached: u64) -> Option<String> {
    let older = report.missing.iter().find(|missing| missing.session == *name);
    if let Some(missing) = older {
        let (from, through) = (missing.from, missing.through);
        return Some(format!("events {from}..={through} are older than the journal and in no whole snapshot"));
    }
    let Verdict::Corrupt(corruption) = &report.verdict else { return None };
    let lost = corruption.lost.iter().find(|lost| lost.session == *name);
    let range = lost.map_or_else(
        || format!("events after {reached}, if there were any"),
        |lost| format!("events {}..={}", reached.max(lost.from - 1) + 1, lost.through),
    );
    let file = vfs.display(&corruption.cut.file);
    let (from, to) = (corruption.cut.offset, corruption.cut.end);
    Some(format!("{range}: {} ({file}, bytes {from}..{to})", corruption.what))
}
