//! The spare segment: made and zero-filled ahead of need, so that a full disk cannot stop a batch halfway.

use super::segment::spare_path;
use crate::storage::vfs::{Open, SharedVfs, VfsFile};
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Bytes written between two syncs while zero-filling, so that the journal's own syncs do not wait for all of it.
const STEP: u64 = 4 << 20;

enum State {
    Absent,
    Making,
    Ready(Box<dyn VfsFile>),
}

/// Makes spare segments, one at a time.
pub(super) struct Spare {
    vfs: SharedVfs,
    len: u64,
    in_background: bool,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Spare {
    pub(super) fn new(vfs: SharedVfs, len: u64, in_background: bool) -> Self {
        Self { vfs, len, in_background, state: Arc::new((Mutex::new(State::Absent), Condvar::new())) }
    }

    /// Has one made in the background, if there is none.
    pub(super) fn prepare(&self) {
        if !self.in_background {
            return;
        }
        let mut state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(*state, State::Absent) {
            return;
        }
        *state = State::Making;
        drop(state);
        let (vfs, len, shared) = (Arc::clone(&self.vfs), self.len, Arc::clone(&self.state));
        let spawned = std::thread::Builder::new().name("journal-spare".into()).spawn(move || {
            let made = make(&vfs, len);
            let after = made.map_or_else(
                |error| {
                    tracing::warn!("No spare journal segment could be made: {error}");
                    State::Absent
                },
                State::Ready,
            );
            *shared.0.lock().unwrap_or_else(PoisonError::into_inner) = after;
            shared.1.notify_all();
        });
        if spawned.is_err() {
            *self.state.0.lock().unwrap_or_else(PoisonError::into_inner) = State::Absent;
        }
    }

    /// The spare, made on the spot if there is none. It lies at [`spare_path`].
    pub(super) fn take(&self) -> io::Result<Box<dyn VfsFile>> {
        match std::mem::replace(&mut *self.wait(), State::Absent) {
            State::Ready(file) => Ok(file),
            State::Absent | State::Making => make(&self.vfs, self.len),
        }
    }

    /// Waits until none is being made.
    pub(super) fn settle(&self) {
        drop(self.wait());
    }

    fn wait(&self) -> std::sync::MutexGuard<'_, State> {
        let state = self.state.0.lock().unwrap_or_else(PoisonError::into_inner);
        let making = |state: &mut State| matches!(state, State::Making);
        self.state.1.wait_while(state, making).unwrap_or_else(PoisonError::into_inner)
    }
}

fn make(vfs: &SharedVfs, len: u64) -> io::Result<Box<dyn VfsFile>> {
    let path = spare_path();
    match vfs.unlink(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = vfs.open(&path, Open::CreateNew)?;
    match fill(&*file, len) {
        Ok(()) => Ok(file),
        Err(error) => {
            // A part of a spare is of no use, and what it takes up may be what is missing elsewhere.
            vfs.unlink(&path).ok();
            Err(error)
        }
    }
}

fn fill(file: &dyn VfsFile, len: u64) -> io::Result<()> {
    file.allocate(len)?;
    let mut at = 0;
    while at < len {
        let some = usize::try_from(len - at).unwrap_or(usize::MAX).min(ZEROS.len());
        file.write_at(at, &[&ZEROS[..some]])?;
        at += some as u64;
        // No points of their own, here and below: they only make later syncs cheap. Nothing in a spare is kept.
        if at.is_multiple_of(STEP) {
            file.sync()?;
        }
    }
    file.sync()
}
