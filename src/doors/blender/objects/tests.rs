//! Messages as real clients sent them, read and made again; CPython's opinion of ours; and what must not be read.

use super::{
    Auth, Fault, Inbound, InitState, Kind, NodeObject, ObjectError, Owner, Right, ServerInfo, ServerSnapshot, Snapshot,
    UserRecord, auth_reply, clients, commit, delete, disconnect, metadata, node, ping, read, right, server_info,
    server_snapshot, snapshot_init, snapshot_removed, snapshot_set,
};
use crate::doors::blender::recorded::{client_messages, files, from_server};
use crate::doors::blender::wire::Channel;
use crate::formats::pickle::{self, Policy, Reason, Value};
use crate::session::{MemberName, NodeId};

use bytes::Bytes;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;

const UUID: &str = "5724f5ad-bbc7-4a65-ac8f-760173baf84d";

fn channel_of(chunks: &[Bytes]) -> Channel {
    match Kind::of_chunk(&chunks[0]) {
        Some(Kind::Node | Kind::Commit) => Channel::Data,
        _ => Channel::Command,
    }
}

fn value(chunk: &Bytes) -> Value {
    pickle::read(chunk, &Policy::MESSAGE).unwrap()
}

/// The node as it would be sent to others.
fn again(object: &NodeObject) -> Vec<Bytes> {
    let dependencies = object.dependencies.iter().map(NodeId::as_str);
    node(object.id.as_str(), object.owner.as_str(), dependencies, object.data.clone())
}

fn check_node(object: &NodeObject) {
    let data = value(&object.data);
    assert_eq!(data.get("type_id").and_then(Value::as_text), Some(&*object.type_id));
    assert_eq!(data.get("uuid").and_then(Value::as_text), Some(object.id.as_str()));
    assert_eq!(data.get("name").and_then(Value::as_text), object.name.as_deref());
    let sent = again(object);
    assert_eq!(sent[4].as_ptr(), object.data.as_ptr(), "the payload is not copied");
    assert_eq!(read(Channel::Data, &sent), Ok(Inbound::Node(object.clone())));
}

#[test]
fn all_that_a_real_blender_sent_is_read_and_comes_back_equal() {
    let mut counts = [0; 9];
    for (index, chunks) in client_messages().iter().enumerate() {
        let message = read(channel_of(chunks), chunks).unwrap_or_else(|error| panic!("message {index}: {error}"));
        let place = match message {
            Inbound::Auth(auth) => {
                assert_eq!(auth.admin, &*auth.name == "alice");
                assert_eq!(auth.admin_password.as_deref(), auth.admin.then_some("admin"));
                assert_eq!((auth.server_password.as_deref(), &*auth.version), (Some(""), "0.9.10"));
                0
            }
            Inbound::ServerSnapshot(ServerSnapshot::Set(object)) => {
                check_node(&object);
                1
            }
            Inbound::ServerSnapshot(ServerSnapshot::Init { nodes }) => {
                assert_eq!(nodes.len(), 47);
                2
            }
            Inbound::ServerSnapshot(ServerSnapshot::End) => 2,
            Inbound::Snapshot(_) => 3,
            Inbound::Delete(id) => {
                assert_eq!(value(&delete(id.as_str())[2]), value(&chunks[2]));
                4
            }
            Inbound::Right(Right { nodes, owner }) => {
                let sent = right(nodes.iter().map(NodeId::as_str), owner.as_str());
                assert_eq!(value(&sent[2]), value(&chunks[2]));
                5
            }
            Inbound::Metadata(read) => {
                let pairs: Vec<(Value, Value)> =
                    read.entries.iter().map(|(key, value)| (Value::Text(Arc::clone(key)), value.clone())).collect();
                assert_eq!(Value::Dict(Arc::new(pairs)), value(&chunks[2]));
                assert_eq!(metadata(&read.user, read.data), *chunks);
                6
            }
            Inbound::Node(object) => {
                check_node(&object);
                assert_eq!(again(&object)[..3], chunks[..3]);
                7
            }
            Inbound::Commit(read) => {
                let sent = commit(read.id.as_str(), read.dependencies.iter().map(NodeId::as_str), read.delta);
                assert_eq!((&sent[..2], value(&sent[2]), &sent[3]), (&chunks[..2], value(&chunks[2]), &chunks[3]));
                8
            }
            other @ (Inbound::RequestServerInfo | Inbound::Kick(_) | Inbound::TtlInit | Inbound::Pong) => {
                panic!("message {index}: {other:?}")
            }
        };
        counts[place] += 1;
    }
    assert_eq!(counts, [3, 47, 2, 98, 2, 8, 25, 2, 7]);
}

