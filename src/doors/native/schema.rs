//! The messages of the protocol as types, from which `docs/native-protocol.schema.json` is generated.
//!
//! The door itself reads and writes them faster, without building these; the tests below hold the two together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Everything that a client may send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ClientMessage {
    /// The first message.
    Hello {
        /// What people see: 1 to 64 bytes, not beginning with `~`.
        name: String,
        /// The server password.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        password: Option<String>,
        /// The admin token, instead of a password.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
        /// `viewer` asks for less than the password gives.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        role: Option<Role>,
        /// The client id of an earlier `welcome`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        client: Option<Id>,
        /// Where to go on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resume: Option<Resume>,
    },
    /// One operation.
    Op {
        /// The client's number for it: 1 to 2^53 - 1, rising.
        op: u64,
        /// What to do.
        #[serde(flatten)]
        operation: Operation,
    },
    /// Several operations that happen together or not at all.
    Batch {
        /// The client's number for them.
        op: u64,
        /// In order. `session.save` cannot be among them.
        operations: Vec<Operation>,
    },
    /// What this member is doing right now.
    Presence {
        /// Any JSON, up to 16 KiB.
        data: Value,
    },
    /// Asks for a `pong`.
    Ping {
        /// Comes back.
        #[serde(default)]
        id: Value,
    },
}

/// 32 lower-case hex digits.
type Id = String;

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
struct Resume {
    /// The branch of the last `welcome`.
    branch: Id,
    /// The run of the last `welcome`.
    run: Id,
    /// The newest event taken in.
    seq: u64,
    /// The last number given to an operation. Those up to it are of before a restore, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    op: Option<u64>,
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Role {
    Viewer,
    Member,
    Admin,
}

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum TaskStatus {
    Todo,
    InProgress,
    Done,
}

/// What sort of message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ChatKind {
    Text,
    Link,
    Code,
}

/// The content of a node: one of the three forms, and what was appended to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[expect(clippy::struct_field_names, reason = "the names are those of the protocol")]
struct Payload {
    /// JSON.
    #[serde(default, deserialize_with = "super::message::present", skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    /// What the bytes are; absent = JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    /// Bytes, as base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    /// Binary format: so many of the raw bytes after the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_bytes: Option<u64>,
    /// What was appended to those bytes, oldest first, each as base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deltas_base64: Option<Vec<String>>,
    /// Binary format: likewise, each as so many of the raw bytes after the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deltas_bytes: Option<Vec<u64>>,
}

/// The content of a node as it is put: at most one of the three forms.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
struct NewPayload {
    /// JSON.
    #[serde(default, deserialize_with = "super::message::present", skip_serializing_if = "Option::is_none")]
    payload: Option<Value>,
    /// What the bytes are; absent = JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    media_type: Option<String>,
    /// Bytes, as base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    /// Binary format: so many of the raw bytes after the header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_bytes: Option<u64>,
}

/// Fields that a patch sets; absent ones stay.
type Fields = std::collections::BTreeMap<String, Value>;

