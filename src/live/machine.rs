//! The session as storage sees it: journal records and snapshot sections, turned into state and back.

use crate::session::stored::{BadStored, ClientOpsV1, EventV1, Loading, MemberV1, MessageV1, MetaV1, NodeV1, TaskV1};
use crate::session::{Event, Session, Timestamp};
use crate::storage::{BadContent, Machine, RecordBody, Sections, Summary, codec};
use serde::Serialize;
use std::io;
use std::sync::Arc;

/// The schema version of every section that is written.
const SCHEMA: u16 = 1;

/// About how many bytes a section should have.
const SECTION_BYTES: usize = 4 << 20;

const META: [u8; 4] = *b"META";
const NODES: [u8; 4] = *b"NODE";
const TASKS: [u8; 4] = *b"TASK";
const MESSAGES: [u8; 4] = *b"CHAT";
const MEMBERS: [u8; 4] = *b"USER";
const OPERATIONS: [u8; 4] = *b"OPID";

/// A session that storage can load, replay and save. Cloning is cheap once it is loaded.
#[derive(Debug, Clone, Default)]
pub struct SessionMachine {
    session: Session,
    loading: Option<Box<Loading>>,
}

impl SessionMachine {
    /// The state that was recovered.
    pub fn into_session(self) -> Session {
        self.session
    }

    /// The state.
    pub fn session(&self) -> &Session {
        &self.session
    }
}

impl From<Session> for SessionMachine {
    fn from(session: Session) -> Self {
        Self { session, loading: None }
    }
}

/// An event as the body of a journal record. Encoded on the journal's thread.
#[derive(Debug, Clone)]
pub struct EventRecord(pub Arc<Event>);

impl RecordBody for EventRecord {
    fn encode(&self, out: &mut Vec<u8>) {
        codec::encode_into(&EventV1::from(&*self.0), out);
    }

    fn size_hint(&self) -> usize {
        self.0.size_hint()
    }
}

/// Reads the body of a journal record: for recovery, history and export.
pub fn decode_event(body: &[u8]) -> Result<Event, BadContent> {
    let stored: EventV1 = codec::decode(body)?;
    Event::try_from(stored).map_err(bad_content)
}

impl Machine for SessionMachine {
    fn empty() -> Self {
        Self::default()
    }

    fn load_section(&mut self, tag: [u8; 4], schema: u16, body: &[u8]) -> Result<(), BadContent> {
        let name = tag.escape_ascii();
        if schema != SCHEMA {
            return Err(BadContent(format!("section {name} has the unknown schema {schema}")));
        }
        let loading = self.loading.get_or_insert_default();
        match tag {
            META => loading.meta(codec::decode(body)?),
            NODES => loading.nodes(codec::decode(body)?),
            TASKS => loading.tasks(codec::decode(body)?),
            MESSAGES => loading.messages(codec::decode(body)?),
            MEMBERS => loading.members(codec::decode(body)?),
            OPERATIONS => loading.operations(codec::decode(body)?),
            _ => return Err(BadContent(format!("unknown section {name}"))),
        }
        .map_err(bad_content)
    }

    fn finish_load(&mut self, seq: u64, summary: &Summary) -> Result<(), BadContent> {
        let loading = self.loading.take().unwrap_or_default();
        self.session = loading.finish().map_err(bad_content)?;
        if self.session.seq() != seq {
            return Err(BadContent(format!("the state is at {}, its header says {seq}", self.session.seq())));
        }
        if self.summary() != *summary {
            return Err(BadContent(format!("the state holds {:?}, its header says {summary:?}", self.summary())));
        }
        Ok(())
    }

    fn write_sections(&self, out: &mut dyn Sections) -> io::Result<()> {
        let session = &self.session;
        let mut body = Vec::new();
        codec::encode_into(&MetaV1::from(session), &mut body);
        out.section(META, SCHEMA, &body)?;
        let node_size = |node: &NodeV1| match &node.payload {
            crate::session::stored::PayloadV1::Json(data) => data.len(),
            crate::session::stored::PayloadV1::Bytes { data, .. } => data.len(),
        };
        write_parts(out, NODES, session.nodes().map(|node| NodeV1::from(&**node)), node_size)?;
        let task_size = |task: &TaskV1| task.description.len();
        write_parts(out, TASKS, session.tasks().map(|task| TaskV1::from(&**task)), task_size)?;
        let message_size = |message: &MessageV1| message.text.len();
        write_parts(out, MESSAGES, session.messages().map(|message| MessageV1::from(&**message)), message_size)?;
        let member_size = |member: &MemberV1| member.metadata.len();
        write_parts(out, MEMBERS, session.members().map(|member| MemberV1::from(&**member)), member_size)?;
        write_parts(out, OPERATIONS, session.stored_operations(), |client: &ClientOpsV1| 12 * client.ops.len())
    }

    fn apply(&mut self, seq: u64, body: &[u8]) -> Result<(), BadContent> {
        let event = decode_event(body)?;
        if event.seq != seq {
            return Err(BadContent(format!("the record at {seq} holds event {}", event.seq)));
        }
        self.session.evolve(&event);
        Ok(())
    }

    fn seq(&self) -> u64 {
        self.session.seq()
    }

    fn summary(&self) -> Summary {
        let totals = self.session.totals();
        Summary { users: totals.online, nodes: totals.nodes, tasks: totals.tasks, messages: totals.messages }
    }

    fn restored(&mut self, seq: u64, at: Timestamp, source: &str) -> Arc<dyn RecordBody> {
        let event = Event::restored(seq, at, source);
        self.session.evolve(&event);
        Arc::new(EventRecord(Arc::new(event)))
    }
}

/// Writes items as sections of about [`SECTION_BYTES`]; `size` says what an item takes beyond a few hundred bytes.
fn write_parts<T: Serialize>(
    out: &mut dyn Sections,
    tag: [u8; 4],
    items: impl Iterator<Item = T>,
    size: impl Fn(&T) -> usize,
) -> io::Result<()> {
    let (mut part, mut bytes, mut body) = (Vec::new(), 0, Vec::new());
    let mut flush = |part: &mut Vec<T>| {
        body.clear();
        codec::encode_into(part, &mut body);
        part.clear();
        out.section(tag, SCHEMA, &body)
    };
    for item in items {
        let more = 256 + size(&item);
        if bytes + more > SECTION_BYTES && !part.is_empty() {
            flush(&mut part)?;
            bytes = 0;
        }
        bytes += more;
        part.push(item);
    }
    if part.is_empty() { Ok(()) } else { flush(&mut part) }
}

#[expect(clippy::needless_pass_by_value, reason = "it is the argument of map_err")]
fn bad_content(error: BadStored) -> BadContent {
    BadContent(error.to_string())
}
