//! Tests of a live session over a store whose disk is in the test's hand.

mod large;
mod restoring;

use super::*;
use crate::session::{
    Author, ChatDraft, ChatKind, ClientId, Command, Decision, Limits, MemberName, NodeId, NodePatch, NodePut,
    Operation, Payload, PayloadChange, Rejection, Role, Session, SessionName, Timestamp,
};
use crate::storage::{Branch, Durable, Early, Record, RestoreJob, ResumePoint, Run, SaveJob, Saved, Store, Trouble};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;

/// A store that makes things durable only when the test says so.
#[derive(Default)]
struct Disk {
    inner: Mutex<DiskInner>,
}

#[derive(Default)]
struct DiskInner {
    listener: Option<Arc<dyn Durable>>,
    written: Vec<u64>,
    early: Vec<Arc<Early>>,
    saves: Vec<SaveJob>,
    restores: Vec<RestoreJob>,
    restored: u128,
}

impl Disk {
    fn sync(&self) {
        let mut inner = self.inner.lock().unwrap();
        for early in inner.early.drain(..) {
            early.set_durable();
        }
        if let Some(listener) = &inner.listener {
            listener.prepared();
        }
        if let (Some(listener), Some(seq)) = (&inner.listener, inner.written.last()) {
            listener.durable(*seq);
        }
    }

    fn trouble(&self, message: Option<&str>) {
        let trouble = message.map(|message| Trouble { disk_full: true, message: message.to_owned() });
        self.inner.lock().unwrap().listener.as_ref().unwrap().trouble(trouble);
    }

    fn take_save(&self) -> Option<SaveJob> {
        self.inner.lock().unwrap().saves.pop()
    }
}

impl Store for Disk {
    fn create_session(&self, _: &SessionName) -> Result<(), String> {
        Ok(())
    }
    fn prepare(&self, _: &SessionName, early: &[Arc<Early>]) {
        self.inner.lock().unwrap().early.extend_from_slice(early);
    }
    fn append(&self, _: &SessionName, records: Vec<Record>) {
        self.inner.lock().unwrap().written.extend(records.iter().map(|record| record.seq));
    }
    fn listen(&self, _: &SessionName, listener: Arc<dyn Durable>) {
        self.inner.lock().unwrap().listener = Some(listener);
    }
    fn save(&self, job: SaveJob) {
        self.inner.lock().unwrap().saves.push(job);
    }
    fn archive(&self, job: SaveJob) {
        self.inner.lock().unwrap().saves.push(job);
    }
    fn restore(&self, job: RestoreJob) {
        self.inner.lock().unwrap().restores.push(job);
    }
    fn resume_point(&self, _: &SessionName) -> ResumePoint {
        let branch = Branch(1 + self.inner.lock().unwrap().restored);
        ResumePoint { branch, run: Run(3), runs: vec![(Run(2), 1), (Run(3), 1)] }
    }
}

struct Stage {
    disk: Arc<Disk>,
    session: SessionHandle,
    settings: watch::Sender<LiveSettings>,
}

fn saved(job: &SaveJob) -> Saved {
    let (seq, reasons) = (job.state.seq(), job.reasons.clone());
    Saved { seq, at: job.at, reasons, bytes: 1, file: "x".to_owned(), published: true, backup: None }
}

fn settings() -> LiveSettings {
    LiveSettings { limits: Limits::default(), save_interval: Duration::from_mins(2), tail: TailLimits::default() }
}

fn stage_with(state: Session) -> Stage {
    let disk = Arc::new(Disk::default());
    let (sender, receiver) = watch::channel(settings());
    let name = SessionName::default_session();
    let origin = SessionOrigin { name, state, recent: Vec::new(), saved: 0, sealed: None };
    let session = SessionHandle::start(origin, Arc::clone(&disk) as Arc<dyn Store>, receiver);
    Stage { disk, session, settings: sender }
}

fn subscriber(name: &str) -> Arc<Subscriber> {
    let name = MemberName::new(name).unwrap();
    let client = name.as_str().bytes().fold(7, |id, byte| id * 31 + u128::from(byte));
    Subscriber::new(name, Role::Member, ClientId(client))
}

fn node(id: &NodeId) -> NodePut {
    NodePut {
        id: id.clone(),
        kind: "mesh".into(),
        name: "".into(),
        parent: None,
        order: None,
        dependencies: Vec::new(),
        payload: Payload::null(),
        if_revision: None,
    }
}

