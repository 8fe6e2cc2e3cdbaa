//! Damaged client messages, through the parser and the session and out again as events: nothing panics, and whatever is
//! accepted leaves a session that can be stored and messages that can be read.

use super::encode::{events_binary, events_json};
use super::frame::Format;
use super::message::Incoming;
use super::replies;
use super::translate::{ClientMessage, client_message};
use crate::doors::campaign::{Chance, cases};
use crate::live::{Edit, Refusal, Work};
use crate::session::stored::{Loading, MemberV1, MessageV1, MetaV1, NodeRefV1, NodeV1, SettingV1, TaskV1};
use crate::session::{
    Author, ClientId, Command, Decision, Event, Limits, MemberName, Node, NodePatch, OpKey, Operation, PayloadChange,
    Rejection, Role, Session, Timestamp,
};
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;

/// Most bytes of text in an answer to something that is refused.
const REFUSAL_BYTES_MAX: usize = 2_000;

/// Operations as clients send them. `payload_bytes` takes from what follows the header.
const OPERATIONS: &[&str] = &[
    r#"{"do":"node.put","id":"chair","kind":"mesh","name":"Chair","payload":{"vertices":[0,1,2],"deep":{"a":[{}]}}}"#,
    r#"{"do":"node.put","id":"leg","kind":"mesh","parent":"chair","order":1.5,"dependencies":["chair"],"if_revision":0}"#,
    r#"{"do":"node.put","id":"image","kind":"image","media_type":"image/png","payload_base64":"iVBORw0KGgo="}"#,
    r#"{"do":"node.put","id":"raw","kind":"mesh","media_type":"x/y","payload_bytes":5}"#,
    r#"{"do":"node.put","id":"text","kind":"mesh","payload_bytes":9}"#,
    r#"{"do":"node.patch","id":"chair","set":{"name":"Stool","order":null,"parent":null},"if_revision":2}"#,
    r#"{"do":"node.patch","id":"chair","merge":{"vertices":null,"colour":{"r":1e-3}}}"#,
    r#"{"do":"node.patch","id":"chair","patch":[{"op":"add","path":"/vertices/1","value":[]},{"op":"test","path":"","value":{}}]}"#,
    r#"{"do":"node.patch","id":"chair","patch":[{"op":"copy","path":"/deep/b","from":"/deep"},{"op":"move","path":"/c","from":"/deep/b"}]}"#,
    r#"{"do":"node.patch","id":"leg","set":{"parent":"image","dependencies":["raw","text"],"kind":"bone"},"payload":[1.0]}"#,
    r#"{"do":"node.remove","id":"chair","recursive":true}"#,
    r#"{"do":"node.lock","id":"leg"}"#,
    r#"{"do":"node.unlock","id":"leg"}"#,
    r#"{"do":"task.put","id":"t","title":"Light","description":"dim","assignee":"bob","status":"in_progress","node":"leg"}"#,
    r#"{"do":"task.patch","id":"t","set":{"title":"Lamp","status":"done","node":null}}"#,
    r#"{"do":"task.remove","id":"t","if_revision":1}"#,
    r#"{"do":"chat.post","text":"hello \ud83d\ude00"}"#,
    r#"{"do":"chat.post","kind":"link","text":"https://example.org/","id":"c"}"#,
    r#"{"do":"member.set","metadata":{"colour":"red","gone":null}}"#,
    r#"{"do":"session.set","key":"theme","value":{"dark":true,"size":[1]}}"#,
    r#"{"do":"session.set","key":"multi-user.initialised","value":true}"#,
    r#"{"do":"session.set","key":"theme"}"#,
    r#"{"do":"session.save"}"#,
];

/// Messages that are no operations.
const OTHERS: &[&str] = &[
    r#"{"type":"ping","id":{"n":[1,2]}}"#,
    r#"{"type":"presence","data":{"cursor":[1,2,3.5]}}"#,
    r#"{"type":"hello","name":"alice","resume":{"branch":"00","run":"00","seq":1}}"#,
];

