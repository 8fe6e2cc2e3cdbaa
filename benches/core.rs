//! Fixed inputs through the pure paths, for counting instructions: `scripts/bench instructions` runs it in callgrind.
//!
//! `core CASE COUNT` does one thing COUNT times. The same case is run with two counts, and the difference divided by
//! the difference of the counts is the cost of one: what comes before and after cancels out.

use bytes::Bytes;
use hotset::doors::native::{events_binary, events_json};
use hotset::live::Frames;
use hotset::live::machine::{EventRecord, SessionMachine};
use hotset::session::{
    Author, ClientId, Command, Decision, Event, Limits, MemberName, NodeId, NodePatch, NodePut, OpKey, Operation,
    Payload, PayloadChange, Role, Session, SessionName, Timestamp,
};
use hotset::storage::journal::{Lineage, Settings, Start, Writer};
use hotset::storage::vfs::RealVfs;
use hotset::storage::{Branch, Machine, Record, Sections};
use std::hint::black_box;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

/// Nodes in the scene that everything happens in.
const NODES: u64 = 10_000;
/// Bytes of a payload.
const PAYLOAD: usize = 1_024;
/// Records that become durable together, as when many clients edit at once.
const GROUP: u64 = 100;
/// When everything happens.
const AT: Timestamp = Timestamp(1_795_249_406_416);

type Case = fn(u64) -> io::Result<()>;

const CASES: &[(&str, Case)] = &[
    ("put", put),
    ("merge", merge),
    ("event-json", event_json),
    ("event-binary", event_binary),
    ("journal-record", journal_record),
    ("snapshot-node", snapshot_node),
    ("load-node", load_node),
    ("replay-event", replay_event),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let case = arguments.first().and_then(|name| CASES.iter().find(|(known, _)| known == name));
    let outcome = match (case, arguments.get(1).map(|count| count.parse())) {
        (Some((_, run)), Some(Ok(count))) => run(count),
        (None, None) => CASES.iter().try_for_each(|(name, _)| writeln!(io::stdout(), "{name}")),
        (_, _) => Err(io::Error::other("usage: core [CASE COUNT]")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "core: {error}"));
            ExitCode::FAILURE
        }
    }
}

// --- what is measured ------------------------------------------------------------------------------------------------

/// Deciding and applying a `node.put` of 1 KB.
fn put(count: u64) -> io::Result<()> {
    edit(count, |n| Operation::NodePut(node(n % NODES, n)))
}

