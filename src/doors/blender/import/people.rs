//! Tasks and chat of a repository file: JSON texts in the metadata of those who were online, merged by id.
//!
//! Each user carries the full set they know, their own and others', and the sets differ: a client never takes over a
//! change of a task that it knows already. So a task is taken in its furthest status, from its author if there is a
//! choice; messages are the union.

use super::{ImportError, ImportedChat, ImportedTask, Warnings};
use crate::formats::pickle::Value;
use crate::session::{ChatDraft, ChatId, ChatKind, Limits, NodeId, NodePut, TaskId, TaskPut, TaskStatus, Timestamp};

use serde_json::{Map, Value as Json};
use std::collections::BTreeMap;
use std::sync::Arc;

const TITLE_BYTES_MAX: usize = 256;
const LONG_TEXT_BYTES_MAX: usize = 16 << 10;
const ASSIGNEE_BYTES_MAX: usize = 64;

/// Most bytes of one user's tasks or chat.
const JSON_BYTES_MAX: usize = 16 << 20;

/// Latest time taken as one: the year 9999, in seconds.
const SECONDS_MAX: f64 = 253_402_300_799.0;

/// Reads and merges the tasks and chat of all users in the file; both oldest first.
pub(super) fn tasks_and_chat(
    file: &Value,
    nodes: &[NodePut],
    warnings: &mut Warnings,
) -> Result<(Vec<ImportedTask>, Vec<ImportedChat>), ImportError> {
    let Some(users) = file.get("users") else { return Ok((Vec::new(), Vec::new())) };
    let users = users.as_dict().ok_or_else(|| structure("its users are not a dict"))?;
    let mut merged =
        Merged { objects: objects_by_name(nodes), warnings, tasks: BTreeMap::new(), chat: BTreeMap::new() };
    for (name, record) in users {
        let name = name.as_text().ok_or_else(|| structure("a user's name is not a text"))?;
        let Some(metadata) = record.get("metadata") else { continue };
        if let Some(tasks) = json_of(name, metadata, "tasks")? {
            let tasks = tasks.as_object().ok_or_else(|| structure("a user's tasks are not a JSON object"))?;
            tasks.iter().try_for_each(|(id, task)| merged.task(name, id, task))?;
        }
        if let Some(messages) = json_of(name, metadata, "chat_messages")? {
            let messages = messages.as_array().ok_or_else(|| structure("a user's chat is not a JSON array"))?;
            messages.iter().try_for_each(|message| merged.message(message))?;
        }
    }
    let mut tasks: Vec<_> = merged.tasks.into_values().map(|(task, _)| task).collect();
    let mut chat: Vec<_> = merged.chat.into_values().collect();
    tasks.sort_by_key(|imported| imported.created_at);
    chat.sort_by_key(|imported| imported.at);
    Ok((tasks, chat))
}

/// Keeps only as much chat as a session would.
pub(super) fn forget_oldest(chat: &mut Vec<ImportedChat>, limits: &Limits, warnings: &mut Warnings) {
    let mut bytes = 0;
    let kept = chat.iter().rev().take_while(|imported| {
        bytes += imported.message.text.len() as u64;
        bytes <= limits.chat_bytes
    });
    let kept = kept.count().min(usize::try_from(limits.chat_messages).unwrap_or(usize::MAX));
    let forgotten = chat.len() - kept;
    if forgotten > 0 {
        chat.drain(..forgotten);
        warnings.push(format!("the oldest {forgotten} chat messages are more than a session holds"));
    }
}

/// Seconds since 1970 as a time, if they are one.
pub(super) fn timestamp(seconds: &Value) -> Option<Timestamp> {
    seconds_to_time(seconds.as_f64()?)
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be between 1970 and 9999")]
fn seconds_to_time(seconds: f64) -> Option<Timestamp> {
    (0.0..=SECONDS_MAX).contains(&seconds).then(|| Timestamp((seconds * 1000.0).round() as i64))
}

fn structure(why: &str) -> ImportError {
    ImportError::Structure(why.to_owned())
}

fn json_of(user: &str, metadata: &Value, key: &str) -> Result<Option<Json>, ImportError> {
    let Some(value) = metadata.get(key) else { return Ok(None) };
    let user: String = user.escape_debug().take(64).collect();
    let text = value.as_text().ok_or_else(|| ImportError::Structure(format!("the {key} of {user} are not a text")))?;
    if text.len() > JSON_BYTES_MAX {
        return Err(ImportError::LimitExceeded { what: "the bytes of one user's texts", limit: JSON_BYTES_MAX as u64 });
    }
    serde_json::from_str(text)
        .map(Some)
        .map_err(|error| ImportError::Structure(format!("the {key} of {user} are not JSON: {error}")))
}

/// Ids of objects by their name; where two have the same name, of neither.
fn objects_by_name(nodes: &[NodePut]) -> BTreeMap<Arc<str>, Option<NodeId>> {
    let mut objects = BTreeMap::new();
    for node in nodes.iter().filter(|node| &*node.kind == "Object") {
        objects.entry(node.name.clone()).and_modify(|id| *id = None).or_insert_with(|| Some(node.id.clone()));
    }
    objects
}

struct Merged<'a> {
    objects: BTreeMap<Arc<str>, Option<NodeId>>,
    warnings: &'a mut Warnings,
    /// By id; whether it comes from its author.
    tasks: BTreeMap<String, (ImportedTask, bool)>,
    chat: BTreeMap<String, ImportedChat>,
}

