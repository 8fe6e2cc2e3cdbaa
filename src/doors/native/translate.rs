//! From the wire to the session: turns parsed messages into operations, or says what is wrong with them.

use super::PING_ID_BYTES_MAX;
use super::message::{self, BadMessage, Envelope, Incoming, RawOperation, RawSet, base64};
use crate::live::{Edit, Work};
use crate::session::{
    ChatDraft, ChatId, ChatKind, InvalidId, NodeId, NodePatch, NodePut, Operation, Payload, PayloadChange, Rejection,
    TaskId, TaskPatch, TaskPut, TaskStatus, is_blender_media_type,
};
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::Arc;

/// What a client says after `hello`.
#[derive(Debug)]
pub(super) enum ClientMessage {
    /// `op` or `batch`.
    Edit(Edit),
    /// `presence`: JSON text.
    Presence(Bytes),
    /// `ping`: the id, JSON text.
    Ping(String),
}

/// Reads one message.
pub(super) fn client_message(incoming: &mut Incoming) -> Result<ClientMessage, BadMessage> {
    let header = incoming.header();
    let text = message::text(&header)?;
    let envelope: Envelope<'_> = serde_json::from_str(text).map_err(|error| BadMessage::new(None, error))?;
    match &*envelope.kind {
        "op" => {
            let op = number(envelope.op)?;
            let fail = |why: String| BadMessage::new(Some(op), why);
            let raw: RawOperation<'_> = serde_json::from_str(text).map_err(|error| fail(error.to_string()))?;
            if raw.verb == "session.save" {
                return Ok(ClientMessage::Edit(Edit { op, work: Work::Save }));
            }
            let operation = operation(raw, incoming).map_err(fail)?;
            Ok(ClientMessage::Edit(Edit { op, work: Work::Operations(vec![operation]) }))
        }
        "batch" => batch(&envelope, incoming).map(ClientMessage::Edit),
        "presence" => {
            let data = envelope.data.ok_or_else(|| BadMessage::new(None, "presence needs data"))?;
            Ok(ClientMessage::Presence(Bytes::copy_from_slice(data.get().as_bytes())))
        }
        "ping" => {
            let id = envelope.id.map_or("null", |id| id.get());
            if id.len() > PING_ID_BYTES_MAX {
                return Err(BadMessage::new(None, format!("the id of a ping may have {PING_ID_BYTES_MAX} bytes")));
            }
            Ok(ClientMessage::Ping(id.to_owned()))
        }
        "hello" => Err(BadMessage::new(None, "hello was said already")),
        other => Err(BadMessage::new(envelope.op, format!("unknown type {other:?}"))),
    }
}

fn number(op: Option<u64>) -> Result<u64, BadMessage> {
    op.ok_or_else(|| BadMessage::new(None, "op (the client's number for the operation) is missing"))
}

fn batch(envelope: &Envelope<'_>, incoming: &mut Incoming) -> Result<Edit, BadMessage> {
    let op = number(envelope.op)?;
    let fail = |why: String| BadMessage::new(Some(op), why);
    let texts = envelope.operations.as_ref().ok_or_else(|| fail("operations is missing".to_owned()))?;
    let mut operations = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let fail = |why: String| fail(format!("operations[{index}]: {why}"));
        let raw: RawOperation<'_> = serde_json::from_str(text.get()).map_err(|error| fail(error.to_string()))?;
        operations.push(operation(raw, incoming).map_err(fail)?);
    }
    Ok(Edit { op, work: Work::Operations(operations) })
}

fn operation(mut raw: RawOperation<'_>, incoming: &mut Incoming) -> Result<Operation, String> {
    match &*std::mem::take(&mut raw.verb) {
        "node.put" => node_put(&mut raw, incoming),
        "node.patch" => node_patch(&mut raw, incoming),
        "node.remove" => {
            Ok(Operation::NodeRemove { id: node_id(&raw)?, recursive: raw.recursive, if_revision: raw.if_revision })
        }
        "node.lock" => Ok(Operation::NodeLock { id: node_id(&raw)? }),
        "node.unlock" => Ok(Operation::NodeUnlock { id: node_id(&raw)? }),
        "task.put" => task_put(&raw),
        "task.patch" => Ok(Operation::TaskPatch {
            id: task_id(&raw)?,
            patch: task_patch(&raw.set.take().unwrap_or_default())?,
            if_revision: raw.if_revision,
        }),
        "task.remove" => Ok(Operation::TaskRemove { id: task_id(&raw)?, if_revision: raw.if_revision }),
        "chat.post" => chat_post(&raw),
        "member.set" => {
            let metadata = raw.metadata.ok_or("metadata is missing")?;
            Ok(Operation::MemberSet { metadata: incoming.keep(metadata.get()) })
        }
        "session.set" => {
            let value = raw.value.map(|value| incoming.keep(value.get()));
            Ok(Operation::SettingSet { key: shared(Some(raw.key.as_ref().ok_or("key is missing")?)), value })
        }
        "session.save" => Err("session.save cannot be part of a batch".to_owned()),
        other => Err(format!("unknown operation {other:?}")),
    }
}

/// Why such operations are refused to every native client: what the door for Blender checks before it takes it is not
/// to come in through this one.
pub(super) fn reserved(work: &Work) -> Option<Rejection> {
    let Work::Operations(operations) = work else { return None };
    let media_type = operations.iter().find_map(|operation| {
        let (Operation::NodePut(NodePut { payload, .. })
        | Operation::NodePatch { patch: NodePatch { payload: Some(PayloadChange::Replace(payload)), .. }, .. }) =
            operation
        else {
            return None;
        };
        payload.media_type().filter(|media_type| is_blender_media_type(media_type))
    })?;
    Some(Rejection::Reserved(format!("the media type {media_type:?}")))
}