#[test]
fn deltas_of_both_versions_of_deepdiff_are_commits() {
    let ours = commit(UUID, [], Bytes::new());
    for delta in files::deltas() {
        let chunks = [ours[0].clone(), ours[1].clone(), ours[2].clone(), delta.into()];
        let Ok(Inbound::Commit(read)) = read(Channel::Data, &chunks) else { panic!("{:02x?}", chunks[3]) };
        assert_eq!(read.delta, chunks[3]);
    }
}

#[test]
fn what_the_old_servers_said_is_said_again_in_the_same_words() {
    let user = |latency, status| UserRecord { name: "al", admin: true, latency, status, metadata: &[] };
    let users = |latency, status| clients([user(latency, status)]).unwrap();
    let accepted = server_snapshot(InitState::Accepted);
    let done = server_snapshot(InitState::Done);
    let lobby = auth_reply("LOBBY");
    let zmtp = [users(999, 10), lobby.clone(), accepted.clone(), done.clone(), users(999, 2), users(1, 2)];
    let tcp = [lobby, users(999, 10), accepted, done, users(999, 2), vec![], vec![], vec![], vec![]];
    let (ping, tcp_list) = ([ping()], [users(48, 2), users(0, 2)]);
    let tcp: Vec<&Vec<Bytes>> = tcp[..5].iter().chain([&ping[0], &tcp_list[0], &ping[0], &tcp_list[1]]).collect();
    let zmtp: Vec<&Vec<Bytes>> = zmtp.iter().collect();
    for (name, port, skip, ours) in [("wire_0.9.10.txt", 8400, 121, zmtp), ("wire_0.10.3.txt", 8420, 0, tcp)] {
        let theirs = from_server(name, port, skip);
        assert_eq!(theirs.len(), ours.len());
        for (theirs, ours) in theirs.iter().zip(ours) {
            if theirs.len() == 1 {
                assert_eq!(theirs, ours);
                continue;
            }
            assert_eq!(theirs[..2], ours[..2]);
            assert_eq!(value(&theirs[2]), value(&ours[2]));
        }
    }
}

