//! Small sessions that have some of everything, their events, and directories that hold them.

use bytes::Bytes;
use hotset::live::machine::{EventRecord, SessionMachine};
use hotset::session::{
    Author, ChatDraft, ChatId, ChatKind, ClientId, Command, Decision, Event, Limits, MemberName, NodeId, NodePatch,
    NodePut, OpKey, Operation, Payload, PayloadChange, Role, Session, SessionName, TaskId, TaskPut, TaskStatus,
    Timestamp,
};
use hotset::storage::recovery::{self, OpenOptions, Outcome};
use hotset::storage::vfs::{SharedVfs, SimDisk, Vfs, read_all};
use hotset::storage::{Durable, Machine, Record, RecordBody, Run, SaveJob, Store, Trouble};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// When everything here happens.
const NOW: Timestamp = Timestamp(1_736_695_945_000);

fn put(id: &str, parent: Option<&str>, payload: Payload) -> Operation {
    let id_of = |id: &str| NodeId::new(id).unwrap();
    Operation::NodePut(NodePut {
        id: id_of(id),
        kind: "mesh".into(),
        name: "A cube, ü".into(),
        parent: parent.map(id_of),
        order: Some(1.5),
        dependencies: parent.map(id_of).into_iter().collect(),
        payload,
        if_revision: None,
    })
}

fn json(text: &str) -> Payload {
    Payload::Json(Bytes::copy_from_slice(text.as_bytes()))
}

fn appended(id: &str, delta: &'static [u8]) -> Operation {
    let payload = Some(PayloadChange::Append(Bytes::from_static(delta)));
    let patch = NodePatch { payload, ..NodePatch::default() };
    Operation::NodePatch { id: NodeId::new(id).unwrap(), patch, if_revision: None }
}

/// Folds the oldest delta.
fn folded(id: &str, session: &Session) -> Operation {
    let id = NodeId::new(id).unwrap();
    let oldest = session.node(&id).unwrap().payload.deltas().unwrap().get(0).unwrap().revision;
    let payload = Some(PayloadChange::Fold { deltas: 1, base: Bytes::from_static(b"folded") });
    let patch = NodePatch { payload, ..NodePatch::default() };
    Operation::NodePatch { id, patch, if_revision: Some(oldest) }
}

