//! The loss test's replica: what this client believes the session to be, kept by nothing but states and events.

use super::fingerprint;
use super::wire::Incoming;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io;

/// What a node carries.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// A JSON value.
    Json(Value),
    /// Bytes with a media type.
    Opaque {
        /// How to read them.
        media_type: String,
        /// The bytes.
        data: Vec<u8>,
        /// What was appended to them; nobody sends it so.
        deltas: Vec<Vec<u8>>,
    },
}

type Fields = Map<String, Value>;

struct Node {
    fields: Fields,
    payload: Content,
}

/// The session as far as states and events tell.
#[derive(Default)]
pub(super) struct Replica {
    /// The newest event taken in; 0 while there is no whole state.
    pub(super) seq: u64,
    nodes: BTreeMap<String, Node>,
    tasks: BTreeMap<String, Fields>,
    members: BTreeMap<String, Fields>,
    settings: BTreeMap<String, Value>,
    chat: Vec<Fields>,
}

const NODE_FIELDS: [&str; 5] = ["id", "kind", "name", "parent", "dependencies"];
const TASK_FIELDS: [&str; 6] = ["id", "title", "description", "assignee", "status", "node"];

impl Replica {
    /// Takes one `state` message. A state may also come later, to a reader who has fallen too far behind.
    pub(super) fn load(&mut self, mut part: Incoming) -> io::Result<()> {
        if part.flag("first") {
            *self = Self::default();
        }
        for mut node in part.take_list("nodes") {
            let payload = part.take_payload(&mut node)?.unwrap_or(Content::Json(Value::Null));
            let fields = with_defaults(node, &node_defaults());
            self.nodes.insert(text(&fields, "id"), Node { fields, payload });
        }
        for task in part.take_list("tasks") {
            self.tasks.insert(text(&task, "id"), with_defaults(task, &task_defaults()));
        }
        for member in part.take_list("members") {
            self.members.insert(text(&member, "name"), with_defaults(member, &json!({"metadata": {}})));
        }
        for setting in part.take_list("settings") {
            self.set(&setting);
        }
        self.chat.extend(part.take_list("chat"));
        if part.flag("last") {
            self.seq = part.number("seq");
        }
        part.end()
    }

    /// Takes one `event` message and returns what its changes were about: kind, node, mark.
    pub(super) fn apply(&mut self, mut event: Incoming) -> io::Result<Vec<[String; 3]>> {
        let changes = event.take_list("changes");
        let seq = event.number("seq");
        let restore = changes.iter().any(|change| text(change, "do") == "session.restore");
        if seq != self.seq + 1 && !restore {
            return Err(io::Error::other(format!("event {seq} after {}: a gap", self.seq)));
        }
        let (author, at) = (event.text("author").to_owned(), event.number("at"));
        let mut outlines = Vec::new();
        for mut change in changes {
            let payload = event.take_payload(&mut change)?;
            let grown = match event.take_bytes(&mut change, "append")? {
                Some(delta) => Some(delta),
                None => event.take_bytes(&mut change, "base")?,
            };
            outlines.push(outline(&change, payload.as_ref()));
            let stamp = Stamp { seq, at, author: &author };
            match grown {
                Some(bytes) => self.grow(&change, bytes, stamp)?,
                None => self.change(change, payload, stamp)?,
            }
        }
        self.seq = seq;
        event.end()?;
        Ok(outlines)
    }

    /// A payload has one more delta, or fewer in a new base that means the same.
    fn grow(&mut self, change: &Fields, bytes: Vec<u8>, stamp: Stamp<'_>) -> io::Result<()> {
        let folds = text(change, "do") == "node.fold";
        if !folds {
            self.patch_node(change, None, stamp.seq)?;
        }
        let node = self.nodes.get_mut(&text(change, "id"));
        let node = node.ok_or_else(|| io::Error::other("no node to grow"))?;
        let Content::Opaque { data, deltas, .. } = &mut node.payload else {
            return Err(io::Error::other("a JSON payload does not grow"));
        };
        if !folds {
            deltas.push(bytes);
            return Ok(());
        }
        let gone = change.get("deltas").and_then(Value::as_u64).and_then(|gone| usize::try_from(gone).ok());
        match gone.filter(|gone| *gone <= deltas.len()) {
            Some(gone) => drop(deltas.drain(..gone)),
            None => return Err(io::Error::other("more deltas are folded than there are")),
        }
        *data = bytes;
        Ok(())
    }

    fn set(&mut self, setting: &Fields) {
        let key = text(setting, "key");
        match setting.get("value") {
            None | Some(Value::Null) => drop(self.settings.remove(&key)),
            Some(value) => drop(self.settings.insert(key, value.clone())),
        }
    }