/// What an operation does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "do")]
enum Operation {
    /// Creates the node, or replaces all of it but its lock.
    #[serde(rename = "node.put")]
    NodePut {
        /// Which.
        id: String,
        /// What sort of thing it is: 1 to 64 bytes.
        kind: String,
        /// What people call it.
        #[serde(default)]
        name: String,
        /// The node it hangs below.
        #[serde(default)]
        parent: Option<String>,
        /// Its place among its siblings.
        #[serde(default)]
        order: Option<f64>,
        /// Nodes it refers to.
        #[serde(default)]
        dependencies: Vec<String>,
        /// Its content.
        #[serde(flatten)]
        payload: NewPayload,
        /// Refuse unless the node has this revision; 0 = unless it does not exist.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_revision: Option<u64>,
    },
    /// Changes only the fields that are given.
    #[serde(rename = "node.patch")]
    NodePatch {
        /// Which.
        id: String,
        /// `kind`, `name`, `parent`, `order`, `dependencies`.
        #[serde(default)]
        set: Fields,
        /// Replaces the content.
        #[serde(flatten)]
        payload: NewPayload,
        /// RFC 7396.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        merge: Option<Value>,
        /// RFC 6902.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        patch: Option<Vec<Value>>,
        /// Refuse unless the node has this revision.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_revision: Option<u64>,
    },
    /// Removes the node.
    #[serde(rename = "node.remove")]
    NodeRemove {
        /// Which.
        id: String,
        /// And everything below it.
        #[serde(default)]
        recursive: bool,
        /// Refuse unless the node has this revision.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_revision: Option<u64>,
    },
    /// Makes the author the node's owner.
    #[serde(rename = "node.lock")]
    NodeLock {
        /// Which.
        id: String,
    },
    /// Gives the node back to everyone.
    #[serde(rename = "node.unlock")]
    NodeUnlock {
        /// Which.
        id: String,
    },
    /// Creates the task, or replaces it.
    #[serde(rename = "task.put")]
    TaskPut {
        /// Which.
        id: String,
        /// 1 to 256 bytes.
        title: String,
        /// Up to 16 KiB.
        #[serde(default)]
        description: String,
        /// Whom it is for.
        #[serde(default)]
        assignee: String,
        /// How far it is.
        #[serde(default = "todo")]
        status: TaskStatus,
        /// The node it is about.
        #[serde(default)]
        node: Option<String>,
        /// Refuse unless the task has this revision; 0 = unless it does not exist.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_revision: Option<u64>,
    },
    /// Changes only the fields that are given.
    #[serde(rename = "task.patch")]
    TaskPatch {
        /// Which.
        id: String,
        /// `title`, `description`, `assignee`, `status`, `node`.
        set: Fields,
        /// Refuse unless the task has this revision.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_revision: Option<u64>,
    },
    /// Removes the task.
    #[serde(rename = "task.remove")]
    TaskRemove {
        /// Which.
        id: String,
        /// Refuse unless the task has this revision.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        if_revision: Option<u64>,
    },
    /// Says something.
    #[serde(rename = "chat.post")]
    ChatPost {
        /// The message's own id; the server gives one if absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// What sort of message it is.
        #[serde(default = "plain")]
        kind: ChatKind,
        /// 1 byte to 16 KiB.
        text: String,
    },
    /// Merges (RFC 7396) into what the session remembers of the author.
    #[serde(rename = "member.set")]
    MemberSet {
        /// A JSON object.
        metadata: Fields,
    },
    /// Sets or removes a setting of the session. Admins only.
    #[serde(rename = "session.set")]
    SessionSet {
        /// Which: 1 to 64 bytes; those beginning with `multi-user.` are the server's.
        key: String,
        /// Any JSON, up to 64 KiB; null or absent removes it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        value: Option<Value>,
    },
    /// Saves now.
    #[serde(rename = "session.save")]
    SessionSave {},
}

fn todo() -> TaskStatus {
    TaskStatus::Todo
}

fn plain() -> ChatKind {
    ChatKind::Text
}