async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

impl Stage {
    /// Joins with the disk working.
    async fn join(&self, name: &str) -> (Joined, Membership) {
        self.join_as(subscriber(name)).await
    }

    async fn join_as(&self, subscriber: Arc<Subscriber>) -> (Joined, Membership) {
        let joining = self.session.join(subscriber, None);
        tokio::pin!(joining);
        loop {
            tokio::select! {
                joined = &mut joining => return joined.unwrap(),
                () = settle() => self.disk.sync(),
            }
        }
    }

    /// The answer to something that must not wait.
    async fn at_once<T>(&self, asked: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(5), asked).await.expect("it is answered")
    }

    /// Makes everything durable and lets the task see it.
    async fn sync(&self) {
        self.disk.sync();
        settle().await;
    }

    async fn say(&self, who: &Membership, op: u64, text: &str) {
        let draft = ChatDraft { id: None, kind: ChatKind::Text, text: text.into() };
        who.edit(vec![Edit { op, work: Work::Operations(vec![Operation::ChatPost(draft)]) }]).await.unwrap();
        settle().await;
    }

    fn head(&self) -> u64 {
        self.session.shared().tail.head()
    }
}

fn acks(who: &Membership) -> Vec<(u64, u64)> {
    let ack = |note| if let Note::Ack { op, seq } = note { Some((op, seq)) } else { None };
    who.subscriber().take_notes().into_iter().filter_map(ack).collect()
}

fn rejections(who: &Membership) -> Vec<(u64, &'static str)> {
    let reject = |note| {
        if let Note::Reject { op, why: Refusal::Rejected(why) } = note { Some((op, why.code())) } else { None }
    };
    who.subscriber().take_notes().into_iter().filter_map(reject).collect()
}

fn is_closed(who: &Membership, why: &Closing) -> bool {
    who.subscriber().take_notes().iter().any(|note| matches!(note, Note::Closing(closing) if closing == why))
}

fn presence(stage: &Stage) -> Vec<(String, String)> {
    let (_, signals) = stage.session.shared().presence.since(0);
    let text = |signal: &Signal| String::from_utf8(signal.data.clone().unwrap().to_vec()).unwrap();
    let mut told: Vec<_> = signals.iter().map(|signal| (signal.name.to_string(), text(signal))).collect();
    told.sort();
    told
}

/// Somebody of that name with a client of their own.
fn stranger(name: &str) -> Arc<Subscriber> {
    Subscriber::new(MemberName::new(name).unwrap(), Role::Member, ClientId(1))
}

#[tokio::test]
async fn nothing_is_seen_or_acknowledged_before_it_is_durable() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    let head = stage.head();
    stage.say(&alice, 1, "hello").await;
    assert_eq!(stage.head(), head, "the event waits for the disk");
    assert_eq!(acks(&alice), []);
    let seen = stage.session.state().await.unwrap();
    assert_eq!(seen.messages().count(), 0, "neither does anyone get a state with it");
    stage.disk.sync();
    settle().await;
    assert_eq!(stage.head(), head + 1);
    assert_eq!(acks(&alice), [(1, head + 1)]);
    assert_eq!(stage.session.state().await.unwrap().messages().count(), 1);
}

#[tokio::test]
async fn a_join_is_answered_when_it_is_durable() {
    let stage = stage_with(Session::default());
    let joining = stage.session.join(subscriber("alice"), None);
    tokio::pin!(joining);
    tokio::select! {
        _ = &mut joining => panic!("answered before the disk"),
        () = settle() => {}
    }
    stage.disk.sync();
    let (joined, _membership) = joining.await.unwrap();
    assert_eq!(joined.head, 1);
    assert!(matches!(joined.start, Start::State(state) if state.seq() == 1));
}

#[tokio::test]
async fn a_repeated_operation_is_answered_again_and_applied_once() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    stage.say(&alice, 1, "once").await;
    stage.say(&alice, 1, "once").await;
    stage.disk.sync();
    settle().await;
    assert_eq!(acks(&alice), [(1, 2), (1, 2)]);
    assert_eq!(stage.head(), 2);
}

