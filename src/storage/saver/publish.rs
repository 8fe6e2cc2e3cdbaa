//! One save: write, prove, keep the previous snapshot as a backup, rename, record, describe, rotate.

use super::SaverSetup;
use crate::ops::{clock, random};
use crate::session::Timestamp;
use crate::storage::backups::{self, Identity, SessionFiles, Trusted, stat_or_missing};
use crate::storage::metadata::Metadata;
use crate::storage::snapshot::{self, Header, Purpose, SnapshotError, SnapshotId, Written};
use crate::storage::vfs::Vfs;
use crate::storage::{Branch, Run, SaveState, Saved};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A snapshot that was made the current one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publication {
    /// Which.
    pub(crate) id: SnapshotId,
    /// The newest event in it.
    pub(crate) seq: u64,
    /// The file as it was then: a later difference is somebody else's doing.
    pub(crate) identity: Identity,
    /// The moment it holds; its backup is named by it.
    pub(crate) at: Timestamp,
}

/// What the saver knows of one session's files.
#[derive(Debug)]
pub(crate) struct Shelf {
    /// Where they lie.
    pub(crate) files: SessionFiles,
    /// The session's branch.
    pub(crate) branch: Branch,
    /// Runs of the branch, oldest first.
    pub(crate) runs: Vec<(Run, u64)>,
    /// The snapshot in place.
    pub(crate) published: Option<Publication>,
    /// The newest publication on this branch that the journal knows: what the next snapshot names as its parent.
    pub(crate) parent: SnapshotId,
    /// Whether the name of `published` is not durable because syncing it failed.
    unsynced: bool,
    /// Backups are neither deleted nor is the journal let go of: somebody may be about to use them.
    pub(super) holding: bool,
    /// Whether the journal has yet to learn of `published`.
    pub(crate) unrecorded: bool,
    /// Whether a failed save left a file behind.
    pub(super) untidy: bool,
    /// The journal is not needed up to here.
    pub(crate) released: u64,
    /// The file written last because the snapshot had been changed by hand.
    pending: Option<Aside>,
    /// Backups known to be whole.
    pub(crate) trusted: Trusted,
}

/// A state that was kept beside a snapshot changed by hand.
#[derive(Debug)]
struct Aside {
    path: PathBuf,
    seq: u64,
    bytes: u64,
}

/// What to save, as the thread took it from the queue.
pub(crate) struct Order<'a> {
    /// The state.
    pub(crate) state: &'a dyn SaveState,
    /// Why.
    pub(crate) reasons: &'a [String],
    /// When it was captured.
    pub(crate) at: Timestamp,
    /// Also keep a copy at once.
    pub(crate) also_backup: bool,
    /// Set when nobody waits any more: nothing is published then.
    pub(crate) abandon: &'a AtomicBool,
}

/// Why a save failed. The snapshot in place is the one from before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    /// The file system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// What was written could not be read back.
    #[error("{0}")]
    Snapshot(#[from] SnapshotError),
    /// The journal cannot be written, or the daemon is stopping.
    #[error("{0}")]
    Journal(String),
    /// Somebody has put another snapshot in place.
    #[error(
        "a restore is pending already: the snapshot was changed by hand. Restart to restore that, or delete the changed \
         file to go on"
    )]
    ChangedByHand,
    /// A restore failed half way, and what it had begun could not be taken back.
    #[error(
        "{0}; and the snapshot of before could not be put back: {1}. The session goes on as before; at the next start the \
         restored state takes its place, and what is newer is kept. Restart to go there now"
    )]
    NotPutBack(String, String),
    /// The daemon is stopping.
    #[error("abandoned because the daemon stops")]
    Abandoned,
}

/// Whether the file in place is the one that was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Live {
    Ours,
    Missing,
    ChangedByHand,
}

impl Shelf {
    /// A session without a snapshot.
    pub(crate) fn new(files: SessionFiles, branch: Branch) -> Self {
        Self {
            files,
            branch,
            runs: Vec::new(),
            published: None,
            parent: SnapshotId::NONE,
            unrecorded: false,
            unsynced: false,
            holding: false,
            released: 0,
            untidy: false,
            pending: None,
            trusted: Trusted::default(),
        }
    }