    fn change(&mut self, change: Fields, payload: Option<Content>, stamp: Stamp<'_>) -> io::Result<()> {
        let id = text(&change, "id");
        let listed = |change: &Fields| list(change, "ids");
        match text(&change, "do").as_str() {
            "node.put" => self.put_node(&change, payload, stamp.seq),
            "node.patch" => self.patch_node(&change, payload, stamp.seq)?,
            "node.remove" => listed(&change).iter().for_each(|id| drop(self.nodes.remove(id))),
            "node.lock" => self.set_owner(&[id], change.get("owner").unwrap_or(&Value::Null)),
            "node.unlock" => self.set_owner(&listed(&change), &Value::Null),
            "task.put" => self.put_task(&change, stamp),
            "task.patch" => {
                let task = self.tasks.get_mut(&id).ok_or_else(|| io::Error::other("a patch of no task"))?;
                task.extend(object(change.get("set")));
                task.extend(object(Some(&json!({"updated": stamp.at, "revision": stamp.seq}))));
            }
            "task.remove" => drop(self.tasks.remove(&id)),
            "chat.post" => {
                let defaults = json!({"kind": "text", "author": stamp.author, "at": stamp.at});
                self.chat.push(with_defaults(change, &defaults));
            }
            "member.join" => {
                let member = self.members.entry(text(&change, "name")).or_default();
                member.extend(object(Some(&json!({"online": true, "role": change.get("role")}))));
            }
            "member.leave" => {
                let member = self.members.entry(text(&change, "name")).or_default();
                member.insert("online".to_owned(), false.into());
            }
            "member.set" => {
                let member = self.members.entry(stamp.author.to_owned()).or_default();
                let metadata = member.entry("metadata").or_insert_with(|| json!({}));
                json_patch::merge(metadata, change.get("metadata").unwrap_or(&Value::Null));
            }
            "session.set" => self.set(&change),
            "session.restore" => {
                let all: Vec<String> = self.nodes.keys().cloned().collect();
                self.set_owner(&all, &Value::Null);
                self.members.values_mut().for_each(|member| drop(member.insert("online".to_owned(), false.into())));
            }
            "session.clear" => {
                self.nodes.clear();
                self.tasks.clear();
                self.chat.clear();
                self.settings.clear();
            }
            unknown => return Err(io::Error::other(format!("unknown change {unknown}"))),
        }
        Ok(())
    }

    fn put_node(&mut self, change: &Fields, payload: Option<Content>, seq: u64) {
        let id = text(change, "id");
        let owner = self.nodes.get(&id).and_then(|node| node.fields.get("owner").cloned()).unwrap_or_default();
        let kept = change.iter().filter(|(name, _)| NODE_FIELDS.contains(&name.as_str()) || *name == "order");
        let mut fields =
            with_defaults(kept.map(|(name, value)| (name.clone(), value.clone())).collect(), &node_defaults());
        fields.insert("owner".to_owned(), owner);
        fields.insert("revision".to_owned(), seq.into());
        self.nodes.insert(id, Node { fields, payload: payload.unwrap_or(Content::Json(Value::Null)) });
    }

    fn patch_node(&mut self, change: &Fields, payload: Option<Content>, seq: u64) -> io::Result<()> {
        let node = self.nodes.get_mut(&text(change, "id"));
        let node = node.ok_or_else(|| io::Error::other("a patch of no node"))?;
        node.fields.extend(object(change.get("set")));
        node.fields.insert("revision".to_owned(), seq.into());
        if let Some(payload) = payload {
            node.payload = payload;
        } else if let Content::Json(value) = &mut node.payload {
            if let Some(merge) = change.get("merge") {
                json_patch::merge(value, merge);
            } else if let Some(patch) = change.get("patch") {
                let patch: json_patch::Patch = serde_json::from_value(patch.clone())?;
                json_patch::patch(value, &patch).map_err(io::Error::other)?;
            }
        } else if change.contains_key("merge") || change.contains_key("patch") {
            return Err(io::Error::other("a JSON patch of bytes"));
        }
        Ok(())
    }

    fn set_owner(&mut self, ids: &[String], owner: &Value) {
        for id in ids {
            if let Some(node) = self.nodes.get_mut(id) {
                node.fields.insert("owner".to_owned(), owner.clone());
            }
        }
    }