#[tokio::test]
async fn while_the_disk_fails_writers_are_refused_and_readers_see_what_is_durable() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    stage.say(&alice, 1, "in the air").await;
    stage.disk.trouble(Some("disk full"));
    settle().await;
    stage.say(&alice, 2, "refused").await;
    let notes = alice.subscriber().take_notes();
    assert!(notes.iter().any(|note| matches!(note, Note::Health(Mode::ReadOnly(why)) if &**why == "disk full")));
    assert!(notes.iter().any(|note| matches!(note, Note::Reject { op: 2, why: Refusal::ReadOnly(_) })));
    let (joined, bob) = stage.session.join(subscriber("bob"), None).await.unwrap();
    assert!(matches!(joined.mode, Mode::ReadOnly(_)));
    assert!(matches!(joined.start, Start::State(state) if state.messages().count() == 0), "not on disk, not shown");
    stage.disk.sync();
    stage.disk.trouble(None);
    settle().await;
    assert_eq!(acks(&alice), [(1, 2)], "what was in the air is on disk now");
    stage.disk.sync();
    settle().await;
    stage.say(&bob, 1, "I may, now").await;
    stage.disk.sync();
    settle().await;
    assert_eq!(acks(&bob).len(), 1);
}

#[tokio::test]
async fn only_tokens_that_this_history_issued_are_resumed() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    for op in 1..=3 {
        stage.say(&alice, op, "x").await;
    }
    stage.disk.sync();
    settle().await;
    let head = stage.head();
    for (branch, run, seq, resumed) in [
        (1, 3, head, true),
        (1, 3, 1, true),
        (1, 3, head + 1_000, false),
        (1, 9, head, false),
        (2, 3, head, false),
        (1, 2, 2, false),
    ] {
        let token = Some(ResumeToken { branch, run, seq, op: None });
        let joining = stage.session.join(subscriber("carol"), token);
        tokio::pin!(joining);
        let (joined, membership) = loop {
            tokio::select! {
                joined = &mut joining => break joined.unwrap(),
                () = settle() => stage.disk.sync(),
            }
        };
        assert_eq!(matches!(joined.start, Start::Resumed(_)), resumed, "{branch} {run} {seq}");
        drop(membership);
        settle().await;
        stage.disk.sync();
        settle().await;
    }
}

#[tokio::test]
async fn a_lost_connection_leaves_and_its_locks_are_released() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    let id = NodeId::new("chair").unwrap();
    let operations = vec![Operation::NodePut(node(&id)), Operation::NodeLock { id: id.clone() }];
    alice.edit(vec![Edit { op: 1, work: Work::Operations(operations) }]).await.unwrap();
    settle().await;
    stage.disk.sync();
    settle().await;
    assert!(stage.session.state().await.unwrap().node(&id).unwrap().owner.is_some());
    drop(alice);
    settle().await;
    stage.disk.sync();
    settle().await;
    let state = stage.session.state().await.unwrap();
    assert_eq!(state.online().count(), 0);
    assert!(state.node(&id).unwrap().owner.is_none());
    let save = stage.disk.take_save().expect("a disconnect saves");
    assert_eq!(save.reasons, ["user_disconnect:alice"]);
}

#[tokio::test(start_paused = true)]
async fn members_of_the_last_run_have_ten_seconds_to_come_back() {
    let mut state = Session::default();
    let author = |name: &str| Author { name: MemberName::new(name).unwrap(), role: Role::Member };
    for name in ["alice", "bob"] {
        let client = subscriber(name).client;
        let join = Command::Join { client };
        let Ok(Decision::New(event)) = state.decide(&join, &author(name), Timestamp(0), &Limits::default()) else {
            panic!("they may join");
        };
        state.evolve(&event);
    }
    let stage = stage_with(state);
    let (_, _alice) = stage.join("alice").await;
    assert_eq!(stage.session.state().await.unwrap().online().count(), 2, "bob may still come");
    tokio::time::advance(Duration::from_secs(11)).await;
    settle().await;
    stage.disk.sync();
    settle().await;
    let online: Vec<_> = stage.session.state().await.unwrap().online().map(|member| member.name.to_string()).collect();
    assert_eq!(online, ["alice"]);
}

