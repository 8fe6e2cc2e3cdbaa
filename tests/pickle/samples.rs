//! What the importer makes of the real files.

use crate::files::{client_messages, deltas, fixture, unpacked};
use crate::mutants::{Chance, mutant};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use hotset::doors::blender::import::{DATABLOCK_MEDIA_TYPE, Import, ImportError, Source, import_file};
use hotset::formats::pickle::{Policy, Value, read, scan, write};
use hotset::session::{ChatKind, Command, Limits, NodeId, Operation, Payload, TaskStatus, Timestamp};
use std::io::Write as _;

fn import(bytes: Vec<u8>) -> Result<Import, ImportError> {
    import_file(&Bytes::from(bytes), &Limits::default())
}

fn repository(value: &Value) -> Vec<u8> {
    packed(&write(value).unwrap())
}

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn dict(pairs: &[(&str, Value)]) -> Value {
    Value::Dict(pairs.iter().map(|(key, value)| (Value::text(key), value.clone())).collect::<Vec<_>>().into())
}

fn list(items: Vec<Value>) -> Value {
    Value::List(items.into())
}

fn bytes(value: impl Into<Bytes>) -> Value {
    Value::Bytes(value.into())
}

fn node(id: &str, data: Value) -> Value {
    let chunks = [write(&Value::Int(2)).unwrap(), id.into(), "alice".into(), write(&list(vec![])).unwrap()];
    let mut chunks: Vec<Value> = chunks.into_iter().map(bytes).collect();
    chunks.push(if let Value::Bytes(_) = data { data } else { bytes(write(&data).unwrap()) });
    list(chunks)
}

fn kinds_and_names(import: &Import) -> Vec<String> {
    import.nodes.iter().map(|node| format!("{} {}", node.kind, node.name)).collect()
}

fn data_of(payload: &Payload) -> Bytes {
    let Payload::Bytes { media_type, data } = payload else { panic!("{payload:?}") };
    assert_eq!(&**media_type, DATABLOCK_MEDIA_TYPE);
    data.clone()
}

#[test]
fn the_old_servers_snapshot_becomes_21_nodes() {
    let import = import(fixture("session_snapshot.pkl")).unwrap();
    assert_eq!(import.source, Source::Snapshot);
    assert_eq!(import.saved_at, Some(Timestamp(1_795_248_648_097)));
    assert_eq!((import.tasks.len(), import.chat.len()), (0, 0));
    assert_eq!(import.warnings, Vec::<String>::new());
    let expected: Vec<String> = (0..21)
        .map(|n: usize| match n {
            0..=10 => format!("{} item{n}", if n.is_multiple_of(2) { "Item" } else { "DeltaItem" }),
            _ => format!("Item late{}", n - 11),
        })
        .collect();
    assert_eq!(kinds_and_names(&import), expected);
    assert_eq!(import.nodes[0].id.as_str(), "03c3ce8c-e744-4928-8347-c3ed18a64522");
    assert_eq!(import.nodes[5].dependencies.len(), 1);
    for node in &import.nodes {
        let data = read(&data_of(&node.payload), &Policy::DATA_ONLY).unwrap();
        assert_eq!(data.get("uuid").and_then(Value::as_text), Some(node.id.as_str()));
        assert_eq!(data.get("name").and_then(Value::as_text), Some(&*node.name));
    }
}

#[test]
fn a_blender_repository_becomes_24_nodes_with_tasks_and_chat() {
    let import = import(fixture("blender_repository.db")).unwrap();
    assert_eq!(import.source, Source::Repository);
    let expected = [
        "Material Material",
        "Mesh Cube",
        "Object Empty",
        "Object Cube",
        "Camera Camera",
        "Object Camera",
        "Collection Collection",
        "Collection Extra",
        "Material Mat0",
        "Mesh Ball0",
        "Action Ball0Action",
        "Object Ball0",
        "Material Mat1",
        "Mesh Ball1",
        "Object Ball1",
        "Material Mat2",
        "Mesh Ball2",
        "Object Ball2",
        "Armature Rig",
        "Object Rig",
        "World World",
        "Scene Scene",
        "Mesh Fresh",
        "Object Fresh",
    ];
    assert_eq!(kinds_and_names(&import), expected);
    assert_eq!(import.nodes[21].dependencies.len(), 8);
    assert_eq!(import.warnings, Vec::<String>::new());

    let [task] = &import.tasks[..] else { panic!("{:?}", import.tasks) };
    assert_eq!(task.task.id.as_str(), "1795248338.2110982");
    assert_eq!((&*task.task.title, &*task.task.description, &*task.task.assignee), ("Do it", "d", "bob"));
    assert_eq!((task.task.status, &*task.created_by), (TaskStatus::Todo, "alice"));
    assert_eq!(task.created_at, Some(Timestamp(1_795_248_338_211)));
    let [message] = &import.chat[..] else { panic!("{:?}", import.chat) };
    assert_eq!(
        (&*message.message.text, &*message.author, message.message.kind),
        ("hello bob", "alice", ChatKind::Text)
    );
    assert_eq!(message.at, Some(Timestamp(1_795_248_338_212)));
}

