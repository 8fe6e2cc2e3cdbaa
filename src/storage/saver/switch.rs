//! A switch: another state takes the place of a session's current one while the store runs, on a branch of its own. What
//! recovery does at a start when it finds that somebody has put a snapshot in place, with everybody else going on.
//!
//! All that takes room on the disk is written first. Then the journal says that a new branch begins, and the snapshot gets
//! its name. A crash before that name is durable leads back to the state before, which is whole in the snapshot that was
//! saved at the beginning; a crash after it, to the restored one.

use super::publish::{Live, Order, Publication, SaveError, Shelf, saved, shown};
use super::{Fork, SaverSetup};
use crate::ops::random;
use crate::session::Timestamp;
use crate::storage::backups::{self, Identity};
use crate::storage::snapshot::{self, Header, Purpose, SnapshotId, Written};
use crate::storage::{Branch, Record, SaveState, Saved, Switched};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// Begins the names of what restores leave.
const PRE_RESTORE: &str = "pre_restore";

/// What takes the place of what.
pub(super) struct Turn<'a> {
    /// The state that is there.
    pub(super) left: &'a dyn SaveState,
    /// The state that takes its place.
    pub(super) restored: &'a dyn SaveState,
    /// The first record on the new branch.
    pub(super) mark: &'a Record,
    /// The snapshot that `restored` was made of.
    pub(super) of: &'a Header,
    /// When it was asked for.
    pub(super) at: Timestamp,
    /// Set when nobody waits any more.
    pub(super) abandon: &'a AtomicBool,
}

impl<'a> Turn<'a> {
    fn order(&self, state: &'a dyn SaveState, reasons: &'a [String]) -> Order<'a> {
        Order { state, reasons, at: self.at, also_backup: false, abandon: self.abandon }
    }
}

impl Shelf {
    /// Switches. After an error the session is where it was, on the branch where it was; it has been saved, and what would
    /// have been kept may be there already.
    pub(super) fn switch(&mut self, setup: &SaverSetup, turn: &Turn<'_>) -> Result<Switched, SaveError> {
        self.save_what_is_left(setup, turn)?; // durability: S37
        let kept = self.keep_what_is_newer(setup, turn)?;
        let mut next = Self::new(self.files.clone(), Branch(random::u128()));
        next.runs = vec![(setup.ledger.run(), turn.restored.seq())];
        let reasons = ["restore".to_owned()];
        let order = Order { also_backup: true, ..turn.order(turn.restored, &reasons) };
        let header = next.header(setup, &order, Purpose::Current);
        let (identity, written) = self.put_in_place(setup, turn, &header)?;
        // From here on nothing can fail any more: what the journal cannot take now, it takes when it can be written.
        setup.ledger.go_on(&self.files.name, next.branch, &next.runs, turn.mark.clone());
        next.published = Some(Publication { id: header.id, seq: header.seq, identity, at: header.at });
        (next.unrecorded, next.untidy) = (true, self.untidy);
        next.trusted.add_current(identity);
        let backup = shown(next.after_publishing(setup, &order, written));
        tracing::info!(
            session = %self.files.name, seq = header.seq, bytes = written.bytes,
            "Session saved to disk (reason: restore)"
        );
        let saved = Saved { backup, ..saved(&order, written.bytes, &self.files.live(), true) };
        *self = next;
        Ok(Switched { kept: shown(kept), saved })
    }

    /// The state that is left becomes the current snapshot, to which a crash leads back. No backup is deleted for it:
    /// the restore may be of one, and may still fail.
    fn save_what_is_left(&mut self, setup: &SaverSetup, turn: &Turn<'_>) -> Result<(), SaveError> {
        let reasons = [PRE_RESTORE.to_owned()];
        self.holding = true;
        let saved = self.save(setup, &turn.order(turn.left, &reasons));
        self.holding = false;
        if !saved?.published {
            return Err(SaveError::ChangedByHand);
        }
        self.settle(setup)
    }

