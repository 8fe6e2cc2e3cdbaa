//! The queue in front of the log: turns what sessions append into batches, in order for each session, so that no
//! small record waits behind more than a piece of somebody's large one.

use super::Settings;
use super::control::Control;
use super::early::{Early, StagedEarly, Unwritten};
use super::effect::Effect;
use super::frame::{FLAG_LAST, Kind};
use super::log::Log;
use super::records::{
    BlobRef, Piece, RECORD_HEAD, Span, begin_group, begin_inline, encode_chunk, end_group, end_inline, put_blob,
    put_spliced,
};
use crate::session::SessionName;
use crate::storage::{Branch, Record};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Weak;
use std::sync::mpsc::SyncSender;

use crate::storage::Trouble;

/// Told when a control record is durable, or why it may not be.
pub(super) type Reply = SyncSender<Result<(), Trouble>>;

/// About how much the head of a group of records takes.
const GROUP_HEAD: usize = 128;

/// Pieces of one blob that are written with one sync when nobody else has anything to write.
const PIECES_ALONE: usize = 4;

pub(super) enum Entry {
    Record(Branch, Record),
    Control(Control, Reply),
}

/// A body that is being written piece by piece.
struct Blob {
    branch: Branch,
    seq: u64,
    body: Vec<u8>,
    written: usize,
    id: Option<u64>,
}

#[derive(Default)]
struct Lane {
    entries: VecDeque<Entry>,
    blob: Option<Blob>,
    early: VecDeque<Unwritten>,
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.blob.is_none() && self.entries.is_empty() && self.early.is_empty()
    }
}

/// What waits on the journal's thread. Its size is bounded by what sessions may have in flight.
#[derive(Default)]
pub(super) struct Queue {
    lanes: BTreeMap<SessionName, Lane>,
    controls: VecDeque<(Control, Reply)>,
    /// Whose turn it is first.
    turn: Option<SessionName>,
    /// Replies of staged controls, by batch.
    replies: BTreeMap<u64, Reply>,
    staged_early: StagedEarly,
}

impl Queue {
    pub(super) fn push_records(&mut self, session: SessionName, branch: Branch, records: Vec<Record>) {
        let entries = records.into_iter().map(|record| Entry::Record(branch, record));
        self.lanes.entry(session).or_default().entries.extend(entries);
    }

    pub(super) fn push_early(&mut self, session: SessionName, early: Vec<Weak<Early>>) {
        self.lanes.entry(session).or_default().early.extend(early.into_iter().map(Unwritten::new));
    }

    /// The batch with the last piece of early bytes is durable: whose they are, if they are still wanted.
    pub(super) fn prepared(&mut self, batch_no: u64) -> Option<SessionName> {
        self.staged_early.durable(batch_no)
    }