#[tokio::test]
async fn a_drain_refuses_edits_tells_everybody_and_saves() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    let draining = tokio::spawn({
        let session = stage.session.clone();
        async move { session.drain(true).await }
    });
    let job = loop {
        settle().await;
        if let Some(job) = stage.disk.take_save() {
            break job;
        }
    };
    assert_eq!(job.reasons, ["shutdown"]);
    assert!(alice.subscriber().take_notes().iter().any(|note| matches!(note, Note::Closing(Closing::Stopping))));
    let saved = saved(&job);
    (job.done)(Ok(saved.clone()));
    assert_eq!(draining.await.unwrap(), Some(Ok(saved)));
    stage.say(&alice, 1, "too late").await;
    assert!(matches!(alice.subscriber().take_notes()[..], [Note::Saved(_), Note::Reject { op: 1, .. }]));
    assert!(stage.session.join(subscriber("bob"), None).await.is_err());
    drop(alice);
    settle().await;
    stage.disk.sync();
    settle().await;
    let state = stage.session.state().await.unwrap();
    assert_eq!(state.online().count(), 1, "whoever is sent away by a stop has not left");
    drop(stage.settings);
}

#[tokio::test]
async fn a_save_that_cannot_be_made_is_refused_at_once() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    let save = |reason: &str| {
        let (session, reason) = (stage.session.clone(), reason.to_owned());
        tokio::spawn(async move { session.save(reason, false).await.unwrap() })
    };
    let first = save("request");
    settle().await;
    let job = stage.disk.take_save().unwrap();
    stage.say(&alice, 1, "newer than the save under way").await;
    stage.sync().await;
    let second = save("signal");
    settle().await;
    stage.disk.trouble(Some("disk full"));
    settle().await;
    let third = save("signal");
    assert_eq!(
        stage.at_once(third).await.unwrap(),
        Err("disk full".to_owned()),
        "asked for while nothing can be saved"
    );
    let saved = saved(&job);
    (job.done)(Ok(saved.clone()));
    assert_eq!(stage.at_once(first).await.unwrap(), Ok(saved));
    assert_eq!(stage.at_once(second).await.unwrap(), Err("disk full".to_owned()), "queued before the disk was full");
    let shared = stage.session.shared();
    assert_eq!(shared.last_save().failed.as_deref(), Some("disk full"));
    assert_eq!((shared.meter.read().saved, shared.meter.read().saves_failed), (1, 2));
    stage.disk.trouble(None);
    settle().await;
    assert!(stage.disk.take_save().is_none(), "whoever was refused has no save coming");
}

#[tokio::test(start_paused = true)]
async fn a_member_may_save_a_viewer_may_not_and_nobody_again_and_again() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    let (_, viewer) = stage.join_as(Subscriber::new(MemberName::new("v").unwrap(), Role::Viewer, ClientId(9))).await;
    let save = |op| vec![Edit { op, work: Work::Save }];
    viewer.edit(save(1)).await.unwrap();
    settle().await;
    assert_eq!(rejections(&viewer), [(1, "forbidden")]);
    assert!(stage.disk.take_save().is_none());
    alice.edit(save(1)).await.unwrap();
    settle().await;
    let job = stage.disk.take_save().expect("a member's");
    let done = saved(&job);
    (job.done)(Ok(done));
    stage.say(&alice, 2, "something new").await;
    alice.edit(save(3)).await.unwrap();
    settle().await;
    assert!(stage.disk.take_save().is_none(), "it waits");
    tokio::time::advance(Duration::from_millis(1_001)).await;
    settle().await;
    assert_eq!(stage.disk.take_save().expect("it comes").reasons, ["request:alice"]);
}

fn merges(first: u64, count: u64) -> Vec<Edit> {
    let merge = |op| {
        let payload = Some(PayloadChange::Merge(format!("{{\"b\":{op}}}").into()));
        let patch = NodePatch { payload, ..NodePatch::default() };
        let operation = Operation::NodePatch { id: NodeId::new("large").unwrap(), patch, if_revision: None };
        Edit { op, work: Work::Operations(vec![operation]) }
    };
    (first..first + count).map(merge).collect()
}

