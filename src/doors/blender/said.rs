//! What clients say of themselves: tasks and chat go into the session, everything else is presence and passes.

use super::desk::Asked;
use super::farewell::Farewell;
use super::objects::Metadata;
use super::people::{JSON_BYTES_MAX, chat_said};
use super::roster::Entries;
use super::visit::{Stage, Visit};
use crate::formats::pickle::{Value, to_json};
use crate::session::Operation;
use bytes::Bytes;
use serde_json::{Map, Value as Json, json};
use std::sync::Arc;

/// The metadata that holds all tasks that a client knows.
const TASKS: &str = "tasks";

/// The metadata that holds the newest chat messages that a client knows.
const CHAT: &str = "chat_messages";

/// What is remembered of it; everything else changes too often.
const REMEMBERED: [&str; 3] = ["color", "scene_current", "mode_current"];

/// Where, in the member's own metadata.
const REMEMBERED_AS: &str = "multi_user";

/// Bytes of one message of presence.
const PRESENCE_BYTES_MAX: usize = 64 << 10;

/// Bytes of it that members of other doors are shown.
const SHOWN_BYTES_MAX: usize = 16 << 10;

/// Deepest nesting of presence: it is passed on inside other containers.
const DEPTH_MAX: usize = 16;

impl Visit {
    /// A client has said something of itself. Only messages that hold nothing but tasks, or chat, are meant so: in others
    /// they are old copies.
    pub(super) async fn says(&mut self, said: Metadata) -> Result<(), Farewell> {
        if let [(key, Value::Text(text))] = &said.entries[..]
            && (&**key == TASKS || &**key == CHAT)
        {
            let (key, text) = (Arc::clone(key), Arc::clone(text));
            return self.says_to_people(&key, &text).await;
        }
        if said.data.len() > PRESENCE_BYTES_MAX {
            tracing::debug!("{}: {} bytes of metadata are too many", self.name(), said.data.len());
            return Ok(());
        }
        let entries: Entries = said
            .entries
            .into_iter()
            .filter(|(key, value)| &**key != TASKS && &**key != CHAT && !is_deeper(value, DEPTH_MAX))
            .collect();
        if entries.is_empty() {
            return Ok(());
        }
        let remembered = self.remember(&entries);
        self.room.roster.said(self.name(), entries);
        self.show_to_others();
        match remembered {
            Some(metadata) => self.ask(Asked::People, vec![Operation::MemberSet { metadata }], 0).await,
            None => Ok(()),
        }
    }

    /// What changes seldom is remembered with the member, so that it is there after a restart of the server.
    fn remember(&mut self, entries: &Entries) -> Option<Bytes> {
        let mut changed = Map::new();
        for (key, value) in entries.iter().filter(|(key, _)| REMEMBERED.contains(&&**key)) {
            let shown = to_json(value);
            if self.remembered.get(&**key) != Some(&shown) {
                self.remembered.insert(key.to_string(), shown.clone());
                changed.insert(key.to_string(), shown);
            }
        }
        (!changed.is_empty()).then(|| json!({ REMEMBERED_AS: changed }).to_string().into())
    }

    async fn says_to_people(&mut self, key: &str, text: &str) -> Result<(), Farewell> {
        if matches!(self.stage, Stage::DataPending(_)) {
            return Ok(());
        }
        if text.len() > JSON_BYTES_MAX {
            tracing::warn!("{}: {} bytes of {key} are too many", self.name(), text.len());
            return Ok(());
        }
        let state = self.state().await?;
        let operations =
            if key == TASKS { self.memory.tasks_said(text, &state) } else { chat_said(text, self.name(), &state) };
        match operations {
            Ok(operations) => self.ask_for_each(operations).await,
            Err(why) => {
                tracing::warn!("{}: {why}", self.name());
                Ok(())
            }
        }
    }

    /// Each is an edit of its own: one that comes too late does not take the others with it.
    async fn ask_for_each(&mut self, operations: Vec<Operation>) -> Result<(), Farewell> {
        for operation in operations {
            self.ask(Asked::People, vec![operation], 0).await?;
        }
        Ok(())
    }

    /// Members of other doors see what the client says of itself as their own presence: JSON.
    fn show_to_others(&self) {
        let entries = self.room.roster.entries(self.name());
        let shown: Map<String, Json> = entries.iter().map(|(key, value)| (key.to_string(), to_json(value))).collect();
        let text = json!({ "multi_user": shown }).to_string();
        if text.len() <= SHOWN_BYTES_MAX {
            self.membership.signal(Bytes::from(text));
        }
    }
}

/// What a member said of itself before the server was restarted.
pub(super) fn remembered(metadata: &[u8]) -> Entries {
    let Ok(Json::Object(all)) = serde_json::from_slice(metadata) else { return Entries::new() };
    let entries = all.get(REMEMBERED_AS).and_then(Json::as_object).into_iter().flatten();
    let entry = |(key, value): (&String, &Json)| Some((Arc::<str>::from(&**key), from_json(value)?));
    entries.filter(|(key, _)| REMEMBERED.contains(&&***key)).filter_map(entry).collect()
}

/// Texts, and tuples of numbers: a colour is one.
fn from_json(value: &Json) -> Option<Value> {
    match value {
        Json::String(text) => Some(Value::text(text)),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Some(Value::Int(number)),
            None => number.as_f64().map(Value::Float),
        },
        Json::Array(items) if items.len() <= DEPTH_MAX => {
            Some(Value::Tuple(Arc::new(items.iter().filter(|item| item.is_number()).filter_map(from_json).collect())))
        }
        Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
    }
}

/// Whether a value is nested more deeply than so.
fn is_deeper(value: &Value, depth: usize) -> bool {
    let Some(below) = depth.checked_sub(1) else { return true };
    match value {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            items.iter().any(|item| is_deeper(item, below))
        }
        Value::Dict(pairs) => pairs.iter().any(|(key, value)| is_deeper(key, below) || is_deeper(value, below)),
        Value::Object(_) | Value::Class(_) | Value::Persistent(_) => true,
        Value::None | Value::Bool(_) | Value::Int(_) | Value::BigInt(_) | Value::Float(_) => false,
        Value::Text(_) | Value::Bytes(_) => false,
    }
}
