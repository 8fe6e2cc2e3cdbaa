//! Tasks and chat between the add-on and the session: each client sends all it knows as one JSON text, stale copies of
//! others' included. What a client means is how that differs from what it sent, or was shown, before.

mod notices;

use crate::session::{ChatDraft, ChatId, ChatKind, MemberName, NodeId, Operation, Session};
use crate::session::{Task, TaskId, TaskPatch, TaskPut, TaskStatus};
use serde_json::{Map, Value as Json};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) use notices::{Notices, Word};

/// Most bytes of one client's tasks or chat.
pub(super) const JSON_BYTES_MAX: usize = 4 << 20;

/// Most tasks that are remembered of one client.
const TASKS_MAX: usize = 100_000;

const TITLE_BYTES_MAX: usize = 256;
const LONG_TEXT_BYTES_MAX: usize = 16 << 10;
const ASSIGNEE_BYTES_MAX: usize = 64;

/// The fields of a task that a client can change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Fields {
    title: Arc<str>,
    description: Arc<str>,
    assignee: Arc<str>,
    status: TaskStatus,
    /// The name of the object it is about; empty for none.
    object: Arc<str>,
}

/// What a client knows of a task.
#[derive(Debug, Clone)]
struct Known {
    /// As it sent it last, or was shown it first: it takes over no changes of a task that it knows. `None`: it may know
    /// anything of it.
    fields: Option<Fields>,
    /// It was in its last message. Only then does leaving it out mean that it is removed.
    sent: bool,
}

/// What one client knows of the session's tasks.
#[derive(Debug, Default)]
pub(super) struct Memory {
    tasks: BTreeMap<TaskId, Known>,
}

impl Memory {
    /// The memory of a client that was here before the server was: it may have any copy of what there is.
    pub(super) fn of_one_who_stayed(state: &Session) -> Self {
        let known = |task: &Arc<Task>| (task.id.clone(), Known { fields: None, sent: false });
        Self { tasks: state.tasks().map(known).collect() }
    }

    /// The client is shown these tasks. It keeps the first version of each.
    pub(super) fn shown(&mut self, state: &Session) {
        for task in state.tasks() {
            if self.tasks.len() < TASKS_MAX && !self.tasks.contains_key(&task.id) {
                let known = Known { fields: Some(fields_of(task, state)), sent: false };
                self.tasks.insert(task.id.clone(), known);
            }
        }
    }

    /// What the client means by sending all its tasks.
    pub(super) fn tasks_said(&mut self, text: &str, state: &Session) -> Result<Vec<Operation>, String> {
        let tasks: Map<String, Json> = serde_json::from_str(text).map_err(|error| format!("tasks: {error}"))?;
        let mut operations = Vec::new();
        let mut there = BTreeSet::new();
        let objects = Objects::of(state);
        for (id, task) in &tasks {
            let id = TaskId::new(id).map_err(|invalid| format!("a task's id {invalid}"))?;
            let said = read_task(task).ok_or_else(|| format!("task {id:?} is not an object"))?;
            operations.extend(self.task_said(&id, &said, &objects));
            there.insert(id);
        }
        let gone: Vec<_> = self.tasks.iter().filter(|(id, known)| known.sent && !there.contains(*id)).collect();
        let gone: Vec<TaskId> = gone.into_iter().map(|(id, _)| id.clone()).collect();
        for id in gone {
            self.tasks.remove(&id);
            operations.push(Operation::TaskRemove { id, if_revision: None });
        }
        Ok(operations)
    }

    fn task_said(&mut self, id: &TaskId, said: &Fields, objects: &Objects<'_>) -> Option<Operation> {
        let state = objects.state;
        if state.task_was_removed(id) {
            // Somebody's copy of what another has removed.
            self.tasks.remove(id);
            return None;
        }
        let before = self.tasks.get(id).cloned();
        let current = state.task(id);
        if before.is_none() && self.tasks.len() >= TASKS_MAX {
            return None;
        }
        self.tasks.insert(id.clone(), Known { fields: Some(said.clone()), sent: true });
        match (before, current) {
            (None, None) => Some(Operation::TaskPut(put(id, said, objects))),
            (Some(Known { fields: Some(before), .. }), _) => changed(id, &before, said, objects),
            (Some(Known { fields: None, .. }) | None, Some(task)) => further(id, task, said),
            (Some(Known { fields: None, .. }), None) => None,
        }
    }
}

