//! The session as storage sees it: journal records and snapshot sections, turned into state and back.

use crate::session::stored::{
    BadStored, ClientOpsV1, EventV1, Loading, MemberV1, MessageV1, MetaV1, NodeRefV1, PayloadV1, RemovedTaskV1,
    SettingV1, TaskV1,
};
use crate::session::{Event, Session, Timestamp};
use crate::storage::{BadContent, Early, Machine, RecordBody, Sections, Summary, codec};
use bytes::Bytes;
use serde::Serialize;
use std::io;
use std::sync::Arc;

/// The schema version of every section that is written.
const SCHEMA: u16 = 1;

/// About how many bytes a section should have.
const SECTION_BYTES: usize = 1 << 20;

const META: [u8; 4] = *b"META";
const NODES: [u8; 4] = *b"NODE";
const TASKS: [u8; 4] = *b"TASK";
const MESSAGES: [u8; 4] = *b"CHAT";
const MEMBERS: [u8; 4] = *b"USER";
const OPERATIONS: [u8; 4] = *b"OPID";
/// Absent if there are none, as in the snapshots of before there were any.
const REMOVED_TASKS: [u8; 4] = *b"GONE";
/// Likewise.
const SETTINGS: [u8; 4] = *b"CONF";

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

    fn encode_around(&self, early: &[Arc<Early>], out: &mut Vec<u8>) -> Option<Vec<(usize, usize)>> {
        let parts: Vec<&[u8]> = early.iter().map(|early| &early.bytes()[..]).collect();
        codec::encode_around(&EventV1::from(&*self.0), &parts, out)
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
            REMOVED_TASKS => loading.removed_tasks(codec::decode(body)?),
            SETTINGS => loading.settings(codec::decode(body)?),
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
        let node_size = |node: &NodeRefV1<'_>| payload_size(&node.payload) + 64 * node.dependencies.len();
        write_parts(out, NODES, session.nodes().map(|node| NodeRefV1::from(&**node)), node_size)?;
        let task_size = |task: &TaskV1| task.description.len();
        write_parts(out, TASKS, session.tasks().map(|task| TaskV1::from(&**task)), task_size)?;
        let message_size = |message: &MessageV1| message.text.len();
        write_parts(out, MESSAGES, session.messages().map(|message| MessageV1::from(&**message)), message_size)?;
        let member_size = |member: &MemberV1| member.metadata.len();
        write_parts(out, MEMBERS, session.members().map(|member| MemberV1::from(&**member)), member_size)?;
        write_parts(out, OPERATIONS, session.stored_operations(), |client: &ClientOpsV1| 12 * client.ops.len())?;
        write_parts(out, REMOVED_TASKS, session.stored_removed_tasks(), |_: &RemovedTaskV1| 0)?;
        let setting_size = |setting: &SettingV1| setting.value.len();
        write_parts(out, SETTINGS, session.settings().map(|setting| SettingV1::from(&**setting)), setting_size)
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

    fn answers_for(&mut self, left: &Self) {
        self.session.answers_for(&left.session);
    }
}