#[tokio::test]
async fn large_patches_of_one_do_not_hold_up_another_and_are_all_made_also_when_he_goes() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    let (_, mallory) = stage.join("mallory").await;
    let payload = Payload::Json(format!("{{\"a\":[{}1]}}", "1,".repeat(256 << 10)).into());
    let put = NodePut { payload, ..node(&NodeId::new("large").unwrap()) };
    mallory.edit(vec![Edit { op: 1, work: Work::Operations(vec![Operation::NodePut(put)]) }]).await.unwrap();
    settle().await;
    stage.sync().await;
    stage.sync().await;
    let head = stage.head();
    mallory.edit(merges(2, 12)).await.unwrap();
    tokio::task::yield_now().await;
    let draft = ChatDraft { id: None, kind: ChatKind::Text, text: "and I?".into() };
    alice.edit(vec![Edit { op: 1, work: Work::Operations(vec![Operation::ChatPost(draft)]) }]).await.unwrap();
    for _ in 0..8 {
        // There is always something to hear from the disk.
        stage.disk.sync();
        tokio::task::yield_now().await;
    }
    drop(mallory);
    while stage.session.state().await.unwrap().online().count() > 1 {
        stage.sync().await;
    }
    let [(1, seq)] = acks(&alice)[..] else { panic!("one answer") };
    assert!(seq <= head + 3, "one or two patches came first, not all of them: {seq} after {head}");
    assert_eq!(stage.head(), head + 14, "all twelve, one message, and then he left");
}

#[tokio::test]
async fn however_much_waits_for_a_disk_in_trouble_nobody_waits_with_it() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    for op in 1..=5 {
        let id = NodeId::new(format!("n{op}")).unwrap();
        let payload = Payload::Bytes { media_type: "x/y".into(), data: vec![7; 16 << 20].into() };
        let put = NodePut { payload, ..node(&id) };
        alice.edit(vec![Edit { op, work: Work::Operations(vec![Operation::NodePut(put)]) }]).await.unwrap();
        settle().await;
    }
    stage.disk.trouble(Some("disk full"));
    settle().await;
    stage.say(&alice, 6, "refused").await;
    let notes = alice.subscriber().take_notes();
    assert!(notes.iter().any(|note| matches!(note, Note::Reject { op: 6, why: Refusal::ReadOnly(_) })));
    assert_eq!(stage.at_once(stage.session.state()).await.unwrap().seq(), 1);
    assert_eq!(stage.at_once(stage.session.drain(false)).await, None);
    assert_eq!(stage.at_once(stage.session.drain(true)).await, Some(Err("disk full".to_owned())));
}

#[tokio::test]
async fn a_guest_who_goes_does_not_log_out_a_member_of_the_same_name() {
    let stage = stage_with(Session::default());
    let (_, _alice) = stage.join("alice").await;
    stage.disk.trouble(Some("disk full"));
    settle().await;
    let refused = stage.session.join(stranger("alice"), None).await.map(drop);
    assert!(matches!(refused, Err(JoinError::Rejected(rejection)) if rejection.code() == "name_taken"));
    let (_, guest) = stage.session.join(stranger("bob"), None).await.unwrap();
    drop(guest);
    settle().await;
    stage.disk.trouble(None);
    stage.sync().await;
    assert_eq!(stage.session.state().await.unwrap().online().count(), 1);
    assert_eq!(stage.session.shared().subscribers.count(), 1);
}

#[tokio::test]
async fn while_nothing_can_be_written_nobody_shows_presence_under_a_name_that_is_somebody_elses() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    alice.signal("1".into());
    stage.disk.trouble(Some("disk full"));
    settle().await;
    assert!(stage.session.join(stranger("alice"), None).await.is_err(), "of a member");
    let (_, bob) = stage.session.join(subscriber("bob"), None).await.unwrap();
    bob.signal("2".into());
    assert!(stage.session.join(stranger("bob"), None).await.is_err(), "of another guest");
    let (_, alice_again) = stage.session.join(subscriber("alice"), None).await.unwrap();
    assert!(is_closed(&alice, &Closing::Replaced), "her own client goes on");
    alice.signal("not any more".into());
    drop(alice);
    settle().await;
    assert_eq!(presence(&stage), [("alice", "1"), ("bob", "2")].map(|(a, b)| (a.to_owned(), b.to_owned())));
    drop((alice_again, bob));
    settle().await;
    assert_eq!(presence(&stage), [], "whoever has gone does nothing, whether or not that can be written");
    stage.disk.trouble(None);
    stage.sync().await;
    assert_eq!(stage.session.state().await.unwrap().online().count(), 0);
}