#[test]
fn a_repository_keeps_the_pickles_of_its_nodes_byte_for_byte() {
    let import = import(fixture("blender_repository.db")).unwrap();
    let file = read(&unpacked("blender_repository.db").into(), &Policy::DATA_ONLY).unwrap();
    let entries = file.get("nodes").and_then(Value::as_sequence).unwrap();
    assert_eq!(entries.len(), import.nodes.len());
    for (node, entry) in import.nodes.iter().zip(entries) {
        assert_eq!(entry.as_sequence().unwrap()[4].as_bytes(), Some(&data_of(&node.payload)));
    }
}

#[test]
fn the_harness_repository_becomes_its_two_nodes() {
    let import = import(fixture("harness_repository.db")).unwrap();
    assert_eq!(kinds_and_names(&import), ["Item parent", "DeltaItem child"]);
    assert_eq!(import.nodes[1].dependencies, [import.nodes[0].id.clone()]);
    assert_eq!((import.tasks.len(), import.chat.len()), (0, 0));
}

#[test]
fn an_import_becomes_batches_of_nodes_then_tasks_and_chat_by_their_authors() {
    let limits = Limits { batch_operations: 10, ..Limits::default() };
    let steps = import(fixture("blender_repository.db")).unwrap().into_steps(&limits);
    let sizes: Vec<usize> = steps
        .iter()
        .map(|step| {
            let Command::Edit { op: None, operations } = &step.command else { panic!("{step:?}") };
            operations.len()
        })
        .collect();
    assert_eq!(sizes, [10, 10, 4, 1, 1]);
    let authors: Vec<&str> = steps.iter().map(|step| step.author.as_str()).collect();
    assert_eq!(authors, ["~hotset", "~hotset", "~hotset", "alice", "alice"]);
    let Command::Edit { operations, .. } = &steps[4].command else { panic!() };
    assert!(matches!(&operations[0], Operation::ChatPost(draft) if &*draft.text == "hello bob"));
}

#[test]
fn a_node_of_a_snapshot_keeps_its_data() {
    let import = import(fixture("session_snapshot.pkl")).unwrap();
    let file = read(&fixture("session_snapshot.pkl").into(), &Policy::LEGACY_SNAPSHOT).unwrap();
    let graph = file.get("graph").unwrap().as_object("replication.repository", "GraphObjectStore").unwrap();
    for node in &import.nodes {
        let object = graph.state.get("store").and_then(|store| store.get(node.id.as_str())).unwrap();
        let state = object.as_object("replication.objects", "Node").unwrap().state.as_sequence().unwrap();
        let kept = read(&data_of(&node.payload), &Policy::DATA_ONLY).unwrap();
        assert_eq!(Some(&kept), state[1].get("data"));
    }
}

#[test]
fn no_damage_to_a_file_makes_the_importer_panic() {
    let groups = [vec![fixture("session_snapshot.pkl")], vec![unpacked("blender_repository.db")]];
    let mut chance = Chance(0x1d0);
    let mut outcomes = [0, 0];
    for _ in 0..1_500 {
        let damaged = mutant(&groups, &mut chance);
        for file in [packed(&damaged), damaged] {
            outcomes[usize::from(import(file).is_ok_and(|import| import.nodes.len() >= 20))] += 1;
        }
    }
    assert!(outcomes[0] > 1_500 && outcomes[1] > 100, "{outcomes:?}");
}

