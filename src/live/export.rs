//! Export: a session as one JSON document that outlives every codec.

use crate::session::{ChatMessage, Member, Node, Payload, Session, SessionName, Task};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

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

/// Writes the session. `older_chat` are messages that the live state has forgotten and the journal still has.
pub fn export(
    name: &SessionName,
    session: &Session,
    older_chat: &[Arc<ChatMessage>],
    out: &mut impl Write,
) -> io::Result<()> {
    let header = serde_json::json!({ "hotset_export": EXPORT_VERSION, "session": name.as_str(), "seq": session.seq() });
    let header = header.to_string();
    out.write_all(header.strip_suffix('}').unwrap_or(&header).as_bytes())?;
    list(out, "nodes", session.nodes().map(|node| node_out(node)))?;
    list(out, "tasks", session.tasks().map(|task| Ok(task_out(task))))?;
    let chat: BTreeMap<u64, &Arc<ChatMessage>> = older_chat
        .iter()
        .map(|message| (message.seq, message))
        .filter(|(_, m)| session.message(&m.id).is_none())
        .collect();
    let chat = chat.into_values().chain(session.messages());
    list(out, "chat", chat.map(|message| Ok(message_out(message))))?;
    list(out, "members", session.members().map(|member| member_out(member)))?;
    out.write_all(b"\n}\n")
}

fn list<T: Serialize>(
    out: &mut impl Write,
    name: &str,
    entries: impl Iterator<Item = io::Result<T>>,
) -> io::Result<()> {
    write!(out, ",\n\"{name}\":[")?;
    for (index, entry) in entries.enumerate() {
        out.write_all(if index == 0 { b"\n" } else { b",\n" })?;
        serde_json::to_writer(&mut *out, &entry?)?;
    }
    out.write_all(b"]")
}

fn raw(json: &[u8]) -> io::Result<&RawValue> {
    serde_json::from_slice(json).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn node_out(node: &Node) -> io::Result<NodeOut<'_>> {
    let (payload, media_type, payload_base64) = match &node.payload {
        Payload::Json(json) => (Some(raw(json)?), None, None),
        Payload::Bytes { media_type, data } => (None, Some(&**media_type), Some(BASE64.encode(data))),
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
        payload_base64,
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