/// Two connections of bob's client that join before the first of them is durable.
async fn twice_bob(stage: &Stage) -> (Result<Membership, JoinError>, Membership) {
    let mut joining = [subscriber("bob"), subscriber("bob")].map(|bob| {
        let session = stage.session.clone();
        tokio::spawn(async move { session.join(bob, None).await.map(|(_, membership)| membership) })
    });
    settle().await;
    stage.sync().await;
    let [first, second] = &mut joining;
    (first.await.unwrap(), second.await.unwrap().unwrap())
}

#[tokio::test]
async fn of_two_joins_of_one_client_in_the_same_moment_the_later_one_stays() {
    let stage = stage_with(Session::default());
    let (first, second) = twice_bob(&stage).await;
    assert_eq!(first.map(drop), Err(JoinError::Replaced));
    settle().await;
    stage.say(&second, 1, "I am here").await;
    stage.sync().await;
    assert_eq!(acks(&second).len(), 1);
    assert_eq!(stage.session.state().await.unwrap().online().count(), 1);
    second.signal("1".into());
    drop(second);
    settle().await;
    stage.sync().await;
    assert_eq!(stage.session.state().await.unwrap().online().count(), 0);
    assert_eq!(presence(&stage), []);
}

#[tokio::test]
async fn whoever_was_replaced_can_neither_edit_nor_be_seen_nor_throw_the_new_one_out() {
    let stage = stage_with(Session::default());
    let (_, ghost) = stage.join("bob").await;
    let (_, bob) = stage.join("bob").await;
    assert!(is_closed(&ghost, &Closing::Replaced));
    stage.say(&ghost, 1, "I am bob").await;
    ghost.signal("1".into());
    stage.sync().await;
    assert_eq!(rejections(&ghost), [(1, "not_joined")]);
    assert_eq!(presence(&stage), []);
    drop(ghost);
    settle().await;
    stage.say(&bob, 2, "still here").await;
    stage.sync().await;
    assert_eq!(acks(&bob).len(), 1);
}

#[tokio::test]
async fn there_are_at_most_as_many_guests_as_members_and_one_for_each_client() {
    let stage = stage_with(Session::default());
    stage.settings.send_modify(|settings| settings.limits.members_online = 2);
    stage.disk.trouble(Some("disk full"));
    settle().await;
    let (_, _first_alice) = stage.session.join(subscriber("alice"), None).await.unwrap();
    let (_, alice) = stage.session.join(subscriber("alice"), None).await.unwrap();
    let (_, bob) = stage.session.join(subscriber("bob"), None).await.unwrap();
    let refused = stage.session.join(subscriber("carol"), None).await.map(drop);
    assert!(matches!(refused, Err(JoinError::Rejected(rejection)) if rejection.code() == "limit_exceeded"));
    assert_eq!(stage.session.shared().subscribers.count(), 2);
    stage.disk.trouble(None);
    stage.sync().await;
    stage.sync().await;
    for member in [alice, bob] {
        assert!(!member.subscriber().take_notes().iter().any(|note| matches!(note, Note::Closing(_))));
    }
    settle().await;
    stage.sync().await;
    assert_eq!(stage.session.state().await.unwrap().online().count(), 0, "both had joined, and both have left");
}

#[tokio::test]
async fn a_refused_join_is_answered_when_what_refused_it_is_durable() {
    let stage = stage_with(Session::default());
    let first = stage.session.join(subscriber("alice"), None);
    tokio::pin!(first);
    tokio::select! {
        _ = &mut first => panic!("answered before the disk"),
        () = settle() => {}
    }
    let second =
        stage.session.join(Subscriber::new(MemberName::new("alice").unwrap(), Role::Member, ClientId(1)), None);
    tokio::pin!(second);
    tokio::select! {
        _ = &mut second => panic!("it would tell of a join that may be lost"),
        () = settle() => {}
    }
    stage.disk.sync();
    let refused = stage.at_once(second).await.map(drop);
    assert!(matches!(refused, Err(JoinError::Rejected(rejection)) if rejection.code() == "name_taken"));
    assert!(stage.at_once(first).await.is_ok());
}

#[tokio::test]
async fn a_session_that_is_not_served_is_not_made_anew() {
    let disk = Arc::new(Disk::default());
    let (_settings, receiver) = watch::channel(settings());
    let directory = Directory::new(disk, receiver);
    let name = SessionName::new("damaged").unwrap();
    directory.refuse(name.clone(), "its snapshot is damaged".to_owned());
    for create_up_to in [None, Some(100)] {
        let opened = directory.open(&name, create_up_to).await.map(drop);
        assert_eq!(opened, Err(OpenRefused::NotServed("its snapshot is damaged".to_owned())));
    }
    assert_eq!(directory.refusals(), ["its snapshot is damaged"]);
    assert!(directory.open(&SessionName::new("another").unwrap(), Some(100)).await.is_ok());
}

