//! Export: a session as one JSON document that outlives every codec.

use crate::session::{ChatMessage, Member, Node, Payload, Session, SessionName, Task};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::value::RawValue;
use std::io::{self, Write};
use std::ops::ControlFlow;

/// The version of the document's shape, in its field `hotset_export`.
pub const EXPORT_VERSION: u32 = 1;

#[derive(Serialize)]
struct NodeOut<'a> {
    id: &'a str,
    kind: &'a str,
    name: &'a str,
    parent: Option<&'a str>,
    order: Option<f64>,
    dependencies: Vec<&'a str>,
    owner: Option<&'a str>,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deltas_base64: Option<Vec<String>>,
}

#[derive(Serialize)]
struct TaskOut<'a> {
    id: &'a str,
    title: &'a str,
    description: &'a str,
    assignee: &'a str,
    status: &'static str,
    node: Option<&'a str>,
    author: &'a str,
    created: i64,
    updated: i64,
    revision: u64,
}

#[derive(Serialize)]
struct MessageOut<'a> {
    id: &'a str,
    kind: &'static str,
    text: &'a str,
    author: &'a str,
    at: i64,
}

#[derive(Serialize)]
struct MemberOut<'a> {
    name: &'a str,
    role: Option<&'static str>,
    online: bool,
    metadata: &'a RawValue,
}

/// Takes messages one after the other, until it has had enough.
pub type ChatVisitor<'a> = dyn FnMut(&ChatMessage) -> ControlFlow<()> + 'a;

