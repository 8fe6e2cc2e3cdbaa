//! Random commands over a small world, so that they often meet.

use bytes::Bytes;
use hotset::session::{
    Author, ChatDraft, ChatId, ChatKind, ClientId, Command, Decision, Event, Limits, MemberName, NodeId, NodePatch,
    NodePut, OpKey, Operation, Payload, PayloadChange, Role, Session, TaskId, TaskPatch, TaskPut, TaskStatus,
    Timestamp,
};
use proptest::collection::vec;
use proptest::option::{self, weighted};
use proptest::prelude::*;
use std::sync::Arc;

/// Limits that random commands reach.
pub(crate) fn narrow_limits() -> Limits {
    Limits {
        nodes: 7,
        payload_bytes_total: 300,
        payload_bytes: 80,
        deltas: 3,
        dependencies: 3,
        depth: 3,
        json_depth: 4,
        batch_operations: 5,
        tasks: 2,
        chat_messages: 4,
        chat_bytes: 20,
        members_online: 3,
        members_remembered: 3,
        metadata_bytes: 60,
        clients_remembered: 2,
        settings: 2,
        setting_bytes: 20,
    }
}

/// Who asks for what. `None`: the daemon restores.
pub(crate) type Step = Option<(Author, Command)>;

/// Commands as different people send them.
pub(crate) fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    vec(weighted(0.99, (author(), command())), 1..most)
}

/// What becomes of the commands: the events that were accepted, and the state after all of them. Who asks for an edit
/// joins first, most of the time: everybody else is refused everything.
pub(crate) fn live(steps: &[Step], limits: &Limits) -> (Vec<Event>, Session) {
    let mut session = Session::new();
    (continued(&mut session, steps, limits), session)
}

/// The same in a session in which something has happened.
pub(crate) fn continued(session: &mut Session, steps: &[Step], limits: &Limits) -> Vec<Event> {
    let mut events = Vec::new();
    for (step, at) in steps.iter().zip(1..) {
        let Some((author, command)) = step else {
            let event = Event::restored(session.seq() + 1, Timestamp(at), "a file");
            session.evolve(&event);
            events.push(event);
            continue;
        };
        let offline = session.member(&author.name).is_none_or(|member| member.online.is_none());
        if offline && at % 8 != 0 && matches!(command, Command::Edit { .. }) {
            let client = ClientId(u128::from(author.name.as_str().as_bytes()[0] % 4));
            events.extend(decided(session, author, &Command::Join { client }, at, limits));
        }
        events.extend(decided(session, author, command, at, limits));
        if at % 4 == 0 {
            events.extend(folded(session, at, limits));
        }
    }
    events
}

/// The daemon folds some of the deltas of the first node that has any. Nothing but the payload changes.
fn folded(session: &mut Session, at: i64, limits: &Limits) -> Option<Event> {
    let node = Arc::clone(session.nodes().find(|node| node.payload.deltas().is_some())?);
    let deltas = node.payload.deltas()?;
    let count = usize::try_from(at).expect("it is not negative") / 4 % deltas.len() + 1;
    let base: Vec<u8> = deltas.iter().take(count).flatten().copied().collect();
    let patch = NodePatch {
        payload: Some(PayloadChange::Fold { deltas: count.try_into().expect("it is small"), base: base.into() }),
        ..NodePatch::default()
    };
    let if_revision = deltas.get(count - 1).map(|delta| delta.revision);
    let operations = vec![Operation::NodePatch { id: node.id.clone(), patch, if_revision }];
    let author = Author { name: MemberName::daemon(), role: Role::Admin };
    let event = decided(session, &author, &Command::Edit { op: None, operations }, at, limits)?;
    let now = session.node(&node.id).expect("folding removes nothing");
    let left = now.payload.deltas().map_or(0, hotset::session::Deltas::len);
    assert_eq!((now.revision, left), (node.revision, deltas.len() - count));
    Some(event)
}

fn decided(session: &mut Session, author: &Author, command: &Command, at: i64, limits: &Limits) -> Option<Event> {
    let before = session.clone();
    let decision = session.decide(command, author, Timestamp(at), limits);
    assert_eq!(before, *session, "deciding changes nothing");
    let Ok(Decision::New(event)) = decision else { return None };
    assert_eq!(event.seq, session.seq() + 1);
    session.evolve(&event);
    Some(event)
}

fn author() -> impl Strategy<Value = Author> {
    let name = prop_oneof![
        9 => "[a-d]".prop_map(|name| MemberName::new(name).expect("a name")),
        1 => Just(MemberName::daemon()),
    ];
    let role = prop_oneof![1 => Just(Role::Viewer), 8 => Just(Role::Member), 2 => Just(Role::Admin)];
    (name, role).prop_map(|(name, role)| Author { name, role })
}

fn client() -> impl Strategy<Value = ClientId> {
    (1u128..5).prop_map(ClientId)
}

fn command() -> impl Strategy<Value = Command> {
    let op = option::of((client(), 1u64..40).prop_map(|(client, op)| OpKey { client, op }));
    prop_oneof![
        6 => client().prop_map(|client| Command::Join { client }),
        2 => Just(Command::Leave),
        60 => (op, vec(operation(), 1..4)).prop_map(|(op, operations)| Command::Edit { op, operations }),
    ]
}

fn node_id() -> impl Strategy<Value = NodeId> {
    "[a-f]".prop_map(|id| NodeId::new(id).expect("an id"))
}

fn task_id() -> impl Strategy<Value = TaskId> {
    "[a-c]".prop_map(|id| TaskId::new(id).expect("an id"))
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-zé]{0,8}".prop_map(Into::into)
}