/// Deciding and applying a `node.patch` that merges two keys into 1 KB of JSON.
fn merge(count: u64) -> io::Result<()> {
    edit(count, |n| {
        let payload = PayloadChange::Merge(Bytes::from(format!(r#"{{"x":{n},"visible":true}}"#)));
        let patch = NodePatch { payload: Some(payload), ..NodePatch::default() };
        Operation::NodePatch { id: id(n % NODES), patch, if_revision: None }
    })
}

fn edit(count: u64, operation: impl Fn(u64) -> Operation) -> io::Result<()> {
    let (mut session, author, limits) = (scene(), author(), Limits::default());
    let commands: Vec<Command> = (0..count).map(|n| command(n, operation(n))).collect();
    for command in &commands {
        match session.decide(command, &author, AT, &limits) {
            Ok(Decision::New(event)) => session.evolve(&event),
            Ok(Decision::Repeat { .. }) | Err(_) => return Err(io::Error::other("every edit fits the scene")),
        }
    }
    black_box(session.seq());
    Ok(())
}

/// Encoding and framing the event of a `node.put` of 1 KB as JSON text.
fn event_json(count: u64) -> io::Result<()> {
    encode(count, events_json)
}

/// The same in the binary format.
fn event_binary(count: u64) -> io::Result<()> {
    encode(count, events_binary)
}

fn encode(count: u64, encode: fn(&[Arc<Event>]) -> Frames) -> io::Result<()> {
    let events = events(1);
    let bytes: usize = (0..count).flat_map(|_| encode(black_box(&events)).parts).map(|part| part.len()).sum();
    let least = usize::try_from(count).map_err(io::Error::other)? * PAYLOAD;
    if bytes < least { Err(io::Error::other("a frame is shorter than its payload")) } else { Ok(()) }
}

/// Building the journal's frame for an event of 1 KB and handing it to the disk, a hundred at once.
fn journal_record(count: u64) -> io::Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = Settings { seal_after: None, background_spare: false, ..Settings::default() };
    let start = Start::fresh(Lineage(1), hotset::storage::journal::Positions::default());
    let writer = Writer::open(Arc::new(RealVfs::new(folder.path().to_owned())), settings, start, 1);
    let writer = writer.map_err(io::Error::other)?;
    let (session, branch) = (SessionName::default_session(), Branch(1));
    let records = (1..).zip(events(count));
    let mut records = records.map(|(seq, event)| Record { seq, body: Arc::new(EventRecord(event)) });
    loop {
        let group: Vec<Record> = records.by_ref().take(usize::try_from(GROUP).expect("a hundred")).collect();
        if group.is_empty() {
            return writer.close().map_err(|trouble| io::Error::other(trouble.message));
        }
        writer.append(&session, branch, group);
        writer.seal().map_err(|trouble| io::Error::other(trouble.message))?;
    }
}

/// Writing one node of 1 KB into a snapshot's sections.
fn snapshot_node(count: u64) -> io::Result<()> {
    let machine = SessionMachine::from(scene_of(count));
    let mut sections = Kept::default();
    Machine::write_sections(&machine, &mut sections)?;
    black_box(sections.0.len());
    // Dropping millions of nodes is the session's end, not the snapshot's cost.
    std::mem::forget(machine);
    Ok(())
}

/// Reading one node of 1 KB from a snapshot's sections.
fn load_node(count: u64) -> io::Result<()> {
    let machine = SessionMachine::from(scene_of(count));
    let mut sections = Kept::default();
    Machine::write_sections(&machine, &mut sections)?;
    let mut loaded = SessionMachine::empty();
    for (tag, schema, body) in &sections.0 {
        loaded.load_section(*tag, *schema, body).map_err(io::Error::other)?;
    }
    loaded.finish_load(Machine::seq(&machine), &Machine::summary(&machine)).map_err(io::Error::other)?;
    std::mem::forget((machine, loaded));
    Ok(())
}

/// Decoding one journal record of 1 KB and applying it.
fn replay_event(count: u64) -> io::Result<()> {
    use hotset::storage::RecordBody as _;
    let mut machine = SessionMachine::from(scene());
    for event in events(count) {
        let mut body = Vec::new();
        let seq = event.seq;
        EventRecord(event).encode(&mut body);
        machine.apply(seq, &body).map_err(io::Error::other)?;
    }
    Ok(())
}

// --- fixed inputs ----------------------------------------------------------------------------------------------------

fn id(number: u64) -> NodeId {
    NodeId::new(format!("node-{number:07}")).expect("a short id")
}

/// A node with 1 KB of JSON of a few keys; `version` makes it differ from the one before.
fn node(number: u64, version: u64) -> NodePut {
    let mut text = format!(r#"{{"x":{version},"visible":true,"material":"Material.001","points":["#);
    while text.len() + 12 < PAYLOAD {
        text.push_str("1.250000,");
    }
    text.push_str("0.0]}");
    NodePut {
        id: id(number),
        kind: "mesh".into(),
        name: "Cube".into(),
        parent: None,
        order: None,
        dependencies: Vec::new(),
        payload: Payload::Json(Bytes::from(text)),
        if_revision: None,
    }
}

fn author() -> Author {
    Author { name: MemberName::new("ann").expect("a short name"), role: Role::Member }
}

fn command(number: u64, operation: Operation) -> Command {
    Command::Edit { op: Some(OpKey { client: ClientId(7), op: number + 1 }), operations: vec![operation] }
}

fn scene() -> Session {
    scene_of(NODES)
}

fn scene_of(nodes: u64) -> Session {
    use hotset::session::Change;
    let mut session = Session::new();
    let seq = |session: &Session| session.seq() + 1;
    let join = Command::Join { client: ClientId(7) };
    if let Ok(Decision::New(event)) = session.decide(&join, &author(), AT, &Limits::default()) {
        session.evolve(&event);
    }
    for first in (0..nodes).step_by(1_000) {
        let changes = (first..nodes.min(first + 1_000)).map(|number| Change::NodePut(node(number, 0))).collect();
        session.evolve(&Event { seq: seq(&session), at: AT, author: author().name, op: None, changes });
    }
    session
}

/// What `count` puts of 1 KB become after the scene.
fn events(count: u64) -> Vec<Arc<Event>> {
    let (author, limits) = (author(), Limits::default());
    let mut session = scene();
    let mut decide = |n| {
        let command = command(n, Operation::NodePut(node(n % NODES, n)));
        let Ok(Decision::New(event)) = session.decide(&command, &author, AT, &limits) else {
            unreachable!("every put fits the scene")
        };
        session.evolve(&event);
        Arc::new(event)
    };
    (0..count).map(&mut decide).collect()
}

/// Keeps sections in memory.
#[derive(Default)]
struct Kept(Vec<([u8; 4], u16, Vec<u8>)>);

impl Sections for Kept {
    fn section(&mut self, tag: [u8; 4], schema: u16, body: &[u8]) -> io::Result<()> {
        self.0.push((tag, schema, body.to_vec()));
        Ok(())
    }
}