/// Every sort of operation of a client, in an order in which all of them are accepted.
fn operations() -> Vec<Operation> {
    let node = |id: &str| NodeId::new(id).unwrap();
    let patch = NodePatch {
        name: Some("Kugel".into()),
        payload: Some(PayloadChange::Merge(Bytes::from_static(br#"{"b":{"c":[1,2]}}"#))),
        ..NodePatch::default()
    };
    let task = TaskPut {
        id: TaskId::new("t1").unwrap(),
        title: "Light".into(),
        description: "from the left".into(),
        assignee: "bob".into(),
        status: TaskStatus::InProgress,
        node: Some(node("lamp")),
        if_revision: None,
    };
    let said = |id: Option<&str>, kind, text: &str| {
        Operation::ChatPost(ChatDraft { id: id.map(|id| ChatId::new(id).unwrap()), kind, text: text.into() })
    };
    vec![
        put("scene", None, json("{}")),
        put("lamp", Some("scene"), json(r#"{"energy":10.5}"#)),
        put(
            "cube",
            Some("scene"),
            Payload::Bytes { media_type: "x/y".into(), data: Bytes::from_static(b"\0\x01\xff") },
        ),
        put("bolt", Some("cube"), json(r#"{"a":1}"#)),
        Operation::NodePatch { id: node("bolt"), patch, if_revision: None },
        Operation::NodeLock { id: node("cube") },
        said(Some("c1"), ChatKind::Text, "hello"),
        said(None, ChatKind::Link, "https://example.org/"),
        Operation::MemberSet { metadata: Bytes::from_static(br#"{"color":"red"}"#) },
        Operation::SettingSet { key: "theme".into(), value: Some(Bytes::from_static(b"{\"dark\":true}")) },
        appended("cube", b"one"),
        appended("cube", b"\0two"),
        Operation::TaskPut(TaskPut { id: TaskId::new("t2").unwrap(), ..task.clone() }),
        Operation::TaskPut(task),
        Operation::TaskRemove { id: TaskId::new("t2").unwrap(), if_revision: None },
        Operation::NodeRemove { id: node("bolt"), recursive: true, if_revision: None },
    ]
}

fn ran(session: &mut Session, name: &str, command: &Command) -> Event {
    let author = Author { name: MemberName::new(name).unwrap(), role: Role::Admin };
    let decision = session.decide(command, &author, NOW, &Limits::default()).unwrap();
    let Decision::New(event) = decision else { panic!("nothing here is said twice") };
    session.evolve(&event);
    event
}

/// A session in which two members did some of everything, and each of its events.
pub(crate) fn busy() -> (Session, Vec<Event>) {
    let mut session = Session::new();
    let mut events = Vec::new();
    let mut run = |name: &str, command: Command| events.push(ran(&mut session, name, &command));
    for (name, client) in [("alice", 7), ("bob", 8)] {
        run(name, Command::Join { client: ClientId(client) });
    }
    let clear = Command::Edit { op: None, operations: vec![Operation::SessionClear { archive: "a.bin".into() }] };
    run("~hotset", clear);
    for (op, operation) in (1..).zip(operations()) {
        let key = OpKey { client: ClientId(7), op };
        run("alice", Command::Edit { op: Some(key), operations: vec![operation] });
    }
    let key = OpKey { client: ClientId(8), op: 3 };
    let batch = vec![put("a", None, json("1")), put("b", Some("a"), json("null"))];
    run("bob", Command::Edit { op: Some(key), operations: batch });
    run("bob", Command::Leave);
    let fold = Command::Edit { op: None, operations: vec![folded("cube", &session)] };
    events.push(ran(&mut session, "~hotset", &fold));
    (session, events)
}

/// How an event is stored.
pub(crate) fn stored(event: &Event) -> Vec<u8> {
    let mut body = Vec::new();
    EventRecord(Arc::new(event.clone())).encode(&mut body);
    body
}

/// Small segments, no background work, and no history that a start would be right to delete.
pub(crate) fn options(run: u128) -> OpenOptions {
    let mut options = OpenOptions::new(NOW, Run(run));
    options.journal.segment_bytes = 128 << 10;
    options.journal.chunk_bytes = 4 << 10;
    options.journal.seal_after = None;
    options.journal.probe_every = Duration::from_millis(5);
    options.journal.background_spare = false;
    options.keep.max_backups = 20;
    options
}

/// Waits until something is durable.
#[derive(Default)]
struct Ear {
    durable: Mutex<u64>,
    moved: Condvar,
}

impl Durable for Ear {
    fn durable(&self, seq: u64) {
        *self.durable.lock().unwrap() = seq;
        self.moved.notify_all();
    }
    /// Comes only when the machine is stopped on purpose.
    fn trouble(&self, _trouble: Option<Trouble>) {}
}

/// A data directory in which two runs of a daemon each did some of everything and saved now and then; the last events
/// are only in the journal. `in_order`: the last run was stopped, not killed.
pub(crate) fn directory(in_order: bool) -> SimDisk {
    let disk = SimDisk::new();
    let vfs: SharedVfs = Arc::new(disk.clone());
    let (_, events) = busy();
    let middle = events.len() / 2;
    for (run, part) in [(1, &events[..middle]), (2, &events[middle..])] {
        let opened = recovery::open::<SessionMachine>(&vfs, &options(run)).unwrap();
        let session = opened.sessions.into_iter().next().unwrap();
        let Outcome::Serving { mut machine, .. } = session.outcome else { panic!("{:?}", session.outcome) };
        let ear = Arc::new(Ear::default());
        opened.store.listen(&session.name, ear.clone());
        for (index, event) in part.iter().enumerate() {
            let body = stored(event);
            machine.apply(event.seq, &body).unwrap();
            let record = Record::new(event.seq, Arc::new(EventRecord(Arc::new(event.clone()))));
            opened.store.append(&session.name, vec![record]);
            let durable = ear.durable.lock().unwrap();
            drop(ear.moved.wait_while(durable, |durable| *durable < event.seq).unwrap());
            if index % 3 == 1 {
                save(&*opened.store, &session.name, &machine);
            }
        }
        if in_order || run == 1 {
            opened.store.close(Duration::from_secs(30));
        } else {
            disk.stop();
            opened.store.close(Duration::ZERO);
        }
    }
    disk.crash_image(hotset::storage::vfs::Survival::Nothing)
}

fn save(store: &dyn Store, session: &SessionName, machine: &SessionMachine) {
    let (tell, told) = sync_channel(1);
    store.save(SaveJob {
        session: session.clone(),
        state: Box::new(machine.clone()),
        reasons: vec!["auto-save".into()],
        at: NOW,
        also_backup: false,
        done: Box::new(move |outcome| tell.send(outcome).unwrap()),
    });
    told.recv().unwrap().unwrap();
}

/// Every file of a directory with its content, and every folder with nothing.
pub(crate) fn image(vfs: &dyn Vfs) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for name in vfs.list(&folder).unwrap() {
            let path = folder.join(name);
            if vfs.stat(&path).unwrap().is_dir {
                found.insert(path.clone(), None);
                folders.push(path);
            } else if path != Path::new("LOCK") {
                found.insert(path.clone(), Some(read_all(vfs, &path, 1 << 30).unwrap()));
            }
        }
    }
    found
}
