//! From the session to the wire: every server message of `docs/native-protocol.md`.

use super::frame::{self, Body, Format, FrameWriter};
use crate::live::{Frames, Signal};
use crate::session::{
    Change, ChatDraft, ChatMessage, Deltas, Event, Member, Node, NodeId, NodePatch, NodePut, Payload, PayloadChange,
    Setting, Task, TaskPatch, TaskPut,
};
use bytes::Bytes;
use serde::Serialize;
use std::sync::Arc;

/// Encodes events as JSON text frames.
pub fn events_json(events: &[Arc<Event>]) -> Frames {
    events_in(Format::Json, events)
}

/// Encodes events as binary frames.
pub fn events_binary(events: &[Arc<Event>]) -> Frames {
    events_in(Format::Binary, events)
}

fn events_in(format: Format, events: &[Arc<Event>]) -> Frames {
    let mut writer = FrameWriter::default();
    for event in events {
        writer.message(event_body(format, event));
    }
    writer.finish()
}

/// Encodes a signal as a JSON text frame.
pub(super) fn signal_json(signal: &Signal) -> Bytes {
    signal_in(Format::Json, signal)
}

/// Encodes a signal as a binary frame.
pub(super) fn signal_binary(signal: &Signal) -> Bytes {
    signal_in(Format::Binary, signal)
}

fn signal_in(format: Format, signal: &Signal) -> Bytes {
    let mut body = Object::begin(format, "presence");
    body.field("name", signal.name.as_str());
    body.key("data");
    match &signal.data {
        Some(data) => body.body.text().extend_from_slice(data),
        None => body.body.text().extend_from_slice(b"null"),
    }
    let mut writer = FrameWriter::default();
    writer.message(body.end());
    writer.finish().parts.concat().into()
}

/// Appends a small message that serde can write as it is.
pub(super) fn small(out: &mut Vec<u8>, format: Format, message: &impl Serialize) {
    let mut text = Vec::with_capacity(128);
    write_json(&mut text, message);
    frame::small(out, format, &text);
}

fn write_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    serde_json::to_writer(out, value).expect("wire messages have no maps with odd keys, and memory takes every byte");
}

/// A JSON object under construction.
pub(super) struct Object {
    body: Body,
    first: bool,
}

impl Object {
    /// A message of this type.
    pub(super) fn begin(format: Format, kind: &str) -> Self {
        Self::about(format, kind, 0)
    }

    /// A message of this type and of about this many bytes.
    fn about(format: Format, kind: &str, bytes: usize) -> Self {
        let mut object = Self { body: Body::about(format, bytes), first: true };
        object.open();
        object.field("type", kind);
        object
    }

    pub(super) fn open(&mut self) {
        self.body.text().push(b'{');
        self.first = true;
    }

    pub(super) fn close(&mut self) {
        self.body.text().push(b'}');
        self.first = false;
    }

    pub(super) fn key(&mut self, name: &str) {
        if !self.first {
            self.body.text().push(b',');
        }
        self.first = false;
        let text = self.body.text();
        text.push(b'"');
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"\":");
    }

    pub(super) fn field(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.key(name);
        write_json(self.body.text(), value);
    }

    /// Begins an array of objects.
    pub(super) fn begin_array(&mut self, name: &str) {
        self.key(name);
        self.body.text().push(b'[');
        self.first = true;
    }

    /// One object of the array.
    pub(super) fn item(&mut self, write: impl FnOnce(&mut Self)) {
        if !self.first {
            self.body.text().push(b',');
        }
        self.open();
        write(self);
        self.close();
    }

    /// Ends the array.
    pub(super) fn end_array(&mut self) {
        self.body.text().push(b']');
        self.first = false;
    }

    /// How many bytes it has so far.
    pub(super) fn len(&self) -> usize {
        self.body.len()
    }

    /// The finished message.
    pub(super) fn end(mut self) -> Body {
        self.close();
        self.body
    }

    fn payload(&mut self, payload: &Payload) {
        match (payload, self.body.format()) {
            (Payload::Json(text), Format::Json) => {
                self.key("payload");
                self.body.splice(text);
            }
            (Payload::Json(bytes), Format::Binary) => {
                self.field("payload_bytes", &bytes.len());
                self.body.attach(bytes);
            }
            (Payload::Bytes { media_type, data }, _) => {
                self.field("media_type", &**media_type);
                self.bytes("payload", data);
            }
            (Payload::Layered { media_type, base, deltas }, _) => {
                self.field("media_type", &**media_type);
                self.bytes("payload", base);
                self.deltas(deltas);
            }
        }
    }

    /// Bytes as base64, or as the number of raw ones.
    fn bytes(&mut self, name: &str, data: &Bytes) {
        match self.body.format() {
            Format::Json => {
                self.key(&format!("{name}_base64"));
                self.body.base64(data);
            }
            Format::Binary => {
                self.field(&format!("{name}_bytes"), &data.len());
                self.body.attach(data);
            }
        }
    }

    fn deltas(&mut self, deltas: &Deltas) {
        if self.body.format() == Format::Binary {
            self.field("deltas_bytes", &deltas.iter().map(Bytes::len).collect::<Vec<_>>());
            deltas.iter().for_each(|delta| self.body.attach(delta));
            return;
        }
        self.begin_array("deltas_base64");
        for delta in deltas.iter() {
            if !self.first {
                self.body.text().push(b',');
            }
            self.first = false;
            self.body.base64(delta);
        }
        self.end_array();
    }

    fn json(&mut self, name: &str, text: &Bytes) {
        self.key(name);
        self.body.splice(text);
    }
}

