//! The log: the open segment and the batches on their way into it. Synchronous; the writer's thread owns it.

use super::control::Control;
use super::effect::Effect;
use super::frame::{FRAME_HEADER, FrameHeader, Kind, Seed, stride};
use super::segment::{DOOMED, FRAMES_AT, Position, SEAL_SLOTS, SPARE, SegmentHeader, segment_path, spare_path};
use super::spare::Spare;
use super::start::{KeptSegment, Start, StartError};
use super::{DIRECTORY, Lineage, Settings, Stats};
use crate::ops::clock;
use crate::storage::Trouble;
use crate::storage::vfs::{Open, SharedVfs, VfsFile};
use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A batch that is not durable yet.
pub(super) struct Pending {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) count: u32,
    pub(super) batch_no: u64,
    pub(super) payload: Vec<u8>,
    pub(super) effect: Effect,
}

impl Pending {
    fn stride(&self) -> u64 {
        stride(self.payload.len() as u64)
    }
}

/// Something could not be written. Nothing is lost by it: what is pending stays pending.
#[derive(Debug)]
pub(super) struct Failure {
    what: String,
    source: io::Error,
}

impl Failure {
    pub(super) fn to_trouble(&self) -> Trouble {
        let disk_full = matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        Trouble { disk_full, message: format!("{}: {}", self.what, self.source) }
    }
}

impl From<Failure> for StartError {
    fn from(failure: Failure) -> Self {
        Self::Io { message: failure.what, source: failure.source }
    }
}

struct OpenSegment {
    file: Box<dyn VfsFile>,
    path: PathBuf,
    number: u64,
    seed: Seed,
    /// Where the next frame goes.
    at: u64,
    seals: usize,
}

pub(super) type KeptSegments = Arc<Mutex<Vec<KeptSegment>>>;

pub(super) struct Log {
    vfs: SharedVfs,
    settings: Settings,
    lineage: Lineage,
    epoch: u64,
    spare: Spare,
    /// `None` after an error: a file that failed once is never written or synced again.
    open: Option<OpenSegment>,
    previous: u64,
    next_segment: u64,
    pending: VecDeque<Pending>,
    next_batch: u64,
    durable_upto: u64,
    sealed_upto: u64,
    chain: u32,
    /// As of `durable_upto`.
    position: Position,
    /// Blobs that were given up before their first chunk was durable.
    given_up: BTreeSet<u64>,
    kept: KeptSegments,
    pub(super) stats: Stats,
}

impl Log {
    /// Begins a new segment after everything that `start` knows, and makes its unproved tail durable.
    pub(super) fn open(vfs: SharedVfs, settings: Settings, start: Start, epoch: u64) -> Result<Self, StartError> {
        let spare = Spare::new(Arc::clone(&vfs), settings.segment_bytes, settings.background_spare);
        let mut log = Self {
            spare,
            vfs,
            lineage: start.lineage,
            epoch,
            open: None,
            previous: start.previous,
            next_segment: start.next_segment,
            pending: VecDeque::new(),
            next_batch: start.first_batch,
            durable_upto: start.first_batch - 1,
            sealed_upto: start.first_batch - 1,
            chain: start.chain,
            position: Position { positions: start.positions, open_blobs: start.open_blobs },
            given_up: BTreeSet::new(),
            kept: Arc::new(Mutex::new(start.segments)),
            stats: Stats::default(),
            settings,
        };
        for frame in start.tail {
            let effect = Effect::of(frame.kind, frame.batch_no, &frame.payload).unwrap_or(Effect::Nothing);
            log.stage(frame.kind, frame.flags, frame.count, frame.payload, effect); // durability: J27
        }
        log.prepare_directory()?;
        // The old tail counts until the whole of it stands in the new segment, so it must go there in one piece.
        let tail: u64 = log.pending.iter().map(Pending::stride).sum();
        log.begin_segment(tail, &mut |_| {})?;
        if start.previous > 0 {
            log.mark_continued_on_disk(start.previous);
        }
        log.position.open_blobs.clear();
        Ok(log)
    }

