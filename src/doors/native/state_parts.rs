//! The session in parts: a joining client gets it piece by piece, at its own pace, from a state that no longer changes.

use super::encode::{self, Object};
use super::frame::{Format, FrameWriter, Piece};
use crate::session::{ChatMessage, Member, Node, Session, Setting, Task};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

/// A part ends when it has this many bytes.
const PART_BYTES: usize = 256 << 10;

/// A state on its way to a client.
pub(super) struct StateParts {
    state: Box<Session>,
    place: Option<Place>,
    /// What is left of a part that has been begun.
    pieces: VecDeque<Piece>,
    done: u64,
    total: u64,
}

/// The kind of entry that comes next, after this one.
enum Place {
    Members(Option<Arc<Member>>),
    Settings(Option<Arc<Setting>>),
    Nodes(Option<Arc<Node>>),
    Tasks(Option<Arc<Task>>),
    Chat(Option<Arc<ChatMessage>>),
}

impl StateParts {
    pub(super) fn new(state: Box<Session>) -> Self {
        let totals = state.totals();
        let total = totals.members + totals.settings + totals.nodes + totals.tasks + totals.messages;
        Self { state, place: Some(Place::Members(None)), pieces: VecDeque::new(), done: 0, total }
    }

    /// The `seq` of the state.
    pub(super) fn seq(&self) -> u64 {
        self.state.seq()
    }

    /// What comes next, framed: a part, or about 256 KiB of one that has more. `None` after the last.
    pub(super) fn next(&mut self, format: Format) -> Option<Vec<Bytes>> {
        if !self.is_within_part() {
            self.pieces = self.next_part(format)?.into();
        }
        Some(self.next_of_part())
    }

    /// Whether a part has been begun and not ended.
    pub(super) fn is_within_part(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Goes on with the part that has been begun. Base64 is made as it is needed: it belongs to this reader alone.
    pub(super) fn next_of_part(&mut self) -> Vec<Bytes> {
        let mut ready = Vec::new();
        while let Some(piece) = self.pieces.pop_front() {
            let made_now = matches!(piece, Piece::Base64(_));
            let (bytes, rest) = piece.take();
            ready.push(bytes);
            if let Some(rest) = rest {
                self.pieces.push_front(rest);
            }
            if made_now {
                break;
            }
        }
        ready
    }

    fn next_part(&mut self, format: Format) -> Option<Vec<Piece>> {
        let mut place = self.place.take()?;
        let mut part = Object::begin(format, "state");
        part.field("seq", &self.state.seq());
        part.field("first", &(self.done == 0));
        let next = loop {
            place = match self.fill(&mut part, place) {
                Filled::Part(place) => break Some(place),
                Filled::Kind(Some(place)) => place,
                Filled::Kind(None) => break None,
            };
        };
        part.field("done", &self.done);
        part.field("total", &self.total);
        part.field("last", &next.is_none());
        self.place = next;
        let mut writer = FrameWriter::default();
        writer.message(part.end());
        Some(writer.pieces())
    }

    fn fill(&mut self, part: &mut Object, place: Place) -> Filled {
        let state = &self.state;
        let done = &mut self.done;
        match place {
            Place::Members(last) => {
                let rest = state.members_after(last.as_ref().map(|member| &member.name));
                let last = write_all(part, "members", rest, encode::write_member, done);
                Filled::after(last, Place::Members, Some(Place::Settings(None)))
            }
            Place::Settings(last) => {
                let rest = state.settings_after(last.as_ref().map(|setting| &setting.key));
                let last = write_all(part, "settings", rest, encode::write_setting, done);
                Filled::after(last, Place::Settings, Some(Place::Nodes(None)))
            }
            Place::Nodes(last) => {
                let rest = state.nodes_after(last.as_ref().map(|node| &node.id));
                let last = write_all(part, "nodes", rest, encode::write_node, done);
                Filled::after(last, Place::Nodes, Some(Place::Tasks(None)))
            }
            Place::Tasks(last) => {
                let rest = state.tasks_after(last.as_ref().map(|task| &task.id));
                let last = write_all(part, "tasks", rest, encode::write_task, done);
                Filled::after(last, Place::Tasks, Some(Place::Chat(None)))
            }
            Place::Chat(last) => {
                let rest = state.messages_after(last.as_ref().map(|message| &message.id));
                let last = write_all(part, "chat", rest, encode::write_message, done);
                Filled::after(last, Place::Chat, None)
            }
        }
    }
}

/// How far writing entries has got.
enum Filled {
    /// The part is full; go on here in the next one.
    Part(Place),
    /// All entries of this kind are written; the next kind follows.
    Kind(Option<Place>),
}

impl Filled {
    fn after<T>(last: Option<Arc<T>>, here: fn(Option<Arc<T>>) -> Place, next: Option<Place>) -> Self {
        match last {
            Some(last) => Self::Part(here(Some(last))),
            None => Self::Kind(next),
        }
    }
}

/// Writes entries until there are no more (`None`), or the part is full (the last one written).
fn write_all<'a, T: 'a>(
    part: &mut Object,
    name: &str,
    entries: impl Iterator<Item = &'a Arc<T>>,
    write: fn(&mut Object, &T),
    done: &mut u64,
) -> Option<Arc<T>> {
    let mut full_after = None;
    part.begin_array(name);
    for entry in entries {
        part.item(|part| write(part, entry));
        *done += 1;
        if part.len() >= PART_BYTES {
            full_after = Some(Arc::clone(entry));
            break;
        }
    }
    part.end_array();
    full_after
}