/// Everything that the server may send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ServerMessage {
    /// The member has joined.
    Welcome {
        /// The session's name.
        session: String,
        /// The member's name.
        name: String,
        /// What the member may do.
        role: Role,
        /// This client program's id: secret.
        client: Id,
        /// Part of the next resume token.
        branch: Id,
        /// Part of the next resume token.
        run: Id,
        /// What follows reaches at least here.
        seq: u64,
        /// Whether only what was missed follows.
        resumed: bool,
        /// `live` or `read_only`.
        mode: String,
        /// Why, if read-only.
        message: String,
        /// Operations that may be unanswered.
        pending_max: u64,
        /// Bytes of the largest message accepted.
        message_bytes_max: u64,
    },
    /// A part of the session. The first part replaces everything the client had.
    State {
        /// The state after this event; the same in all parts.
        seq: u64,
        /// Whether it is the first part.
        first: bool,
        /// Members, online or remembered.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        members: Option<Vec<Member>>,
        /// Settings of the session.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        settings: Option<Vec<Setting>>,
        /// Nodes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        nodes: Option<Vec<Node>>,
        /// Tasks.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tasks: Option<Vec<Task>>,
        /// Chat messages, oldest first.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        chat: Option<Vec<ChatMessage>>,
        /// Entries sent so far, this part included.
        done: u64,
        /// Entries in all.
        total: u64,
        /// Whether it is the last part.
        last: bool,
    },
    /// Something happened.
    Event {
        /// Its place in the log.
        seq: u64,
        /// When, in milliseconds since 1970 UTC.
        at: i64,
        /// Who asked for it.
        author: String,
        /// The author's number for it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        op: Option<u64>,
        /// What changed, in order.
        changes: Vec<Change>,
    },
    /// The operation is event `seq`, and on disk.
    Ack {
        /// The client's number for it.
        op: u64,
        /// The event.
        seq: u64,
    },
    /// The operation was refused; nothing has changed.
    Reject {
        /// The client's number for it.
        op: Option<u64>,
        /// The stable name of the reason.
        code: String,
        /// The reason, for people.
        message: String,
    },
    /// What a member is doing.
    Presence {
        /// Whose.
        name: String,
        /// What; null = gone.
        data: Value,
    },
    /// A snapshot file is in place.
    Saved {
        /// What it holds.
        seq: u64,
        /// When it was asked for.
        at: i64,
        /// Why.
        reason: String,
    },
    /// Whether the session can be written.
    Health {
        /// `live` or `read_only`.
        mode: String,
        /// Why, if read-only.
        message: String,
    },
    /// Something that is no operation was wrong.
    Error {
        /// The stable name of the reason.
        code: String,
        /// The reason, for people.
        message: String,
    },
    /// The server is about to close the connection.
    Closing {
        /// Why.
        reason: String,
        /// Come back after this time.
        retry_in_ms: u64,
    },
    /// The answer to `ping`.
    Pong {
        /// What was asked with.
        id: Value,
    },
}

/// One change of the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "do")]
enum Change {
    #[serde(rename = "node.put")]
    NodePut {
        id: String,
        kind: String,
        name: String,
        parent: Option<String>,
        order: Option<f64>,
        dependencies: Vec<String>,
        #[serde(flatten)]
        payload: NewPayload,
    },
    #[serde(rename = "node.patch")]
    NodePatch {
        id: String,
        set: Fields,
        #[serde(flatten)]
        payload: NewPayload,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        merge: Option<Value>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        patch: Option<Vec<Value>>,
        /// Bytes that were appended to the payload as one more delta, as base64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        append_base64: Option<String>,
        /// Binary format: likewise, as so many of the raw bytes after the header.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        append_bytes: Option<u64>,
    },
    /// The payload's first deltas are part of its bytes now; it means what it meant, and `revision` stays.
    #[serde(rename = "node.fold")]
    NodeFold {
        id: String,
        /// How many deltas are gone.
        deltas: u64,
        /// The new bytes, as base64.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base_base64: Option<String>,
        /// Binary format: likewise, as so many of the raw bytes after the header.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        base_bytes: Option<u64>,
    },
    /// The node asked for, and everything below it.
    #[serde(rename = "node.remove")]
    NodeRemove { ids: Vec<String> },
    #[serde(rename = "node.lock")]
    NodeLock { id: String, owner: String },
    #[serde(rename = "node.unlock")]
    NodeUnlock { ids: Vec<String> },
    #[serde(rename = "task.put")]
    TaskPut {
        id: String,
        title: String,
        description: String,
        assignee: String,
        status: TaskStatus,
        node: Option<String>,
    },
    #[serde(rename = "task.patch")]
    TaskPatch { id: String, set: Fields },
    #[serde(rename = "task.remove")]
    TaskRemove { id: String },
    #[serde(rename = "chat.post")]
    ChatPost { id: String, kind: ChatKind, text: String },
    #[serde(rename = "member.join")]
    MemberJoin { name: String, role: Role },
    #[serde(rename = "member.leave")]
    MemberLeave { name: String },
    #[serde(rename = "member.set")]
    MemberSet { name: String, metadata: Fields },
    #[serde(rename = "session.set")]
    SessionSet {
        key: String,
        /// Null: it is gone.
        value: Value,
    },
    /// Everybody is offline, every lock is released.
    #[serde(rename = "session.restore")]
    SessionRestore { source: String },
    /// Nodes, tasks, chat and settings are gone; members stay. The named file at the server has what was there.
    #[serde(rename = "session.clear")]
    SessionClear { archive: String },
}