    fn prepare_directory(&self) -> Result<(), Failure> {
        let directory = Path::new(DIRECTORY);
        self.vfs.create_dir(directory).map_err(|error| self.failure("create", directory, error))?;
        let synced = self.vfs.sync_dir(Path::new("")); // durability: J5
        synced.map_err(|error| self.failure("sync", Path::new(""), error))?;
        let names = self.vfs.list(directory).map_err(|error| self.failure("list", directory, error))?;
        for name in names {
            let doomed = name.extension().is_some_and(|extension| extension == DOOMED);
            if doomed || name.as_os_str() == SPARE {
                let path = directory.join(name);
                self.vfs.unlink(&path).map_err(|error| self.failure("remove", &path, error))?;
            }
        }
        Ok(())
    }

    fn failure(&self, doing: &str, path: &Path, source: io::Error) -> Failure {
        Failure { what: format!("cannot {doing} {}", self.vfs.display(path)), source }
    }

    pub(super) fn kept(&self) -> KeptSegments {
        Arc::clone(&self.kept)
    }

    /// The batch number that the next staged batch gets.
    pub(super) fn next_batch(&self) -> u64 {
        self.next_batch
    }

    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn needs_seal(&self) -> bool {
        self.sealed_upto < self.durable_upto || self.open.is_none()
    }

    /// Queues a batch and returns its number.
    pub(super) fn stage(&mut self, kind: Kind, flags: u8, count: u32, payload: Vec<u8>, effect: Effect) -> u64 {
        let batch_no = self.next_batch;
        self.next_batch += 1;
        self.pending.push_back(Pending { kind, flags, count, batch_no, payload, effect });
        batch_no
    }

    /// No record will refer to this blob: segments need not be kept for it.
    pub(super) fn give_up(&mut self, blob: u64) {
        if self.position.open_blobs.remove(&blob).is_none() {
            self.given_up.insert(blob);
        }
    }

    pub(super) fn stage_control(&mut self, control: Control) -> u64 {
        let payload = control.encode();
        self.stage(Kind::Control, 0, 1, payload, Effect::Control(control))
    }

    /// Makes everything pending durable, telling `done` of each batch. After an error what is still pending stays so.
    pub(super) fn commit(&mut self, done: &mut dyn FnMut(&Pending)) -> Result<(), Failure> {
        while !self.pending.is_empty() {
            let group = self.settings.group_bytes as u64;
            let fitting = self.open.as_ref().map_or(0, |open| self.fitting(open.at, group));
            if fitting == 0 {
                self.begin_segment(0, done)?;
            } else if let Err(failure) = self.append(fitting, done) {
                tracing::error!("A journal segment has failed and is given up: {}", failure.to_trouble().message);
                self.open = None; // durability: J1
                self.begin_segment(0, done)?;
            }
        }
        Ok(())
    }

    /// How many pending batches go into a segment from `at` on, in one write of about `group` bytes.
    fn fitting(&self, at: u64, group: u64) -> usize {
        let mut end = at;
        let limit = self.settings.segment_bytes.min(at + group);
        let fits = |pending: &&Pending| {
            let alone = end == at;
            end += pending.stride();
            end <= limit || (alone && end <= self.settings.segment_bytes)
        };
        self.pending.iter().take_while(fits).count()
    }

    /// Writes the first `count` pending batches to the open segment and syncs it.
    fn append(&mut self, count: usize, done: &mut dyn FnMut(&Pending)) -> Result<(), Failure> {
        let Some(open) = &self.open else { return Ok(()) };
        let (headers, end) = self.headers(count, open.seed, open.at);
        let parts = parts(&self.pending, &headers);
        let write = open.file.write_at(open.at, &parts);
        write.map_err(|error| self.failure("write", &open.path, error))?;
        self.timed_sync()?; // durability: J2
        self.settle(&headers, end, done);
        Ok(())
    }

    fn timed_sync(&mut self) -> Result<(), Failure> {
        let Some(open) = &self.open else { return Ok(()) };
        let began = clock::instant();
        open.file.sync().map_err(|error| self.failure("sync", &open.path, error))?;
        self.stats.note_sync(began.elapsed());
        Ok(())
    }

