//! The walk over the frames of the planned segments: applies the dense prefix, and beyond it only counts promises.

use super::catalog::Segment;
use super::control::Control;
use super::effect::Effect;
use super::frame::{FRAME_HEADER, FrameHeader, Kind};
use super::positions::Positions;
use super::reader::{Found, SegmentReader};
use super::records::{BODY_MAX, BlobRef, Body, Group, Span, Spliced, decode_batch, decode_chunk};
use super::scan::{Corruption, Cut, Item, LostRecords, Place, Request, ScanError, TornTail, Verdict};
use super::segment::{Position, SegmentHeader};
use super::start::TailFrame;
use crate::session::SessionName;
use crate::storage::vfs::Vfs;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// What the walk found out.
pub(super) struct Walked {
    pub(super) verdict: Verdict,
    /// After the last batch applied.
    pub(super) positions: Positions,
    /// As of batch `durable_upto`.
    pub(super) base: Position,
    pub(super) durable_upto: u64,
    pub(super) applied_upto: u64,
    /// The header checksum of the frame of batch `durable_upto`.
    pub(super) chain: u32,
    /// The batches after `durable_upto`.
    pub(super) tail: Vec<TailFrame>,
}

/// A batch that was applied and that nothing has proved durable yet.
struct Unproved {
    frame: TailFrame,
    crc: u32,
    effect: Effect,
    segment: u64,
}

