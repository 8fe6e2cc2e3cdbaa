//! Reads the language of the golden scripts: words, `key=value`, and single quotes around what holds spaces.

use bytes::Bytes;
use hotset::session::{
    ChatDraft, ChatId, ChatKind, NodeId, NodePatch, NodePut, Operation, Payload, PayloadChange, TaskId, TaskPatch,
    TaskPut, TaskStatus,
};
use std::sync::Arc;

/// The words of an operation, taken one by one.
pub(crate) struct Words {
    words: Vec<String>,
}

impl Words {
    pub(crate) fn new(line: &str) -> Self {
        let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
        for c in line.chars() {
            match c {
                '\'' => quoted = !quoted,
                ' ' if !quoted => words.push(std::mem::take(&mut word)),
                c => word.push(c),
            }
        }
        words.push(word);
        words.retain(|word| !word.is_empty());
        assert!(!quoted, "a quote is missing: {line}");
        Self { words }
    }

    pub(crate) fn next(&mut self) -> String {
        assert!(!self.words.is_empty(), "words are missing");
        self.words.remove(0)
    }

    /// Takes the words if they come next.
    pub(crate) fn take(&mut self, phrase: &str) -> bool {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        let found = self.words.len() >= phrase.len() && phrase.iter().zip(&self.words).all(|(a, b)| a == b);
        if found {
            self.words.drain(..phrase.len());
        }
        found
    }

    /// Takes the word after `word`, wherever that is.
    pub(crate) fn after(&mut self, word: &str) -> Option<String> {
        let at = self.words.iter().position(|other| other == word)?;
        self.words.remove(at);
        Some(self.words.remove(at))
    }

    /// Takes the value of `key=value`, wherever that is. `x*300` stands for 300 times x.
    pub(crate) fn value(&mut self, key: &str) -> Option<String> {
        let at = self.words.iter().position(|word| word.strip_prefix(key).is_some_and(|rest| rest.starts_with('=')))?;
        Some(expand(&self.words.remove(at)[key.len() + 1..]))
    }

    pub(crate) fn number(&mut self, key: &str) -> Option<u64> {
        self.value(key).map(|value| value.parse().expect("a number"))
    }

    pub(crate) fn done(self) {
        assert!(self.words.is_empty(), "not understood: {:?}", self.words);
    }
}

fn expand(value: &str) -> String {
    match value.split_once('*') {
        Some((text, times)) if times.parse::<usize>().is_ok() => text.repeat(times.parse().expect("a number")),
        _ => value.to_owned(),
    }
}

fn shared(text: impl AsRef<str>) -> Arc<str> {
    text.as_ref().into()
}

pub(crate) fn node_id(text: impl AsRef<str>) -> NodeId {
    NodeId::new(text).expect("a node's id")
}

fn node_ids(text: &str) -> Vec<NodeId> {
    text.split(',').filter(|id| !id.is_empty()).map(node_id).collect()
}

fn status(text: &str) -> TaskStatus {
    match text {
        "todo" => TaskStatus::Todo,
        "in-progress" => TaskStatus::InProgress,
        "done" => TaskStatus::Done,
        _ => panic!("no status: {text}"),
    }
}

fn payload(words: &mut Words) -> Option<Payload> {
    if let Some(text) = words.value("json") {
        return Some(Payload::Json(Bytes::from(text)));
    }
    let media_type = words.value("media")?;
    let data = words.value("data").unwrap_or_default();
    Some(Payload::Bytes { media_type: media_type.into(), data: data.into() })
}

/// Reads one operation, for example `put node chair kind=mesh under room`.
pub(crate) fn operation(line: &str) -> Operation {
    let mut words = Words::new(line);
    let verb = words.next();
    let operation = match verb.as_str() {
        "say" => say(&mut words),
        "remember" => Operation::MemberSet { metadata: words.next().into() },
        "set" => {
            let key = expand(&words.next());
            let value = if words.take("to nothing") { None } else { words.value("to").map(Bytes::from) };
            Operation::SettingSet { key: key.into(), value }
        }
        "clear" => Operation::SessionClear { archive: expand(&words.next()).into() },
        verb => match words.next().as_str() {
            "node" => node(verb, &mut words),
            "task" => task(verb, &mut words),
            other => panic!("neither node nor task: {other}"),
        },
    };
    words.done();
    operation
}

