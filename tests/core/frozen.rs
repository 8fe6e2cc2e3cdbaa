//! Frozen bytes: what the first version stored must decode for ever, and encode to the same bytes.
//!
//! `UPDATE_GOLDEN=1` writes the files anew. That is right only before a release has stored anything with them.

use super::properties::{Parts, loaded, saved};
use bytes::Bytes;
use hotset::live::machine::{EventRecord, SessionMachine, decode_event};
use hotset::session::{
    Change, ChatDraft, ChatId, ChatKind, ClientId, Event, MemberName, NodeId, NodePatch, NodePut, OpKey, Payload,
    PayloadChange, Role, TaskId, TaskPatch, TaskPut, TaskStatus, Timestamp,
};
use hotset::storage::vfs::{Open, SharedVfs, SimDisk, Vfs};
use hotset::storage::{Machine, OpenOptions, Outcome, RecordBody, Run, open};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

fn name(name: &str) -> MemberName {
    MemberName::new(name).expect("a name")
}

fn node_id(id: &str) -> NodeId {
    NodeId::new(id).expect("a node's id")
}

fn task_id(id: &str) -> TaskId {
    TaskId::new(id).expect("a task's id")
}

fn event(seq: u64, author: &str, op: Option<u64>, changes: Vec<Change>) -> Event {
    let author = if author == "~hotset" { MemberName::daemon() } else { name(author) };
    let op = op.map(|op| OpKey { client: ClientId(0x0123_4567_89ab_cdef_0011_2233_4455_6677), op });
    Event { seq, at: Timestamp(1_767_225_600_000 + i64::try_from(seq).expect("small")), author, op, changes }
}

fn put(id: &str, parent: Option<&str>, payload: Payload) -> NodePut {
    NodePut {
        id: node_id(id),
        kind: "mesh".into(),
        name: format!("The {id}").into(),
        parent: parent.map(node_id),
        order: Some(0.5),
        dependencies: vec![node_id("wood"), node_id("glue")],
        payload,
        if_revision: Some(0),
    }
}