fn named<T>(field: &str, id: Result<T, InvalidId>) -> Result<T, String> {
    id.map_err(|error| format!("{field} {error}"))
}

fn node_id(raw: &RawOperation<'_>) -> Result<NodeId, String> {
    named("id", NodeId::new(raw.id.as_deref().ok_or("id is missing")?))
}

fn task_id(raw: &RawOperation<'_>) -> Result<TaskId, String> {
    named("id", TaskId::new(raw.id.as_deref().ok_or("id is missing")?))
}

fn shared(text: Option<&Cow<'_, str>>) -> Arc<str> {
    text.map_or_else(|| "".into(), |text| (**text).into())
}

fn dependencies(list: &[Cow<'_, str>]) -> Result<Vec<NodeId>, String> {
    list.iter().map(|id| named("dependencies", NodeId::new(id))).collect()
}

fn parent(id: Option<&Cow<'_, str>>) -> Result<Option<NodeId>, String> {
    id.map(|id| named("parent", NodeId::new(id))).transpose()
}

fn node_put(raw: &mut RawOperation<'_>, incoming: &mut Incoming) -> Result<Operation, String> {
    if raw.merge.is_some() || raw.patch.is_some() {
        return Err("node.put takes a payload, not a patch".to_owned());
    }
    Ok(Operation::NodePut(NodePut {
        id: node_id(raw)?,
        kind: shared(Some(raw.kind.as_ref().ok_or("kind is missing")?)),
        name: shared(raw.name.as_ref()),
        parent: parent(raw.parent.as_ref())?,
        order: raw.order,
        dependencies: dependencies(raw.dependencies.as_deref().unwrap_or_default())?,
        payload: payload(raw, incoming)?.unwrap_or_else(Payload::null),
        if_revision: raw.if_revision,
    }))
}

fn payload(raw: &mut RawOperation<'_>, incoming: &mut Incoming) -> Result<Option<Payload>, String> {
    let media_type = raw.media_type.take();
    let content = match (raw.payload, raw.payload_base64.take(), raw.payload_bytes) {
        (None, None, None) => return Ok(None),
        (Some(json), None, None) if media_type.is_none() => return Ok(Some(Payload::Json(incoming.keep(json.get())))),
        (Some(_), None, None) => return Err("media_type goes with payload_base64 or payload_bytes".to_owned()),
        (None, Some(text), None) => base64(&text)?,
        (None, None, Some(len)) => incoming.take_raw(len)?,
        _ => return Err("payload, payload_base64 and payload_bytes exclude each other".to_owned()),
    };
    Ok(Some(match media_type {
        Some(media_type) => Payload::Bytes { media_type: (*media_type).into(), data: content },
        None => Payload::Json(content),
    }))
}

fn node_patch(raw: &mut RawOperation<'_>, incoming: &mut Incoming) -> Result<Operation, String> {
    let set: RawSet<'_> = raw.set.take().unwrap_or_default();
    let replaced = payload(raw, incoming)?.map(PayloadChange::Replace);
    let change = match (replaced, raw.merge, raw.patch) {
        (None, None, None) => None,
        (Some(replace), None, None) => Some(replace),
        (None, Some(merge), None) => Some(PayloadChange::Merge(incoming.keep(merge.get()))),
        (None, None, Some(patch)) => Some(PayloadChange::Patch(incoming.keep(patch.get()))),
        _ => return Err("a payload, merge and patch exclude each other".to_owned()),
    };
    let patch = NodePatch {
        kind: set.kind.as_ref().map(|kind| (**kind).into()),
        name: set.name.as_ref().map(|name| (**name).into()),
        parent: set.parent.as_ref().map(|id| parent(id.as_ref())).transpose()?,
        order: set.order,
        dependencies: set.dependencies.as_deref().map(dependencies).transpose()?,
        payload: change,
    };
    Ok(Operation::NodePatch { id: node_id(raw)?, patch, if_revision: raw.if_revision })
}

fn status(text: &str) -> Result<TaskStatus, String> {
    TaskStatus::named(text).ok_or_else(|| format!("status must be todo, in_progress or done, not {text:?}"))
}

fn task_put(raw: &RawOperation<'_>) -> Result<Operation, String> {
    Ok(Operation::TaskPut(TaskPut {
        id: task_id(raw)?,
        title: shared(Some(raw.title.as_ref().ok_or("title is missing")?)),
        description: shared(raw.description.as_ref()),
        assignee: shared(raw.assignee.as_ref()),
        status: raw.status.as_deref().map_or(Ok(TaskStatus::Todo), status)?,
        node: parent(raw.node.as_ref())?,
        if_revision: raw.if_revision,
    }))
}

fn task_patch(set: &RawSet<'_>) -> Result<TaskPatch, String> {
    let text = |text: &Option<Cow<'_, str>>| text.as_ref().map(|text| Arc::from(&**text));
    Ok(TaskPatch {
        title: text(&set.title),
        description: text(&set.description),
        assignee: text(&set.assignee),
        status: set.status.as_deref().map(status).transpose()?,
        node: set.node.as_ref().map(|id| parent(id.as_ref())).transpose()?,
    })
}

fn chat_post(raw: &RawOperation<'_>) -> Result<Operation, String> {
    let kind = raw.kind.as_deref().unwrap_or(ChatKind::Text.as_str());
    let kind = ChatKind::named(kind).ok_or_else(|| format!("kind must be text, link or code, not {kind:?}"))?;
    let id = raw.id.as_deref().map(|id| named("id", ChatId::new(id))).transpose()?;
    Ok(Operation::ChatPost(ChatDraft { id, kind, text: shared(Some(raw.text.as_ref().ok_or("text is missing")?)) }))
}