/// What may stand anywhere in JSON, and what breaks readers of it.
const PIECES: &[&[u8]] = &[
    b"null",
    b"true",
    b"-0",
    b"0.1e-400",
    b"1e400",
    b"18446744073709551616",
    b"9007199254740993",
    b"\"\"",
    b"\"\\u0000\"",
    b"\"\\ud800\"",
    b"\"~daemon\"",
    b"{}",
    b"[]",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]",
    b"{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":1}}}}}}",
    b",",
    b":",
    b"\"",
    b"\\",
    b"\xff",
    b"\xe2\x80\xae",
    b"\"payload\":{\"$serde_json::private::RawValue\":\"1\"}",
    b"\"$serde_json::private::Number\"",
    b"\"if_revision\":1,",
    b"\"payload_bytes\":0,",
    b"\"payload_bytes\":18446744073709551615,",
    b"\"media_type\":\"x/y\",",
    b"\"recursive\":true,",
    b"\"op\":1,",
    b"\"id\":\"leg\",",
    b"\"parent\":\"leg\",",
    b"\"parent\":\"chair\"",
    b"/deep/-",
    b"~1",
];

fn message_text(chance: &mut Chance, op: u64) -> String {
    match chance.below(8) {
        0 => (*chance.one_of(OTHERS)).to_owned(),
        1 | 2 => {
            let count = chance.below(5);
            let operations: Vec<&str> = (0..count).map(|_| *chance.one_of(OPERATIONS)).collect();
            format!(r#"{{"type":"batch","op":{op},"operations":[{}]}}"#, operations.join(","))
        }
        _ => {
            let fields = chance.one_of(OPERATIONS).strip_prefix('{').expect("an object");
            format!(r#"{{"type":"op","op":{op},{fields}"#)
        }
    }
}

/// Ends of tokens are where damage makes something else of a message, and not just nonsense.
fn replace_token(text: &mut Vec<u8>, chance: &mut Chance) {
    let is_end = |at: &usize| matches!(text[*at], b'{' | b'}' | b'[' | b']' | b',' | b':');
    let ends: Vec<usize> = (0..text.len()).filter(is_end).collect();
    if ends.len() < 2 {
        return;
    }
    let index = chance.below(ends.len() - 1);
    let piece = chance.one_of(PIECES).to_vec();
    text.splice(ends[index] + 1..ends[index + 1], piece);
}

/// A message, right or damaged, as it comes out of a WebSocket frame.
fn message(format: Format, chance: &mut Chance, op: u64) -> Bytes {
    let mut text = message_text(chance, op).into_bytes();
    for _ in 0..chance.below(3) {
        if chance.once_in(2) {
            replace_token(&mut text, chance);
        } else {
            chance.damage(&mut text, PIECES);
        }
    }
    if format == Format::Json {
        return text.into();
    }
    let len = if chance.once_in(10) { chance.number(text.len() as u64) } else { text.len() as u64 };
    let raws: [&[u8]; 4] = [b"[1,2,3,4]", b"\0\x01\x02\x03\x04", b"", b"[1,2,3,4][5,6,7,8]"];
    let raw = *chance.one_of(&raws);
    let len = u32::try_from(len & u64::from(u32::MAX)).expect("cut to size");
    [&len.to_le_bytes()[..], &text, raw].concat().into()
}

fn narrow_limits() -> Limits {
    Limits {
        nodes: 4,
        payload_bytes_total: 200,
        payload_bytes: 80,
        dependencies: 2,
        depth: 2,
        json_depth: 4,
        batch_operations: 3,
        tasks: 1,
        chat_messages: 2,
        chat_bytes: 30,
        ..Limits::default()
    }
}

/// The payload of each frame that was written.
fn frames(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut payloads = Vec::new();
    while !bytes.is_empty() {
        let (from, len) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            127 => (10, usize::try_from(u64::from_be_bytes(bytes[2..10].try_into().unwrap())).unwrap()),
            short => (2, usize::from(short)),
        };
        payloads.push(&bytes[from..from + len]);
        bytes = &bytes[from + len..];
    }
    payloads
}

/// Whoever gets the event can read it, in both formats.
fn can_be_read(event: &Event) {
    let event = [Arc::new(event.clone())];
    let json = events_json(&event).parts.concat();
    let binary = events_binary(&event).parts.concat();
    let (json, binary) = (frames(&json), frames(&binary));
    let (len, rest) = binary[0].split_first_chunk().expect("the length of the header");
    let (header, raw) = rest.split_at(u32::from_le_bytes(*len) as usize);
    for text in [json[0], header] {
        let read: Value = serde_json::from_slice(text).expect("an event is JSON");
        assert_eq!(read["seq"], event[0].seq);
    }
    let read: Value = serde_json::from_slice(header).unwrap();
    let counts = ["payload_bytes", "append_bytes", "base_bytes"];
    let taken = read["changes"].as_array().unwrap().iter();
    let taken = taken.flat_map(|change| counts.iter().filter_map(|count| change[*count].as_u64()));
    assert_eq!(taken.sum::<u64>(), raw.len() as u64, "all raw bytes are accounted for");
}

/// What is stored of the session is the session.
fn can_be_stored(session: &Session) {
    let stored = |node: &Node| -> NodeV1 {
        let written = serde_json::to_value(NodeRefV1::from(node)).unwrap();
        serde_json::from_value(written).unwrap()
    };
    let load = || {
        let mut loading = Loading::default();
        loading.meta(MetaV1::from(session))?;
        loading.nodes(session.nodes().map(|node| stored(node)).collect())?;
        loading.tasks(session.tasks().map(|task| TaskV1::from(&**task)).collect())?;
        loading.messages(session.messages().map(|message| MessageV1::from(&**message)).collect())?;
        loading.members(session.members().map(|member| MemberV1::from(&**member)).collect())?;
        loading.operations(session.stored_operations().collect())?;
        loading.removed_tasks(session.stored_removed_tasks().collect())?;
        loading.settings(session.settings().map(|setting| SettingV1::from(&**setting)).collect())?;
        loading.finish()
    };
    assert_eq!(load().as_ref(), Ok(session));
}

/// A session with one member in it, who is the one to send.
struct Room {
    session: Session,
    author: Author,
    limits: Limits,
}

impl Room {
    fn new(role: Role, limits: Limits) -> Self {
        let author = Author { name: MemberName::new("alice").unwrap(), role };
        let mut room = Self { session: Session::new(), author, limits };
        room.run(&Command::Join { client: ClientId(7) }).unwrap();
        room
    }

    fn run(&mut self, command: &Command) -> Result<(), Rejection> {
        let at = Timestamp(1_795_249_406_416);
        let Decision::New(event) = self.session.decide(command, &self.author, at, &self.limits)? else { return Ok(()) };
        assert_eq!(event.seq, self.session.seq() + 1);
        self.session.evolve(&event);
        can_be_read(&event);
        if event.op.is_some() {
            let again = self.session.decide(command, &self.author, at, &self.limits);
            assert_eq!(again, Ok(Decision::Repeat { seq: event.seq }));
        }
        Ok(())
    }

    /// Whether the message was an edit that was accepted.
    fn take(&mut self, format: Format, message: Bytes) -> bool {
        let parsed = Incoming::new(format, message).and_then(|mut incoming| client_message(&mut incoming));
        let Edit { op, work } = match parsed {
            Ok(ClientMessage::Edit(edit)) => edit,
            Ok(ClientMessage::Presence(_) | ClientMessage::Ping(_)) => return false,
            Err(bad) => {
                assert!(bad.why.len() <= REFUSAL_BYTES_MAX, "{} bytes of error", bad.why.len());
                return false;
            }
        };
        let Work::Operations(operations) = work else { return false };
        let key = OpKey { client: ClientId(7), op };
        let result = self.run(&Command::Edit { op: Some(key), operations });
        if let Err(rejection) = &result {
            let (_, text) = replies::refusal(&Refusal::Rejected(rejection.clone()));
            assert!(text.len() <= REFUSAL_BYTES_MAX, "{} bytes of refusal", text.len());
        }
        result.is_ok()
    }
}

impl Room {
    /// What another door does to payloads: one grows, or what has grown is folded.
    fn grow(&mut self, chance: &mut Chance) {
        let nodes: Vec<_> = self.session.nodes().filter(|node| node.payload.media_type().is_some()).cloned().collect();
        if nodes.is_empty() {
            return;
        }
        let node = chance.one_of(&nodes);
        let delta = PayloadChange::Append(vec![7; chance.below(9)].into());
        let patch = NodePatch { payload: Some(delta), ..NodePatch::default() };
        let append = Operation::NodePatch { id: node.id.clone(), patch, if_revision: None };
        let fold = Operation::fold(node, vec![8; chance.below(9)].into());
        let operation = fold.filter(|_| chance.once_in(2)).unwrap_or(append);
        let member = std::mem::replace(&mut self.author, Author::daemon());
        match self.run(&Command::Edit { op: None, operations: vec![operation] }) {
            Ok(()) | Err(Rejection::LimitExceeded { .. }) => {}
            Err(other) => panic!("it fits: {other}"),
        }
        self.author = member;
    }
}

#[test]
fn damaged_messages_are_refused_or_leave_a_sound_session() {
    cases("native protocol", |chance| {
        let limits = if chance.once_in(3) { narrow_limits() } else { Limits::default() };
        let role = *chance.one_of(&[Role::Admin, Role::Member, Role::Member, Role::Viewer]);
        let mut room = Room::new(role, limits);
        let mut accepted = false;
        for op in 1..=8 + chance.below(24) as u64 {
            let format = *chance.one_of(&[Format::Json, Format::Binary]);
            let message = message(format, chance, op);
            accepted |= room.take(format, message);
            if chance.once_in(4) {
                room.grow(chance);
            }
        }
        can_be_stored(&room.session);
        accepted
    });
}

#[test]
fn the_text_of_a_refusal_does_not_grow_with_the_message() {
    let long = "\\u0001".repeat(100_000);
    for text in [
        format!(r#"{{"type":"{long}"}}"#),
        format!(r#"{{"type":"op","op":1,"do":"{long}"}}"#),
        format!(r#"{{"type":"op","op":"{long}","do":"chat.post"}}"#),
        format!(r#"{{"type":"op","op":1,"do":"chat.post","kind":"{long}","text":""}}"#),
        format!(r#"{{"type":"op","op":1,"do":"node.put","id":"{long}","kind":"k"}}"#),
        format!(r#"{{"type":"op","op":1,"do":"node.put","id":"a","kind":"k","parent":"{long}"}}"#),
        format!(r#"{{"type":"op","op":1,"do":"task.put","id":"a","title":"t","status":"{long}"}}"#),
        format!(r#"{{"type":"op","op":1,"do":"node.put","id":"a","kind":"k","order":"{long}"}}"#),
    ] {
        let refused = Incoming::new(Format::Json, text.into()).and_then(|mut incoming| client_message(&mut incoming));
        let why = refused.expect_err("none of them is a message").why;
        assert!(why.len() <= REFUSAL_BYTES_MAX, "{} bytes: {}…", why.len(), &why[..60]);
    }
    let mut room = Room::new(Role::Member, Limits::default());
    let put = r#"{"type":"op","op":1,"do":"node.put","id":"a","kind":"k","payload":{}}"#;
    assert!(room.take(Format::Json, put.into()));
    for patch in [
        format!(r#"[{{"op":"remove","path":"/{long}"}}]"#),
        format!(r#"[{{"op":"{long}","path":"/a"}}]"#),
        format!(r#"[{{"op":"test","path":"","value":"{long}"}}]"#),
        format!(r#"[{{"op":"add","path":"{long}","value":1}}]"#),
        format!(r#"[{{"op":"move","path":"/a","from":"/{long}"}}]"#),
        format!(r#""{long}""#),
    ] {
        let text = format!(r#"{{"type":"op","op":2,"do":"node.patch","id":"a","patch":{patch}}}"#);
        assert!(!room.take(Format::Json, text.into()));
    }
}