#[test]
fn a_batch_of_nodes_stays_small_enough_for_one_record_of_the_journal() {
    let file = |id: &str, len: usize| {
        let data = dict(&[("type_id", Value::text("File")), ("file", bytes(vec![7; len]))]);
        node(id, data)
    };
    let sizes = [("a", 5 << 20), ("b", 5 << 20), ("c", 1 << 20), ("d", 20 << 20), ("e", 1)];
    let nodes = sizes.iter().map(|(id, len)| file(id, *len)).collect();
    let mut incompressible = GzEncoder::new(Vec::new(), Compression::none());
    incompressible.write_all(&write(&dict(&[("nodes", list(nodes))])).unwrap()).unwrap();
    let steps = import(incompressible.finish().unwrap()).unwrap().into_steps(&Limits::default());
    let sizes = steps.iter().map(|step| match &step.command {
        Command::Edit { operations, .. } => operations.len(),
        Command::Join { .. } | Command::Leave => 0,
    });
    assert_eq!(sizes.collect::<Vec<_>>(), [1, 2, 1, 1]);
}

#[test]
fn a_cut_or_changed_file_is_refused_whole() {
    for name in ["session_snapshot.pkl", "blender_repository.db"] {
        let whole = fixture(name);
        for len in 0..whole.len() {
            assert!(import(whole[..len].to_vec()).is_err(), "{name} cut to {len} bytes");
        }
        let mut longer = whole;
        longer.push(b'.');
        assert!(import(longer).is_err(), "{name} with a byte more");
    }
}

