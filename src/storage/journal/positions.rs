//! Positions: what the journal knows about each session at one batch, kept at the start of every segment.

use super::control::{Control, Published};
use super::records::Span;
use crate::session::{SessionName, Timestamp};
use crate::storage::fields::{Fields, put_option, put_session};
use crate::storage::{Branch, Run};
use std::collections::BTreeMap;

/// Runs that are remembered, for the directory and for each session.
const RUNS_KEPT: usize = 16;
const VERSION: u8 = 1;

/// What the journal knows at one batch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Positions {
    /// Each session that has ever been journaled and was not forgotten.
    pub sessions: BTreeMap<SessionName, SessionPosition>,
    /// The last 16 starts of the daemon, oldest first.
    pub runs: Vec<RunStart>,
}

/// What the journal knows about one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionPosition {
    /// Its branch; `None` if nothing said so yet.
    pub branch: Option<Branch>,
    /// Its newest `seq` in the journal, 0 = none.
    pub seq: u64,
    /// The snapshot published last.
    pub published: Option<Published>,
    /// Where its branch began, if a restore began it.
    pub branched: Option<Branched>,
    /// The last 16 runs on this branch with the first `seq` each could issue, oldest first.
    pub runs: Vec<(Run, u64)>,
}

/// Where a branch began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Branched {
    /// The branch before.
    pub parent: Branch,
    /// The snapshot it started from.
    pub snapshot: u128,
    /// Its first `seq`.
    pub first_seq: u64,
}

/// A start of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunStart {
    /// Which.
    pub run: Run,
    /// The epoch it took.
    pub epoch: u64,
    /// When.
    pub at: Timestamp,
}

impl Positions {
    /// Takes note of one control record.
    pub fn apply_control(&mut self, control: &Control) {
        match control {
            Control::Run { run, epoch, at } => {
                push_bounded(&mut self.runs, RunStart { run: *run, epoch: *epoch, at: *at });
                for position in self.sessions.values_mut() {
                    push_bounded(&mut position.runs, (*run, position.seq.saturating_add(1)));
                }
            }
            Control::Branch { session, branch, parent, snapshot, first_seq } => {
                let run = self.runs.last().map(|start| start.run);
                let position = self.sessions.entry(session.clone()).or_default();
                position.branch = Some(*branch);
                position.branched = Some(Branched { parent: *parent, snapshot: *snapshot, first_seq: *first_seq });
                position.runs = run.map(|run| (run, *first_seq)).into_iter().collect();
            }
            Control::Published { session, published } => {
                let position = self.sessions.entry(session.clone()).or_default();
                position.branch.get_or_insert(published.branch);
                position.published = Some(*published);
            }
            Control::Forgotten { session } => drop(self.sessions.remove(session)),
        }
    }

    /// Takes note of one session's records in a batch.
    pub(super) fn apply_span(&mut self, span: &Span) {
        let run = self.runs.last().map(|start| start.run);
        let position = self.sessions.entry(span.session.clone()).or_default();
        if position.runs.is_empty() {
            position.runs.extend(run.map(|run| (run, span.first)));
        }
        position.branch = Some(span.branch);
        position.seq = span.last;
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&len_u32(self.runs.len()));
        for start in &self.runs {
            out.extend_from_slice(&start.run.0.to_le_bytes());
            out.extend_from_slice(&start.epoch.to_le_bytes());
            out.extend_from_slice(&start.at.0.to_le_bytes());
        }
        out.extend_from_slice(&len_u32(self.sessions.len()));
        for (session, position) in &self.sessions {
            put_session(&mut out, session);
            put_option(&mut out, position.branch.as_ref(), |out, branch| {
                out.extend_from_slice(&branch.0.to_le_bytes());
            });
            out.extend_from_slice(&position.seq.to_le_bytes());
            put_option(&mut out, position.published.as_ref(), |out, published| published.put(out));
            put_option(&mut out, position.branched.as_ref(), |out, branched| {
                out.extend_from_slice(&branched.parent.0.to_le_bytes());
                out.extend_from_slice(&branched.snapshot.to_le_bytes());
                out.extend_from_slice(&branched.first_seq.to_le_bytes());
            });
            out.extend_from_slice(&len_u32(position.runs.len()));
            for (run, first_seq) in &position.runs {
                out.extend_from_slice(&run.0.to_le_bytes());
                out.extend_from_slice(&first_seq.to_le_bytes());
            }
        }
        out
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        if fields.u8()? != VERSION {
            return None;
        }
        let mut positions = Self::default();
        for _ in 0..fields.u32()? {
            let run = Run(fields.u128()?);
            positions.runs.push(RunStart { run, epoch: fields.u64()?, at: Timestamp(fields.i64()?) });
        }
        for _ in 0..fields.u32()? {
            let session = fields.session()?;
            let position = read_session(fields)?;
            positions.sessions.insert(session, position);
        }
        Some(positions)
    }
}

fn read_session(fields: &mut Fields<'_>) -> Option<SessionPosition> {
    let mut position = SessionPosition::default();
    fields.option(&mut position.branch, |fields| fields.u128().map(Branch))?;
    position.seq = fields.u64()?;
    fields.option(&mut position.published, Published::read)?;
    fields.option(&mut position.branched, |fields| {
        Some(Branched { parent: Branch(fields.u128()?), snapshot: fields.u128()?, first_seq: fields.u64()? })
    })?;
    for _ in 0..fields.u32()? {
        let run = Run(fields.u128()?);
        position.runs.push((run, fields.u64()?));
    }
    Some(position)
}

fn len_u32(len: usize) -> [u8; 4] {
    u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes()
}

fn push_bounded<T>(list: &mut Vec<T>, item: T) {
    if list.len() == RUNS_KEPT {
        list.remove(0);
    }
    list.push(item);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(session: &str, first: u64, last: u64) -> Span {
        Span { session: SessionName::new(session).unwrap(), branch: Branch(1), first, last, blobs: Vec::new() }
    }

    fn run(run: u128) -> Control {
        Control::Run { run: Run(run), epoch: 1, at: Timestamp(2) }
    }

    #[test]
    fn runs_are_known_with_the_first_seq_each_could_issue() {
        let mut positions = Positions::default();
        positions.apply_control(&run(10));
        positions.apply_span(&span("a", 1, 5));
        positions.apply_control(&run(11));
        positions.apply_span(&span("a", 6, 6));
        positions.apply_span(&span("b", 1, 1));
        let session = |name| &positions.sessions[&SessionName::new(name).unwrap()];
        assert_eq!(session("a").runs, [(Run(10), 1), (Run(11), 6)]);
        assert_eq!(session("b").runs, [(Run(11), 1)]);
        assert_eq!(positions.runs.len(), 2);
    }

    #[test]
    fn a_new_branch_forgets_the_runs_of_the_old_one() {
        let mut positions = Positions::default();
        positions.apply_control(&run(10));
        positions.apply_span(&span("a", 1, 5));
        let a = SessionName::new("a").unwrap();
        positions.apply_control(&Control::Branch {
            session: a.clone(),
            branch: Branch(2),
            parent: Branch(1),
            snapshot: 3,
            first_seq: 6,
        });
        assert_eq!((positions.sessions[&a].branch, positions.sessions[&a].seq), (Some(Branch(2)), 5));
        assert_eq!(positions.sessions[&a].runs, [(Run(10), 6)]);
        let bytes = positions.encode();
        assert_eq!(Positions::read(&mut Fields::new(&bytes)), Some(positions.clone()));
        positions.apply_control(&Control::Forgotten { session: a });
        assert!(positions.sessions.is_empty());
    }
}