#[tokio::test]
async fn however_many_sessions_are_asked_for_at_once_there_are_no_more_than_allowed() {
    let disk = Arc::new(Disk::default());
    let (_settings, receiver) = watch::channel(settings());
    let directory = Arc::new(Directory::new(disk, receiver));
    let opening: Vec<_> = (0..30)
        .map(|n| {
            let (directory, name) = (Arc::clone(&directory), SessionName::new(format!("s{}", n % 15)).unwrap());
            tokio::spawn(async move { directory.open(&name, Some(3)).await.map(drop) })
        })
        .collect();
    let mut refused = 0;
    for opened in opening {
        match opened.await.unwrap() {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error, OpenRefused::TooMany(3));
                refused += 1;
            }
        }
    }
    assert_eq!((directory.all().len(), refused), (3, 24));
}

#[tokio::test]
async fn what_waits_for_the_disk_and_what_was_refused_can_be_read_off() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    stage.say(&alice, 1, "waits").await;
    let unlock = Operation::NodeUnlock { id: NodeId::new("nothing").unwrap() };
    alice.edit(vec![Edit { op: 2, work: Work::Operations(vec![unlock]) }]).await.unwrap();
    settle().await;
    let meter = &stage.session.shared().meter;
    assert_eq!((meter.read().released, meter.read().waiting), (1, 1));
    assert_eq!(meter.rejections().into_iter().collect::<Vec<_>>(), [("not_found", 1)]);
    stage.sync().await;
    assert_eq!((meter.read().released, meter.read().waiting), (2, 0));
}

fn set(key: &str, value: &'static str) -> Operation {
    Operation::SettingSet { key: key.into(), value: Some(value.into()) }
}

#[tokio::test]
async fn an_edit_of_the_daemon_is_answered_when_it_is_on_disk() {
    let stage = stage_with(Session::new());
    let (_, alice) = stage.join("alice").await;
    let session = stage.session.clone();
    let edit = async move { session.edit_as_daemon(vec![set("multi-user.initialised", "true")]).await };
    let edit = tokio::spawn(edit);
    settle().await;
    assert_eq!(stage.disk.inner.lock().unwrap().written, [1, 2], "it is decided");
    assert!(!edit.is_finished(), "and not on disk");
    assert_eq!(stage.session.shared().tail.head(), 1);
    stage.disk.sync();
    assert_eq!(stage.at_once(edit).await.unwrap(), Ok(2));
    let state = stage.session.state().await.unwrap();
    assert_eq!(state.setting("multi-user.initialised").map(|value| &value[..]), Some(&b"true"[..]));
    assert_eq!(stage.session.shared().tail.head(), 2, "everybody is told");
    drop(alice);
}

#[tokio::test]
async fn an_edit_of_the_daemon_may_be_refused() {
    let stage = stage_with(Session::new());
    let refused = stage.at_once(stage.session.edit_as_daemon(vec![set("", "1")])).await;
    assert!(matches!(refused, Err(EditError::Rejected(Rejection::Invalid { field: "key", .. }))), "{refused:?}");
    let empty = stage.at_once(stage.session.edit_as_daemon(Vec::new())).await;
    assert!(matches!(empty, Err(EditError::Rejected(_))), "{empty:?}");
    stage.disk.trouble(Some("the disk is full"));
    let edit = stage.session.edit_as_daemon(vec![set("theme", "1")]);
    assert_eq!(stage.at_once(edit).await, Err(EditError::ReadOnly("the disk is full".into())));
    stage.disk.trouble(None);
    settle().await;
    let edit = stage.session.edit_as_daemon(vec![set("theme", "1")]);
    let (edit, ()) = tokio::join!(edit, async {
        settle().await;
        stage.sync().await;
    });
    assert_eq!(edit, Ok(1), "nothing of what was refused has happened");
}

/// Somebody with a client that keeps what it has, as Blender does.
fn keeper(name: &str) -> Arc<Subscriber> {
    let plain = subscriber(name);
    Subscriber::of_one_project(plain.name.clone(), plain.role, plain.client)
}