/// One of every change, with every optional field both set and not.
fn events() -> Vec<Event> {
    let json = |text: &'static str| Payload::Json(Bytes::from_static(text.as_bytes()));
    let raw = Payload::Bytes { media_type: "model/gltf-binary".into(), data: Bytes::from_static(&[0, 1, 254, 255]) };
    let patched = |id: &str, payload: Option<PayloadChange>| Change::NodePatched {
        id: node_id(id),
        patch: NodePatch { payload, ..NodePatch::default() },
    };
    let all_of_it = NodePatch {
        kind: Some("prop".into()),
        name: Some("Stuhl, größer".into()),
        parent: Some(None),
        order: Some(None),
        dependencies: Some(Vec::new()),
        payload: Some(PayloadChange::Replace(json("[1,2]"))),
    };
    let bare = NodePut { order: None, dependencies: Vec::new(), if_revision: None, ..put("lamp", Some("room"), raw) };
    vec![
        event(1, "alice", None, vec![Change::MemberJoined { client: ClientId(7), role: Role::Admin }]),
        event(2, "bob", None, vec![Change::MemberJoined { client: ClientId(u128::MAX), role: Role::Member }]),
        event(3, "vera", None, vec![Change::MemberJoined { client: ClientId(9), role: Role::Viewer }]),
        event(
            4,
            "alice",
            Some(1),
            vec![
                Change::NodePut(put("room", None, json("{\"size\":[4.5,3,2]}"))),
                Change::NodePut(put("chair", Some("room"), Payload::null())),
                Change::NodePut(bare),
            ],
        ),
        event(5, "alice", Some(2), vec![Change::NodePatched { id: node_id("chair"), patch: all_of_it }]),
        event(
            6,
            "bob",
            Some((1 << 53) - 1),
            vec![
                patched("room", Some(PayloadChange::Merge(Bytes::from_static(b"{\"size\":null,\"light\":1}")))),
                patched(
                    "chair",
                    Some(PayloadChange::Patch(Bytes::from_static(br#"[{"op":"add","path":"/-","value":3}]"#))),
                ),
            ],
        ),
        event(
            7,
            "bob",
            None,
            vec![
                Change::NodeLocked { id: node_id("room"), owner: name("bob") },
                Change::NodeLocked { id: node_id("lamp"), owner: name("bob") },
                Change::NodesUnlocked { ids: vec![node_id("lamp")] },
                Change::NodesRemoved { ids: vec![node_id("lamp")] },
            ],
        ),
        event(8, "alice", Some(3), tasks()),
        event(9, "vera", Some(4), messages()),
        event(10, "vera", None, vec![Change::MemberSet { metadata: Bytes::from_static(b"{\"colour\":\"red\"}") }]),
        event(11, "vera", None, vec![Change::MemberLeft { name: name("vera") }]),
        event(
            12,
            "~hotset",
            None,
            vec![Change::Forgotten { messages: 1, members: vec![name("vera")], clients: vec![ClientId(12)] }],
        ),
    ]
}

/// What came later: payloads that grow, and settings.
fn newer_events() -> Vec<Event> {
    let node = |id: &str, payload: PayloadChange, dependencies: Option<Vec<NodeId>>| Change::NodePatched {
        id: node_id(id),
        patch: NodePatch { payload: Some(payload), dependencies, ..NodePatch::default() },
    };
    let pickled = Payload::Bytes {
        media_type: "application/vnd.multi-user.node+pickle".into(),
        data: Bytes::from_static(b"\x80\x04}."),
    };
    let append = |id: &str, delta: &'static [u8]| node(id, PayloadChange::Append(Bytes::from_static(delta)), None);
    let fold = PayloadChange::Fold { deltas: 1, base: Bytes::from_static(b"\x80\x04]\x94.") };
    let set = |key: &str, value: Option<&'static str>| {
        let value = value.map(|value| Bytes::from_static(value.as_bytes()));
        Change::SettingChanged { key: key.into(), value }
    };
    let more = PayloadChange::Append(Bytes::from_static(b"with dependencies"));
    vec![
        event(21, "alice", None, vec![Change::MemberJoined { client: ClientId(7), role: Role::Admin }]),
        event(
            22,
            "alice",
            Some(5),
            vec![
                Change::NodePut(put("cube", None, pickled.clone())),
                Change::NodePut(put("light", None, pickled)),
                append("cube", b"one"),
            ],
        ),
        event(23, "alice", Some(6), vec![node("cube", more, Some(vec![node_id("paint")])), append("light", b"")]),
        event(24, "~hotset", None, vec![node("cube", fold.clone(), None)]),
        event(25, "~hotset", None, vec![node("light", fold, None)]),
        event(
            26,
            "~hotset",
            None,
            vec![set("multi-user.initialised", Some("true")), set("theme", Some("{\"dark\":1}")), set("theme", None)],
        ),
    ]
}

/// The end of a project.
fn cleared() -> Event {
    let archive = "backups/kept/archived_20260101_000000.bin".into();
    event(27, "~hotset", None, vec![Change::SessionCleared { archive }])
}

fn tasks() -> Vec<Change> {
    let task = |id: &str, status, node: Option<&str>| {
        Change::TaskPut(TaskPut {
            id: task_id(id),
            title: "Fix the chair".into(),
            description: "It wobbles.".into(),
            assignee: "bob".into(),
            status,
            node: node.map(node_id),
            if_revision: Some(3),
        })
    };
    let patch = TaskPatch {
        title: Some("Fix it".into()),
        description: Some("".into()),
        assignee: Some("carol".into()),
        status: Some(TaskStatus::Done),
        node: Some(Some(node_id("lamp"))),
    };
    vec![
        task("t1", TaskStatus::Todo, Some("chair")),
        task("t2", TaskStatus::InProgress, None),
        task("t3", TaskStatus::Done, None),
        Change::TaskPatched { id: task_id("t2"), patch },
        Change::TaskPatched { id: task_id("t1"), patch: TaskPatch { node: Some(None), ..TaskPatch::default() } },
        Change::TaskRemoved { id: task_id("t3") },
    ]
}

fn messages() -> Vec<Change> {
    [(ChatKind::Text, "hello"), (ChatKind::Link, "https://example.org"), (ChatKind::Code, "let x = 1;")]
        .into_iter()
        .zip(1..)
        .map(|((kind, text), n)| {
            let id = Some(ChatId::new(format!("m9.{n}")).expect("an id"));
            Change::ChatPosted(ChatDraft { id, kind, text: text.into() })
        })
        .collect()
}

fn restored() -> Event {
    let mut event = Event::restored(20, Timestamp(-1), "snapshot_20260101_000000.bin");
    event.changes.push(Change::NodesUnlocked { ids: Vec::new() });
    event
}

fn encoded(event: Event) -> Vec<u8> {
    let mut body = Vec::new();
    EventRecord(Arc::new(event)).encode(&mut body);
    body
}

fn golden(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file)
}

/// The file holds the bodies as lines of hexadecimal digits, each after a word and a space.
fn compare(file: &str, bodies: &[(String, Vec<u8>)]) -> Vec<(String, Vec<u8>)> {
    let mut now = String::new();
    for (word, body) in bodies {
        now += word;
        now += " ";
        for byte in body {
            write!(now, "{byte:02x}").expect("a String takes it");
        }
        now += "\n";
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden(file), &now).expect("the file is written");
    }
    let frozen = std::fs::read_to_string(golden(file)).expect("the frozen file");
    assert_eq!(frozen, now, "what is stored has changed: add a V2 instead");
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ASCII"), 16).expect("hexadecimal");
    let body = |digits: &str| digits.as_bytes().chunks(2).map(byte).collect();
    let split = |line: &str| line.split_once(' ').map(|(word, digits)| (word.to_owned(), body(digits)));
    frozen.lines().map(|line| split(line).expect("a word and a body")).collect()
}