fn ids(ids: &[NodeId]) -> Vec<&str> {
    ids.iter().map(NodeId::as_str).collect()
}

fn event_body(format: Format, event: &Event) -> Body {
    let mut object = Object::about(format, "event", event.size_hint());
    object.field("seq", &event.seq);
    object.field("at", &event.at.0);
    object.field("author", event.author.as_str());
    if let Some(key) = event.op {
        object.field("op", &key.op);
    }
    let shown = event.changes.iter().filter(|change| !matches!(change, Change::Forgotten { .. }));
    object.begin_array("changes");
    for change in shown {
        object.item(|object| write_change(object, event, change));
    }
    object.end_array();
    object.end()
}

fn write_change(out: &mut Object, event: &Event, change: &Change) {
    match change {
        Change::NodePut(put) => write_node_put(out, put),
        Change::NodePatched { id, patch } => match &patch.payload {
            Some(PayloadChange::Fold { deltas, base }) => {
                out.field("do", "node.fold");
                out.field("id", id.as_str());
                out.field("deltas", deltas);
                out.bytes("base", base);
            }
            _ => write_node_patch(out, id, patch),
        },
        Change::NodesRemoved { ids: removed } => {
            out.field("do", "node.remove");
            out.field("ids", &ids(removed));
        }
        Change::NodeLocked { id, owner } => {
            out.field("do", "node.lock");
            out.field("id", id.as_str());
            out.field("owner", owner.as_str());
        }
        Change::NodesUnlocked { ids: unlocked } => {
            out.field("do", "node.unlock");
            out.field("ids", &ids(unlocked));
        }
        Change::TaskPut(put) => write_task_put(out, put),
        Change::TaskPatched { id, patch } => {
            out.field("do", "task.patch");
            out.field("id", id.as_str());
            write_task_patch(out, patch);
        }
        Change::TaskRemoved { id } => {
            out.field("do", "task.remove");
            out.field("id", id.as_str());
        }
        Change::ChatPosted(draft) => write_chat(out, draft),
        Change::MemberJoined { role, .. } => {
            out.field("do", "member.join");
            out.field("name", event.author.as_str());
            out.field("role", role.as_str());
        }
        Change::MemberLeft { name } => {
            out.field("do", "member.leave");
            out.field("name", name.as_str());
        }
        Change::MemberSet { metadata } => {
            out.field("do", "member.set");
            out.field("name", event.author.as_str());
            out.json("metadata", metadata);
        }
        Change::Restored { source } => {
            out.field("do", "session.restore");
            out.field("source", &**source);
        }
        Change::SettingChanged { key, value } => {
            out.field("do", "session.set");
            out.field("key", &**key);
            out.json("value", value.as_ref().unwrap_or(&Bytes::from_static(b"null")));
        }
        Change::SessionCleared { archive } => {
            out.field("do", "session.clear");
            out.field("archive", &**archive);
        }
        Change::Forgotten { .. } => {}
    }
}

