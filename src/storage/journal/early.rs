//! Early bytes: what is journaled, piece by piece, before the record that holds it, so that a small record waits for one
//! piece of somebody's large one and not for all of it.

use super::effect::Effect;
use super::frame::{FLAG_LAST, Kind};
use super::log::Log;
use super::records::{BlobRef, encode_chunk};
use crate::session::SessionName;
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{OnceLock, Weak};

/// A large part of a record to come. Whoever asked for it holds it until the record is appended; when it is dropped, the
/// journal lets go of what is written.
pub struct Early {
    bytes: Bytes,
    place: OnceLock<BlobRef>,
    durable: AtomicBool,
}

impl Early {
    /// Bytes that are not written yet.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, place: OnceLock::new(), durable: AtomicBool::new(false) }
    }

    /// The bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether all of them are on disk: now a record may refer to them.
    pub fn is_durable(&self) -> bool {
        self.durable.load(Ordering::Acquire)
    }

    /// Where they are, once all of them stand in the log.
    pub(super) fn place(&self) -> Option<BlobRef> {
        self.place.get().copied()
    }

    pub(super) fn is_at(&self, place: BlobRef) {
        // There is one place: pieces are staged once.
        _ = self.place.set(place);
    }

    pub(crate) fn set_durable(&self) {
        self.durable.store(true, Ordering::Release);
    }
}

impl fmt::Debug for Early {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Early({} bytes)", self.bytes.len())
    }
}

/// Early bytes of which not everything stands in the log.
pub(super) struct Unwritten {
    early: Weak<Early>,
    blob: Option<u64>,
    written: usize,
    crc: u32,
}

impl Unwritten {
    pub(super) fn new(early: Weak<Early>) -> Self {
        Self { early, blob: None, written: 0, crc: 0 }
    }
}

/// Early bytes that stand in the log.
#[derive(Default)]
pub(super) struct StagedEarly {
    /// Those that no record refers to so far.
    free: BTreeMap<u64, Weak<Early>>,
    /// Those that are not durable, by the batch of their last piece.
    last_pieces: BTreeMap<u64, (SessionName, Weak<Early>)>,
}

impl StagedEarly {
    /// Stages what is next in the queue: a piece of something large, or as much as that of what is smaller. Returns its
    /// size: 0 if nobody wants what is there.
    pub(super) fn stage_piece(
        &mut self,
        session: &SessionName,
        queue: &mut VecDeque<Unwritten>,
        piece_bytes: usize,
        log: &mut Log,
    ) -> usize {
        let (mut staged, mut left) = (0, piece_bytes);
        while left > 0
            && let Some(first) = queue.front_mut()
        {
            let Some(early) = first.early.upgrade() else {
                if let Some(blob) = first.blob {
                    log.give_up(blob);
                }
                queue.pop_front();
                continue;
            };
            let bytes = early.bytes();
            let end = bytes.len().min(first.written + left);
            let piece = &bytes[first.written..end];
            let blob = *first.blob.get_or_insert(log.next_batch());
            let effect = if first.written == 0 { Effect::BlobBegun(blob) } else { Effect::Nothing };
            let payload = encode_chunk(blob, first.written as u64, piece);
            left -= piece.len();
            staged += payload.len();
            let is_last = end == bytes.len();
            let batch_no = log.stage(Kind::Chunk, if is_last { FLAG_LAST } else { 0 }, 0, payload, effect);
            first.crc = crc32c::crc32c_append(first.crc, piece);
            first.written = end;
            if is_last {
                early.is_at(BlobRef { id: blob, len: end as u64, crc: first.crc });
                self.free.insert(blob, Weak::clone(&first.early));
                self.last_pieces.insert(batch_no, (session.clone(), Weak::clone(&first.early)));
                queue.pop_front();
            }
        }
        staged
    }

    /// A record refers to these blobs.
    pub(super) fn referred_to(&mut self, blobs: &[u64]) {
        for blob in blobs {
            self.free.remove(blob);
        }
    }

    /// Gives up what nobody wants any more.
    pub(super) fn let_go(&mut self, log: &mut Log) {
        for (blob, _) in self.free.extract_if(.., |_, early| early.strong_count() == 0) {
            log.give_up(blob);
        }
    }

    /// This batch is durable.
    pub(super) fn durable(&mut self, batch_no: u64) -> Option<SessionName> {
        let (session, early) = self.last_pieces.remove(&batch_no)?;
        early.upgrade()?.set_durable();
        Some(session)
    }
}