#[test]
fn a_malicious_pickle_inside_one_node_refuses_the_file_and_names_the_node() {
    let good = dict(&[("type_id", Value::text("Mesh")), ("name", Value::text("m"))]);
    let evil = bytes(&b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R."[..]);
    let file = repository(&dict(&[("nodes", list(vec![node("good", good), node("evil", evil)]))]));
    match import(file) {
        Err(ImportError::NestedPickle { node, part: "data", violation }) => {
            assert_eq!((&*node, violation.opcode, violation.offset), ("evil", "STACK_GLOBAL", 14));
            assert_eq!(violation.name.as_deref(), Some("os system"));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_node_that_breaks_a_rule_is_named() {
    let mesh = |name: &str| dict(&[("type_id", Value::text("Mesh")), ("name", Value::text(name))]);
    let file = |nodes: Vec<Value>| repository(&dict(&[("nodes", list(nodes))]));
    let fault = |bytes: Vec<u8>| import(bytes).unwrap_err().to_string();
    assert_eq!(
        fault(file(vec![node("a", mesh("1")), node("a", mesh("2"))])),
        "node a: there is another one with its id"
    );
    assert_eq!(fault(file(vec![list(vec![])])), "node number 0: it does not have five chunks of bytes");
    assert!(fault(file(vec![node("", mesh("1"))])).contains("must not be empty"));
    let wide = dict(&[("type_id", Value::text("x".repeat(65)))]);
    assert_eq!(fault(file(vec![node("w", wide)])), "node w: its type has more than 64 bytes");
    let small = Limits { payload_bytes: 10, ..Limits::default() };
    let large = import_file(&file(vec![node("l", mesh("1"))]).into(), &small).unwrap_err();
    assert!(large.to_string().starts_with("node l: its data has "), "{large}");
    let few = Limits { nodes: 1, ..Limits::default() };
    let many = import_file(&file(vec![node("a", mesh("1")), node("b", mesh("2"))]).into(), &few).unwrap_err();
    assert_eq!(many, ImportError::LimitExceeded { what: "nodes", limit: 1 });
}

#[test]
fn a_node_without_type_or_name_is_taken_with_a_warning() {
    let file = repository(&dict(&[("nodes", list(vec![node("n", Value::None)]))]));
    let import = import(file).unwrap();
    assert_eq!(kinds_and_names(&import), ["unknown "]);
    assert_eq!(import.warnings, ["node n: it does not say what it is"]);
}

#[test]
fn tasks_and_chat_of_several_users_are_merged_by_id() {
    let user = |tasks: &str, chat: &str| {
        let metadata = dict(&[("tasks", Value::text(tasks)), ("chat_messages", Value::text(chat))]);
        dict(&[("id", Value::text("x")), ("metadata", metadata)])
    };
    let task = |id: &str, status: &str, time: f64| {
        format!(
            r#""{id}": {{"id": "{id}", "title": "T{id}", "status": "{status}", "created_by": "bob",
                "created_at": {time}, "object_name": "Cube"}}"#
        )
    };
    let said = |id: &str, text: &str, time: u32| {
        format!(r#"{{"id": "{id}", "username": "bob", "message": "{text}", "msg_type": "link", "timestamp": {time}}}"#)
    };
    let cube = dict(&[("type_id", Value::text("Object")), ("name", Value::text("Cube"))]);
    let alice = user(
        &format!("{{{},{}}}", task("1", "done", 5.0), task("2", "todo", 3.5)),
        &format!("[{},{}]", said("c", "third", 30), said("a", "first", 10)),
    );
    let bob = user(
        &format!("{{{},{}}}", task("1", "todo", 5.0), task("3", "in_progress", 9.0)),
        &format!("[{},{}]", said("a", "first", 10), said("b", "second", 20)),
    );
    let users = dict(&[("alice", alice), ("bob", bob), ("carol", dict(&[("metadata", dict(&[]))]))]);
    let file = dict(&[("nodes", list(vec![node("cube", cube)])), ("users", users)]);
    let import = import(repository(&file)).unwrap();

    let tasks: Vec<_> = import.tasks.iter().map(|t| (t.task.id.as_str(), t.task.status)).collect();
    assert_eq!(tasks, [("2", TaskStatus::Todo), ("1", TaskStatus::Done), ("3", TaskStatus::InProgress)]);
    assert!(import.tasks.iter().all(|t| t.task.node.as_ref().map(NodeId::as_str) == Some("cube")));
    assert_eq!(import.tasks[0].created_at, Some(Timestamp(3_500)));
    let chat: Vec<&str> = import.chat.iter().map(|m| &*m.message.text).collect();
    assert_eq!(chat, ["first", "second", "third"]);
    assert_eq!(import.chat[0].message.kind, ChatKind::Link);
    assert_eq!(import.warnings, ["task or message 1: users disagree about it; the furthest status was taken"]);

    let few = Limits { chat_messages: 2, ..Limits::default() };
    let kept = import_file(&repository(&file).into(), &few).unwrap();
    assert_eq!(kept.chat.iter().map(|m| &*m.message.text).collect::<Vec<_>>(), ["second", "third"]);
}

#[test]
fn tasks_that_are_not_json_refuse_the_file() {
    let metadata = dict(&[("tasks", Value::text("{"))]);
    let users = dict(&[("alice", dict(&[("metadata", metadata)]))]);
    let file = repository(&dict(&[("nodes", list(vec![])), ("users", users)]));
    assert!(matches!(import(file), Err(ImportError::Structure(why)) if why.contains("tasks of alice are not JSON")));
}

#[test]
fn a_gzip_bomb_is_cut_off() {
    let bomb = packed(&vec![0; 300 << 20]);
    assert!(bomb.len() < 1 << 20);
    assert!(matches!(import(bomb), Err(ImportError::Unpack(why)) if why.starts_with("it holds more than")));
}

#[test]
fn other_files_are_not_mistaken_for_one_of_ours() {
    assert_eq!(import(b"{}".to_vec()).unwrap_err(), ImportError::UnknownFormat);
    assert_eq!(import(Vec::new()).unwrap_err(), ImportError::UnknownFormat);
    assert!(matches!(import(write(&dict(&[])).unwrap()), Err(ImportError::Structure(_))));
    assert!(matches!(import(repository(&dict(&[]))), Err(ImportError::Structure(_))));
}

#[test]
fn every_pickle_of_a_real_client_passes_as_plain_data_but_the_commits() {
    let (mut plain, mut commits) = (0, 0);
    for message in client_messages() {
        let Value::Int(kind) = read(&message[0], &Policy::DATA_ONLY).unwrap() else { panic!() };
        // Ids and owners are texts; everything after them is pickled.
        let first_pickle = if kind == 1 || kind > 2 { 2 } else { 3 };
        for (index, chunk) in message.iter().enumerate().skip(first_pickle) {
            let policy = if kind == 1 && index == 3 { &Policy::COMMIT_DELTA } else { &Policy::DATA_ONLY };
            let found = scan(chunk, policy).unwrap_or_else(|v| panic!("type {kind}, chunk {index}: {v}"));
            assert!(found.expanded_bytes < 8 * chunk.len() as u64 + 1_024, "{found:?} of {}", chunk.len());
            if kind == 1 { commits += 1 } else { plain += 1 }
        }
    }
    assert!(plain > 150 && commits > 10, "{plain} {commits}");
}

#[test]
fn every_recorded_delta_passes_the_delta_policy_and_no_other_classes_do() {
    let mut with_classes = 0;
    for delta in deltas() {
        let found = scan(&delta, &Policy::COMMIT_DELTA).unwrap();
        if !found.classes.is_empty() {
            with_classes += 1;
            scan(&delta, &Policy::DATA_ONLY).unwrap_err();
        }
        read(&delta.into(), &Policy::COMMIT_DELTA).unwrap();
    }
    assert!(with_classes > 100, "{with_classes}");
}
