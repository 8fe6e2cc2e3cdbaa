//! The notices: tasks, chat and the server's own words as the add-on reads them, in the metadata of a user who is nobody.

use super::object_name;
use crate::doors::blender::roster::Entries;
use crate::formats::pickle::Value;
use crate::session::{ChatKind, ChatMessage, Session, Task, Timestamp};
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

/// The newest messages that are shown.
const MESSAGES_MAX: usize = 100;

/// Bytes of their texts.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// How far the time in an id may be from when the server heard of it, in seconds, to be taken as the client's own time.
const TIME_OF_ID_WITHIN: f64 = 86_400.0;

/// What the server itself says, in everybody's chat.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::doors::blender) struct Word {
    /// What.
    pub(in crate::doors::blender) text: String,
    /// When.
    pub(in crate::doors::blender) at: Timestamp,
}

/// What all clients are shown beside the users.
#[derive(Debug, Default)]
pub(in crate::doors::blender) struct Notices {
    people: Option<u64>,
    words: Vec<Word>,
    tasks: Option<Arc<str>>,
    chat: Option<Arc<str>>,
}

impl Notices {
    /// The user who is nobody. Its name sorts after all others: the add-on takes the first user as a leader.
    pub(in crate::doors::blender) const USER: &'static str = "~session";

    /// Brings them up to date. `people` changes with tasks and chat.
    pub(in crate::doors::blender) fn renew(&mut self, state: &Session, people: u64, words: &[Word]) {
        if self.people == Some(people) && self.words == words {
            return;
        }
        self.people = Some(people);
        self.words = words.to_vec();
        let tasks: Map<String, Json> =
            state.tasks().map(|task| (task.id.to_string(), task_json(task, state))).collect();
        self.tasks = (!tasks.is_empty()).then(|| Json::Object(tasks).to_string().into());
        let chat = chat_json(state, words);
        self.chat = (!chat.is_empty()).then(|| Json::Array(chat).to_string().into());
    }

    /// The metadata of that user; `None` if there is nothing to show.
    pub(in crate::doors::blender) fn entries(&self) -> Option<Entries> {
        let entry = |key: &str, text: &Option<Arc<str>>| {
            text.as_ref().map(|text| (Arc::<str>::from(key), Value::Text(Arc::clone(text))))
        };
        let entries: Entries =
            entry("tasks", &self.tasks).into_iter().chain(entry("chat_messages", &self.chat)).collect();
        (!entries.is_empty()).then_some(entries)
    }
}

fn task_json(task: &Task, state: &Session) -> Json {
    json!({
        "id": task.id.as_str(),
        "title": &*task.title,
        "description": &*task.description,
        "assigned_to": &*task.assignee,
        "status": task.status.as_str(),
        "created_by": task.author.as_str(),
        "created_at": time_of(task.id.as_str(), task.created),
        "object_name": &*object_name(task, state),
    })
}

fn chat_json(state: &Session, words: &[Word]) -> Vec<Json> {
    let mut bytes = 0;
    let newest = state.messages().rev().take(MESSAGES_MAX).take_while(|message| {
        bytes += message.text.len();
        bytes <= MESSAGE_BYTES_MAX
    });
    let messages = newest.map(|message| (time_of(message.id.as_str(), message.at), message_json(message)));
    let words = words.iter().enumerate().map(|(index, word)| (seconds(word.at), word_json(index, word)));
    // Clients show them as they come; what two have said at once arrived in any order.
    let mut all: Vec<(f64, Json)> = messages.chain(words).collect();
    all.sort_by(|(one, _), (other, _)| one.total_cmp(other));
    all.into_iter().map(|(_, message)| message).collect()
}

fn message_json(message: &ChatMessage) -> Json {
    let metadata = match message.kind {
        ChatKind::Code => json!({ "code": message.text.trim_start_matches("```").trim_end_matches("```") }),
        ChatKind::Text | ChatKind::Link => json!({}),
    };
    json!({
        "id": message.id.as_str(),
        "username": message.author.as_str(),
        "message": &*message.text,
        "msg_type": message.kind.as_str(),
        "metadata": metadata,
        "timestamp": time_of(message.id.as_str(), message.at),
    })
}

fn word_json(index: usize, word: &Word) -> Json {
    json!({
        "id": format!("{}.{index}", word.at.0),
        "username": Notices::USER,
        "message": word.text,
        "msg_type": "text",
        "metadata": {},
        "timestamp": seconds(word.at),
    })
}

/// The client's own time, to the fraction: the add-on's ids are times. Otherwise the server's.
fn time_of(id: &str, at: Timestamp) -> f64 {
    let heard = seconds(at);
    id.parse().ok().filter(|said: &f64| (said - heard).abs() < TIME_OF_ID_WITHIN).unwrap_or(heard)
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit for 285,000 years")]
fn seconds(at: Timestamp) -> f64 {
    at.0 as f64 / 1_000.0
}