fn say(words: &mut Words) -> Operation {
    let id = words.after("as").map(|id| ChatId::new(id).expect("a message's id"));
    let kind = match words.value("kind").as_deref() {
        None => ChatKind::Text,
        Some("link") => ChatKind::Link,
        Some("code") => ChatKind::Code,
        Some(other) => panic!("no kind of message: {other}"),
    };
    let text = if words.take("nothing") { String::new() } else { expand(&words.next()) };
    Operation::ChatPost(ChatDraft { id, kind, text: text.into() })
}

fn node(verb: &str, words: &mut Words) -> Operation {
    let id = node_id(words.next());
    let if_revision = words.number("if");
    match verb {
        "put" => Operation::NodePut(NodePut {
            id,
            kind: words.value("kind").unwrap_or_else(|| "thing".to_owned()).into(),
            name: words.value("name").unwrap_or_default().into(),
            parent: words.after("under").map(node_id),
            order: words.value("order").map(|order| order.parse().expect("a number")),
            dependencies: words.value("needs").map(|ids| node_ids(&ids)).unwrap_or_default(),
            payload: payload(words).unwrap_or_else(Payload::null),
            if_revision,
        }),
        "append" => Operation::NodePatch { id, patch: appended(words), if_revision },
        "fold" => Operation::NodePatch { id, patch: folded(words), if_revision },
        "patch" => Operation::NodePatch { id, patch: node_patch(words), if_revision },
        "remove" => Operation::NodeRemove { id, recursive: words.take("and all below"), if_revision },
        "lock" => Operation::NodeLock { id },
        "unlock" => Operation::NodeUnlock { id },
        other => panic!("not done to a node: {other}"),
    }
}

/// `append node n data=more needs=other`.
fn appended(words: &mut Words) -> NodePatch {
    let delta = words.value("data").unwrap_or_default();
    NodePatch { payload: Some(PayloadChange::Append(delta.into())), ..node_patch(words) }
}

/// `fold node n deltas=2 data=both if=7`.
fn folded(words: &mut Words) -> NodePatch {
    let deltas = words.number("deltas").unwrap_or(0).try_into().expect("a small number");
    let base = words.value("data").unwrap_or_default().into();
    NodePatch { payload: Some(PayloadChange::Fold { deltas, base }), ..node_patch(words) }
}

fn node_patch(words: &mut Words) -> NodePatch {
    let parent = words.after("under").map(|parent| Some(node_id(parent)));
    let merge = words.value("merge").map(|patch| PayloadChange::Merge(patch.into()));
    let patch = words.value("patch").map(|patch| PayloadChange::Patch(patch.into()));
    NodePatch {
        kind: words.value("kind").map(shared),
        name: words.value("name").map(shared),
        parent: parent.or_else(|| words.take("to the top").then_some(None)),
        order: words.value("order").map(|order| (order != "none").then(|| order.parse().expect("a number"))),
        dependencies: words.value("needs").map(|ids| node_ids(&ids)),
        payload: merge.or(patch).or_else(|| payload(words).map(PayloadChange::Replace)),
    }
}

fn task(verb: &str, words: &mut Words) -> Operation {
    let id = TaskId::new(words.next()).expect("a task's id");
    let if_revision = words.number("if");
    let title = words.value("title").map(shared);
    let description = words.value("text").map(shared);
    let assignee = words.value("for").map(shared);
    let status = words.value("status").map(|text| status(&text));
    let node = words.value("about").map(|id| (id != "nothing").then(|| node_id(id)));
    match verb {
        "put" => Operation::TaskPut(TaskPut {
            id,
            title: title.unwrap_or_default(),
            description: description.unwrap_or_default(),
            assignee: assignee.unwrap_or_default(),
            status: status.unwrap_or(TaskStatus::Todo),
            node: node.flatten(),
            if_revision,
        }),
        "patch" => {
            let patch = TaskPatch { title, description, assignee, status, node };
            Operation::TaskPatch { id, patch, if_revision }
        }
        "remove" => Operation::TaskRemove { id, if_revision },
        other => panic!("not done to a task: {other}"),
    }
}