    pub(super) fn push_control(&mut self, control: Control, reply: Reply) {
        match control.session().cloned() {
            Some(session) => self.lanes.entry(session).or_default().entries.push_back(Entry::Control(control, reply)),
            None => self.controls.push_back((control, reply)),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.controls.is_empty()
    }

    /// Answers the control of a batch that is durable.
    pub(super) fn answer(&mut self, batch_no: u64) {
        if let Some(reply) = self.replies.remove(&batch_no) {
            reply.send(Ok(())).ok();
        }
    }

    /// Answers all controls that writing fails; those that are not staged yet are dropped.
    pub(super) fn refuse_controls(&mut self, trouble: &Trouble) {
        let mut refused: Vec<Reply> = std::mem::take(&mut self.replies).into_values().collect();
        refused.extend(self.controls.drain(..).map(|(_, reply)| reply));
        for lane in self.lanes.values_mut() {
            let entries = std::mem::take(&mut lane.entries);
            for entry in entries {
                match entry {
                    Entry::Control(_, reply) => refused.push(reply),
                    Entry::Record(..) => lane.entries.push_back(entry),
                }
            }
        }
        self.lanes.retain(|_, lane| !lane.is_empty());
        for reply in refused {
            reply.send(Err(trouble.clone())).ok();
        }
    }

    /// Stages about one group of batches.
    pub(super) fn stage(&mut self, log: &mut Log, settings: &Settings) {
        while let Some((control, reply)) = self.controls.pop_front() {
            let batch_no = log.stage_control(control);
            self.replies.insert(batch_no, reply);
        }
        self.staged_early.let_go(log);
        let mut order: Vec<SessionName> = self.lanes.keys().cloned().collect();
        if let Some(turn) = &self.turn {
            let first = order.iter().position(|session| session >= turn).unwrap_or(0);
            order.rotate_left(first);
        }
        let pieces = if order.len() > 1 { 1 } else { PIECES_ALONE };
        let mut batch = Batch::new(settings);
        self.turn = None;
        for session in order {
            if batch.staged >= settings.group_bytes {
                self.turn = Some(session);
                break;
            }
            let Some(mut lane) = self.lanes.remove(&session) else { continue };
            self.stage_lane(&session, &mut lane, pieces, &mut batch, log);
            if !lane.is_empty() {
                self.lanes.insert(session, lane);
            }
        }
        batch.flush(log);
    }

    fn stage_lane(&mut self, session: &SessionName, lane: &mut Lane, pieces: usize, batch: &mut Batch, log: &mut Log) {
        if let Some(blob) = &mut lane.blob {
            batch.flush(log);
            let Some(whole) = batch.stage_pieces(blob, pieces, log) else { return };
            batch.put(session, blob.branch, blob.seq, &[whole.id], |out| put_blob(out, blob.seq, whole));
            lane.blob = None;
        }
        while batch.staged + batch.payload.len() < batch.group_bytes {
            match lane.entries.pop_front() {
                None => break,
                Some(Entry::Control(control, reply)) => {
                    batch.flush(log);
                    let batch_no = log.stage_control(control);
                    self.replies.insert(batch_no, reply);
                }
                Some(Entry::Record(branch, record)) => {
                    if let Some(blobs) = batch.put_spliced(session, branch, &record) {
                        self.staged_early.referred_to(&blobs);
                        continue;
                    }
                    lane.blob = batch.put_record(session, branch, &record);
                    if lane.blob.is_some() {
                        break;
                    }
                }
            }
            if batch.payload.len() >= batch.chunk_bytes {
                batch.flush(log);
            }
        }
        if !lane.early.is_empty() {
            batch.flush(log);
            batch.staged += self.staged_early.stage_piece(session, &mut lane.early, batch.chunk_bytes, log);
        }
    }
}

/// A batch under construction.
struct Batch {
    chunk_bytes: usize,
    group_bytes: usize,
    payload: Vec<u8>,
    spans: Vec<Span>,
    /// The open group's count: where it stands and how much it is.
    group: Option<(usize, u32)>,
    count: u32,
    /// Bytes already staged.
    staged: usize,
}

impl Batch {
    fn new(settings: &Settings) -> Self {
        Self {
            chunk_bytes: settings.chunk_bytes,
            group_bytes: settings.group_bytes,
            payload: Vec::new(),
            spans: Vec::new(),
            group: None,
            count: 0,
            staged: 0,
        }
    }

    fn end_group(&mut self) {
        if let Some((at, count)) = self.group.take() {
            end_group(&mut self.payload, at, count);
        }
    }

    fn flush(&mut self, log: &mut Log) {
        self.end_group();
        if self.payload.is_empty() {
            return;
        }
        let payload = std::mem::take(&mut self.payload);
        self.staged += payload.len();
        let effect = Effect::Spans(std::mem::take(&mut self.spans));
        log.stage(Kind::Batch, 0, std::mem::take(&mut self.count), payload, effect);
    }

    /// Adds one record; `write` appends it.
    fn put(
        &mut self,
        session: &SessionName,
        branch: Branch,
        seq: u64,
        blobs: &[u64],
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let same = self.spans.last().is_some_and(|span| span.session == *session && span.branch == branch);
        if self.group.is_none() || !same {
            self.end_group();
            self.group = Some((begin_group(&mut self.payload, session, branch), 0));
            let session = session.clone();
            self.spans.push(Span { session, branch, first: seq, last: seq, blobs: Vec::new() });
        }
        write(&mut self.payload);
        if let Some((_, count)) = &mut self.group {
            *count += 1;
        }
        self.count += 1;
        if let Some(span) = self.spans.last_mut() {
            span.last = seq;
            span.blobs.extend_from_slice(blobs);
        }
    }