    /// Saves one state. `Ok` only when it is on disk, proven, and durable under its name.
    pub(crate) fn save(&mut self, setup: &SaverSetup, order: &Order<'_>) -> Result<Saved, SaveError> {
        let vfs = &*setup.vfs;
        let live = self.examine_live(vfs)?;
        if let Some(published) = self.unchanged(live, order) {
            let mut backup = None;
            if order.also_backup {
                backup = self.copy_to_backups(vfs, setup.lineage)?;
                self.release(setup);
            }
            let bytes = published.identity.len;
            return Ok(Saved { backup: shown(backup), ..saved(order, bytes, &self.files.live(), true) });
        }
        if let Some(aside) =
            self.pending.as_ref().filter(|aside| live == Live::ChangedByHand && aside.seq == order.state.seq())
        {
            return Ok(saved(order, aside.bytes, &aside.path, false));
        }
        if self.untidy {
            self.files.remove_temporary(vfs)?;
        }
        self.settle(setup)?;
        setup.ledger.wait_durable(&self.files.name, order.state.seq(), order.abandon).map_err(SaveError::Journal)?;
        let purpose = if live == Live::ChangedByHand { Purpose::Kept } else { Purpose::Current };
        let header = self.header(setup, order, purpose);
        let temporary = self.files.temporary(header.id);
        let written = self.write_and_place(setup, order, &header, &temporary);
        // A file that cannot be removed now is removed by the next save or the next start.
        self.untidy = written.is_err() && vfs.unlink(&temporary).is_err();
        written
    }

    /// Makes sure that the journal knows the snapshot in place. Without it, the next start could not tell the snapshot
    /// after it from one put there by hand.
    pub(super) fn settle(&mut self, setup: &SaverSetup) -> Result<(), SaveError> {
        let Some(published) = self.published.filter(|_| self.unrecorded) else { return Ok(()) };
        if self.unsynced {
            setup.vfs.sync_dir(&self.files.root)?; // durability: S34
            self.unsynced = false;
        }
        setup.ledger.record(&self.files.name, &published).map_err(SaveError::Journal)?;
        self.parent = published.id;
        self.unrecorded = false;
        Ok(())
    }

    /// The publication in place, if it already holds what is to be saved.
    fn unchanged(&self, live: Live, order: &Order<'_>) -> Option<Publication> {
        self.published.filter(|published| live == Live::Ours && published.seq == order.state.seq())
    }

    fn write_and_place(
        &mut self,
        setup: &SaverSetup,
        order: &Order<'_>,
        header: &Header,
        temporary: &Path,
    ) -> Result<Saved, SaveError> {
        let vfs = &*setup.vfs;
        let started = clock::instant();
        let written = snapshot::write(vfs, temporary, header, order.state)?;
        if order.abandon.load(Ordering::Acquire) {
            return Err(SaveError::Abandoned);
        }
        if header.purpose == Purpose::Kept || !self.link_previous(vfs, setup.lineage)? {
            return self.keep_aside(setup, order, header, temporary, written);
        }
        let identity = Identity::from(vfs.stat(temporary)?);
        vfs.rename(temporary, &self.files.live())?;
        // From here on the file in place is ours, whether or not the directory can be synced.
        self.published = Some(Publication { id: header.id, seq: header.seq, identity, at: header.at });
        (self.unrecorded, self.unsynced) = (true, true);
        self.trusted.add_current(identity);
        vfs.sync_dir(&self.files.root)?; // durability: S14
        self.unsynced = false;
        let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let backup = self.after_publishing(setup, order, written);
        // Last: whoever reads the line finds the metadata and the backups as they should be.
        for reason in order.reasons {
            tracing::info!(
                session = %self.files.name, seq = header.seq, bytes = written.bytes, dur_ms = took_ms,
                "Session saved to disk (reason: {reason})"
            );
        }
        Ok(Saved { backup: shown(backup), ..saved(order, written.bytes, &self.files.live(), true) })
    }

    /// Everything after the rename. The snapshot is safe already, so nothing of it can fail the save. Says where its
    /// copy among the backups is, if one was asked for.
    pub(super) fn after_publishing(
        &mut self,
        setup: &SaverSetup,
        order: &Order<'_>,
        written: Written,
    ) -> Option<PathBuf> {
        let vfs = &*setup.vfs;
        let seq = order.state.seq();
        // If this fails the next save tries again; until then nothing older is let go.
        let settled = self.settle(setup).map_err(|error| io::Error::other(error.to_string()));
        let metadata =
            Metadata::new(order.at, order.reasons, &order.state.summary(), seq).of_file(written.bytes, written.root);
        self.warn("session_metadata.json", metadata.write(vfs, &self.files.metadata()));
        let mut backup = None;
        if order.also_backup {
            let copied = self.copy_to_backups(vfs, setup.lineage).map(|path| backup = path);
            self.warn("the additional backup", copied);
        }
        if settled.is_ok() && !self.holding {
            let rotated = backups::rotate(
                vfs,
                &self.files,
                setup.lineage,
                setup.keep.get().max_backups.max(1),
                &mut self.trusted,
            );
            self.warn("backup rotation", rotated);
            self.release(setup);
        }
        self.warn("recording it in the journal", settled);
        backup
    }