fn payload_size(payload: &PayloadV1<&str, &Bytes>) -> usize {
    match payload {
        PayloadV1::Json(data) | PayloadV1::Bytes { data, .. } => data.len(),
        PayloadV1::Layered { base, deltas, .. } => {
            base.len() + deltas.iter().map(|delta| delta.data.len() + 16).sum::<usize>()
        }
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
    let mut flush = |part: &mut Vec<T>, bytes: usize| {
        if bytes > SECTION_BYTES {
            // A single large item: a copy of it would be the largest part of what a save takes.
            out.large_section(tag, SCHEMA, &|out| codec::encode_to(part, out))?;
            part.clear();
            return Ok(());
        }
        body.clear();
        codec::encode_into(part, &mut body);
        part.clear();
        out.section(tag, SCHEMA, &body)
    };
    for item in items {
        let more = 256 + size(&item);
        if bytes + more > SECTION_BYTES && !part.is_empty() {
            flush(&mut part, bytes)?;
            bytes = 0;
        }
        bytes += more;
        part.push(item);
    }
    if part.is_empty() { Ok(()) } else { flush(&mut part, bytes) }
}

#[expect(clippy::needless_pass_by_value, reason = "it is the argument of map_err")]
fn bad_content(error: BadStored) -> BadContent {
    BadContent(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{
        Author, ClientId, Command, Decision, Limits, MemberName, NodeId, NodePut, Operation, Payload, Role,
    };

    use std::time::Duration;

    #[derive(Default)]
    struct Parts(Vec<([u8; 4], Vec<u8>)>);

    impl Sections for Parts {
        fn section(&mut self, tag: [u8; 4], schema: u16, body: &[u8]) -> io::Result<()> {
            assert_eq!(schema, SCHEMA);
            self.0.push((tag, body.to_vec()));
            Ok(())
        }
    }

    fn put(id: String, payload: Vec<u8>) -> NodePut {
        NodePut {
            id: NodeId::new(id).expect("an id"),
            kind: "mesh".into(),
            name: "".into(),
            parent: None,
            order: None,
            dependencies: Vec::new(),
            payload: Payload::Bytes { media_type: "text/plain".into(), data: payload.into() },
            if_revision: None,
        }
    }

    fn machine(payloads: impl IntoIterator<Item = usize>) -> SessionMachine {
        let author = Author::daemon();
        let put = |(n, size)| Operation::NodePut(put(format!("n{n:07}"), vec![7; size]));
        let operations: Vec<Operation> = payloads.into_iter().enumerate().map(put).collect();
        let mut session = Session::new();
        for operations in operations.chunks(4_096) {
            let command = Command::Edit { op: None, operations: operations.to_vec() };
            match session.decide(&command, &author, Timestamp(1), &Limits::default()) {
                Ok(Decision::New(event)) => session.evolve(&event),
                other => panic!("it was not accepted: {other:?}"),
            }
        }
        session.into()
    }

    fn saved(machine: &SessionMachine) -> Parts {
        let mut parts = Parts::default();
        Machine::write_sections(machine, &mut parts).expect("memory takes everything");
        parts
    }

    fn load(parts: &Parts, seq: u64, summary: &Summary) -> Result<SessionMachine, BadContent> {
        let mut machine = SessionMachine::empty();
        for (tag, body) in &parts.0 {
            machine.load_section(*tag, SCHEMA, body)?;
        }
        machine.finish_load(seq, summary)?;
        Ok(machine)
    }

    #[test]
    fn sections_stay_small_unless_a_single_node_is_large() {
        let mut sizes = vec![1_000; 10_000];
        sizes[5] = 9 << 20;
        let machine = machine(sizes);
        let parts = saved(&machine);
        let (large, usual): (Vec<usize>, Vec<usize>) =
            parts.0.iter().map(|(_, body)| body.len()).partition(|bytes| *bytes > SECTION_BYTES);
        assert_eq!(large.len(), 1, "only the one with the large node");
        assert!(large[0] < (9 << 20) + 1_000, "and that one is alone in it");
        assert!(usual.iter().filter(|bytes| **bytes > SECTION_BYTES / 2).count() >= 2, "the others are filled");
        let loaded = load(&parts, 3, &Machine::summary(&machine)).expect("it was saved");
        assert_eq!(loaded.session(), machine.session());
    }

    #[test]
    fn the_largest_node_fits_into_a_section() {
        let author = Author::daemon();
        let at_most = (64 << 20) - (4 << 10);
        for (size, fits) in [(at_most, true), (at_most + 1, false)] {
            let operations = vec![Operation::NodePut(put("x".repeat(128), vec![0; size]))];
            let command = Command::Edit { op: None, operations };
            let mut session = Session::new();
            let decision = session.decide(&command, &author, Timestamp(1), &Limits::default());
            assert_eq!(decision.is_ok(), fits);
            if let Ok(Decision::New(event)) = decision {
                session.evolve(&event);
                let parts = saved(&session.into());
                assert!(parts.0.iter().all(|(_, body)| body.len() <= 64 << 20));
            }
        }
    }

    #[test]
    fn a_header_that_does_not_fit_is_refused() {
        let machine = machine([1, 2]);
        let (parts, summary) = (saved(&machine), Machine::summary(&machine));
        assert!(load(&parts, 1, &summary).is_ok());
        assert!(load(&parts, 2, &summary).is_err());
        assert!(load(&parts, 1, &Summary { nodes: 3, ..summary }).is_err());
        assert!(load(&Parts::default(), 0, &Summary::default()).is_err(), "nothing at all is not an empty session");
    }

    #[test]
    fn unknown_sections_and_schemas_are_refused() {
        let mut machine = SessionMachine::empty();
        assert!(machine.load_section(*b"WHAT", SCHEMA, b"").is_err());
        assert!(machine.load_section(META, 2, b"").is_err());
        assert!(machine.load_section(NODES, SCHEMA, &[0]).is_err(), "metadata comes first");
    }

    #[test]
    fn a_record_of_another_seq_is_refused() {
        let event = Event::restored(5, Timestamp(1), "a file");
        let mut body = Vec::new();
        EventRecord(Arc::new(event)).encode(&mut body);
        let mut machine = SessionMachine::empty();
        assert!(machine.apply(4, &body).is_err());
        assert!(machine.apply(5, &body).is_ok());
        assert_eq!(Machine::seq(&machine), 5);
    }

    /// The seconds that this thread has computed, whatever else the machine does.
    fn cpu() -> f64 {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::try_from(time).expect("it is not negative").as_secs_f64()
    }

    #[test]
    #[ignore = "measures: run it with --release, on a quiet machine"]
    fn two_hundred_thousand_nodes_are_put_saved_and_loaded_quickly() {
        let count = 200_000u32;
        let micros = |seconds: f64| seconds * 1e6 / f64::from(count);
        let author = Author { name: MemberName::new("alice").expect("a name"), role: Role::Member };
        let limits = Limits::default();
        let mut session = Session::new();
        let join = Command::Join { client: ClientId(1) };
        if let Ok(Decision::New(event)) = session.decide(&join, &author, Timestamp(1), &limits) {
            session.evolve(&event);
        }
        let json = format!("{{\"data\":\"{}\"}}", "x".repeat(80));
        let commands: Vec<Command> = (0..count)
            .map(|n| {
                let id =
                    |n: u32| format!("{:032x}", u128::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
                let parent = (n > 0).then(|| NodeId::new(id(n / 8)).expect("an id"));
                let payload = Payload::Json(json.clone().into());
                let put = NodePut { parent, payload, ..put(id(n), Vec::new()) };
                Command::Edit { op: None, operations: vec![Operation::NodePut(put)] }
            })
            .collect();
        let (mut deciding, mut evolving) = (0.0, 0.0);
        for command in &commands {
            let start = cpu();
            let Ok(Decision::New(event)) = session.decide(command, &author, Timestamp(1), &limits) else {
                panic!("it was not accepted")
            };
            deciding += cpu() - start;
            let start = cpu();
            session.evolve(&event);
            evolving += cpu() - start;
        }
        println!("decide {:.2} µs, evolve {:.2} µs per node", micros(deciding), micros(evolving));
        let machine = SessionMachine::from(session);
        let start = cpu();
        let parts = saved(&machine);
        println!("save {:.2} µs per node", micros(cpu() - start));
        let start = cpu();
        let loaded = load(&parts, u64::from(count) + 1, &Machine::summary(&machine)).expect("it was saved");
        println!("load {:.2} µs per node", micros(cpu() - start));
        assert_eq!(loaded.session().totals(), machine.session().totals());
        drop(commands);
        let start = cpu();
        drop((loaded, machine));
        println!("drop {:.2} µs per node, two copies", micros(cpu() - start) / 2.0);
    }
}
