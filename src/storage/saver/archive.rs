//! Keeping: a state as a backup that rotation leaves alone. An archive, or what a restore leaves.

use super::SaverSetup;
use super::publish::{Order, SaveError, Shelf, saved};
use crate::storage::Saved;
use crate::storage::backups;
use crate::storage::snapshot::{self, Header, Purpose, Written};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// Begins the names of archives.
const ARCHIVED: &str = "archived";

impl Shelf {
    /// Keeps one state under a name of its own. `Ok` only when it is on disk, proven, and durable under that name: what
    /// it holds may be given up then. The snapshot in place is left as it is.
    pub(crate) fn archive(&mut self, setup: &SaverSetup, order: &Order<'_>) -> Result<Saved, SaveError> {
        let (name, written) = self.keep_as(ARCHIVED, setup, order)?;
        tracing::info!(
            session = %self.files.name, seq = order.state.seq(), bytes = written.bytes,
            "Session archived in {}", setup.vfs.display(&name)
        );
        Ok(saved(order, written.bytes, &name, true))
    }

    /// As [`Shelf::archive`], under a name that begins with `prefix`. Says where it is.
    pub(super) fn keep_as(
        &mut self,
        prefix: &str,
        setup: &SaverSetup,
        order: &Order<'_>,
    ) -> Result<(PathBuf, Written), SaveError> {
        let vfs = &*setup.vfs;
        if self.untidy {
            self.files.remove_temporary(vfs)?;
        }
        setup.ledger.wait_durable(&self.files.name, order.state.seq(), order.abandon).map_err(SaveError::Journal)?;
        let header = self.header(setup, order, Purpose::Kept);
        let temporary = self.files.temporary(header.id);
        let kept = self.keep(prefix, setup, order, &header, &temporary);
        // A file that cannot be removed now is removed by the next save or the next start.
        self.untidy = kept.is_err() && vfs.unlink(&temporary).is_err();
        kept
    }

    fn keep(
        &self,
        prefix: &str,
        setup: &SaverSetup,
        order: &Order<'_>,
        header: &Header,
        temporary: &Path,
    ) -> Result<(PathBuf, Written), SaveError> {
        let vfs = &*setup.vfs;
        let written = snapshot::write(vfs, temporary, header, order.state)?;
        if order.abandon.load(Ordering::Acquire) {
            return Err(SaveError::Abandoned);
        }
        let (backups, kept) = (self.files.backups(), self.files.kept());
        vfs.create_dir(&backups)?;
        vfs.create_dir(&kept)?;
        let name = backups::free_name(vfs, &kept, prefix, order.at)?;
        vfs.rename(temporary, &name)?;
        // No points of their own: the folders are there from the start, unless somebody has removed them.
        vfs.sync_dir(&self.files.root)?;
        vfs.sync_dir(&backups)?;
        vfs.sync_dir(&kept)?; // durability: S35
        Ok((name, written))
    }
}