pub(super) struct Walker<'a> {
    vfs: &'a dyn Vfs,
    request: &'a Request,
    visit: &'a mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
    visiting: bool,
    now: Position,
    base: Position,
    base_crc: u32,
    last_crc: u32,
    /// The next batch.
    expected: u64,
    durable_upto: u64,
    unproved: VecDeque<Unproved>,
    blobs: BTreeMap<u64, Vec<u8>>,
    cut: Option<(String, Cut)>,
    forced: bool,
    torn: Option<TornTail>,
    closed: bool,
    /// Where the frames of the last segment read end.
    ended: (PathBuf, u64),
    /// Spans behind the cut, of batches that nothing has proved to have been promised yet.
    beyond: Vec<(u64, Vec<Span>)>,
    lost: BTreeMap<SessionName, u64>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(
        vfs: &'a dyn Vfs,
        request: &'a Request,
        visit: &'a mut dyn FnMut(Item<'_>) -> ControlFlow<()>,
        first: &SegmentHeader,
        position: Position,
    ) -> Self {
        Self {
            vfs,
            request,
            visit,
            visiting: true,
            base: position.clone(),
            now: position,
            base_crc: first.chain,
            last_crc: first.chain,
            expected: first.first_batch,
            durable_upto: first.first_batch.saturating_sub(1),
            unproved: VecDeque::new(),
            blobs: BTreeMap::new(),
            cut: None,
            forced: false,
            torn: None,
            closed: false,
            ended: (PathBuf::new(), 0),
            beyond: Vec::new(),
            lost: BTreeMap::new(),
        }
    }

    /// Reads one segment. `before` is the one read before it.
    pub(super) fn segment(
        &mut self,
        before: Option<&Segment>,
        segment: &Segment,
        next: Option<&Segment>,
    ) -> Result<(), ScanError> {
        self.raise(segment.header.first_batch.saturating_sub(1)); // durability: J8
        self.raise(segment.sealed_upto);
        if let Some(before) = before {
            self.check_link(before, segment);
        }
        if next.is_none() && segment.len < segment.header.len {
            self.force_cut("the file is shorter than it was made".into(), &segment.path, segment.len); // durability: J21
        }
        if self.cut.is_some() {
            self.count_lost(segment);
        }
        self.closed = segment.closed && next.is_none();
        self.frames(segment, next.map(|next| next.header.first_batch))
            .map_err(|error| ScanError::io(self.vfs, &segment.path, error))
    }

    /// Whether `segment` really follows `before`.
    fn check_link(&mut self, before: &Segment, segment: &Segment) {
        let header = &segment.header;
        if self.cut.is_some() {
            return;
        }
        if self.expected < header.first_batch {
            let what = if header.previous == before.header.number {
                format!("batches are missing at the end of segment {:016x}", before.header.number)
            } else {
                format!("segment {:016x} is missing", header.previous)
            };
            self.cut_at(what, &segment.path, 0, 0);
            return;
        }
        let wrong_epoch = header.epoch < before.header.epoch; // durability: J17
        let wrong_chain = header.chain != self.last_crc; // durability: J18
        if wrong_epoch || wrong_chain || self.expected > header.first_batch {
            let what = format!("it does not continue segment {:016x}", before.header.number);
            self.force_cut(what, &segment.path, 0);
        }
    }

    fn frames(&mut self, segment: &Segment, until: Option<u64>) -> io::Result<()> {
        let mut reader = SegmentReader::open(self.vfs, &segment.path, segment.header.seed())?;
        let mut at = u64::from(segment.header.data_at);
        if self.cut.is_none() {
            if let Some(position) = &segment.position {
                // Blobs that were given up at a restart are known by their absence.
                self.blobs.retain(|id, _| position.open_blobs.contains_key(id));
                self.now.open_blobs.retain(|id, _| position.open_blobs.contains_key(id));
                self.base.open_blobs.retain(|id, _| position.open_blobs.contains_key(id));
            }
            at = self.apply_from(&mut reader, segment, at, until)?;
            self.ended = (segment.path.clone(), at);
            if (until == Some(self.expected) && self.cut.is_none()) || self.is_done() {
                return Ok(());
            }
        }
        self.count_promises(&mut reader, segment, at)
    }

    /// Applies frames from `at` on. Returns where it stopped.
    fn apply_from(
        &mut self,
        reader: &mut SegmentReader,
        segment: &Segment,
        mut at: u64,
        until: Option<u64>,
    ) -> io::Result<u64> {
        while until != Some(self.expected) && !self.is_done() {
            let (header, crc, payload) = match reader.at(at)? {
                Found::Frame(header, crc, payload) => (header, crc, payload),
                Found::Nothing => break,
                Found::Garbage => {
                    self.cut_at("a frame's header is damaged".into(), &segment.path, at, at);
                    break;
                }
                Found::BadPayload(header) => {
                    self.raise(header.durable_upto);
                    self.cut_at("a frame's content is damaged".into(), &segment.path, at, at + header.stride());
                    break;
                }
            };
            let in_order = header.batch_no == self.expected; // durability: J22
            let applied = in_order && header.kind.is_numbered() && self.apply(segment, header, crc, payload).is_some();
            if !applied {
                self.cut_at("a frame is intact and makes no sense".into(), &segment.path, at, at + header.stride());
                break;
            }
            at += header.stride();
        }
        Ok(at)
    }

    /// Applies the expected batch. `None` if it makes no sense; then nothing of it was visited.
    fn apply(&mut self, segment: &Segment, header: FrameHeader, crc: u32, payload: &[u8]) -> Option<()> {
        let place = Place { segment: segment.header.number, batch: header.batch_no };
        let effect = match header.kind {
            Kind::Batch => self.apply_batch(place, payload)?,
            Kind::Chunk => self.apply_chunk(place, payload)?,
            Kind::Control => {
                let control = Control::decode(payload)?;
                self.show(Item::Control { control: &control, place });
                Effect::Control(control)
            }
            Kind::Position | Kind::Seal | Kind::Close | Kind::Continued => return None,
        };
        effect.apply(&mut self.now, place.segment);
        self.last_crc = crc;
        self.expected += 1;
        self.unproved.push_back(Unproved {
            frame: TailFrame {
                kind: header.kind,
                flags: header.flags,
                count: header.count,
                batch_no: header.batch_no,
                payload: payload.to_vec(),
            },
            crc,
            effect,
            segment: place.segment,
        });
        self.raise(header.durable_upto);
        Some(())
    }

    fn apply_batch(&mut self, place: Place, payload: &[u8]) -> Option<Effect> {
        let groups = decode_batch(payload)?;
        let whole = groups.iter().all(|group| self.has_blobs(group));
        if !whole {
            return None;
        }
        for group in &groups {
            let after = self.request.after(&group.session);
            for record in group.records.iter().filter(|record| record.seq > after) {
                let (session, branch, seq) = (&group.session, group.branch, record.seq);
                match record.body {
                    Body::Inline(body) => self.show(Item::Record { session, branch, seq, body, place }),
                    Body::Blob(blob) => {
                        let body = self.blobs.remove(&blob.id)?;
                        self.show(Item::Record { session, branch, seq, body: &body, place });
                    }
                    Body::Spliced(spliced) => {
                        let body = self.spliced(spliced)?;
                        self.show(Item::Record { session, branch, seq, body: &body, place });
                    }
                }
            }
        }
        let spans: Vec<Span> = groups.iter().filter_map(Group::span).collect();
        for blob in spans.iter().flat_map(|span| &span.blobs) {
            self.blobs.remove(blob);
        }
        Some(Effect::Spans(spans))
    }

    /// Whether all blobs that the wanted records refer to are there and whole.
    fn has_blobs(&self, group: &Group<'_>) -> bool {
        let after = self.request.after(&group.session);
        let whole = |blob: BlobRef| {
            let Some(body) = self.blobs.get(&blob.id) else { return false };
            let matches = crc32c::crc32c(body) == blob.crc;
            body.len() as u64 == blob.len && matches
        };
        let mut wanted = group.records.iter().filter(|record| record.seq > after);
        wanted.all(|record| record.body.blobs().into_iter().all(whole))
    }

    /// The body with its blobs in their places.
    fn spliced(&self, spliced: Spliced<'_>) -> Option<Vec<u8>> {
        let len: u64 = spliced.pieces().map(|piece| piece.blob.len).sum();
        let mut body = Vec::with_capacity(usize::try_from(len).ok()? + spliced.rest.len());
        let mut from = 0;
        for piece in spliced.pieces() {
            body.extend_from_slice(spliced.rest.get(from..piece.at)?);
            body.extend_from_slice(self.blobs.get(&piece.blob.id)?);
            from = piece.at;
        }
        body.extend_from_slice(spliced.rest.get(from..)?);
        Some(body)
    }

    fn apply_chunk(&mut self, place: Place, payload: &[u8]) -> Option<Effect> {
        let (blob, offset, bytes) = decode_chunk(payload)?;
        if offset == 0 {
            self.blobs.insert(blob, bytes.to_vec());
            return (blob == place.batch).then_some(Effect::BlobBegun(blob));
        }
        // Without its beginning, the blob is one that no wanted record refers to, or the record will be refused.
        if let Some(body) = self.blobs.get_mut(&blob) {
            if body.len() as u64 != offset || offset + bytes.len() as u64 > BODY_MAX {
                return None;
            }
            body.extend_from_slice(bytes);
        }
        Some(Effect::Nothing)
    }

    /// Whether nothing more needs to be read.
    pub(super) fn is_done(&self) -> bool {
        !self.visiting && self.request.only.is_some()
    }

    fn show(&mut self, item: Item<'_>) {
        if self.visiting {
            self.visiting = (self.visit)(item).is_continue();
        }
    }

    /// Takes note that every batch up to `upto` was promised.
    fn raise(&mut self, upto: u64) {
        self.durable_upto = self.durable_upto.max(upto);
        while self.unproved.front().is_some_and(|first| first.frame.batch_no <= self.durable_upto) {
            if let Some(proved) = self.unproved.pop_front() {
                proved.effect.apply(&mut self.base, proved.segment);
                self.base_crc = proved.crc;
            }
        }
    }

    fn cut_at(&mut self, what: String, file: &Path, offset: u64, end: u64) {
        if self.cut.is_none() {
            let cut = Cut { file: file.to_path_buf(), offset, end, batch: self.expected };
            self.cut = Some((what, cut));
        }
    }

    /// Cuts here, whatever was or was not promised.
    pub(super) fn force_cut(&mut self, what: String, file: &Path, offset: u64) {
        self.cut_at(what, file, offset, offset);
        self.forced = true;
    }

    /// Behind the prefix: frames only count as promises, and as witnesses of what is lost.
    fn count_promises(&mut self, reader: &mut SegmentReader, segment: &Segment, from: u64) -> io::Result<()> {
        let mut at = from;
        let mut end = from;
        while let Some(place) = reader.resync(at)? {
            self.cut_at("a frame is missing".into(), &segment.path, from, place);
            self.note_cut_end(segment, from, place);
            at = place + FRAME_HEADER as u64;
            match reader.at(place)? {
                Found::Frame(header, _, payload) => {
                    at = place + header.stride();
                    self.raise(header.durable_upto); // durability: J23
                    if header.kind == Kind::Batch {
                        let spans = decode_batch(payload).unwrap_or_default();
                        self.beyond.push((header.batch_no, spans.iter().filter_map(Group::span).collect()));
                    }
                }
                Found::BadPayload(header) => self.raise(header.durable_upto),
                Found::Nothing | Found::Garbage => {}
            }
            end = at;
        }
        if let Some(last) = reader.last_nonzero(from)? {
            self.note_cut_end(segment, from, last);
            self.torn = Some(TornTail { file: segment.path.clone(), offset: from, end: last.max(end) });
        }
        self.settle_lost();
        Ok(())
    }

    fn note_cut_end(&mut self, segment: &Segment, from: u64, place: u64) {
        if let Some((_, cut)) = &mut self.cut
            && cut.file == segment.path
            && cut.offset == from
            && cut.end <= from
        {
            cut.end = place;
        }
    }

    /// Behind the cut, a segment's position tells what was promised before it.
    fn count_lost(&mut self, segment: &Segment) {
        for (session, known) in segment.position.iter().flat_map(|position| &position.positions.sessions) {
            let through = self.lost.entry(session.clone()).or_insert(0);
            *through = known.seq.max(*through);
        }
    }

    fn settle_lost(&mut self) {
        let promised = self.durable_upto;
        for (_, spans) in self.beyond.extract_if(.., |(batch, _)| *batch <= promised) {
            for span in spans {
                let through = self.lost.entry(span.session).or_insert(0);
                *through = span.last.max(*through);
            }
        }
    }

    pub(super) fn finish(mut self) -> Walked {
        self.settle_lost();
        let applied_upto = self.expected.saturating_sub(1);
        let promised_and_missing = self.expected <= self.durable_upto; // durability: J6
        let verdict = if self.forced || promised_and_missing {
            Verdict::Corrupt(self.corruption())
        } else if let Some(torn) = self.torn.take() {
            Verdict::Torn(torn)
        } else {
            Verdict::Whole { closed: self.closed }
        };
        Walked {
            verdict,
            positions: self.now.positions,
            base: self.base,
            durable_upto: self.durable_upto,
            applied_upto,
            chain: self.base_crc,
            tail: self.unproved.into_iter().map(|unproved| unproved.frame).collect(),
        }
    }

    fn corruption(&mut self) -> Corruption {
        let (what, cut) = self.cut.take().unwrap_or_else(|| {
            let (file, offset) = std::mem::take(&mut self.ended);
            let cut = Cut { file, offset, end: offset, batch: self.expected };
            ("batches are missing at the end".into(), cut)
        });
        let applied = |session: &SessionName| self.now.positions.sessions.get(session).map_or(0, |known| known.seq);
        let lost = (self.lost.iter())
            .map(|(session, through)| LostRecords {
                session: session.clone(),
                from: applied(session) + 1,
                through: *through,
            })
            .filter(|lost| lost.through >= lost.from)
            .collect();
        Corruption { what, cut, durable_upto: self.durable_upto, lost }
    }
}