    /// A session in which nothing happens would pin the journal at its second-newest snapshot for ever: once that is
    /// old, a second copy of the newest one takes its place.
    pub(crate) fn unpin_if_idle(&mut self, setup: &SaverSetup, now: Timestamp) -> io::Result<()> {
        let Some(published) = self.published.filter(|_| self.pending.is_none()) else { return Ok(()) };
        let window = i64::try_from(setup.keep.get().history.as_millis()).unwrap_or(i64::MAX);
        let old = published.at.0.saturating_add(window) < now.0;
        if !old || self.released >= published.seq || setup.ledger.durable_seq(&self.files.name) > published.seq {
            return Ok(());
        }
        if self.examine_live(&*setup.vfs).is_ok_and(|live| live == Live::Ours) {
            self.copy_to_backups(&*setup.vfs, setup.lineage)?;
            self.release(setup);
        }
        Ok(())
    }

    /// Lets go of the journal up to the second-newest whole snapshot.
    fn release(&mut self, setup: &SaverSetup) {
        match self.second_newest(&*setup.vfs, setup.lineage) {
            Ok(Some(seq)) => {
                self.released = seq;
                setup.ledger.release(&self.files.name, seq);
            }
            Ok(None) => {}
            Err(error) => self.warn("looking for what the journal may let go of", Err(error)),
        }
    }

    /// Compares the file in place with what was published there.
    pub(super) fn examine_live(&self, vfs: &dyn Vfs) -> Result<Live, SaveError> {
        let path = self.files.live();
        let Some(stat) = stat_or_missing(vfs, &path)? else { return Ok(Live::Missing) };
        let Some(published) = self.published else { return Ok(Live::ChangedByHand) };
        let untouched = Identity::from(stat) == published.identity; // durability: S11
        if !untouched {
            return Ok(Live::ChangedByHand);
        }
        // An unreadable header in an untouched file is the disk's fault: the new snapshot replaces it.
        match snapshot::read_header(vfs, &path) {
            Ok(header) if header.id != published.id => Ok(Live::ChangedByHand), // durability: S12
            Ok(_) | Err(_) => Ok(Live::Ours),
        }
    }

    /// Gives the snapshot in place its name among the backups. `false`: it was changed by hand meanwhile.
    pub(super) fn link_previous(&self, vfs: &dyn Vfs, lineage: u128) -> Result<bool, SaveError> {
        let Some(previous) = self.published else { return Ok(true) };
        match self.examine_live(vfs)? {
            Live::Missing => return Ok(true),
            Live::ChangedByHand => return Ok(false),
            Live::Ours => {}
        }
        let directory = self.files.backups();
        if let Err(error) = vfs.create_dir(&directory) {
            // Something else than a folder is there, put there by somebody: no reason not to save.
            let other = stat_or_missing(vfs, &directory)?.is_some_and(|stat| !stat.is_dir);
            if !other {
                return Err(error.into());
            }
            tracing::warn!(session = %self.files.name, %error, "No backups are kept: backups/ is not a folder");
            return Ok(true);
        }
        if self.backup_of(vfs, lineage, previous.id)?.is_some() {
            return Ok(true);
        }
        let name = backups::free_name(vfs, &directory, "snapshot", previous.at)?;
        backups::link_or_copy(vfs, &self.files.live(), &name)?; // durability: S13
        // Somebody may have written into the file between the look and the link.
        let still_ours = self.examine_live(vfs)? == Live::Ours; // durability: S16
        if !still_ours {
            vfs.unlink(&name)?;
            return Ok(false);
        }
        vfs.sync_dir(&directory)?; // durability: S15
        Ok(true)
    }