/// A node of the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Node {
    id: String,
    kind: String,
    name: String,
    parent: Option<String>,
    order: Option<f64>,
    dependencies: Vec<String>,
    /// The member who has locked it.
    owner: Option<String>,
    /// The `seq` of the event that last changed it.
    revision: u64,
    #[serde(flatten)]
    payload: Payload,
}

/// A setting of the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Setting {
    key: String,
    /// Any JSON but null.
    value: Value,
}

/// A task of the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Task {
    id: String,
    title: String,
    description: String,
    assignee: String,
    status: TaskStatus,
    node: Option<String>,
    author: String,
    created: i64,
    updated: i64,
    /// The `seq` of the event that last changed it.
    revision: u64,
}

/// A chat message of the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct ChatMessage {
    id: String,
    kind: ChatKind,
    text: String,
    author: String,
    at: i64,
}

/// A member of the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
struct Member {
    name: String,
    /// Null while offline.
    role: Option<Role>,
    online: bool,
    metadata: Fields,
}

/// The schema of all messages.
fn schema() -> Value {
    #[derive(JsonSchema)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Protocol {
        /// What a client sends.
        client: ClientMessage,
        /// What the server sends.
        server: ServerMessage,
    }
    schemars::schema_for!(Protocol).into()
}

#[cfg(test)]
mod tests {
    use super::super::encode;
    use super::super::frame::Format;
    use super::super::message::Incoming;
    use super::super::translate::{self, client_message};
    use super::*;
    use crate::session::{
        self, Author, ClientId, Command, Decision, Event, Limits, MemberName, OpKey, Session, Timestamp,
    };
    use serde_json::json;
    use std::sync::Arc;

    /// One operation of each kind, and the edges of the optional ones.
    fn operations() -> Vec<Value> {
        vec![
            json!({"do":"node.put","id":"room","kind":"collection"}),
            json!({"do":"node.put","id":"chair","kind":"mesh","name":"Chair","parent":"room","order":1.5,
                   "dependencies":["wood"],"payload":{"vertices":[0,1,2]},"if_revision":0}),
            json!({"do":"node.put","id":"raw","kind":"image","media_type":"image/png","payload_base64":"AAEC"}),
            json!({"do":"node.patch","id":"chair","set":{"name":"Stool","parent":null,"order":null,"dependencies":[]}}),
            json!({"do":"node.patch","id":"chair","merge":{"legs":3}}),
            json!({"do":"node.patch","id":"chair","patch":[{"op":"add","path":"/seat","value":1}]}),
            json!({"do":"node.patch","id":"chair","payload":[1]}),
            json!({"do":"node.lock","id":"chair"}),
            json!({"do":"node.unlock","id":"chair"}),
            json!({"do":"task.put","id":"t","title":"Build"}),
            json!({"do":"task.patch","id":"t","set":{"status":"done","node":"chair","assignee":"bob"}}),
            json!({"do":"task.remove","id":"t"}),
            json!({"do":"chat.post","text":"hello"}),
            json!({"do":"chat.post","id":"c1","kind":"code","text":"1 + 1"}),
            json!({"do":"member.set","metadata":{"color":"red"}}),
            json!({"do":"session.set","key":"theme","value":{"dark":true}}),
            json!({"do":"session.set","key":"view","value":[1]}),
            json!({"do":"session.set","key":"theme"}),
            json!({"do":"session.set","key":"nothing","value":null}),
            json!({"do":"node.remove","id":"room","recursive":true}),
        ]
    }

    fn parse(message: &Value) -> translate::ClientMessage {
        let mut incoming = Incoming::new(Format::Json, message.to_string().into()).unwrap();
        client_message(&mut incoming).unwrap_or_else(|bad| panic!("{message}: {bad}"))
    }

    fn message_of(operation: &Value, op: u64) -> Value {
        let mut message = operation.clone();
        message["type"] = json!("op");
        message["op"] = json!(op);
        message
    }

    /// The text of each framed message (all below 64 KiB).
    fn texts(frames: &[bytes::Bytes]) -> Vec<String> {
        framed(frames).into_iter().map(|message| String::from_utf8(message).unwrap()).collect()
    }