impl Merged<'_> {
    fn task(&mut self, user: &str, id: &str, task: &Json) -> Result<(), ImportError> {
        let fields = task.as_object().ok_or_else(|| structure("a task is not a JSON object"))?;
        let task_id = TaskId::new(id).map_err(|invalid| ImportError::Structure(format!("a task's id {invalid}")))?;
        let created_by: Arc<str> = text(fields, "created_by").into();
        let own = &*created_by == user;
        let task = TaskPut {
            title: self.title(id, fields),
            description: self.fitting(id, text(fields, "description"), LONG_TEXT_BYTES_MAX),
            assignee: self.fitting(id, text(fields, "assigned_to"), ASSIGNEE_BYTES_MAX),
            status: self.status(id, text(fields, "status")),
            node: self.object(id, text(fields, "object_name")),
            id: task_id,
            if_revision: None,
        };
        let created_at = fields.get("created_at").and_then(Json::as_f64).and_then(seconds_to_time);
        self.keep_task(id, ImportedTask { task, created_by, created_at }, own);
        Ok(())
    }

    fn keep_task(&mut self, id: &str, found: ImportedTask, own: bool) {
        let Some((kept, kept_own)) = self.tasks.get(id) else {
            self.tasks.insert(id.to_owned(), (found, own));
            return;
        };
        if *kept == found {
            return;
        }
        let (old, new) = (progress(kept.task.status), progress(found.task.status));
        if new > old || (new == old && own && !kept_own) {
            self.tasks.insert(id.to_owned(), (found, own));
        }
        self.warn(id, "users disagree about it; the furthest status was taken");
    }

    fn title(&mut self, id: &str, fields: &Map<String, Json>) -> Arc<str> {
        let title = text(fields, "title");
        if title.is_empty() {
            self.warn(id, "it has no title");
            return "(no title)".into();
        }
        self.fitting(id, title, TITLE_BYTES_MAX)
    }

    fn status(&mut self, id: &str, status: &str) -> TaskStatus {
        match status {
            "todo" => TaskStatus::Todo,
            "in_progress" => TaskStatus::InProgress,
            "done" => TaskStatus::Done,
            _ => {
                self.warn(id, "its status is unknown; taken as todo");
                TaskStatus::Todo
            }
        }
    }

    fn object(&mut self, id: &str, name: &str) -> Option<NodeId> {
        if name.is_empty() {
            return None;
        }
        let object = self.objects.get(name).cloned().flatten();
        if object.is_none() {
            self.warn(id, "the object it is about is not in the file, or not the only one of its name");
        }
        object
    }

    fn message(&mut self, message: &Json) -> Result<(), ImportError> {
        let fields = message.as_object().ok_or_else(|| structure("a chat message is not a JSON object"))?;
        let id = text(fields, "id");
        let chat_id =
            ChatId::new(id).map_err(|invalid| ImportError::Structure(format!("a chat message's id {invalid}")))?;
        let said = text(fields, "message");
        if said.is_empty() {
            self.warn(id, "it is empty and was left out");
            return Ok(());
        }
        let kind = match text(fields, "msg_type") {
            "link" => ChatKind::Link,
            "code" => ChatKind::Code,
            _ => ChatKind::Text,
        };
        let text_said = self.fitting(id, said, LONG_TEXT_BYTES_MAX);
        let imported = ImportedChat {
            message: ChatDraft { id: Some(chat_id), kind, text: text_said },
            author: text(fields, "username").into(),
            at: fields.get("timestamp").and_then(Json::as_f64).and_then(seconds_to_time),
        };
        self.chat.entry(id.to_owned()).or_insert(imported);
        Ok(())
    }

    /// The text, cut if it is too long.
    fn fitting(&mut self, id: &str, text: &str, max: usize) -> Arc<str> {
        let kept = &text[..text.floor_char_boundary(max)];
        if kept.len() < text.len() {
            self.warn(id, &format!("a text was cut to {} bytes", kept.len()));
        }
        kept.into()
    }

    fn warn(&mut self, id: &str, what: &str) {
        let id: String = id.escape_debug().take(128).collect();
        self.warnings.push(format!("task or message {id}: {what}"));
    }
}

/// The text under a key; empty if there is none.
fn text<'a>(fields: &'a Map<String, Json>, key: &str) -> &'a str {
    fields.get(key).and_then(Json::as_str).unwrap_or_default()
}

fn progress(status: TaskStatus) -> u8 {
    match status {
        TaskStatus::Todo => 0,
        TaskStatus::InProgress => 1,
        TaskStatus::Done => 2,
    }
}