    fn backup_of(&self, vfs: &dyn Vfs, lineage: u128, id: SnapshotId) -> io::Result<Option<PathBuf>> {
        let mut all = backups::list(vfs, &self.files.backups(), lineage)?.into_iter();
        Ok(all.find(|backup| backup.header.as_ref().is_ok_and(|header| header.id == id)).map(|backup| backup.path))
    }

    /// Keeps the state beside a snapshot that somebody has put in place and that the next start will look at.
    fn keep_aside(
        &mut self,
        setup: &SaverSetup,
        order: &Order<'_>,
        header: &Header,
        temporary: &Path,
        written: Written,
    ) -> Result<Saved, SaveError> {
        let vfs = &*setup.vfs;
        vfs.create_dir(&self.files.backups())?;
        vfs.create_dir(&self.files.kept())?;
        let name = backups::free_name(vfs, &self.files.kept(), "pre_restore", order.at)?;
        vfs.rename(temporary, &name)?;
        // No points of their own: the journal keeps all that is in this file until the next start has dealt with it.
        vfs.sync_dir(&self.files.kept())?;
        vfs.sync_dir(&self.files.root)?;
        // Otherwise a copy of the very snapshot that the journal knows would not be a restore to the next start.
        let kept = Publication { id: header.id, seq: header.seq, identity: vfs.stat(&name)?.into(), at: header.at };
        setup.ledger.record(&self.files.name, &kept).map_err(SaveError::Journal)?; // durability: S36
        self.parent = kept.id;
        let aside = Aside { path: name.clone(), seq: order.state.seq(), bytes: written.bytes };
        if let Some(older) = self.pending.replace(aside) {
            self.warn("removing an older pre_restore file", backups::delete(vfs, &older.path));
        }
        tracing::warn!(
            session = %self.files.name, seq = order.state.seq(),
            "restore pending: {} was changed by hand, so it is left alone; the state of this session is kept in {}. \
             Restart to restore, or delete the changed file to go on",
            vfs.display(&self.files.live()), vfs.display(&name)
        );
        Ok(saved(order, written.bytes, &name, false))
    }

    /// Makes sure that the snapshot in place is also among the backups, and says under which name.
    fn copy_to_backups(&mut self, vfs: &dyn Vfs, lineage: u128) -> io::Result<Option<PathBuf>> {
        let Some(published) = self.published else { return Ok(None) };
        if let Some(known) = self.backup_of(vfs, lineage, published.id)? {
            return Ok(Some(known));
        }
        let name = backups::free_name(vfs, &self.files.backups(), "snapshot", published.at)?;
        backups::copy(vfs, &self.files.live(), &name)?;
        Ok(Some(name))
    }

    /// The `seq` of the second-newest whole snapshot of this branch: the journal must reach back to it.
    fn second_newest(&mut self, vfs: &dyn Vfs, lineage: u128) -> io::Result<Option<u64>> {
        let Some(published) = self.published else { return Ok(None) };
        for backup in backups::list(vfs, &self.files.backups(), lineage)? {
            let Ok(header) = &backup.header else { continue };
            if (header.lineage, header.branch) == (lineage, self.branch)
                && header.seq <= published.seq
                && self.trusted.is_whole(vfs, &backup)
            {
                return Ok(Some(header.seq)); // durability: S17
            }
        }
        Ok(None)
    }

    pub(super) fn header(&self, setup: &SaverSetup, order: &Order<'_>, purpose: Purpose) -> Header {
        Header {
            lineage: setup.lineage,
            branch: self.branch,
            epoch: setup.epoch,
            id: SnapshotId(random::u128()),
            parent: self.parent,
            seq: order.state.seq(),
            created: Timestamp(clock::now_ms()),
            at: order.at,
            summary: order.state.summary(),
            purpose,
            session: self.files.name.clone(),
            writer: format!("hotset {}", env!("CARGO_PKG_VERSION")),
            reasons: order.reasons.to_vec(),
            runs: self.runs.clone(),
        }
    }

    fn warn(&self, what: &str, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::warn!(session = %self.files.name, %error, "The snapshot is safe, but {what} failed");
        }
    }
}

pub(super) fn shown(path: Option<PathBuf>) -> Option<String> {
    path.map(|path| path.display().to_string())
}

pub(super) fn saved(order: &Order<'_>, bytes: u64, file: &Path, published: bool) -> Saved {
    Saved {
        seq: order.state.seq(),
        at: order.at,
        reasons: order.reasons.to_vec(),
        bytes,
        file: file.display().to_string(),
        published,
        backup: None,
    }
}