    fn framed(frames: &[bytes::Bytes]) -> Vec<Vec<u8>> {
        let bytes = frames.concat();
        let (mut at, mut messages) = (0, Vec::new());
        while at < bytes.len() {
            let (len, head) = match bytes[at + 1] {
                126 => (usize::from(u16::from_be_bytes([bytes[at + 2], bytes[at + 3]])), 4),
                short => (usize::from(short), 2),
            };
            messages.push(bytes[at + head..at + head + len].to_vec());
            at += head + len;
        }
        messages
    }

    /// The header and the raw bytes of each framed binary message (all below 64 KiB).
    fn texts_and_raw(frames: &[bytes::Bytes]) -> impl Iterator<Item = (String, Vec<u8>)> {
        framed(frames).into_iter().map(|message| {
            let header = u32::from_le_bytes(message[..4].try_into().unwrap()) as usize;
            let (text, raw) = message[4..].split_at(header);
            (String::from_utf8(text.to_vec()).unwrap(), raw.to_vec())
        })
    }

    fn played(session: &mut Session, command: &Command, author: &Author) -> Arc<Event> {
        let decision = session.decide(command, author, Timestamp(7), &Limits::default());
        let Ok(Decision::New(event)) = decision else { panic!("{command:?}: {decision:?}") };
        session.evolve(&event);
        Arc::new(event)
    }

    /// What no native client asks for, and all of them are told.
    fn unasked() -> Vec<Command> {
        let id = || session::NodeId::new("raw").unwrap();
        let edit = |payload, if_revision| {
            let patch = session::NodePatch { payload: Some(payload), ..session::NodePatch::default() };
            let operations = vec![session::Operation::NodePatch { id: id(), patch, if_revision }];
            Command::Edit { op: None, operations }
        };
        let revision = operations().len() as u64 + 3;
        vec![
            edit(session::PayloadChange::Append("one".into()), None),
            edit(session::PayloadChange::Append("two".into()), None),
            edit(session::PayloadChange::Fold { deltas: 1, base: "base".into() }, Some(revision)),
        ]
    }

    fn play() -> (Session, Vec<Arc<Event>>) {
        let mut session = Session::new();
        let author = Author { name: MemberName::new("alice").unwrap(), role: session::Role::Admin };
        let mut events = Vec::new();
        let mut commands = vec![Command::Join { client: ClientId(1) }];
        for (index, operation) in operations().iter().enumerate() {
            let op = index as u64 + 1;
            let translate::ClientMessage::Edit(edit) = parse(&message_of(operation, op)) else { panic!("an edit") };
            let crate::live::Work::Operations(operations) = edit.work else { panic!("operations") };
            commands.push(Command::Edit { op: Some(OpKey { client: ClientId(1), op }), operations });
        }
        commands.push(Command::Leave);
        for command in commands {
            events.push(played(&mut session, &command, &author));
        }
        for command in unasked() {
            let daemon = Author { name: MemberName::daemon(), role: session::Role::Admin };
            events.push(played(&mut session, &command, &daemon));
        }
        let restored = Event::restored(session.seq() + 1, Timestamp(8), "a backup");
        session.evolve(&restored);
        events.push(Arc::new(restored));
        // What is played is asked for afterwards, so it is not cleared but told only.
        let changes = vec![session::Change::SessionCleared { archive: "archived.bin".into() }];
        let (seq, author) = (session.seq() + 1, MemberName::daemon());
        events.push(Arc::new(Event { seq, at: Timestamp(9), author, op: None, changes }));
        (session, events)
    }

    #[test]
    fn what_the_door_reads_is_what_the_schema_says() {
        for operation in operations() {
            let message = message_of(&operation, 1);
            let typed: ClientMessage =
                serde_json::from_value(message.clone()).unwrap_or_else(|e| panic!("{message}: {e}"));
            parse(&message);
            parse(&serde_json::to_value(&typed).unwrap());
        }
        let batch = json!({"type":"batch","op":1,"operations":operations()});
        serde_json::from_value::<ClientMessage>(batch.clone()).unwrap();
        parse(&batch);
    }