fn put(id: &TaskId, said: &Fields, objects: &Objects<'_>) -> TaskPut {
    TaskPut {
        id: id.clone(),
        title: Arc::clone(&said.title),
        description: Arc::clone(&said.description),
        assignee: Arc::clone(&said.assignee),
        status: said.status,
        node: objects.named(&said.object),
        if_revision: None,
    }
}

/// What has changed since the client sent it last.
fn changed(id: &TaskId, before: &Fields, said: &Fields, objects: &Objects<'_>) -> Option<Operation> {
    let differing = |before: &Arc<str>, said: &Arc<str>| (before != said).then(|| Arc::clone(said));
    let patch = TaskPatch {
        title: differing(&before.title, &said.title),
        description: differing(&before.description, &said.description),
        assignee: differing(&before.assignee, &said.assignee),
        status: (before.status != said.status).then_some(said.status),
        node: (before.object != said.object).then(|| objects.named(&said.object)),
    };
    (patch != TaskPatch::default()).then(|| Operation::TaskPatch { id: id.clone(), patch, if_revision: None })
}

/// Nothing is known of the client's copy, which may be stale: it can only move the task forward.
fn further(id: &TaskId, task: &Task, said: &Fields) -> Option<Operation> {
    let progress = |status: TaskStatus| match status {
        TaskStatus::Todo => 0,
        TaskStatus::InProgress => 1,
        TaskStatus::Done => 2,
    };
    let patch = TaskPatch { status: Some(said.status), ..TaskPatch::default() };
    (progress(said.status) > progress(task.status)).then(|| Operation::TaskPatch {
        id: id.clone(),
        patch,
        if_revision: None,
    })
}

/// What the client means by sending its newest chat messages: those of its own that are not known yet are new. Each is
/// an edit of its own.
pub(super) fn chat_said(text: &str, name: &MemberName, state: &Session) -> Result<Vec<Operation>, String> {
    let messages: Vec<Json> = serde_json::from_str(text).map_err(|error| format!("chat: {error}"))?;
    let mut operations = Vec::new();
    for message in &messages {
        let fields = message.as_object().ok_or("a chat message is not an object")?;
        let id = ChatId::new(text_of(fields, "id")).map_err(|invalid| format!("a chat message's id {invalid}"))?;
        let said = text_of(fields, "message");
        if said.is_empty() || text_of(fields, "username") != name.as_str() || state.message(&id).is_some() {
            continue;
        }
        let kind = match text_of(fields, "msg_type") {
            "link" if is_link(said) => ChatKind::Link,
            "code" => ChatKind::Code,
            _ => ChatKind::Text,
        };
        operations.push(Operation::ChatPost(ChatDraft {
            id: Some(id),
            kind,
            text: fitting(said, LONG_TEXT_BYTES_MAX),
        }));
    }
    Ok(operations)
}

/// What the session takes as a link.
fn is_link(text: &str) -> bool {
    (text.starts_with("http://") || text.starts_with("https://"))
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn read_task(task: &Json) -> Option<Fields> {
    let fields = task.as_object()?;
    let title = text_of(fields, "title");
    Some(Fields {
        title: fitting(if title.is_empty() { "(no title)" } else { title }, TITLE_BYTES_MAX),
        description: fitting(text_of(fields, "description"), LONG_TEXT_BYTES_MAX),
        assignee: fitting(text_of(fields, "assigned_to"), ASSIGNEE_BYTES_MAX),
        status: TaskStatus::named(text_of(fields, "status")).unwrap_or(TaskStatus::Todo),
        object: fitting(text_of(fields, "object_name"), NodeId::MAX_BYTES),
    })
}

fn fields_of(task: &Task, state: &Session) -> Fields {
    Fields {
        title: Arc::clone(&task.title),
        description: Arc::clone(&task.description),
        assignee: Arc::clone(&task.assignee),
        status: task.status,
        object: object_name(task, state),
    }
}

/// The objects of a scene by name: looked through at most once for one message, however many tasks name one.
struct Objects<'s> {
    state: &'s Session,
    by_name: OnceCell<BTreeMap<&'s str, Option<&'s NodeId>>>,
}