fn read_only(who: &Membership) -> Vec<u64> {
    let refused = |note| {
        if let Note::Reject { op, why: Refusal::ReadOnly(_) } = note { Some(op) } else { None }
    };
    who.subscriber().take_notes().into_iter().filter_map(refused).collect()
}

/// A session in which alice has said something, and the archive that has begun.
async fn archiving() -> (Stage, Membership, tokio::task::JoinHandle<Result<Archived, ArchiveError>>, SaveJob) {
    let stage = stage_with(Session::new());
    let (_, alice) = stage.join_as(keeper("alice")).await;
    stage.say(&alice, 1, "before").await;
    stage.sync().await;
    assert_eq!(acks(&alice), [(1, 2)]);
    let session = stage.session.clone();
    let archive = tokio::spawn(async move { session.archive().await });
    settle().await;
    let job = stage.disk.take_save().expect("the saver is asked");
    assert_eq!(job.state.seq(), 2);
    (stage, alice, archive, job)
}

#[tokio::test]
async fn what_is_archived_is_what_is_cleared_and_edits_between_are_refused_not_lost() {
    let (stage, alice, archive, job) = archiving().await;
    let (_, bob) = stage.join("bob").await;
    stage.say(&alice, 2, "between").await;
    stage.say(&bob, 1, "between").await;
    let busy = stage.at_once(stage.session.archive()).await;
    assert_eq!(busy, Err(ArchiveError::Busy));
    stage.sync().await;
    assert!(alice.subscriber().take_notes().is_empty() && bob.subscriber().take_notes().is_empty(), "they wait");
    let kept = saved(&job);
    (job.done)(Ok(kept));
    settle().await;
    assert!(!archive.is_finished(), "not before it is durable");
    assert_eq!((read_only(&alice), read_only(&bob)), (vec![2], vec![1]), "refused, so that they know");
    stage.sync().await;
    let archived = stage.at_once(archive).await.unwrap().unwrap();
    assert_eq!((archived.file.as_str(), archived.seq, archived.cleared), ("x", 2, 4));
    let state = stage.session.state().await.unwrap();
    assert_eq!((state.messages().count(), state.online().count(), state.seq()), (0, 2, 4));
    assert!(is_closed(&alice, &Closing::Archived), "her client cannot begin anew");
    assert!(!is_closed(&bob, &Closing::Archived), "his can");
    let late = Operation::SettingSet { key: "multi-user.initialised".into(), value: Some("true".into()) };
    let late = stage.at_once(alice.edit_as_daemon(vec![late])).await;
    assert!(matches!(late, Err(EditError::ReadOnly(_))), "{late:?}");
    stage.say(&alice, 3, "late").await;
    stage.say(&bob, 2, "new").await;
    stage.sync().await;
    assert_eq!((read_only(&alice), acks(&bob)), (vec![3], vec![(2, 5)]));
}

#[tokio::test]
async fn if_no_archive_can_be_made_nothing_is_cleared_and_edits_go_on() {
    let (stage, alice, archive, job) = archiving().await;
    stage.say(&alice, 2, "between").await;
    (job.done)(Err("no space left".to_owned()));
    settle().await;
    assert_eq!(stage.at_once(archive).await.unwrap(), Err(ArchiveError::Failed("no space left".to_owned())));
    stage.sync().await;
    assert_eq!(acks(&alice), [(2, 3)]);
    assert_eq!(stage.session.state().await.unwrap().messages().count(), 2);
}

#[tokio::test]
async fn what_cannot_be_changed_any_more_when_the_archive_is_made_is_not_cleared() {
    let (stage, _alice, archive, job) = archiving().await;
    stage.disk.trouble(Some("the disk is full"));
    let kept = saved(&job);
    (job.done)(Ok(kept));
    let why = stage.at_once(archive).await.unwrap();
    assert_eq!(why, Err(ArchiveError::NotCleared { file: "x".into(), why: "the disk is full".into() }));
    assert_eq!(stage.session.state().await.unwrap().messages().count(), 1);
}

#[tokio::test]
async fn there_is_nothing_to_archive_in_an_empty_session() {
    let stage = stage_with(Session::new());
    let (_, _alice) = stage.join("alice").await;
    assert_eq!(stage.at_once(stage.session.archive()).await, Err(ArchiveError::Empty));
    assert!(stage.disk.take_save().is_none());
}