    fn headers(&self, count: usize, seed: Seed, at: u64) -> (Vec<([u8; FRAME_HEADER], u32)>, u64) {
        let mut end = at;
        let header = |pending: &Pending| {
            end += pending.stride();
            let mut header =
                FrameHeader::new(seed, pending.kind, pending.batch_no, self.durable_upto, &pending.payload);
            header.flags = pending.flags;
            header.count = pending.count;
            let bytes = header.encode(seed);
            let crc = u32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]);
            (bytes, crc)
        };
        let headers = self.pending.iter().take(count).map(header).collect();
        (headers, end)
    }

    /// The batches of `headers` are durable in the open segment, which now ends at `end`.
    fn settle(&mut self, headers: &[([u8; FRAME_HEADER], u32)], end: u64, done: &mut dyn FnMut(&Pending)) {
        let Some(open) = &mut self.open else { return };
        self.stats.bytes += end - open.at;
        open.at = end;
        let number = open.number;
        for (_, crc) in headers {
            let Some(pending) = self.pending.pop_front() else { return };
            pending.effect.apply(&mut self.position, number);
            if let Effect::BlobBegun(blob) = pending.effect
                && self.given_up.remove(&blob)
            {
                self.position.open_blobs.remove(&blob);
            }
            self.chain = *crc;
            self.durable_upto = pending.batch_no;
            self.stats.batches += 1;
            if pending.kind == Kind::Batch {
                self.stats.records += u64::from(pending.count);
            }
            done(&pending);
        }
    }

    /// Begins the next segment, with as many pending batches in it as fit. The one before is closed; if it failed, it
    /// stays behind as it is. Fails if fewer than `at_least` bytes of them fit.
    fn begin_segment(&mut self, at_least: u64, done: &mut dyn FnMut(&Pending)) -> Result<(), Failure> {
        let number = self.next_segment;
        let first_batch = self.durable_upto + 1;
        let seed = Seed::new(self.lineage, self.epoch, number);
        let position = self.position.encode_frames(seed, first_batch);
        let data_at = FRAMES_AT + position.len() as u64;
        let header = SegmentHeader {
            lineage: self.lineage,
            epoch: self.epoch,
            number,
            first_batch,
            previous: self.previous,
            chain: self.chain,
            created_ms: clock::now_ms(),
            data_at: u32::try_from(data_at).unwrap_or(u32::MAX),
            len: self.settings.segment_bytes,
        };
        let fitting = self.fitting(data_at, at_least.max(self.settings.group_bytes as u64));
        let (headers, end) = self.headers(fitting, seed, data_at);
        let too_little = end - data_at < at_least || (fitting == 0 && !self.pending.is_empty());
        if data_at > self.settings.segment_bytes || too_little {
            let source = io::Error::new(io::ErrorKind::FileTooLarge, "the settings leave no room in a segment");
            return Err(self.failure("begin", &segment_path(number), source));
        }
        let file = self.spare.take().map_err(|error| self.failure("prepare", &spare_path(), error))?;
        // Whatever becomes of it, this number is not used again.
        self.next_segment += 1;
        self.publish_segment(&*file, &header, &position, &parts(&self.pending, &headers))?;
        self.keep(&header);
        let new = OpenSegment { file, path: segment_path(number), number, seed, at: data_at, seals: 0 };
        if let Some(old) = self.open.replace(new) {
            self.mark_continued(&*old.file, old.seed, SEAL_SLOTS[old.seals % SEAL_SLOTS.len()], number);
        }
        self.previous = number;
        self.stats.segments += 1;
        self.sealed_upto = self.durable_upto;
        self.settle(&headers, end, done);
        self.spare.prepare();
        Ok(())
    }

    /// Fills the spare with this content and gives it its name, durably.
    fn publish_segment(
        &self,
        file: &dyn VfsFile,
        header: &SegmentHeader,
        position: &[u8],
        frames: &[&[u8]],
    ) -> Result<(), Failure> {
        let (spare, path) = (spare_path(), segment_path(header.number));
        let mut parts = vec![position];
        parts.extend_from_slice(frames);
        let publish = || {
            file.write_at(0, &[&header.encode()])?;
            file.write_at(FRAMES_AT, &parts)?;
            file.sync()?; // durability: J3
            self.vfs.rename(&spare, &path)?;
            self.vfs.sync_dir(Path::new(DIRECTORY))?; // durability: J4
            Ok(())
        };
        publish().map_err(|error| {
            // What remains of it was promised to nobody, and the next segment will pass over it.
            self.vfs.unlink(&spare).ok();
            self.vfs.unlink(&path).ok();
            self.failure("begin", &path, error)
        })
    }

    fn keep(&self, header: &SegmentHeader) {
        let sessions = &self.position.positions.sessions;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(KeptSegment {
            number: header.number,
            created_ms: header.created_ms,
            bytes: header.len,
            seqs: sessions.iter().map(|(session, known)| (session.clone(), known.seq)).collect(),
            position_known: true,
            oldest_blob: self.position.open_blobs.values().min().copied(),
        });
    }

    /// Notes in a closed segment where the journal goes on, so that the loss of the newest segment is noticed. That
    /// is worth an attempt and no trouble: nothing depends on it.
    fn mark_continued(&self, file: &dyn VfsFile, seed: Seed, slot: u64, next: u64) {
        let frame = FrameHeader::new(seed, Kind::Continued, next, self.durable_upto, &[]).encode(seed);
        if let Err(error) = file.write_at(slot, &[&frame]).and_then(|()| file.sync()) {
            tracing::warn!("A closed journal segment could not be marked: {error}");
        }
    }

    fn mark_continued_on_disk(&self, previous: u64) {
        let mark = || -> io::Result<()> {
            let file = self.vfs.open(&segment_path(previous), Open::Write)?;
            let mut head = [0; super::segment::SEGMENT_HEADER];
            file.read_at(0, &mut head)?;
            if let Ok(header) = SegmentHeader::decode(&head) {
                self.mark_continued(&*file, header.seed(), SEAL_SLOTS[0], self.previous);
            }
            Ok(())
        };
        if let Err(error) = mark() {
            tracing::warn!("The journal segment before could not be marked: {error}");
        }
    }

    /// Protects the last batch with a seal, or with a close. Everything must be durable.
    pub(super) fn seal(&mut self, kind: Kind) -> Result<(), Failure> {
        if matches!(self.write_seal(kind), Ok(true)) {
            return Ok(());
        }
        // The header of a new segment makes the same promise.
        self.open = None; // durability: J24
        self.begin_segment(0, &mut |_| {})?;
        if kind == Kind::Close { self.write_seal(kind).map(drop) } else { Ok(()) }
    }

    /// `false` if there is no segment to write to.
    fn write_seal(&mut self, kind: Kind) -> Result<bool, Failure> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let slot = SEAL_SLOTS[open.seals % SEAL_SLOTS.len()];
        open.seals += 1;
        let Some(open) = &self.open else { return Ok(false) };
        let frame = FrameHeader::new(open.seed, kind, self.durable_upto, self.durable_upto, &[]).encode(open.seed);
        open.file.write_at(slot, &[&frame]).map_err(|error| self.failure("seal", &open.path, error))?;
        self.timed_sync()?; // durability: J25
        self.sealed_upto = self.durable_upto;
        Ok(true)
    }

    /// Waits until nothing is written in the background any more.
    pub(super) fn settle_background(&self) {
        self.spare.settle();
    }
}

fn parts<'a>(pending: &'a VecDeque<Pending>, headers: &'a [([u8; FRAME_HEADER], u32)]) -> Vec<&'a [u8]> {
    const PADDING: [u8; 8] = [0; 8];
    let mut parts: Vec<&[u8]> = Vec::with_capacity(headers.len() * 3);
    for ((header, _), pending) in headers.iter().zip(pending) {
        let used = (FRAME_HEADER + pending.payload.len()) as u64;
        parts.push(header);
        parts.push(&pending.payload);
        parts.push(&PADDING[..usize::try_from(pending.stride() - used).unwrap_or(0)]);
    }
    parts
}
