//! Fixed inputs through the pure paths, for counting instructions: `scripts/bench instructions` runs it in callgrind.
//!
//! `core CASE COUNT` does one thing COUNT times. The same case is run with two counts, and the difference divided by
//! the difference of the counts is the cost of one: what comes before and after cancels out.

use bytes::Bytes;
use hotset::doors::native::{events_binary, events_json};
use hotset::live::Frames;
use hotset::live::machine::{EventRecord, SessionMachine};
use hotset::session::{
    Author, Change, ClientId, Command, Decision, Event, Limits, MemberName, NodeId, NodePatch, NodePut, OpKey,
    Operation, Payload, PayloadChange, Role, Session, SessionName, Timestamp,
};
use hotset::storage::journal::{Lineage, Positions, Settings, Start, Writer};
use hotset::storage::vfs::RealVfs;
use hotset::storage::{Branch, Machine, Record, RecordBody as _, Sections};
use std::hint::black_box;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, LazyLock};

/// Nodes in the scene that everything happens in.
const NODES: u64 = 10_000;
/// Bytes of a payload.
const PAYLOAD: usize = 1_024;
/// Records that become durable together, as when many clients edit at once.
const GROUP: usize = 100;
/// Nodes that are written or read together; counts are multiples of it.
const NODES_AT_ONCE: u64 = 1_000;
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
    edit(count, |n| Operation::NodePut(node(n % NODES)))
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
    let (mut session, author, limits) = (scene(NODES), author(), Limits::default());
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
    let start = Start::fresh(Lineage(1), Positions::default());
    let writer = Writer::open(Arc::new(RealVfs::new(folder.path().to_owned())), settings, start, 1);
    let writer = writer.map_err(io::Error::other)?;
    let (session, branch) = (SessionName::default_session(), Branch(1));
    let body = Arc::new(EventRecord(Arc::clone(&events(1)[0])));
    for first in (0..count).step_by(GROUP) {
        let seqs = first + 1..=count.min(first + GROUP as u64);
        writer.append(&session, branch, seqs.map(|seq| Record::new(seq, body.clone())).collect());
        writer.seal().map_err(|trouble| io::Error::other(trouble.message))?;
    }
    writer.close().map_err(|trouble| io::Error::other(trouble.message))
}

/// Encoding, decoding and applying one journal record of 1 KB.
fn replay_event(count: u64) -> io::Result<()> {
    let mut machine = SessionMachine::from(scene(NODES));
    let mut body = Vec::new();
    for n in 0..count {
        let (seq, node) = (Machine::seq(&machine) + 1, Change::NodePut(node(n % NODES)));
        let event = Event { seq, at: AT, author: author().name, op: None, changes: vec![node] };
        body.clear();
        EventRecord(Arc::new(event)).encode(&mut body);
        machine.apply(seq, &body).map_err(io::Error::other)?;
    }
    Ok(())
}

/// Writing one node of 1 KB into a snapshot's sections, a thousand at once.
fn snapshot_node(count: u64) -> io::Result<()> {
    let machine = SessionMachine::from(scene(NODES_AT_ONCE));
    for _ in 0..count / NODES_AT_ONCE {
        Machine::write_sections(&machine, &mut Kept::default())?;
    }
    Ok(())
}

/// Reading one node of 1 KB from a snapshot's sections, a thousand at once.
fn load_node(count: u64) -> io::Result<()> {
    let machine = SessionMachine::from(scene(NODES_AT_ONCE));
    let mut sections = Kept::default();
    Machine::write_sections(&machine, &mut sections)?;
    for _ in 0..count / NODES_AT_ONCE {
        let mut loaded = SessionMachine::empty();
        for (tag, schema, body) in &sections.0 {
            loaded.load_section(*tag, *schema, body).map_err(io::Error::other)?;
        }
        loaded.finish_load(Machine::seq(&machine), &Machine::summary(&machine)).map_err(io::Error::other)?;
        // A session that was loaded stays.
        std::mem::forget(loaded);
    }
    Ok(())
}

// --- fixed inputs ----------------------------------------------------------------------------------------------------

fn id(number: u64) -> NodeId {
    NodeId::new(format!("node-{number:07}")).expect("a short id")
}

/// A node with 1 KB of JSON of a few keys. All share the same bytes, so that making one costs next to nothing.
fn node(number: u64) -> NodePut {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
        let mut text = String::from(r#"{"x":0,"visible":true,"material":"Material.001","points":["#);
        while text.len() + 12 < PAYLOAD {
            text.push_str("1.250000,");
        }
        text.push_str("0.0]}");
        Bytes::from(text)
    });
    NodePut {
        id: id(number),
        kind: "mesh".into(),
        name: "Cube".into(),
        parent: None,
        order: None,
        dependencies: Vec::new(),
        payload: Payload::Json(TEXT.clone()),
        if_revision: None,
    }
}

fn author() -> Author {
    Author { name: MemberName::new("ann").expect("a short name"), role: Role::Member }
}

fn command(number: u64, operation: Operation) -> Command {
    Command::Edit { op: Some(OpKey { client: ClientId(7), op: number + 1 }), operations: vec![operation] }
}

/// A session with one member and this many nodes.
fn scene(nodes: u64) -> Session {
    let mut session = Session::new();
    let join = Command::Join { client: ClientId(7) };
    if let Ok(Decision::New(event)) = session.decide(&join, &author(), AT, &Limits::default()) {
        session.evolve(&event);
    }
    let changes = (0..nodes).map(|number| Change::NodePut(node(number))).collect();
    session.evolve(&Event { seq: session.seq() + 1, at: AT, author: author().name, op: None, changes });
    session
}

/// What puts of 1 KB become after the scene.
fn events(count: u64) -> Vec<Arc<Event>> {
    let (session, author, limits) = (scene(NODES), author(), Limits::default());
    let decide = |n| match session.decide(&command(n, Operation::NodePut(node(n))), &author, AT, &limits) {
        Ok(Decision::New(event)) => Arc::new(event),
        Ok(Decision::Repeat { .. }) | Err(_) => unreachable!("every put fits the scene"),
    };
    (0..count).map(decide).collect()
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