impl<'s> Objects<'s> {
    fn of(state: &'s Session) -> Self {
        Self { state, by_name: OnceCell::new() }
    }

    /// The only object of that name; where there is none, or more than one, the name stands for itself.
    fn named(&self, name: &str) -> Option<NodeId> {
        if name.is_empty() {
            return None;
        }
        let by_name = self.by_name.get_or_init(|| {
            let mut by_name = BTreeMap::new();
            for node in self.state.nodes().filter(|node| &*node.kind == "Object") {
                by_name.entry(&*node.name).and_modify(|only| *only = None).or_insert(Some(&node.id));
            }
            by_name
        });
        by_name.get(name).copied().flatten().cloned().or_else(|| NodeId::new(name).ok())
    }
}

fn object_name(task: &Task, state: &Session) -> Arc<str> {
    let Some(id) = &task.node else { return "".into() };
    state.node(id).filter(|node| !node.name.is_empty()).map_or_else(|| id.shared(), |node| Arc::clone(&node.name))
}

/// The text under a key; empty if there is none.
fn text_of<'a>(fields: &'a Map<String, Json>, key: &str) -> &'a str {
    fields.get(key).and_then(Json::as_str).unwrap_or_default()
}

/// The text, cut if it is too long.
fn fitting(text: &str, max: usize) -> Arc<str> {
    text[..text.floor_char_boundary(max)].into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::{Author, Command, Decision, Limits, NodePut, Payload, Timestamp};
    use serde_json::json;

    /// A session, and what its clients remember.
    #[derive(Default)]
    struct World {
        state: Session,
    }

    impl World {
        fn does(&mut self, operations: Vec<Operation>) {
            let author = Author::daemon();
            for operation in operations {
                let command = Command::Edit { op: None, operations: vec![operation] };
                let decided = self.state.decide(&command, &author, Timestamp(1_000), &Limits::default());
                let Ok(Decision::New(event)) = decided else { panic!("{decided:?}") };
                self.state.evolve(&event);
            }
        }

        fn says(&mut self, memory: &mut Memory, tasks: &Json) {
            let operations = memory.tasks_said(&tasks.to_string(), &self.state).unwrap();
            self.does(operations);
        }

        fn status(&self, id: &str) -> Option<TaskStatus> {
            self.state.task(&TaskId::new(id).unwrap()).map(|task| task.status)
        }
    }

    fn task(title: &str, status: &str) -> Json {
        json!({ "title": title, "status": status })
    }

    #[test]
    fn a_stale_copy_never_reverts_what_another_has_changed() {
        let mut world = World::default();
        let (mut alice, mut bob) = (Memory::default(), Memory::default());
        world.says(&mut alice, &json!({ "1": task("T1", "todo") }));
        bob.shown(&world.state);
        world.says(&mut alice, &json!({ "1": task("T1", "done") }));
        bob.shown(&world.state);
        world.says(&mut bob, &json!({ "1": task("T1", "todo"), "2": task("T2", "todo") }));
        assert_eq!((world.status("1"), world.status("2")), (Some(TaskStatus::Done), Some(TaskStatus::Todo)));
        world.says(&mut bob, &json!({ "1": task("renamed", "todo"), "2": task("T2", "todo") }));
        let renamed = world.state.task(&TaskId::new("1").unwrap()).unwrap();
        assert_eq!((&*renamed.title, renamed.status), ("renamed", TaskStatus::Done), "only what bob has changed");
    }

    #[test]
    fn only_who_has_sent_a_task_removes_it_by_leaving_it_out_and_it_stays_removed() {
        let mut world = World::default();
        let (mut alice, mut bob) = (Memory::default(), Memory::default());
        world.says(&mut alice, &json!({ "1": task("T1", "todo"), "2": task("T2", "todo") }));
        bob.shown(&world.state);
        world.says(&mut bob, &json!({ "3": task("T3", "todo") }));
        assert!(world.status("1").is_some(), "bob had never loaded it");
        world.says(&mut alice, &json!({ "2": task("T2", "todo") }));
        assert_eq!(world.status("1"), None);
        world.says(&mut bob, &json!({ "1": task("T1", "done"), "3": task("T3", "todo") }));
        assert_eq!(world.status("1"), None, "somebody's copy does not bring it back");
    }

    #[test]
    fn of_one_who_stayed_only_progress_is_believed() {
        let mut world = World::default();
        world.says(&mut Memory::default(), &json!({ "1": task("T1", "in_progress"), "2": task("T2", "todo") }));
        let mut stayed = Memory::of_one_who_stayed(&world.state);
        stayed.shown(&world.state);
        world.says(&mut stayed, &json!({ "1": task("old", "todo"), "2": task("T2", "done") }));
        assert_eq!((world.status("1"), world.status("2")), (Some(TaskStatus::InProgress), Some(TaskStatus::Done)));
        assert_eq!(&*world.state.task(&TaskId::new("1").unwrap()).unwrap().title, "T1");
    }

    #[test]
    fn an_object_is_found_by_its_name_if_there_is_only_one() {
        let mut world = World::default();
        let object = |id: &str, name: &str| {
            Operation::NodePut(NodePut {
                id: NodeId::new(id).unwrap(),
                kind: "Object".into(),
                name: name.into(),
                parent: None,
                order: None,
                dependencies: Vec::new(),
                payload: Payload::null(),
                if_revision: None,
            })
        };
        world.does(vec![object("a", "Cube"), object("b", "Twin"), object("c", "Twin")]);
        let objects = Objects::of(&world.state);
        let found = |name: &str| objects.named(name).map(|id| id.to_string());
        let expected = [Some("a"), Some("Twin"), Some("gone"), None].map(|id| id.map(str::to_owned));
        assert_eq!(["Cube", "Twin", "gone", ""].map(found), expected);
    }

    #[test]
    fn own_messages_are_posted_once_and_others_not_at_all() {
        let mut world = World::default();
        let name = MemberName::new("alice").unwrap();
        let said = json!([
            { "id": "1", "username": "alice", "message": "hello", "msg_type": "text" },
            { "id": "2", "username": "bob", "message": "forged", "msg_type": "text" },
            { "id": "3", "username": "alice", "message": "see https://x", "msg_type": "link" },
            { "id": "4", "username": "alice", "message": "", "msg_type": "text" },
        ])
        .to_string();
        let operations = chat_said(&said, &name, &world.state).unwrap();
        world.does(operations);
        let heard: Vec<_> = world.state.messages().map(|message| (message.id.to_string(), message.kind)).collect();
        assert_eq!(
            heard,
            [("1".to_owned(), ChatKind::Text), ("3".to_owned(), ChatKind::Text)],
            "no link, with a space"
        );
        assert_eq!(chat_said(&said, &name, &world.state), Ok(Vec::new()));
    }

    #[test]
    fn nonsense_is_refused() {
        let state = Session::new();
        for text in ["", "{", "[]", "7", "{\"x\": 1}", "null"] {
            assert!(Memory::default().tasks_said(text, &state).is_err(), "{text}");
        }
        for text in ["", "{}", "[1]", "[{\"id\": \"\"}]"] {
            assert!(chat_said(text, &MemberName::daemon(), &state).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_what_was_said() {
        let mut world = World::default();
        world.says(&mut Memory::default(), &json!({ "1.25": task("T1", "in_progress") }));
        let draft = ChatDraft { id: ChatId::new("2.5").ok(), kind: ChatKind::Code, text: "```x = 1```".into() };
        world.does(vec![Operation::ChatPost(draft)]);
        let mut notices = Notices::default();
        assert_eq!(notices.entries(), None);
        notices.renew(&world.state, 1, &[]);
        let entries = notices.entries().unwrap();
        let shown = |key: &str| {
            let (_, value) = entries.iter().find(|(known, _)| &**known == key).unwrap();
            serde_json::from_str::<Json>(value.as_text().unwrap()).unwrap()
        };
        let task = &shown("tasks")["1.25"];
        assert_eq!((&task["status"], &task["created_at"]), (&json!("in_progress"), &json!(1.25)));
        let message = &shown("chat_messages")[0];
        assert_eq!((&message["metadata"]["code"], &message["timestamp"]), (&json!("x = 1"), &json!(2.5)));
    }
}
