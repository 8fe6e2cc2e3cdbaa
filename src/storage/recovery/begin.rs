//! Carries out a plan: sets aside what a restore leaves, begins a run in the journal, puts new branches on disk.

use super::decide::Reason;
use super::outcome::{OpenError, OpenOptions, Opened, OpenedSession, Outcome, Restored};
use super::plan::{Beyond, Built, Plan, Restore, base_id};
use super::{History, Looked, Survey};
use crate::ops::random;
use crate::storage::backups::{self, Identity, SessionFiles};
use crate::storage::journal::{self, Control, Lineage, Positions, Start};
use crate::storage::journaling::Journaling;
use crate::storage::restore::source_of;
use crate::storage::saver::{Order, Publication, SaveError, SaverSetup, Shelf};
use crate::storage::snapshot::{self, Header, Purpose, SnapshotError, SnapshotId};
use crate::storage::state_file;
use crate::storage::store::DirectoryStore;
use crate::storage::vfs::SharedVfs;
use crate::storage::{Branch, Machine, Record, Run};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Runs that a session remembers.
const RUNS_KEPT: usize = 16;

/// Begins a run. Every step may be interrupted: the next start finds either the old situation or the new one.
pub(super) fn begin<M: Machine>(
    vfs: &SharedVfs,
    lock: Box<dyn Send>,
    options: &OpenOptions,
    looked: Looked<M>,
) -> Result<Opened<M>, OpenError> {
    let Looked { state, history, plans } = looked;
    let mut site = Site { vfs: Arc::clone(vfs), history: &history, options, epoch: 0, notes: Vec::new() };
    let first_run = !history.has_traces() && plans.iter().all(|(_, plan)| matches!(plan, Plan::Fresh));
    let witnessed = state.witness().map_or(0, |witness| witness.epoch);
    site.epoch = witnessed.max(history.report().epoch) + 1;
    let mut aside = BTreeMap::new();
    for (survey, plan) in &plans {
        site.tidy(survey, plan)?;
        if let Plan::Restore(restore) = plan {
            aside.insert(survey.files.name.clone(), site.set_aside(survey, restore)?);
        }
    }
    let start = site.journal_start()?;
    let run = Control::Run { run: options.run, epoch: site.epoch, at: options.now };
    let journaling = Journaling::begin(Arc::clone(vfs), start, site.epoch, run, options)?;
    state_file::write(&**vfs, state, history.lineage(), site.epoch)?;
    let mut sessions = Vec::new();
    let (mut shelves, mut unserved) = (Vec::new(), BTreeSet::new());
    for (survey, plan) in plans {
        let kept = aside.remove(&survey.files.name).flatten();
        let (outcome, shelf) = site.settle(&journaling, &survey, plan, kept)?;
        match shelf {
            Some(shelf) => shelves.push(shelf),
            None => _ = unserved.insert(survey.files.name.clone()),
        }
        sessions.push(OpenedSession { name: survey.files.name.clone(), outcome });
    }
    let notes = site.notes;
    let setup = setup(vfs, &journaling, history.lineage(), journaling.epoch());
    let store = Arc::new(DirectoryStore::running(lock, setup, shelves, unserved, journaling)?);
    Ok(Opened { sessions, store, notes, first_run })
}

fn setup(vfs: &SharedVfs, journaling: &Arc<Journaling>, lineage: u128, epoch: u64) -> SaverSetup {
    SaverSetup {
        vfs: Arc::clone(vfs),
        ledger: Arc::clone(journaling) as _,
        lineage,
        epoch,
        keep: journaling.keep().clone(),
    }
}

struct Site<'a> {
    vfs: SharedVfs,
    history: &'a History,
    options: &'a OpenOptions,
    epoch: u64,
    notes: Vec<String>,
}