/// Writes the session. `chat` hands out what the journal still has of its messages, in order, up to this state: those
/// that the live state has forgotten are written before those that it has.
pub fn export(
    name: &SessionName,
    session: &Session,
    chat: impl FnOnce(&mut ChatVisitor<'_>),
    out: &mut impl Write,
) -> io::Result<()> {
    let header = serde_json::json!({ "hotset_export": EXPORT_VERSION, "session": name.as_str(), "seq": session.seq() });
    let header = header.to_string();
    out.write_all(header.strip_suffix('}').unwrap_or(&header).as_bytes())?;
    list(out, "nodes", session.nodes().map(|node| node_out(node)))?;
    list(out, "tasks", session.tasks().map(|task| Ok(task_out(task))))?;
    chat_list(out, session, chat)?;
    list(out, "members", session.members().map(|member| member_out(member)))?;
    out.write_all(b"\n}\n")
}

fn chat_list(out: &mut impl Write, session: &Session, chat: impl FnOnce(&mut ChatVisitor<'_>)) -> io::Result<()> {
    let mut list = List::begin(out, "chat")?;
    let mut written = Ok(());
    chat(&mut |message| {
        // An id that was forgotten may have been used again.
        let is_live = session.message(&message.id).is_some_and(|live| live.seq == message.seq);
        if !is_live {
            written = list.entry(&message_out(message));
        }
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    written?;
    for message in session.messages() {
        list.entry(&message_out(message))?;
    }
    list.end()
}

fn list<T: Serialize>(
    out: &mut impl Write,
    name: &str,
    entries: impl Iterator<Item = io::Result<T>>,
) -> io::Result<()> {
    let mut list = List::begin(out, name)?;
    for entry in entries {
        list.entry(&entry?)?;
    }
    list.end()
}

/// A field that holds a list, written entry by entry.
struct List<'a, W> {
    out: &'a mut W,
    separator: &'static [u8],
}

impl<'a, W: Write> List<'a, W> {
    fn begin(out: &'a mut W, name: &str) -> io::Result<Self> {
        write!(out, ",\n\"{name}\":[")?;
        Ok(Self { out, separator: b"\n" })
    }

    fn entry(&mut self, entry: &impl Serialize) -> io::Result<()> {
        self.out.write_all(self.separator)?;
        self.separator = b",\n";
        Ok(serde_json::to_writer(&mut *self.out, entry)?)
    }

    fn end(self) -> io::Result<()> {
        self.out.write_all(b"]")
    }
}

fn raw(json: &[u8]) -> io::Result<&RawValue> {
    serde_json::from_slice(json).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn node_out(node: &Node) -> io::Result<NodeOut<'_>> {
    let (payload, media_type, base) = match &node.payload {
        Payload::Json(json) => (Some(raw(json)?), None, None),
        Payload::Bytes { media_type, data } => (None, Some(&**media_type), Some(data)),
        Payload::Layered { media_type, base, .. } => (None, Some(&**media_type), Some(base)),
    };
    Ok(NodeOut {
        id: node.id.as_str(),
        kind: &node.kind,
        name: &node.name,
        parent: node.parent.as_ref().map(crate::session::NodeId::as_str),
        order: node.order,
        dependencies: node.dependencies.iter().map(crate::session::NodeId::as_str).collect(),
        owner: node.owner.as_ref().map(crate::session::MemberName::as_str),
        revision: node.revision,
        payload,
        media_type,
        payload_base64: base.map(|base| BASE64.encode(base)),
        deltas_base64: node.payload.deltas().map(|deltas| deltas.iter().map(|delta| BASE64.encode(delta)).collect()),
    })
}

fn task_out(task: &Task) -> TaskOut<'_> {
    TaskOut {
        id: task.id.as_str(),
        title: &task.title,
        description: &task.description,
        assignee: &task.assignee,
        status: task.status.as_str(),
        node: task.node.as_ref().map(crate::session::NodeId::as_str),
        author: task.author.as_str(),
        created: task.created.0,
        updated: task.changed.0,
        revision: task.revision,
    }
}

fn message_out(message: &ChatMessage) -> MessageOut<'_> {
    MessageOut {
        id: message.id.as_str(),
        kind: message.kind.as_str(),
        text: &message.text,
        author: message.author.as_str(),
        at: message.at.0,
    }
}

fn member_out(member: &Member) -> io::Result<MemberOut<'_>> {
    Ok(MemberOut {
        name: member.name.as_str(),
        role: member.online.map(|online| online.role.as_str()),
        online: member.online.is_some(),
        metadata: raw(&member.metadata)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Author, Change, ChatDraft, ChatKind, Command, Decision, Event, Limits, Operation, Timestamp};

    fn post(texts: &[&str]) -> Command {
        let draft = |text: &&str| ChatDraft { id: None, kind: ChatKind::Text, text: (**text).into() };
        Command::Edit { op: None, operations: texts.iter().map(draft).map(Operation::ChatPost).collect() }
    }

    fn message(event: &Event, change: &Change) -> Option<ChatMessage> {
        let Change::ChatPosted(ChatDraft { id: Some(id), kind, text }) = change else { return None };
        let (id, text, author) = (id.clone(), text.clone(), event.author.clone());
        Some(ChatMessage { id, kind: *kind, text, author, at: event.at, seq: event.seq })
    }

    #[test]
    fn every_message_is_exported_once_however_many_came_with_one_event() {
        let author = Author::daemon();
        let limits = Limits { chat_messages: 2, ..Limits::default() };
        let (mut session, mut said) = (Session::default(), Vec::new());
        for texts in [&["a", "b", "c"][..], &["d", "e"], &["f"]] {
            let Ok(Decision::New(event)) = session.decide(&post(texts), &author, Timestamp(0), &limits) else {
                panic!("it was not accepted")
            };
            session.evolve(&event);
            said.extend(event.changes.iter().filter_map(|change| message(&event, change)));
        }
        assert_eq!(session.messages().count(), 2);
        let mut out = Vec::new();
        let name = SessionName::default_session();
        export(&name, &session, |visit| _ = said.iter().try_for_each(visit), &mut out)
            .expect("memory takes everything");
        let document: serde_json::Value = serde_json::from_slice(&out).expect("it is JSON");
        let texts: Vec<_> = document["chat"].as_array().into_iter().flatten().map(|m| m["text"].as_str()).collect();
        assert_eq!(texts, ["a", "b", "c", "d", "e", "f"].map(Some));
    }
}