    #[test]
    fn what_the_door_writes_is_what_the_schema_says() {
        let (_, events) = play();
        let json = texts(&encode::events_json(&events).parts);
        let binary: Vec<String> = texts_and_raw(&encode::events_binary(&events).parts).map(|(text, _)| text).collect();
        assert_eq!((json.len(), binary.len()), (events.len(), events.len()));
        for text in json.into_iter().chain(binary) {
            let written: Value = serde_json::from_str(&text).unwrap();
            let typed: ServerMessage = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(
                serde_json::to_value(typed).unwrap(),
                written,
                "nothing is written that the schema does not know"
            );
        }
    }

    #[test]
    fn bytes_that_grow_are_written_in_both_formats() {
        let (session, events) = play();
        let [.., append, _, fold, _, _] = &events[..] else { panic!("there are more") };
        let change = |text: &str| serde_json::from_str::<Value>(text).unwrap()["changes"][0].clone();
        let shown = |event: &Arc<Event>| change(&texts(&encode::events_json(std::slice::from_ref(event)).parts)[0]);
        assert_eq!(shown(append), json!({"do":"node.patch","id":"raw","set":{},"append_base64":"b25l"}));
        assert_eq!(shown(fold), json!({"do":"node.fold","id":"raw","deltas":1,"base_base64":"YmFzZQ=="}));
        let raw = |event: &Arc<Event>| {
            let frames = encode::events_binary(std::slice::from_ref(event)).parts;
            let (text, raw) = texts_and_raw(&frames).next().unwrap();
            (change(&text), String::from_utf8(raw).unwrap())
        };
        let appended = json!({"do":"node.patch","id":"raw","set":{},"append_bytes":3});
        assert_eq!(raw(append), (appended, "one".to_owned()));
        assert_eq!(raw(fold).1, "base");
        let parts =
            |format| super::super::state_parts::StateParts::new(Box::new(session.clone())).next(format).unwrap();
        let node = |text: &str| serde_json::from_str::<Value>(text).unwrap()["nodes"][1].clone();
        let node_json = node(&texts(&parts(Format::Json))[0]);
        assert_eq!((&node_json["payload_base64"], &node_json["deltas_base64"]), (&json!("YmFzZQ=="), &json!(["dHdv"])));
        let (text, raw) = texts_and_raw(&parts(Format::Binary)).next().unwrap();
        assert_eq!((&node(&text)["payload_bytes"], &node(&text)["deltas_bytes"]), (&json!(4), &json!([3])));
        assert_eq!(raw, b"[1]basetwo", "the chair's comes first");
    }

    #[test]
    fn state_parts_are_what_the_schema_says() {
        let (session, _) = play();
        let grown = session.nodes().find(|node| node.payload.deltas().is_some());
        assert!(grown.is_some() && session.settings().next().is_some(), "there is something of everything");
        let mut parts = super::super::state_parts::StateParts::new(Box::new(session));
        while let Some(part) = parts.next(Format::Json) {
            for text in texts(&part) {
                let written: Value = serde_json::from_str(&text).unwrap();
                let typed: ServerMessage =
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
                assert_eq!(serde_json::to_value(typed).unwrap(), written);
            }
        }
    }

    #[test]
    fn the_schema_in_the_documentation_is_the_generated_one() {
        let text = serde_json::to_string_pretty(&schema()).unwrap() + "\n";
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/native-protocol.schema.json");
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert_eq!(found, text, "run UPDATE_SCHEMA=1 cargo test schema");
    }

    #[test]
    fn the_examples_of_the_documentation_are_valid() {
        let text = include_str!("../../../docs/native-protocol.md");
        let mut examples = 0;
        for line in text.lines().filter(|line| line.starts_with("{\"type\"")) {
            let line = line.replace(",…}", "}");
            let value: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
            let client = serde_json::from_value::<ClientMessage>(value.clone());
            let server = serde_json::from_value::<ServerMessage>(value);
            let known = client.is_ok() || server.is_ok() || line.contains("\"event\"");
            assert!(known, "{line}: {:?} {:?}", client.err(), server.err());
            examples += 1;
        }
        assert!(examples >= 4);
    }
}
