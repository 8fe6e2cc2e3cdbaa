//! The released tail: the newest durable events, encoded once per wire format and shared by every reader.
//!
//! A connection has no queue of its own. It holds a cursor (the `seq` it has sent) and asks for what follows; what is
//! handed out are the same bytes for everybody. The tail is bounded, so a slow reader costs nothing: it falls off.

use crate::session::Event;
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// How many wire formats may encode events: each door claims its own slots.
pub(super) const WIRE_FORMATS: usize = 4;

/// Which encoding of events a connection reads; a slot in every chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireFormat(usize);

impl WireFormat {
    pub(super) const fn slot(self) -> usize {
        self.0
    }

    /// `hotset.v1.json`.
    pub const NATIVE_JSON: Self = Self(0);
    /// `hotset.v1.binary`.
    pub const NATIVE_BINARY: Self = Self(1);
}

/// Encodes and frames events for one wire format.
pub type EncodeEvents = fn(&[Arc<Event>]) -> Frames;

/// Events that became durable together, in order.
#[derive(Debug)]
pub struct Chunk {
    events: Vec<Arc<Event>>,
    first_seq: u64,
    last_seq: u64,
    /// About how many bytes the events have.
    size: usize,
    cost: usize,
    frames: [Mutex<Option<Arc<Frames>>>; WIRE_FORMATS],
}

/// Encoded and framed events of one chunk.
#[derive(Debug, Default)]
pub struct Frames {
    /// The bytes, in order; small frames share a part, large payloads are parts of their own.
    pub parts: Vec<Bytes>,
    /// Where each event begins: part and offset in it.
    pub starts: Vec<(usize, usize)>,
}

impl Chunk {
    fn new(events: Vec<Arc<Event>>) -> Self {
        let size = events.iter().map(|event| event.size_hint()).sum();
        let cost = EVENT_COST * events.len() + 2 * size;
        let first_seq = events.first().map_or(u64::MAX, |event| event.seq);
        let last_seq = events.last().map_or(0, |event| event.seq);
        Self { events, first_seq, last_seq, size, cost, frames: Default::default() }
    }

    /// The events themselves, for doors that tell each connection something else.
    pub fn events(&self) -> &[Arc<Event>] {
        &self.events
    }

    /// The `seq` of its newest event.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The bytes that follow `cursor` if they are at most `most` and lie in one part, encoded by the first who asks. `None`
    /// also if something is missing between the cursor and this chunk. What is clearly larger is not encoded at all.
    pub fn only_part(&self, cursor: u64, most: usize, format: WireFormat, encode: EncodeEvents) -> Option<Bytes> {
        // About: a guess of twice as much may still be too high.
        if cursor + 1 < self.first_seq || self.size > 2 * most {
            return None;
        }
        let frames = self.frames(format, encode);
        match (&frames.parts[..], frames.starts.get(self.skipped(cursor))) {
            ([only], Some((0, offset))) if only.len() - offset <= most => Some(only.slice(offset..)),
            _ => None,
        }
    }

    fn frames(&self, format: WireFormat, encode: EncodeEvents) -> Arc<Frames> {
        let mut frames = self.frames[format.0].lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(frames.get_or_insert_with(|| Arc::new(encode(&self.events))))
    }