impl Site<'_> {
    /// Repairs what an interrupted save left behind and moves rotten files away.
    fn tidy<M>(&mut self, survey: &Survey, plan: &Plan<M>) -> Result<(), OpenError> {
        let (vfs, files) = (&*self.vfs, &survey.files);
        if matches!(plan, Plan::Refuse { .. } | Plan::ReadOnly { .. }) {
            return Ok(());
        }
        files.create(vfs)?;
        files.remove_temporary(vfs)?;
        if let Some(twin) = survey.twin_of_live() {
            vfs.unlink(&twin.path)?; // durability: S24
            // No point of its own: a name that comes back is removed by the next start.
            vfs.sync_dir(&files.backups())?;
        }
        if let Plan::Serve { rotten: Some(rotten), .. } = plan {
            let place = backups::quarantine(vfs, files, rotten, "rotten_snapshot")?;
            self.note(format!("the snapshot was damaged on disk and is now {}", vfs.display(&place)));
        }
        Ok(())
    }

    fn note(&mut self, text: String) {
        tracing::warn!("{text}");
        self.notes.push(text);
    }

    /// Keeps what is newer than a restored snapshot as a file of its own, before anything else happens.
    fn set_aside<M: Machine>(&mut self, survey: &Survey, restore: &Restore<M>) -> Result<Option<PathBuf>, OpenError> {
        match &restore.beyond {
            Beyond::Nothing => Ok(None),
            Beyond::KeptAlready(path) => Ok(Some(path.clone())),
            Beyond::State(built) => {
                if let Some(missing) = &built.missing {
                    self.copy_journal(&format!("what is newer than the restored snapshot is incomplete: {missing}"))?;
                }
                self.write_pre_restore(&survey.files, built).map(Some)
            }
            Beyond::Unbuildable(why) => {
                self.copy_journal(&format!("what is newer than the restored snapshot cannot be built: {why}"))?;
                Ok(None)
            }
        }
    }

    fn write_pre_restore<M: Machine>(&self, files: &SessionFiles, built: &Built<M>) -> Result<PathBuf, OpenError> {
        let vfs = &*self.vfs;
        let header = Header {
            lineage: self.history.lineage(),
            branch: self.history.past(&files.name).branch.unwrap_or(Branch(0)),
            epoch: self.epoch,
            id: SnapshotId(random::u128()),
            parent: base_id(built),
            seq: built.machine.seq(),
            created: self.options.now,
            at: self.options.now,
            summary: built.machine.summary(),
            purpose: Purpose::Kept,
            session: files.name.clone(),
            writer: format!("hotset {}", env!("CARGO_PKG_VERSION")),
            reasons: vec!["pre_restore".into()],
            runs: Vec::new(),
        };
        let temporary = files.temporary(header.id);
        snapshot::write(vfs, &temporary, &header, &built.machine)?;
        let name = backups::free_name(vfs, &files.kept(), "pre_restore", self.options.now)?;
        vfs.rename(&temporary, &name)?;
        vfs.sync_dir(&files.kept())?; // durability: S25
        // No point of its own: it removes the temporary name.
        vfs.sync_dir(&files.root)?;
        Ok(name)
    }

    /// Copies the journal's files as they are: whatever is in them can still be dug out.
    fn copy_journal(&mut self, why: &str) -> Result<(), OpenError> {
        if self.history.is_corrupt() {
            // It is moved there whole, a little later.
            self.note(why.to_owned());
            return Ok(());
        }
        let vfs = &*self.vfs;
        let copies = Path::new("superseded_journal");
        vfs.create_dir(copies)?;
        for segment in &self.history.report().segments {
            let name = segment.file.file_name().ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from)?;
            backups::copy(vfs, &segment.file, &copies.join(name))?;
        }
        let place = backups::quarantine_folder(vfs, copies, "superseded_journal")?;
        let shown = vfs.display(&place);
        self.note(format!("{why}; the journal's files were copied to {shown}"));
        Ok(())
    }

    /// Where the journal goes on. A damaged one that nobody needs any more is moved away whole.
    fn journal_start(&mut self) -> Result<Start, OpenError> {
        if let Some(start) = &self.history.report().start {
            return Ok(start.clone());
        }
        if self.history.is_corrupt() {
            let place = backups::quarantine_folder(&*self.vfs, Path::new(journal::DIRECTORY), "damaged_journal")?;
            let shown = self.vfs.display(&place);
            self.note(format!("the damaged journal, which no session needs any more, is now {shown}"));
        }
        Ok(Start::fresh(Lineage(self.history.lineage()), Positions::default()))
    }

    /// Puts one session's plan into effect in the journal and on disk.
    fn settle<M: Machine>(
        &mut self,
        journaling: &Arc<Journaling>,
        survey: &Survey,
        plan: Plan<M>,
        kept: Option<PathBuf>,
    ) -> Result<(Outcome<M>, Option<Shelf>), OpenError> {
        let discarded = self.history.discarded_bytes();
        match plan {
            Plan::Refuse { reason, command } => Ok((Outcome::Refused { reason, command }, None)),
            Plan::ReadOnly { built, damage, command } => {
                let restored = built.restored(discarded, self.options.now);
                Ok((Outcome::ReadOnly { machine: built.machine, restored, damage, command }, None))
            }
            Plan::Fresh => {
                let shelf = journaling.create(&survey.files.name)?;
                Ok((Outcome::Serving { machine: M::empty(), restored: None }, Some(shelf)))
            }
            Plan::Serve { built, .. } => {
                let mut restored = built.restored(discarded, self.options.now);
                let shelf = self.resume(journaling, survey, &built)?;
                restored.saved = shelf.published.map_or(0, |published| published.seq);
                Ok((Outcome::Serving { machine: built.machine, restored: Some(restored) }, Some(shelf)))
            }
            Plan::Restore(restore) => {
                let (machine, restored, shelf) = self.restore(journaling, survey, *restore, kept)?;
                Ok((Outcome::Serving { machine, restored: Some(restored) }, Some(shelf)))
            }
        }
    }

    /// Goes on with a session on its branch. The journal learns of a publish that it had missed; if there is no
    /// snapshot in place any more, one is written at once.
    fn resume<M: Machine>(
        &self,
        journaling: &Arc<Journaling>,
        survey: &Survey,
        built: &Built<M>,
    ) -> Result<Shelf, OpenError> {
        let name = &survey.files.name;
        let past = self.history.past(name);
        let branch = past.branch.or(built.base.as_ref().map(|(header, _)| header.branch)).unwrap_or(Branch(0));
        let mut shelf = Shelf::new(survey.files.clone(), branch);
        shelf.runs = self.runs(survey, built.machine.seq() + 1);
        journaling.add(name, branch, shelf.runs.clone(), built.machine.seq());
        shelf.parent = past.published.map_or(SnapshotId::NONE, |published| published.id);
        shelf.published = survey.live_publication();
        match shelf.published.filter(|_| base_is_live(built, survey)) {
            Some(live) if live.id == shelf.parent => {}
            Some(live) => {
                journaling.record_published(name, branch, &live)?;
                shelf.parent = live.id;
            }
            // Nothing has ever happened in it: nothing is to be saved.
            None if built.base.is_none() && built.machine.seq() == 0 => {}
            None => {
                // What is in place, if anything, has been moved to quarantine or lacks events.
                self.save_now(journaling, &mut shelf, &built.machine, "recovery")?;
            }
        }
        Ok(shelf)
    }

    fn runs(&self, survey: &Survey, first_seq: u64) -> Vec<(Run, u64)> {
        let known = self.history.report().positions.sessions.get(&survey.files.name);
        let mut runs = known.map_or_else(Vec::new, |known| known.runs.clone());
        runs.push((self.options.run, first_seq));
        runs.drain(..runs.len().saturating_sub(RUNS_KEPT));
        runs
    }

    /// Serves a snapshot that was put in place, on a branch of its own.
    fn restore<M: Machine>(
        &mut self,
        journaling: &Arc<Journaling>,
        survey: &Survey,
        restore: Restore<M>,
        kept: Option<PathBuf>,
    ) -> Result<(M, Restored, Shelf), OpenError> {
        let Restore { mut machine, header, identity, reason, parent, highest_seq, beyond } = restore;
        let left = match beyond {
            Beyond::State(built) => Some(built.machine),
            // It was whole a moment ago; without it, only the answers of lately are forgotten.
            Beyond::KeptAlready(path) => snapshot::load::<M>(&*self.vfs, &path).ok().map(|(left, _)| left),
            Beyond::Nothing | Beyond::Unbuildable(_) => None,
        };
        if let Some(left) = &left {
            machine.answers_for(left);
        }
        let name = &survey.files.name;
        let branch = Branch(random::u128());
        // What the state that is left had accepted lies before what comes now.
        let seq = highest_seq.max(left.map_or(0, |left| left.seq())) + 1;
        let source = source_of(&header);
        let body = machine.restored(seq, self.options.now, &source);
        journaling.control(Control::Branch {
            session: name.clone(),
            branch,
            parent,
            snapshot: header.id.0,
            first_seq: seq,
        })?;
        let runs = vec![(self.options.run, seq)];
        journaling.add(name, branch, runs.clone(), header.seq);
        journaling.append(name, vec![Record::new(seq, body)]);
        let mut shelf = Shelf::new(survey.files.clone(), branch);
        shelf.runs = runs;
        shelf.published = Some(Publication { id: header.id, seq: header.seq, identity, at: header.at });
        self.save_now(journaling, &mut shelf, &machine, "restore")?;
        let pre_restore = kept.map(|path| path.display().to_string());
        self.note(restore_note(reason, &source, highest_seq, &header, pre_restore.as_deref()));
        let restored = Restored {
            at: header.at,
            seq,
            saved: seq,
            // As in the file: the state itself has nobody online any more.
            summary: header.summary,
            replayed: 0,
            discarded_bytes: self.history.discarded_bytes(),
            pre_restore,
        };
        Ok((machine, restored, shelf))
    }

    /// Publishes a snapshot before anybody is served, with a second copy among the backups: nothing older is of
    /// this branch, so it must not be the only one.
    fn save_now<M: Machine>(
        &self,
        journaling: &Arc<Journaling>,
        shelf: &mut Shelf,
        machine: &M,
        reason: &str,
    ) -> Result<(), OpenError> {
        let setup = setup(&self.vfs, journaling, self.history.lineage(), self.epoch);
        let order = Order {
            state: machine,
            reasons: &[reason.to_owned()],
            at: self.options.now,
            also_backup: true,
            abandon: &AtomicBool::new(false),
        };
        let saved = shelf.save(&setup, &order)?;
        if saved.published {
            Ok(())
        } else {
            Err(OpenError::Journal("the snapshot was changed while it was being restored".into()))
        }
    }
}

