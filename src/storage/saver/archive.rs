//! An archive: a state as a kept backup, which the session's next state does not replace.

use super::SaverSetup;
use super::publish::{Order, SaveError, Shelf, saved};
use crate::storage::Saved;
use crate::storage::backups;
use crate::storage::snapshot::{self, Header, Purpose};
use std::path::Path;
use std::sync::atomic::Ordering;

/// Begins the names of archives.
const PREFIX: &str = "archived";

impl Shelf {
    /// Keeps one state under a name of its own. `Ok` only when it is on disk, proven, and durable under that name: what
    /// it holds may be given up then. The snapshot in place is left as it is.
    pub(crate) fn archive(&mut self, setup: &SaverSetup, order: &Order<'_>) -> Result<Saved, SaveError> {
        let vfs = &*setup.vfs;
        if self.untidy {
            self.files.remove_temporary(vfs)?;
        }
        setup.ledger.wait_durable(&self.files.name, order.state.seq(), order.abandon).map_err(SaveError::Journal)?;
        let header = self.header(setup, order, Purpose::Kept);
        let temporary = self.files.temporary(header.id);
        let kept = self.keep(setup, order, &header, &temporary);
        // A file that cannot be removed now is removed by the next save or the next start.
        self.untidy = kept.is_err() && vfs.unlink(&temporary).is_err();
        kept
    }

    fn keep(
        &self,
        setup: &SaverSetup,
        order: &Order<'_>,
        header: &Header,
        temporary: &Path,
    ) -> Result<Saved, SaveError> {
        let vfs = &*setup.vfs;
        let written = snapshot::write(vfs, temporary, header, order.state)?;
        if order.abandon.load(Ordering::Acquire) {
            return Err(SaveError::Abandoned);
        }
        let (backups, kept) = (self.files.backups(), self.files.kept());
        vfs.create_dir(&backups)?;
        vfs.create_dir(&kept)?;
        let name = backups::free_name(vfs, &kept, PREFIX, order.at)?;
        vfs.rename(temporary, &name)?;
        // No points of their own: the folders are there from the start, unless somebody has removed them.
        vfs.sync_dir(&self.files.root)?;
        vfs.sync_dir(&backups)?;
        vfs.sync_dir(&kept)?; // durability: S35
        tracing::info!(
            session = %self.files.name, seq = header.seq, bytes = written.bytes,
            "Session archived in {}", vfs.display(&name)
        );
        Ok(saved(order, written.bytes, &name, true))
    }
}
