//! Says in words what happened and what a session holds.

use hotset::session::{Change, Event, NodeId, Payload, PayloadChange, Session, TaskStatus};
use std::fmt::Write;

/// One line per change.
pub(crate) fn event(event: &Event) -> Vec<String> {
    let said = event.changes.iter().map(change);
    said.map(|what| format!("#{} {} {what}", event.seq, event.author)).collect()
}

fn ids(ids: &[NodeId]) -> String {
    ids.iter().map(NodeId::as_str).collect::<Vec<_>>().join(" ")
}

fn names<T: ToString>(names: &[T]) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn change(change: &Change) -> String {
    match change {
        Change::NodePut(put) => format!("put node {}", put.id),
        Change::NodePatched { id, patch } => match &patch.payload {
            Some(PayloadChange::Merge(text) | PayloadChange::Patch(text)) => {
                format!("patched node {id} by {}", String::from_utf8_lossy(text))
            }
            Some(PayloadChange::Append(delta)) => format!("appended {} bytes to node {id}", delta.len()),
            Some(PayloadChange::Fold { deltas, base }) => {
                format!("folded {deltas} deltas of node {id} into {} bytes", base.len())
            }
            Some(PayloadChange::Replace(_)) | None => format!("patched node {id}"),
        },
        Change::NodesRemoved { ids: gone } => format!("removed {}", ids(gone)),
        Change::NodeLocked { id, owner } => format!("locked node {id} for {owner}"),
        Change::NodesUnlocked { ids: free } => format!("unlocked {}", ids(free)),
        Change::TaskPut(put) => format!("put task {}", put.id),
        Change::TaskPatched { id, .. } => format!("patched task {id}"),
        Change::TaskRemoved { id } => format!("removed task {id}"),
        Change::ChatPosted(draft) => {
            format!("said '{}' as {}", short(&draft.text), draft.id.as_ref().expect("an id is always given"))
        }
        Change::MemberJoined { client, role } => format!("joined as {} with client {}", role.as_str(), client.0),
        Change::MemberLeft { name } => format!("{name} left"),
        Change::MemberSet { metadata } => format!("remembers {}", String::from_utf8_lossy(metadata)),
        Change::Restored { source } => format!("restored {source}"),
        Change::Forgotten { messages, members, clients } => {
            let clients: Vec<u128> = clients.iter().map(|client| client.0).collect();
            format!("forgot {messages} messages, members [{}], clients [{}]", names(members), names(&clients))
        }
        Change::SettingChanged { key, value: Some(value) } => {
            format!("set {key} to {}", String::from_utf8_lossy(value))
        }
        Change::SessionCleared { archive } => format!("cleared the session, which is in {archive}"),
        Change::SettingChanged { key, value: None } => format!("removed the setting {key}"),
    }
}

fn short(text: &str) -> String {
    if text.len() > 40 { format!("{}… ({} bytes)", &text[..8], text.len()) } else { text.to_owned() }
}

/// What a session holds: one line per thing.
pub(crate) fn state(session: &Session, what: &str) -> Vec<String> {
    match what {
        "nodes" => nodes(session),
        "tasks" => tasks(session),
        "removed" => session.stored_removed_tasks().map(|task| format!("{} by #{}", task.id, task.seq)).collect(),
        "chat" => session.messages().map(|m| format!("{} {}: {}", m.id, m.author, short(&m.text))).collect(),
        "members" => members(session),
        "settings" => {
            session.settings().map(|s| format!("{} = {}", s.key, String::from_utf8_lossy(&s.value))).collect()
        }
        "totals" => vec![format!("{:?}", session.totals())],
        other => panic!("cannot show {other}"),
    }
}

fn nodes(session: &Session) -> Vec<String> {
    session
        .nodes()
        .map(|node| {
            let mut line = format!("{} {} '{}' rev={}", node.id, node.kind, node.name, node.revision);
            let mut say = |args: std::fmt::Arguments<'_>| line.write_fmt(args).expect("a String takes it");
            if let Some(parent) = &node.parent {
                say(format_args!(" under {parent}"));
            }
            if let Some(order) = node.order {
                say(format_args!(" order={order}"));
            }
            if let Some(owner) = &node.owner {
                say(format_args!(" locked by {owner}"));
            }
            if !node.dependencies.is_empty() {
                say(format_args!(" needs {}", ids(&node.dependencies)));
            }
            match &node.payload {
                Payload::Json(text) => say(format_args!(" {}", short(&String::from_utf8_lossy(text)))),
                Payload::Bytes { media_type, data } => say(format_args!(" {media_type} of {} bytes", data.len())),
                Payload::Layered { media_type, base, deltas } => {
                    let deltas: Vec<_> = deltas.iter().map(|delta| String::from_utf8_lossy(delta)).collect();
                    say(format_args!(" {media_type} of {} bytes + {}", base.len(), deltas.join(" + ")));
                }
            }
            line
        })
        .collect()
}

fn tasks(session: &Session) -> Vec<String> {
    session
        .tasks()
        .map(|task| {
            let status = match task.status {
                TaskStatus::Todo => "todo",
                TaskStatus::InProgress => "in-progress",
                TaskStatus::Done => "done",
            };
            let node = task.node.as_ref().map_or("nothing", NodeId::as_str);
            format!(
                "{} '{}' '{}' for '{}' {status} about {node} by {} created={} changed={} rev={}",
                task.id,
                task.title,
                task.description,
                task.assignee,
                task.author,
                task.created.0,
                task.changed.0,
                task.revision
            )
        })
        .collect()
}

fn members(session: &Session) -> Vec<String> {
    session
        .members()
        .map(|member| {
            let online = member.online.map_or_else(
                || format!("offline since #{}", member.seen_seq),
                |online| format!("online as {} with client {}", online.role.as_str(), online.client.0),
            );
            format!("{} {online} {}", member.name, String::from_utf8_lossy(&member.metadata))
        })
        .collect()
}