    /// Adds a record whose large parts stand in the log, and returns their blobs. `None` if it has none, or must be written
    /// whole.
    fn put_spliced(&mut self, session: &SessionName, branch: Branch, record: &Record) -> Option<Vec<u64>> {
        if record.early.is_empty() {
            return None;
        }
        let mut rest = Vec::new();
        let places = record.body.encode_around(&record.early, &mut rest)?;
        let piece = |(at, which): (usize, usize)| Some(Piece { at, blob: record.early.get(which)?.place()? });
        let pieces: Vec<Piece> = places.into_iter().map(piece).collect::<Option<_>>()?;
        if rest.len() > self.chunk_bytes {
            return None;
        }
        let blobs: Vec<u64> = pieces.iter().map(|piece| piece.blob.id).collect();
        self.put(session, branch, record.seq, &blobs, |out| put_spliced(out, record.seq, &pieces, &rest));
        Some(blobs)
    }

    /// Adds a record, or returns the blob that it must become.
    fn put_record(&mut self, session: &SessionName, branch: Branch, record: &Record) -> Option<Blob> {
        let seq = record.seq;
        if record.body.size_hint() > self.chunk_bytes {
            let mut body = Vec::with_capacity(record.body.size_hint());
            record.body.encode(&mut body);
            if body.len() > self.chunk_bytes {
                return Some(Blob { branch, seq, body, written: 0, id: None });
            }
            self.put(session, branch, seq, &[], |out| {
                let at = begin_inline(out, seq);
                out.extend_from_slice(&body);
                end_inline(out, at);
            });
            return None;
        }
        let before = self.payload.len();
        self.payload.reserve(GROUP_HEAD + RECORD_HEAD + record.body.size_hint());
        let mut too_long = None;
        let limit = self.chunk_bytes;
        self.put(session, branch, seq, &[], |out| {
            let at = begin_inline(out, seq);
            record.body.encode(out);
            if out.len() - at - RECORD_HEAD > limit {
                // The hint was wrong.
                too_long = Some(out.split_off(at + RECORD_HEAD));
                out.truncate(at);
            } else {
                end_inline(out, at);
            }
        });
        too_long.map(|body| {
            self.take_back(before, seq);
            Blob { branch, seq, body, written: 0, id: None }
        })
    }

    /// Undoes the record put last, whose bytes are gone already.
    fn take_back(&mut self, before: usize, seq: u64) {
        self.count -= 1;
        let left = self.group.as_mut().map_or(0, |(_, count)| {
            *count -= 1;
            *count
        });
        if left == 0 {
            self.payload.truncate(before);
            self.group = None;
            self.spans.pop();
        } else if let Some(span) = self.spans.last_mut() {
            span.last = seq - 1;
        }
    }

    /// Stages pieces of a blob. Returns how to refer to it once all of it is staged.
    fn stage_pieces(&mut self, blob: &mut Blob, pieces: usize, log: &mut Log) -> Option<BlobRef> {
        for _ in 0..pieces {
            let end = blob.body.len().min(blob.written + self.chunk_bytes);
            let id = *blob.id.get_or_insert(log.next_batch());
            let payload = encode_chunk(id, blob.written as u64, &blob.body[blob.written..end]);
            let effect = if blob.written == 0 { Effect::BlobBegun(id) } else { Effect::Nothing };
            let flags = if end == blob.body.len() { FLAG_LAST } else { 0 };
            self.staged += payload.len();
            log.stage(Kind::Chunk, flags, 0, payload, effect);
            blob.written = end;
            if end == blob.body.len() {
                return Some(BlobRef { id, len: end as u64, crc: crc32c::crc32c(&blob.body) });
            }
        }
        None
    }
}