    /// Lets go of the encoded events: nearly everybody has had them, and whoever comes later has them encoded again.
    fn forget_frames(&self) {
        for frames in &self.frames {
            *frames.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// How many of its events are not after `cursor`.
    fn skipped(&self, cursor: u64) -> usize {
        if cursor < self.first_seq { 0 } else { self.events.partition_point(|event| event.seq <= cursor) }
    }

    /// The bytes that follow `cursor`, encoded by the first who asks.
    pub fn bytes_after(&self, cursor: u64, format: WireFormat, encode: EncodeEvents) -> impl Iterator<Item = Bytes> {
        let frames = self.frames(format, encode);
        let skipped = self.skipped(cursor);
        let (part, offset) = frames.starts.get(skipped).copied().unwrap_or((frames.parts.len(), 0));
        let head = frames.parts.get(part).map(|bytes| bytes.slice(offset..));
        let rest = (part + 1..frames.parts.len()).map(move |part| frames.parts[part].clone());
        head.into_iter().chain(rest)
    }
}

/// Chunks that are kept in their encoded form too. Memory that is soon used again is memory that is already there.
const ENCODED_MAX: usize = 4;

/// What an event costs however small it is.
const EVENT_COST: usize = 512;

/// About how much memory an event holds on to, its encoded form included.
pub(super) fn cost(event: &Event) -> usize {
    EVENT_COST + 2 * event.size_hint()
}

/// What follows a cursor.
#[derive(Debug)]
pub enum Following {
    /// Nothing new.
    Nothing,
    /// This chunk; it may begin before the cursor.
    Chunk {
        /// The events.
        chunk: Arc<Chunk>,
        /// There is nothing newer at the moment.
        newest: bool,
    },
    /// The cursor is older than the tail: the reader needs the state again.
    Gone,
}

/// How much is kept in memory for readers that are behind.
#[derive(Debug, Clone, Copy)]
pub struct TailLimits {
    /// Bytes, about.
    pub bytes: usize,
    /// Events.
    pub events: usize,
}

impl Default for TailLimits {
    fn default() -> Self {
        Self { bytes: 64 << 20, events: 65_536 }
    }
}

/// The newest durable events of one session.
#[derive(Debug)]
pub struct Tail {
    limits: TailLimits,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    chunks: VecDeque<Arc<Chunk>>,
    bytes: usize,
    events: usize,
    head: u64,
}

impl Tail {
    /// An empty tail after `head`.
    pub fn new(head: u64, limits: TailLimits) -> Self {
        Self { limits, inner: Mutex::new(Inner { chunks: VecDeque::new(), bytes: 0, events: 0, head }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Nothing under the lock can leave it half-changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest released `seq`.
    pub fn head(&self) -> u64 {
        self.lock().head
    }

    /// Releases events that are durable now, and returns them as a chunk if there are any; forgets the oldest beyond the
    /// limits.
    pub fn release(&self, events: Vec<Arc<Event>>) -> Option<Arc<Chunk>> {
        if events.is_empty() {
            return None;
        }
        let chunk = Arc::new(Chunk::new(events));
        let mut forgotten = Vec::new();
        let mut inner = self.lock();
        inner.head = chunk.last_seq();
        inner.bytes += chunk.cost;
        inner.events += chunk.events.len();
        inner.chunks.push_back(Arc::clone(&chunk));
        if let Some(older) = inner.chunks.iter().rev().nth(ENCODED_MAX) {
            older.forget_frames();
        }
        while inner.chunks.len() > 1 && (inner.bytes > self.limits.bytes || inner.events > self.limits.events) {
            let Some(oldest) = inner.chunks.pop_front() else { break };
            inner.bytes -= oldest.cost;
            inner.events -= oldest.events.len();
            forgotten.push(oldest);
        }
        drop(inner);
        Some(chunk)
    }

    /// The cursor that is followed by the oldest event that is still here.
    pub fn begin(&self) -> u64 {
        let inner = self.lock();
        inner.chunks.front().map_or(inner.head, |oldest| oldest.first_seq.saturating_sub(1))
    }

    /// Whether everything after `cursor` is still here.
    pub fn reaches(&self, cursor: u64) -> bool {
        let inner = self.lock();
        cursor >= inner.head || inner.chunks.front().is_some_and(|oldest| oldest.first_seq <= cursor + 1)
    }

    /// The chunk that follows `cursor`.
    pub fn after(&self, cursor: u64) -> Following {
        let inner = self.lock();
        if cursor >= inner.head {
            return Following::Nothing;
        }
        // Nearly every reader wants the newest; looking for it among thousands would cost more than writing it.
        let newest = inner.chunks.len().saturating_sub(1);
        let next = match inner.chunks.back() {
            Some(chunk) if chunk.first_seq <= cursor + 1 => newest,
            Some(_) | None => inner.chunks.partition_point(|chunk| chunk.last_seq <= cursor),
        };
        match inner.chunks.get(next) {
            Some(chunk) if chunk.first_seq <= cursor + 1 => {
                Following::Chunk { chunk: Arc::clone(chunk), newest: next == newest }
            }
            Some(_) | None => Following::Gone,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Change, MemberName, Timestamp};

    fn event(seq: u64) -> Arc<Event> {
        Arc::new(Event { seq, at: Timestamp(0), author: MemberName::daemon(), op: None, changes: Vec::new() })
    }

    fn encode(events: &[Arc<Event>]) -> Frames {
        let mut text = Vec::new();
        let mut starts = Vec::new();
        for event in events {
            starts.push((0, text.len()));
            text.extend_from_slice(format!("<{}>", event.seq).as_bytes());
        }
        Frames { parts: vec![text.into()], starts }
    }

    fn read(tail: &Tail, cursor: u64) -> String {
        match tail.after(cursor) {
            Following::Nothing => "nothing".to_owned(),
            Following::Gone => "gone".to_owned(),
            Following::Chunk { chunk, newest } => {
                let parts = chunk.bytes_after(cursor, WireFormat::NATIVE_JSON, encode);
                let text: String = parts.map(|part| String::from_utf8(part.to_vec()).unwrap()).collect();
                if newest { text } else { text + &read(tail, chunk.last_seq()) }
            }
        }
    }

    #[test]
    fn a_reader_gets_exactly_what_follows_its_cursor() {
        let tail = Tail::new(4, TailLimits::default());
        tail.release(vec![event(5), event(6), event(7)]);
        tail.release(vec![event(8)]);
        assert_eq!(read(&tail, 4), "<5><6><7><8>");
        assert_eq!(read(&tail, 6), "<7><8>");
        assert_eq!(read(&tail, 7), "<8>");
        assert_eq!(read(&tail, 8), "nothing");
        assert_eq!(read(&tail, 3), "gone", "5 follows 4, not 3");
    }

    #[test]
    fn what_was_encoded_is_let_go_of_and_encoded_again_for_late_readers() {
        let tail = Tail::new(0, TailLimits::default());
        let chunks: Vec<_> = (1..=10).filter_map(|seq| tail.release(vec![event(seq)])).collect();
        let encoded = |chunk: &Arc<Chunk>| chunk.frames[WireFormat::NATIVE_JSON.slot()].lock().unwrap().is_some();
        assert_eq!(read(&tail, 0), "<1><2><3><4><5><6><7><8><9><10>");
        assert!(chunks.iter().all(encoded), "everybody shares what one has asked for");
        for seq in 11..=20 {
            tail.release(vec![event(seq)]);
        }
        assert_eq!(chunks.iter().filter(|chunk| encoded(chunk)).count(), 10 - ENCODED_MAX);
        assert_eq!(read(&tail, 8), "<9><10><11><12><13><14><15><16><17><18><19><20>");
    }

    #[test]
    fn what_is_large_is_not_encoded_for_those_who_take_only_little() {
        let tail = Tail::new(0, TailLimits::default());
        let source: Arc<str> = "x".repeat(10_000).into();
        let large = Event { changes: vec![Change::Restored { source }], ..(*event(1)).clone() };
        let chunk = tail.release(vec![Arc::new(large)]).unwrap();
        let never: EncodeEvents = |_| panic!("it was encoded");
        assert_eq!(chunk.only_part(0, 1_000, WireFormat::NATIVE_JSON, never), None);
        assert_eq!(chunk.only_part(0, 10_000, WireFormat::NATIVE_JSON, encode).unwrap(), "<1>");
    }

    #[test]
    fn a_reader_that_is_too_far_behind_falls_off() {
        let tail = Tail::new(0, TailLimits { bytes: usize::MAX, events: 2 });
        for seq in 1..=4 {
            tail.release(vec![event(seq)]);
        }
        assert!(!tail.reaches(1) && tail.reaches(2) && tail.reaches(4));
        assert_eq!(read(&tail, 1), "gone");
        assert_eq!(read(&tail, 2), "<3><4>");
    }
}