    /// What is newer than the restored snapshot becomes a kept backup, unless an earlier attempt has left one.
    fn keep_what_is_newer(&mut self, setup: &SaverSetup, turn: &Turn<'_>) -> Result<Option<PathBuf>, SaveError> {
        let (vfs, newest) = (&*setup.vfs, turn.left.seq());
        let same_branch = (turn.of.lineage, turn.of.branch) == (setup.lineage, self.branch);
        if newest == 0 || (same_branch && turn.of.seq >= newest) {
            return Ok(None);
        }
        let same =
            |header: &Header| (header.lineage, header.branch, header.seq) == (setup.lineage, self.branch, newest);
        let kept = backups::list(vfs, &self.files.kept(), setup.lineage)?;
        let mut known = kept.into_iter().filter(|backup| backup.header.as_ref().is_ok_and(same));
        if let Some(known) = known.find(|backup| snapshot::verify(vfs, &backup.path).is_ok()) {
            return Ok(Some(known.path));
        }
        let reasons = [PRE_RESTORE.to_owned()];
        let (name, _) = self.keep_as(PRE_RESTORE, setup, &turn.order(turn.left, &reasons))?;
        Ok(Some(name))
    }

    /// Writes the restored state, and makes it the current snapshot on its new branch.
    fn put_in_place(
        &mut self,
        setup: &SaverSetup,
        turn: &Turn<'_>,
        header: &Header,
    ) -> Result<(Identity, Written), SaveError> {
        let vfs = &*setup.vfs;
        let temporary = self.files.temporary(header.id);
        // A second name for the snapshot that is there, under which it can be put back.
        let aside = self.files.temporary(SnapshotId(random::u128()));
        let placed = self.prepare(setup, turn, header, &temporary, &aside).and_then(|(identity, written)| {
            self.change_over(setup, turn, header, &temporary, &aside)?;
            Ok((identity, written))
        });
        // Files that cannot be removed now are removed by the next save or the next start.
        let gone = [&temporary, &aside].map(|path| backups::missing_is_fine(vfs.unlink(path)).is_ok());
        self.untidy |= gone != [true, true];
        placed
    }

    /// Everything that can be done beforehand.
    fn prepare(
        &self,
        setup: &SaverSetup,
        turn: &Turn<'_>,
        header: &Header,
        temporary: &Path,
        aside: &Path,
    ) -> Result<(Identity, Written), SaveError> {
        let vfs = &*setup.vfs;
        let written = snapshot::write(vfs, temporary, header, turn.restored)?;
        let identity = Identity::from(vfs.stat(temporary)?);
        if !self.link_previous(vfs, setup.lineage)? {
            return Err(SaveError::ChangedByHand);
        }
        backups::link_or_copy(vfs, &self.files.live(), aside)?;
        if turn.abandon.load(Ordering::Acquire) { Err(SaveError::Abandoned) } else { Ok((identity, written)) }
    }

    fn change_over(
        &self,
        setup: &SaverSetup,
        turn: &Turn<'_>,
        header: &Header,
        temporary: &Path,
        aside: &Path,
    ) -> Result<(), SaveError> {
        let (vfs, name) = (&*setup.vfs, &self.files.name);
        let (first_seq, snapshot) = (header.seq, turn.of.id);
        let fork = Fork { branch: header.branch, parent: self.branch, snapshot, first_seq };
        // If the journal has it in spite of an error, it is without effect: the next record is of the branch that is
        // there, or the next start finds nothing but the snapshot that is in place.
        setup.ledger.branch_off(name, &fork).map_err(SaveError::Journal)?;
        let renamed = vfs.rename(temporary, &self.files.live());
        let placed = renamed.and_then(|()| vfs.sync_dir(&self.files.root)); // durability: S38
        let Err(error) = placed else { return Ok(()) };
        match self.put_back(setup, turn, aside) {
            Ok(()) => Err(error.into()),
            // It lies there under its name, durably or not: if not, a power cut leads to the restored state.
            Err(_) if self.examine_live(vfs).is_ok_and(|live| live == Live::Ours) => Err(error.into()),
            Err(again) => Err(SaveError::NotPutBack(error.to_string(), again.to_string())),
        }
    }

    /// Takes back what [`Shelf::change_over`] has begun.
    fn put_back(&self, setup: &SaverSetup, turn: &Turn<'_>, aside: &Path) -> Result<(), SaveError> {
        let vfs = &*setup.vfs;
        if self.examine_live(vfs)? != Live::Ours {
            vfs.rename(aside, &self.files.live())?;
        }
        vfs.sync_dir(&self.files.root)?;
        let snapshot = self.published.map_or(SnapshotId::NONE, |published| published.id);
        let fork = Fork { branch: self.branch, parent: self.branch, snapshot, first_seq: turn.left.seq() + 1 };
        setup.ledger.branch_off(&self.files.name, &fork).map_err(SaveError::Journal)
    }
}