fn if_revision() -> impl Strategy<Value = Option<u64>> {
    prop_oneof![6 => Just(None), 1 => (0u64..20).prop_map(Some)]
}

fn order() -> impl Strategy<Value = Option<f64>> {
    option::of(-3.0..3.0)
}

/// JSON values as text, and now and then something else.
pub(crate) fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("0.1".to_owned()),
        (0u32..9).prop_map(|number| number.to_string()),
        "[a-c~/]{0,3}".prop_map(|text| format!("\"{text}\"")),
    ];
    let tree = leaf.prop_recursive(4, 12, 3, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(","))),
            vec(("[a-c]", inner), 0..3).prop_map(|fields| {
                let fields: Vec<String> = fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    });
    prop_oneof![20 => tree, 1 => "[\\[\\]{}:,\"a1]{0,8}"]
}

/// RFC 6902 patches over the same few names.
pub(crate) fn json_patch() -> impl Strategy<Value = String> {
    let pointer = || "(/([abc]|[012]|-)){0,3}";
    let operation = (0usize..6, pointer(), pointer(), json()).prop_map(|(kind, path, from, value)| match kind {
        0 => format!(r#"{{"op":"add","path":"{path}","value":{value}}}"#),
        1 => format!(r#"{{"op":"remove","path":"{path}"}}"#),
        2 => format!(r#"{{"op":"replace","path":"{path}","value":{value}}}"#),
        3 => format!(r#"{{"op":"move","path":"{path}","from":"{from}"}}"#),
        4 => format!(r#"{{"op":"copy","path":"{path}","from":"{from}"}}"#),
        _ => format!(r#"{{"op":"test","path":"{path}","value":{value}}}"#),
    });
    vec(operation, 0..6).prop_map(|operations| format!("[{}]", operations.join(",")))
}

fn payload() -> impl Strategy<Value = Payload> {
    prop_oneof![
        4 => json().prop_map(|text| Payload::Json(text.into())),
        2 => (prop_oneof![Just("application/octet-stream"), Just("application/vnd.multi-user.node+pickle")], bytes())
            .prop_map(|(media_type, data)| Payload::Bytes { media_type: media_type.into(), data }),
    ]
}

fn node_put() -> impl Strategy<Value = NodePut> {
    let dependencies = vec(node_id(), 0..3);
    (node_id(), text(), option::of(node_id()), order(), dependencies, payload(), if_revision()).prop_map(
        |(id, name, parent, order, dependencies, payload, if_revision)| {
            let kind = "thing".into();
            NodePut { id, kind, name, parent, order, dependencies, payload, if_revision }
        },
    )
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..8).prop_map(Bytes::from)
}

fn node_patch() -> impl Strategy<Value = NodePatch> {
    let payload = prop_oneof![
        2 => payload().prop_map(PayloadChange::Replace),
        2 => json().prop_map(|text| PayloadChange::Merge(text.into())),
        2 => json_patch().prop_map(|text| PayloadChange::Patch(text.into())),
        4 => bytes().prop_map(PayloadChange::Append),
    ];
    let parent = option::of(option::of(node_id()));
    let dependencies = option::of(vec(node_id(), 0..3));
    (option::of(text()), parent, option::of(order()), dependencies, option::of(payload)).prop_map(
        |(name, parent, order, dependencies, payload)| NodePatch {
            kind: None,
            name,
            parent,
            order,
            dependencies,
            payload,
        },
    )
}

fn status() -> impl Strategy<Value = TaskStatus> {
    prop_oneof![Just(TaskStatus::Todo), Just(TaskStatus::InProgress), Just(TaskStatus::Done)]
}

fn task() -> impl Strategy<Value = Operation> {
    let node = || option::of(node_id());
    prop_oneof![
        (task_id(), text(), text(), status(), node(), if_revision()).prop_map(
            |(id, title, description, status, node, if_revision)| {
                let assignee = "".into();
                Operation::TaskPut(TaskPut { id, title, description, assignee, status, node, if_revision })
            }
        ),
        (task_id(), option::of(text()), option::of(status()), option::of(node()), if_revision()).prop_map(
            |(id, title, status, node, if_revision)| {
                let patch = TaskPatch { title, description: None, assignee: None, status, node };
                Operation::TaskPatch { id, patch, if_revision }
            }
        ),
        (task_id(), if_revision()).prop_map(|(id, if_revision)| Operation::TaskRemove { id, if_revision }),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    let message = option::of("[a-d]".prop_map(|id| ChatId::new(id).expect("an id")));
    prop_oneof![
        6 => node_put().prop_map(Operation::NodePut),
        4 => (node_id(), node_patch(), if_revision())
            .prop_map(|(id, patch, if_revision)| Operation::NodePatch { id, patch, if_revision }),
        2 => (node_id(), any::<bool>(), if_revision())
            .prop_map(|(id, recursive, if_revision)| Operation::NodeRemove { id, recursive, if_revision }),
        2 => node_id().prop_map(|id| Operation::NodeLock { id }),
        1 => node_id().prop_map(|id| Operation::NodeUnlock { id }),
        3 => task(),
        3 => (message, text())
            .prop_map(|(id, text)| Operation::ChatPost(ChatDraft { id, kind: ChatKind::Code, text })),
        2 => json().prop_map(|text| Operation::MemberSet { metadata: Bytes::from(format!("{{\"a\":{text}}}")) }),
        2 => ("(multi-user\\.)?[a-c]", option::of(json()))
            .prop_map(|(key, value)| Operation::SettingSet { key: key.into(), value: value.map(Bytes::from) }),
        1 => text().prop_map(|archive| Operation::SessionClear { archive }),
    ]
}