    fn put_task(&mut self, change: &Fields, stamp: Stamp<'_>) {
        let id = text(change, "id");
        let old = self.tasks.get(&id);
        let author = old.and_then(|task| task.get("author").cloned()).unwrap_or_else(|| stamp.author.into());
        let created = old.and_then(|task| task.get("created").cloned()).unwrap_or_else(|| stamp.at.into());
        let kept = change.iter().filter(|(name, _)| TASK_FIELDS.contains(&name.as_str()));
        let mut task =
            with_defaults(kept.map(|(name, value)| (name.clone(), value.clone())).collect(), &task_defaults());
        let stamps = json!({"author": author, "created": created, "updated": stamp.at, "revision": stamp.seq});
        task.extend(object(Some(&stamps)));
        self.tasks.insert(id, task);
    }

    /// The whole state in a form that is equal for equal states, in every language; payloads as fingerprints.
    pub(super) fn dump(&self) -> Value {
        let nodes = self.nodes.values().map(|node| {
            let mut entry = pick(&node.fields, &[&NODE_FIELDS[..], &["owner", "revision"]].concat());
            let order = node.fields.get("order").filter(|order| !order.is_null()).map(fingerprint::of_json);
            entry.insert("order".to_owned(), order.into());
            entry.insert("payload".to_owned(), fingerprint::of_content(&node.payload).into());
            Value::Object(entry)
        });
        let tasks = self.tasks.values();
        let tasks =
            tasks.map(|task| pick(task, &[&TASK_FIELDS[..], &["author", "created", "updated", "revision"]].concat()));
        let chat = self.chat.iter().map(|said| pick(said, &["id", "kind", "text", "author", "at"]));
        let members = self.members.iter().map(|(name, member)| {
            let online = member.get("online").and_then(Value::as_bool).unwrap_or(false);
            let role = if online { member.get("role").cloned().unwrap_or_default() } else { Value::Null };
            let metadata = fingerprint::of_json(member.get("metadata").unwrap_or(&json!({})));
            json!({"name": name, "role": role, "online": online, "metadata": metadata})
        });
        let settings = self.settings.iter();
        let settings = settings.map(|(key, value)| json!({"key": key, "value": fingerprint::of_json(value)}));
        let objects = |items: Vec<Fields>| Value::Array(items.into_iter().map(Value::Object).collect());
        json!({
            "seq": self.seq,
            "nodes": nodes.collect::<Vec<_>>(),
            "tasks": objects(tasks.collect()),
            "chat": objects(chat.collect()),
            "members": members.collect::<Vec<_>>(),
            "settings": settings.collect::<Vec<_>>(),
        })
    }
}

#[derive(Clone, Copy)]
struct Stamp<'a> {
    seq: u64,
    at: u64,
    author: &'a str,
}

fn node_defaults() -> Value {
    json!({"name": "", "parent": null, "order": null, "dependencies": [], "owner": null})
}

fn task_defaults() -> Value {
    json!({"description": "", "assignee": "", "status": "todo", "node": null})
}

fn text(fields: &Fields, name: &str) -> String {
    fields.get(name).and_then(Value::as_str).unwrap_or("").to_owned()
}