fn base_is_live<M>(built: &Built<M>, survey: &Survey) -> bool {
    built.base.as_ref().is_some_and(|(_, path)| *path == survey.files.live())
}

fn restore_note(reason: Reason, source: &str, highest: u64, header: &Header, kept: Option<&str>) -> String {
    let newer = highest.saturating_sub(header.seq);
    match (reason, kept) {
        (Reason::Moved, _) => format!("there was no journal for {source}: it goes on, on a new branch"),
        (Reason::Restored, Some(kept)) => {
            format!("restored {source}; what was in its place ({newer} newer events) is kept in {kept}")
        }
        (Reason::Restored, None) => format!("restored {source}"),
    }
}

impl From<SaveError> for OpenError {
    fn from(error: SaveError) -> Self {
        match error {
            SaveError::Io(error) | SaveError::Snapshot(SnapshotError::Io(error)) => Self::Io(error),
            SaveError::Snapshot(_)
            | SaveError::Journal(_)
            | SaveError::ChangedByHand
            | SaveError::NotPutBack(..)
            | SaveError::Abandoned => Self::Journal(error.to_string()),
        }
    }
}

impl Survey {
    /// The snapshot in place as a publication, if it is whole.
    fn live_publication(&self) -> Option<Publication> {
        let super::LiveFile::Whole { header, identity } = &self.live else { return None };
        let identity: Identity = *identity;
        Some(Publication { id: header.id, seq: header.seq, identity, at: header.at })
    }
}