fn write_node_put(out: &mut Object, put: &NodePut) {
    out.field("do", "node.put");
    out.field("id", put.id.as_str());
    out.field("kind", &*put.kind);
    out.field("name", &*put.name);
    out.field("parent", &put.parent.as_ref().map(NodeId::as_str));
    out.field("order", &put.order);
    out.field("dependencies", &ids(&put.dependencies));
    out.payload(&put.payload);
}

fn write_node_patch(out: &mut Object, id: &NodeId, patch: &NodePatch) {
    out.field("do", "node.patch");
    out.field("id", id.as_str());
    out.key("set");
    out.open();
    if let Some(kind) = &patch.kind {
        out.field("kind", &**kind);
    }
    if let Some(name) = &patch.name {
        out.field("name", &**name);
    }
    if let Some(parent) = &patch.parent {
        out.field("parent", &parent.as_ref().map(NodeId::as_str));
    }
    if let Some(order) = &patch.order {
        out.field("order", order);
    }
    if let Some(dependencies) = &patch.dependencies {
        out.field("dependencies", &ids(dependencies));
    }
    out.close();
    match &patch.payload {
        None => {}
        Some(PayloadChange::Replace(payload)) => out.payload(payload),
        Some(PayloadChange::Merge(patch)) => out.json("merge", patch),
        Some(PayloadChange::Patch(patch)) => out.json("patch", patch),
        Some(PayloadChange::Append(delta)) => out.bytes("append", delta),
        // Written as a change of its own: it is no change of the node's meaning.
        Some(PayloadChange::Fold { .. }) => {}
    }
}

fn write_task_put(out: &mut Object, put: &TaskPut) {
    out.field("do", "task.put");
    out.field("id", put.id.as_str());
    out.field("title", &*put.title);
    out.field("description", &*put.description);
    out.field("assignee", &*put.assignee);
    out.field("status", put.status.as_str());
    out.field("node", &put.node.as_ref().map(NodeId::as_str));
}

fn write_task_patch(out: &mut Object, patch: &TaskPatch) {
    out.key("set");
    out.open();
    if let Some(title) = &patch.title {
        out.field("title", &**title);
    }
    if let Some(description) = &patch.description {
        out.field("description", &**description);
    }
    if let Some(assignee) = &patch.assignee {
        out.field("assignee", &**assignee);
    }
    if let Some(status) = patch.status {
        out.field("status", status.as_str());
    }
    if let Some(node) = &patch.node {
        out.field("node", &node.as_ref().map(NodeId::as_str));
    }
    out.close();
}

fn write_chat(out: &mut Object, draft: &ChatDraft) {
    out.field("do", "chat.post");
    out.field("id", &draft.id.as_ref().map(crate::session::ChatId::as_str));
    out.field("kind", draft.kind.as_str());
    out.field("text", &*draft.text);
}

pub(super) fn write_node(out: &mut Object, node: &Node) {
    out.field("id", node.id.as_str());
    out.field("kind", &*node.kind);
    out.field("name", &*node.name);
    out.field("parent", &node.parent.as_ref().map(NodeId::as_str));
    out.field("order", &node.order);
    out.field("dependencies", &ids(&node.dependencies));
    out.field("owner", &node.owner.as_ref().map(crate::session::MemberName::as_str));
    out.field("revision", &node.revision);
    out.payload(&node.payload);
}

pub(super) fn write_setting(out: &mut Object, setting: &Setting) {
    out.field("key", &*setting.key);
    out.json("value", &setting.value);
}

pub(super) fn write_task(out: &mut Object, task: &Task) {
    out.field("id", task.id.as_str());
    out.field("title", &*task.title);
    out.field("description", &*task.description);
    out.field("assignee", &*task.assignee);
    out.field("status", task.status.as_str());
    out.field("node", &task.node.as_ref().map(NodeId::as_str));
    out.field("author", task.author.as_str());
    out.field("created", &task.created.0);
    out.field("updated", &task.changed.0);
    out.field("revision", &task.revision);
}

pub(super) fn write_message(out: &mut Object, message: &ChatMessage) {
    out.field("id", message.id.as_str());
    out.field("kind", message.kind.as_str());
    out.field("text", &*message.text);
    out.field("author", message.author.as_str());
    out.field("at", &message.at.0);
}

pub(super) fn write_member(out: &mut Object, member: &Member) {
    out.field("name", member.name.as_str());
    out.field("role", &member.online.map(|online| online.role.as_str()));
    out.field("online", &member.online.is_some());
    out.json("metadata", &member.metadata);
}