fn list(fields: &Fields, name: &str) -> Vec<String> {
    let items = fields.get(name).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn object(value: Option<&Value>) -> Fields {
    value.and_then(Value::as_object).cloned().unwrap_or_default()
}

fn with_defaults(mut fields: Fields, defaults: &Value) -> Fields {
    for (name, value) in object(Some(defaults)) {
        fields.entry(name).or_insert(value);
    }
    fields
}

fn pick(fields: &Fields, names: &[&str]) -> Fields {
    names.iter().map(|name| ((*name).to_owned(), fields.get(*name).cloned().unwrap_or_default())).collect()
}

/// What the judge needs to know of one change: kind, node, and the mark of the operation that made it.
fn outline(change: &Fields, payload: Option<&Content>) -> [String; 3] {
    let mark = |value: &Value| value["mark"].as_str().unwrap_or("").to_owned();
    let id = text(change, "id");
    match (text(change, "do").as_str(), payload) {
        ("node.put", Some(Content::Opaque { media_type, .. })) => ["put".to_owned(), id, media_type.clone()],
        ("node.put", Some(Content::Json(value))) => ["put".to_owned(), id, mark(value)],
        ("node.patch", _) => match (change.get("merge"), change.get("patch")) {
            (Some(merge), _) => ["merge".to_owned(), id, mark(merge)],
            (None, Some(patch)) => ["add".to_owned(), id, patch[0]["value"].as_str().unwrap_or("").to_owned()],
            (None, None) => ["node.patch".to_owned(), id, String::new()],
        },
        ("chat.post", _) => ["say".to_owned(), id, text(change, "text")],
        (other, _) => [other.to_owned(), String::new(), String::new()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::messages::Dialect;

    fn message(value: &Value) -> Incoming {
        Incoming::decode(Dialect::NativeJson, value.to_string().as_bytes()).unwrap()
    }

    fn event(seq: u64, changes: &Value) -> Incoming {
        message(&json!({"type": "event", "seq": seq, "at": 50, "author": "ann", "changes": changes}))
    }

    fn loaded() -> Replica {
        let mut replica = Replica::default();
        let nodes =
            json!([{"id": "a", "kind": "k", "owner": "ann", "revision": 3, "payload": {"mark": "old", "list": []}}]);
        replica.load(message(&json!({"type": "state", "seq": 4, "nodes": nodes, "last": true}))).unwrap();
        replica
    }

    #[test]
    fn a_state_that_comes_later_replaces_everything() {
        let mut replica = loaded();
        let chat = json!([{"id": "m", "text": "hello"}]);
        replica.load(message(&json!({"type": "state", "seq": 9, "first": true, "chat": chat}))).unwrap();
        assert_eq!(replica.seq, 0, "it is not whole yet");
        replica.load(message(&json!({"type": "state", "seq": 9, "last": true}))).unwrap();
        assert_eq!((replica.seq, replica.nodes.len(), replica.chat.len()), (9, 0, 1));
    }

    #[test]
    fn a_put_replaces_all_but_the_lock() {
        let mut replica = loaded();
        let put = json!([{"do": "node.put", "id": "a", "kind": "other", "payload": {"mark": "new", "list": []}}]);
        assert_eq!(replica.apply(event(5, &put)).unwrap(), [["put", "a", "new"].map(str::to_owned)]);
        let node = &replica.dump()["nodes"][0];
        assert_eq!((&node["kind"], &node["owner"], &node["revision"]), (&json!("other"), &json!("ann"), &json!(5)));
    }

    #[test]
    fn merges_and_patches_change_the_payload() {
        let mut replica = loaded();
        replica.apply(event(5, &json!([{"do": "node.patch", "id": "a", "merge": {"mark": "m", "x": 1}}]))).unwrap();
        let add = json!([{"do": "node.patch", "id": "a", "patch": [{"op": "add", "path": "/list/-", "value": "m2"}]}]);
        assert_eq!(replica.apply(event(6, &add)).unwrap(), [["add", "a", "m2"].map(str::to_owned)]);
        let wanted = fingerprint::of_json(&json!({"mark": "m", "x": 1, "list": ["m2"]}));
        assert_eq!(replica.dump()["nodes"][0]["payload"], wanted);
    }

    #[test]
    fn bytes_grow_and_are_folded() {
        let mut replica = loaded();
        let bytes = json!({"do": "node.put", "id": "b", "kind": "k", "media_type": "x/y", "payload_base64": "YQ=="});
        let append = |text: &str| json!({"do": "node.patch", "id": "b", "set": {"name": "n"}, "append_base64": text});
        replica.apply(event(5, &json!([bytes, append("Yg=="), append("Yw==")]))).unwrap();
        let content = |data: &[u8], deltas: &[&[u8]]| Content::Opaque {
            media_type: "x/y".to_owned(),
            data: data.to_vec(),
            deltas: deltas.iter().map(|delta| delta.to_vec()).collect(),
        };
        assert_eq!(replica.nodes["b"].payload, content(b"a", &[b"b", b"c"]));
        let fold = |deltas| json!([{"do": "node.fold", "id": "b", "deltas": deltas, "base_base64": "YWI="}]);
        replica.apply(event(6, &fold(1))).unwrap();
        assert_eq!(replica.nodes["b"].payload, content(b"ab", &[b"c"]));
        assert_eq!(replica.nodes["b"].fields["revision"], 5, "it means what it meant");
        assert!(replica.apply(event(7, &fold(2))).is_err(), "there is only one left");
    }

    #[test]
    fn settings_come_and_go() {
        let mut replica = loaded();
        let set = |value: Value| json!([{"do": "session.set", "key": "theme", "value": value}]);
        replica.apply(event(5, &set(json!({"dark": 1})))).unwrap();
        let wanted = json!([{"key": "theme", "value": fingerprint::of_json(&json!({"dark": 1.0}))}]);
        assert_eq!(replica.dump()["settings"], wanted);
        replica.apply(event(6, &set(Value::Null))).unwrap();
        assert_eq!(replica.dump()["settings"], json!([]));
    }

    #[test]
    fn a_gap_is_an_error_unless_it_is_a_restore() {
        assert!(loaded().apply(event(6, &json!([]))).is_err());
        let mut replica = loaded();
        replica.apply(event(9, &json!([{"do": "session.restore", "source": "s"}]))).unwrap();
        assert_eq!(replica.dump()["nodes"][0]["owner"], Value::Null);
    }
}