/// What CPython makes of pickles; it may not import anything for them.
fn python(pickles: &[Bytes]) -> Vec<String> {
    const SCRIPT: &str = "
import io, pickle, struct, sys
class Data(pickle.Unpickler):
    def find_class(self, module, name):
        raise pickle.UnpicklingError(name)
rest = sys.stdin.buffer.read()
while rest:
    end = 4 + struct.unpack('>I', rest[:4])[0]
    print(ascii(Data(io.BytesIO(rest[4:end])).load()))
    rest = rest[end:]
";
    let program = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut command = Command::new(program);
    let spawned = command.args(["-I", "-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut child = spawned.expect("this test needs Python 3: install it, or name it in PYTHON");
    let mut input = child.stdin.take().unwrap();
    for pickle in pickles {
        input.write_all(&u32::try_from(pickle.len()).unwrap().to_be_bytes()).unwrap();
        input.write_all(pickle).unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn cpython_reads_what_we_send_as_it_is_meant() {
    let set = Value::Set(Arc::new(vec![Value::text("a")]));
    let colour = Value::Tuple(Arc::new(vec![Value::Float(0.5), Value::Int(1)]));
    let long = "täsk".repeat(100);
    let alice = [("selected_objects".into(), set), ("color".into(), colour.clone()), ("c2".into(), colour)];
    let session = [("tasks".into(), Value::text(&long))];
    let users = [
        UserRecord { name: "alice", admin: true, latency: 70_000, status: 2, metadata: &alice },
        UserRecord { name: "~session", admin: false, latency: 0, status: 2, metadata: &session },
    ];
    let chunks = node(UUID, "alice", ["a", "b", "a"], Bytes::from_static(b"data"));
    let set_node = snapshot_set(&chunks);
    let cases = [
        (server_info(ServerInfo { private: true, version: "0.9.10" }), "{'private': True, 'version': '0.9.10'}".into()),
        (auth_reply("FAILED: no"), "'FAILED: no'".into()),
        (
            clients(users).unwrap(),
            format!(
                "{{'alice': {{'id': 'alice', 'admin': True, 'latency': 70000, 'status': 2, 'metadata': \
                 {{'selected_objects': {{'a'}}, 'color': (0.5, 1), 'c2': (0.5, 1)}}}}, '~session': {{'id': '~session', \
                 'admin': False, 'latency': 0, 'status': 2, 'metadata': {{'tasks': '{}'}}}}}}",
                long.replace('ä', "\\xe4")
            ),
        ),
        (clients([]).unwrap(), "{}".into()),
        (server_snapshot(InitState::Rejected), "{'STATE': 'REJECTED'}".into()),
        (snapshot_init(["a", "b"]), "{'STATE': 'INIT', 'CATALOG': ['a', 'b']}".into()),
        (snapshot_init([]), "{'STATE': 'INIT', 'CATALOG': []}".into()),
        (
            set_node,
            format!(
                "{{'STATE': 'SET', 'DATA': [b'\\x80\\x04K\\x02.', b'{UUID}', b'alice', {}, b'data']}}",
                python_bytes(&chunks[3])
            ),
        ),
        (snapshot_removed(), "{'STATE': 'SET', 'DATA': b'removed'}".into()),
        (delete(UUID), format!("'{UUID}'")),
        (right([UUID], "COMMON"), format!("{{'uuid': ['{UUID}'], 'owner': 'COMMON'}}")),
        (disconnect("kicked by admin"), "{'reason': 'kicked by admin'}".into()),
    ];
    let last: Vec<Bytes> = cases.iter().map(|(chunks, _)| chunks[2].clone()).collect();
    let lists = [chunks[3].clone(), commit(UUID, [], Bytes::new())[2].clone()];
    let firsts: Vec<Bytes> = cases.iter().map(|(chunks, _)| chunks[0].clone()).collect();
    let seen = python(&[&last[..], &lists, &firsts].concat());
    let expected: Vec<String> = cases.iter().map(|(_, expected)| expected.clone()).collect();
    assert_eq!(seen[..cases.len()], expected);
    assert_eq!(seen[cases.len()..][..2], ["['a', 'b', 'a']", "[]"]);
    let numbers = ["14", "9", "12", "12", "8", "7", "7", "7", "7", "4", "5", "10"];
    assert_eq!(seen[cases.len() + 2..], numbers);
    for (chunks, _) in cases {
        assert_eq!((chunks.len(), &chunks[1][..]), (3, &b"server"[..]));
    }
}

/// As Python would show these bytes.
fn python_bytes(bytes: &[u8]) -> String {
    let shown = bytes.iter().map(|byte| match byte {
        b'\r' => "\\r".into(),
        b'\n' => "\\n".into(),
        b'\t' => "\\t".into(),
        b' '..=b'~' if *byte != b'\'' && *byte != b'\\' => char::from(*byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    });
    format!("b'{}'", shown.collect::<String>())
}

fn with(chunks: &[Bytes], at: usize, chunk: &[u8]) -> Vec<Bytes> {
    let mut chunks = chunks.to_vec();
    chunks[at] = Bytes::copy_from_slice(chunk);
    chunks
}

fn pickled(value: &Value) -> Bytes {
    pickle::write(value).unwrap().into()
}

fn dict(pairs: &[(&str, Value)]) -> Value {
    Value::Dict(Arc::new(pairs.iter().map(|(key, value)| (Value::text(key), value.clone())).collect()))
}

fn datablock() -> Bytes {
    pickled(&dict(&[("type_id", Value::text("Mesh")), ("uuid", Value::text(UUID)), ("name", Value::text("Cube"))]))
}

#[test]
fn a_pickle_that_asks_for_anything_is_refused_with_opcode_offset_and_name() {
    let attack = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.";
    let nested = |chunk: usize| {
        let chunks = with(&node(UUID, "COMMON", [], datablock()), chunk, attack);
        let chunks = chunks.into_iter().map(Value::Bytes).collect();
        let set = dict(&[("STATE", Value::text("SET")), ("DATA", Value::List(Arc::new(chunks)))]);
        with(&server_snapshot(InitState::Done), 2, &pickled(&set))
    };
    let whole = node(UUID, "COMMON", [], datablock());
    let command = auth_reply("");
    let mut cases = vec![
        (Channel::Data, with(&whole, 0, attack)),
        (Channel::Data, with(&whole, 3, attack)),
        (Channel::Data, with(&whole, 4, attack)),
        (Channel::Data, with(&commit(UUID, [], datablock()), 2, attack)),
        (Channel::Data, with(&commit(UUID, [], datablock()), 3, attack)),
        (Channel::Command, nested(3)),
        (Channel::Command, nested(4)),
    ];
    for kind in [4, 5, 7, 8, 9, 11, 13, 14] {
        let number = [0x80, 4, b'K', kind, b'.'];
        cases.push((Channel::Command, with(&with(&command, 0, &number), 2, attack)));
    }
    for (index, (channel, chunks)) in cases.iter().enumerate() {
        let error = read(*channel, chunks).unwrap_err();
        let violation = error.violation().unwrap_or_else(|| panic!("{index}: {error}"));
        let found = (violation.opcode, violation.offset, violation.name.as_deref());
        assert_eq!(found, ("STACK_GLOBAL", 14, Some("os system")), "{index}");
        assert!(error.to_string().contains("STACK_GLOBAL at byte 14 (os system)"), "{error}");
    }
    let inner = read(cases[6].0, &cases[6].1).unwrap_err();
    assert_eq!((inner.kind, inner.chunk, inner.inner), (Some(Kind::ServerSnapshot), 2, Some(4)));
}

#[test]
fn only_the_opcodes_of_cpython_s_protocol_4_pass() {
    let whole = node(UUID, "COMMON", [], datablock());
    let data = datablock();
    let end = data.len() - 1;
    // Without the frame, what is put in front of STOP needs no counting.
    let plain = [b"\x80\x04", &data[11..end]].concat();
    let good = [&plain[..], b"."].concat();
    assert!(read(Channel::Data, &with(&whole, 4, &good)).is_ok());
    for (tail, opcode) in [
        (&b"0N."[..], "POP"),
        (b"(1.", "POP_MARK"),
        (b"q\x07.", "BINPUT"),
        (b"r\x07\0\0\0.", "LONG_BINPUT"),
        (b"N20.", "DUP"),
    ] {
        let error = read(Channel::Data, &with(&whole, 4, &[&plain[..], tail].concat())).unwrap_err();
        assert_eq!(error.violation().unwrap().opcode, opcode);
        assert_eq!(error.violation().unwrap().reason, Reason::ForbiddenOpcode);
    }
    let newer = with(&whole, 4, &[b"\x80\x05", &good[2..]].concat());
    assert_eq!(read(Channel::Data, &newer).unwrap_err().violation().unwrap().reason, Reason::Protocol(5));
    let none = with(&whole, 3, b"].");
    assert_eq!(read(Channel::Data, &none).unwrap_err().violation().unwrap().reason, Reason::Protocol(1));
}

fn why(channel: Channel, chunks: &[Bytes]) -> String {
    read(channel, chunks).expect_err("refused").to_string()
}

#[test]
fn objects_belong_to_their_channel_and_direction() {
    let whole = node(UUID, "COMMON", [], datablock());
    assert!(why(Channel::Command, &whole).contains("three chunks"));
    assert!(why(Channel::Command, &with(&auth_reply(""), 0, &whole[0])).contains("not an object of the command"));
    assert!(why(Channel::Data, &delete(UUID)).contains("not an object of the data channel"));
    assert!(why(Channel::Command, &disconnect("")).contains("only servers"));
    assert!(why(Channel::Command, &clients([]).unwrap()).contains("only servers"));
    for number in [0, 3, 6, 15, 255] {
        let chunks = with(&delete(UUID), 0, &[0x80, 4, b'K', number, b'.']);
        assert!(why(Channel::Command, &chunks).contains("not the number"), "{number}");
    }
    assert!(why(Channel::Command, &[]).contains("empty"));
    assert!(why(Channel::Data, &whole[..4]).contains("five chunks"));
    assert!(why(Channel::Data, &commit(UUID, [], datablock())[..3]).contains("four chunks"));
    assert_eq!(read(Channel::Ttl, &[Bytes::from_static(b"INIT")]), Ok(Inbound::TtlInit));
    assert_eq!(read(Channel::Ttl, &[Bytes::from_static(b"PONG")]), Ok(Inbound::Pong));
    assert!(read(Channel::Ttl, &ping()).is_err());
    assert!(read(Channel::Ttl, &delete(UUID)).is_err());
}

#[test]
fn a_node_is_what_its_data_says() {
    let int = Value::Int;
    let refused = |pairs: &[(&str, Value)]| why(Channel::Data, &node(UUID, "bob", [], pickled(&dict(pairs))));
    assert!(refused(&[("type_id", text("Mesh"))]).contains("uuid"));
    assert!(refused(&[("type_id", text("Mesh")), ("uuid", text("other"))]).contains("uuid"));
    assert!(refused(&[("uuid", text(UUID))]).contains("type_id"));
    assert!(refused(&[("uuid", text(UUID)), ("type_id", int(1))]).contains("type_id"));
    assert!(refused(&[("uuid", text(UUID)), ("type_id", text("x".repeat(129)))]).contains("type_id"));
    // Python keeps the last of two equal keys.
    assert!(refused(&[("type_id", text("Mesh")), ("uuid", text(UUID)), ("uuid", int(1))]).contains("uuid"));
    let inside = dict(&[("type_id", text("Mesh")), ("uuid", text(UUID))]);
    assert!(refused(&[("data", inside.clone())]).contains("uuid"));
    let list = pickled(&Value::List(Arc::new(vec![inside])));
    assert!(why(Channel::Data, &node(UUID, "bob", [], list)).contains("uuid"));
    let whole = node(UUID, "bob", ["a"], datablock());
    let Ok(Inbound::Node(read_node)) = read(Channel::Data, &whole) else { panic!() };
    assert_eq!(read_node.owner, Owner::Member(MemberName::new("bob").unwrap()));
    assert_eq!((&*read_node.type_id, read_node.name.as_deref()), ("Mesh", Some("Cube")));
    assert!(why(Channel::Data, &with(&whole, 1, b"")).contains("id"));
    assert!(why(Channel::Data, &with(&whole, 1, b"\xff")).contains("UTF-8"));
    assert!(why(Channel::Data, &with(&whole, 2, b"")).contains("name"));
    assert!(why(Channel::Data, &with(&whole, 2, &[b'x'; 257])).contains("256 bytes"));
    assert!(why(Channel::Data, &with(&whole, 3, &pickled(&text("a")))).contains("list"));
}

fn text(text: impl AsRef<str>) -> Value {
    Value::text(text)
}

fn sent(kind: u8, value: &Value) -> Result<Inbound, ObjectError> {
    let number = [0x80, 4, b'K', kind, b'.'];
    let chunks = [Bytes::copy_from_slice(&number), Bytes::from_static(b"eve"), pickled(value)];
    read(Channel::Command, &chunks)
}

#[test]
fn commands_have_exactly_the_shapes_of_the_protocol() {
    let none = Value::None;
    let login = |kind: &str, password: Value| {
        let fields = [("AUTH_TYPE", text(kind)), ("AUTH_ID", text("eve")), ("S_PWD", password)];
        let more = [("A_PWD", none.clone()), ("VERSION", text("0.10.2"))];
        sent(9, &dict(&[&fields[..], &more].concat()))
    };
    let auth = Auth {
        admin: false,
        name: "eve".into(),
        server_password: Some("secret".into()),
        admin_password: None,
        version: "0.10.2".into(),
    };
    assert!(!format!("{auth:?}").contains("secret"));
    assert_eq!(login("CLIENT", text("secret")), Ok(Inbound::Auth(auth)));
    assert!(login("ROOT", none.clone()).is_err());
    assert_eq!(login("ADMIN", Value::Int(1)).unwrap_err().fault, Fault::Missing("S_PWD"));
    assert_eq!(sent(9, &dict(&[])).unwrap_err().fault, Fault::Missing("AUTH_TYPE"));
    assert_eq!(sent(14, &text("RQ_INFO")), Ok(Inbound::RequestServerInfo));
    assert!(sent(14, &text("RQ")).is_err());
    assert_eq!(sent(11, &dict(&[("user", text("bob"))])), Ok(Inbound::Kick("bob".into())));
    assert!(sent(4, &Value::List(Arc::new(vec![text(UUID)]))).is_err());
    let state = |state: &str| dict(&[("STATE", text(state))]);
    assert_eq!(sent(7, &state("REQUEST_INIT")), Ok(Inbound::Snapshot(Snapshot::RequestInit)));
    assert_eq!(sent(7, &state("DONE")), Ok(Inbound::Snapshot(Snapshot::Done)));
    assert_eq!(sent(8, &state("END")), Ok(Inbound::ServerSnapshot(ServerSnapshot::End)));
    assert!(sent(7, &state("INIT")).is_err() && sent(8, &state("GET")).is_err());
    let init = |size| {
        let ids = Value::List(Arc::new(vec![text("a"), text("b")]));
        sent(8, &dict(&[("STATE", text("INIT")), ("SIZE", Value::Int(size)), ("NODES", ids)]))
    };
    assert!(init(2).is_ok() && init(3).is_err());
    assert!(sent(5, &dict(&[("uuid", Value::List(Arc::new(vec![text("")]))), ("owner", text("bob"))])).is_err());
    assert!(sent(13, &text("no dict")).is_err());
    assert!(sent(13, &Value::Dict(Arc::new(vec![(Value::Int(1), none)]))).is_err());
}

#[test]
fn metadata_that_could_not_be_listed_again_is_refused() {
    let nested = |depth: usize| (0..depth).fold(Value::None, |value, _| Value::List(Arc::new(vec![value])));
    let Ok(Inbound::Metadata(deepest)) = sent(13, &dict(&[("a", nested(31))])) else { panic!() };
    let user = UserRecord { name: "eve", admin: false, latency: 0, status: 2, metadata: &deepest.entries };
    pickle::scan(&clients([user]).unwrap()[2], &Policy::MESSAGE).unwrap();
    assert!(sent(13, &dict(&[("a", nested(32))])).is_err());
    let many: Vec<(Value, Value)> = (0..257).map(|key| (Value::text(key.to_string()), Value::None)).collect();
    assert!(sent(13, &Value::Dict(Arc::new(many))).is_err());
    let twice = Value::Dict(Arc::new(vec![(Value::text("a"), Value::Int(1)), (Value::text("a"), Value::Int(2))]));
    let Ok(Inbound::Metadata(read)) = sent(13, &twice) else { panic!() };
    assert_eq!(read.entries, [("a".into(), Value::Int(2))]);
}