#[test]
fn events_of_version_1_decode_and_encode_as_they_always_did() {
    let events: Vec<Event> =
        events().into_iter().chain([restored()]).chain(newer_events()).chain([cleared()]).collect();
    let bodies: Vec<_> = events.iter().map(|event| (event.seq.to_string(), encoded(event.clone()))).collect();
    let frozen = compare("events-v1.hex", &bodies);
    assert_eq!(frozen.len(), events.len());
    for ((_, body), event) in frozen.iter().zip(events) {
        assert_eq!(decode_event(body).expect("it was frozen"), event);
    }
}

fn machine_after(events: Vec<Event>) -> SessionMachine {
    let mut machine = SessionMachine::empty();
    for event in events {
        machine.apply(event.seq, &encoded(event)).expect("it fits");
    }
    machine
}

/// The sections in the file, which are those of the machine.
fn frozen_sections(file: &str, machine: &SessionMachine) -> Parts {
    let word = |tag: [u8; 4], schema| format!("{}.{schema}", tag.escape_ascii());
    let sections = saved(machine).0;
    let bodies: Vec<_> = sections.into_iter().map(|(tag, schema, body)| (word(tag, schema), body)).collect();
    let section = |(word, body): (String, Vec<u8>)| {
        let (tag, schema) = word.split_once('.').expect("tag and schema");
        (tag.as_bytes().try_into().expect("four letters"), schema.parse().expect("a number"), body)
    };
    Parts(compare(file, &bodies).into_iter().map(section).collect())
}

#[test]
fn snapshots_of_version_1_decode_and_encode_as_they_always_did() {
    let machine = machine_after(events());
    let parts = frozen_sections("snapshot-v1.hex", &machine);
    assert_eq!(parts.0.len(), 7, "every kind of section but that of settings");
    let loaded = loaded(&parts, &machine).expect("it was frozen");
    assert_eq!(loaded.session(), machine.session());
}

#[test]
fn snapshots_of_grown_payloads_and_settings_decode_and_encode_as_they_always_did() {
    let machine = machine_after(newer_events());
    let parts = frozen_sections("snapshot-grown-v1.hex", &machine);
    let deltas = |id: &str| {
        let node = machine.session().node(&node_id(id)).expect("it was put");
        (node.revision, node.payload.deltas().map(hotset::session::Deltas::len))
    };
    assert_eq!((deltas("cube"), deltas("light")), ((23, Some(1)), (23, None)));
    assert!(parts.0.iter().any(|(tag, ..)| tag == b"CONF"));
    let loaded = loaded(&parts, &machine).expect("it was frozen");
    assert_eq!(loaded.session(), machine.session());
}

#[test]
fn snapshots_from_before_removed_tasks_were_remembered_still_load() {
    let machine = machine_after(events());
    let mut parts = frozen_sections("snapshot-v1.hex", &machine);
    parts.0.retain(|(tag, ..)| tag != b"GONE");
    assert_eq!(parts.0.len(), 6, "those that there have been from the start");
    let loaded = loaded(&parts, &machine).expect("it was frozen");
    let removed = task_id("t3");
    assert!(machine.session().task_was_removed(&removed));
    assert!(!loaded.session().task_was_removed(&removed));
    assert_eq!(loaded.session().totals(), machine.session().totals());
}

/// A disk that holds nothing but this file, as after a `cp` into a new data directory.
fn disk_with(name: &str, bytes: &[u8]) -> SimDisk {
    let disk = SimDisk::new();
    let file = disk.open(Path::new(name), Open::CreateNew).expect("a new file");
    file.write_at(0, &[bytes]).expect("it is written");
    file.sync().expect("it is synced");
    disk.sync_dir(Path::new("")).expect("its name is synced");
    disk
}

#[test]
fn a_snapshot_file_of_version_1_is_served_from_a_new_directory() {
    // Written by the import of a real scene; it is never written anew.
    let bytes = std::fs::read(golden("session_snapshot_v1.bin")).expect("the frozen file");
    let vfs: SharedVfs = Arc::new(disk_with("session_snapshot.bin", &bytes));
    let options = OpenOptions::new(Timestamp(1_800_000_000_000), Run(1));
    let opened = open::<SessionMachine>(&vfs, &options).expect("it opens");
    let [session] = &opened.sessions[..] else { panic!("one session, not {}", opened.sessions.len()) };
    let Outcome::Serving { machine, restored: Some(restored) } = &session.outcome else {
        panic!("it is not served: {:?}", session.outcome)
    };
    let (session, totals) = (machine.session(), machine.session().totals());
    assert_eq!((totals.nodes, totals.tasks, totals.messages, totals.members), (24, 1, 1, 0));
    assert_eq!((session.seq(), restored.seq, restored.replayed), (4, 4, 0), "its three events and that of the move");
    let scene = node_id("00eb3f63-4b13-46a3-9fb0-a4f1e6c6afa4");
    let scene = session.node(&scene).expect("the scene itself");
    assert_eq!((&*scene.kind, &*scene.name, scene.dependencies.len()), ("Scene", "Scene", 8));
    assert!(opened.store.close(Duration::from_secs(10)).sealed.is_ok());
}
