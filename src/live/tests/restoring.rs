//! Tests of restores while the session is served.

use super::*;
use crate::live::machine::SessionMachine;
use crate::storage::restore::Chosen;
use crate::storage::snapshot::{Header, Purpose, SnapshotId};
use crate::storage::{Machine as _, RestoreOutcome, Switched};
use tokio::task::JoinHandle;

const MADE_OF: &str = "the snapshot of 1970-01-01T00:00:01Z";

/// A session in a directory, in which others can come after a restore.
struct House {
    stage: Stage,
    directory: Arc<Directory>,
    name: SessionName,
}

type Asked = JoinHandle<Result<Restored, RestoreFailed>>;

fn house() -> House {
    let disk = Arc::new(Disk::default());
    let (sender, receiver) = watch::channel(settings());
    let name = SessionName::default_session();
    let origin =
        SessionOrigin { name: name.clone(), state: Session::default(), recent: Vec::new(), saved: 0, sealed: None };
    let directory = Arc::new(Directory::new(Arc::clone(&disk) as Arc<dyn Store>, receiver));
    let session = directory.start(origin);
    House { stage: Stage { disk, session, settings: sender }, directory, name }
}

fn chosen(state: &Session) -> Chosen<SessionMachine> {
    let machine = SessionMachine::from(state.clone());
    let header = Header {
        lineage: 1,
        branch: Branch(1),
        epoch: 1,
        id: SnapshotId(7),
        parent: SnapshotId::NONE,
        seq: state.seq(),
        created: Timestamp(1_000),
        at: Timestamp(1_000),
        summary: machine.summary(),
        purpose: Purpose::Current,
        session: SessionName::default_session(),
        writer: String::new(),
        reasons: Vec::new(),
        runs: Vec::new(),
    };
    Chosen { file: "a file".into(), machine, header }
}

impl House {
    async fn ask(&self, state: &Session) -> Asked {
        let (directory, name, chosen) = (Arc::clone(&self.directory), self.name.clone(), chosen(state));
        let asked = tokio::spawn(async move { directory.restore(&name, chosen).await });
        settle().await;
        asked
    }

    /// The restore that the store has been asked for.
    fn job(&self) -> Option<RestoreJob> {
        self.stage.disk.inner.lock().unwrap().restores.pop()
    }

    async fn ends(&self, outcome: impl FnOnce(&RestoreJob) -> RestoreOutcome) {
        let job = self.job().expect("the store was asked");
        let outcome = outcome(&job);
        if outcome.is_ok() {
            let mut inner = self.stage.disk.inner.lock().unwrap();
            inner.restored += 1;
            inner.written.push(job.mark.seq);
        }
        (job.done)(outcome);
        settle().await;
    }

    /// The session as somebody finds it who comes now.
    fn now(&self) -> Stage {
        let session = self.directory.get(&self.name).unwrap();
        Stage { disk: Arc::clone(&self.stage.disk), session, settings: self.stage.settings.clone() }
    }

    async fn restored(&self, state: &Session) -> Restored {
        let asked = self.ask(state).await;
        self.ends(well).await;
        asked.await.unwrap().unwrap()
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is one of two outcomes")]
fn well(job: &RestoreJob) -> RestoreOutcome {
    let seq = job.restored.seq();
    let file = "x".to_owned();
    let saved = Saved { seq, at: job.at, reasons: vec![], bytes: 1, file, published: true, backup: None };
    Ok(Switched { kept: Some("backups/kept/pre_restore_1.bin".into()), saved })
}

fn badly(_: &RestoreJob) -> RestoreOutcome {
    Err("the disk is full".into())
}

fn texts(state: &Session) -> Vec<String> {
    state.messages().map(|message| message.text.to_string()).collect()
}

fn told(who: &Membership) -> Vec<String> {
    let told = |note| match note {
        Note::Ack { op, seq } => Some(format!("ack {op} {seq}")),
        Note::Reject { op, why: Refusal::Restored(_) } => Some(format!("restored {op}")),
        Note::Closing(Closing::Restored(what)) => Some(format!("closing: {what}")),
        Note::Reject { .. } | Note::Saved(_) | Note::Health(_) | Note::Closing(_) => None,
    };
    who.subscriber().take_notes().into_iter().filter_map(told).collect()
}

async fn join_with(stage: &Stage, name: &str, token: ResumeToken) -> (Joined, Membership) {
    let joining = stage.session.join(subscriber(name), Some(token));
    tokio::pin!(joining);
    loop {
        tokio::select! {
            joined = &mut joining => return joined.unwrap(),
            () = settle() => stage.disk.sync(),
        }
    }
}

#[tokio::test]
async fn a_restore_begins_when_all_that_was_decided_is_durable_and_what_comes_later_is_refused() {
    let house = house();
    let stage = &house.stage;
    let (_, alice) = stage.join("alice").await;
    stage.say(&alice, 1, "saved").await;
    stage.sync().await;
    let backup = stage.session.state().await.unwrap();
    stage.say(&alice, 2, "decided").await;
    let asked = house.ask(&backup).await;
    stage.say(&alice, 3, "too late").await;
    assert!(house.job().is_none(), "the second is not durable yet");
    assert_eq!(told(&alice), ["ack 1 2"]);
    stage.sync().await;
    assert_eq!(told(&alice), ["ack 2 3"], "it was decided before, and is kept");
    let checked = |job: &RestoreJob| {
        assert_eq!((job.left.seq(), job.restored.seq(), job.mark.seq), (3, 4, 4));
        well(job)
    };
    house.ends(checked).await;
    let restored = asked.await.unwrap().unwrap();
    assert_eq!((restored.seq, restored.left, restored.summary.messages), (4, 3, 1));
    assert_eq!(restored.kept.as_deref(), Some("backups/kept/pre_restore_1.bin"));
    assert_eq!(told(&alice), ["restored 3".to_owned(), format!("closing: {MADE_OF}")]);
    stage.say(&alice, 4, "far too late").await;
    assert_eq!(told(&alice), ["restored 4"]);
    let now = house.now().session.state().await.unwrap();
    assert_eq!((texts(&now), now.seq(), now.online().count()), (vec!["saved".to_owned()], 4, 0));
}

#[tokio::test]
async fn when_a_restore_fails_the_session_goes_on_and_nobody_notices() {
    let house = house();
    let stage = &house.stage;
    let (_, alice) = stage.join("alice").await;
    let (_, bob) = stage.join("bob").await;
    let asked = house.ask(&Session::default()).await;
    stage.say(&alice, 1, "meanwhile").await;
    drop(bob);
    settle().await;
    assert_eq!(told(&alice), [""; 0]);
    house.ends(badly).await;
    assert_eq!(asked.await.unwrap(), Err(RestoreFailed::Failed("the disk is full".into())));
    stage.sync().await;
    assert_eq!(told(&alice), ["ack 1 3"]);
    let state = stage.session.state().await.unwrap();
    assert_eq!(texts(&state), ["meanwhile"]);
    assert_eq!(state.online().count(), 1, "bob has left");
    assert!(Arc::ptr_eq(house.now().session.shared(), stage.session.shared()));
    let job = stage.disk.take_save().expect("bob's leaving is saved");
    let saved = saved(&job);
    (job.done)(Ok(saved));
    house.restored(&Session::default()).await;
    assert_eq!(told(&alice), [format!("closing: {MADE_OF}")]);
}

#[tokio::test]
async fn nobody_comes_in_during_a_restore_and_everybody_after_it_gets_the_restored_state() {
    let house = house();
    let stage = &house.stage;
    let (joined, alice) = stage.join("alice").await;
    let token = |op| ResumeToken { branch: joined.resume.branch.0, run: 3, seq: 2, op };
    let backup = stage.session.state().await.unwrap();
    stage.say(&alice, 1, "abandoned").await;
    stage.sync().await;
    let asked = house.ask(&backup).await;
    let refused = stage.at_once(stage.session.join(subscriber("bob"), None)).await;
    assert!(matches!(refused, Err(JoinError::Restoring)));
    house.ends(well).await;
    asked.await.unwrap().unwrap();
    let refused = stage.at_once(stage.session.join(subscriber("bob"), None)).await;
    assert!(matches!(refused, Err(JoinError::Restoring)), "who has the old handle must look again");
    drop(alice);
    settle().await;
    assert!(matches!(stage.session.state().await, Err(JoinError::Restoring)), "nobody is left, so the task has ended");
    let now = house.now();
    let (joined, _alice) = join_with(&now, "alice", token(Some(1))).await;
    let Start::State(state) = joined.start else { panic!("resumed") };
    assert_eq!(texts(&state), [""; 0]);
}

#[tokio::test]
async fn what_was_asked_for_before_a_restore_is_not_done_after_it_and_what_was_answered_is_answered_again() {
    let house = house();
    let stage = &house.stage;
    let (joined, alice) = stage.join("alice").await;
    let token = |op| ResumeToken { branch: joined.resume.branch.0, run: 3, seq: 2, op };
    stage.say(&alice, 1, "saved").await;
    stage.sync().await;
    let backup = stage.session.state().await.unwrap();
    stage.say(&alice, 2, "abandoned").await;
    stage.sync().await;
    house.restored(&backup).await;
    drop(alice);
    let now = house.now();
    let (_, alice) = join_with(&now, "alice", token(Some(3))).await;
    for (op, text) in [(1, "saved"), (2, "abandoned"), (3, "in flight"), (4, "new")] {
        now.say(&alice, op, text).await;
    }
    now.sync().await;
    assert_eq!(told(&alice), ["ack 1 2", "ack 2 3", "restored 3", "ack 4 6"]);
    assert_eq!(texts(&now.session.state().await.unwrap()), ["saved", "new"]);
    drop(alice);
    settle().await;
    // Who does not say how far it has counted has to come again.
    let (_, alice) = join_with(&now, "alice", token(None)).await;
    now.say(&alice, 9, "unknown").await;
    assert_eq!(told(&alice), ["restored 9"]);
    drop(alice);
    settle().await;
    // Also without a token, what was accepted is known.
    let (_, alice) = now.join("alice").await;
    now.say(&alice, 2, "abandoned").await;
    now.sync().await;
    assert_eq!(told(&alice), ["ack 2 3"]);
    assert_eq!(texts(&now.session.state().await.unwrap()), ["saved", "new"]);
}

#[tokio::test]
async fn a_session_that_cannot_be_written_is_not_restored() {
    let house = house();
    let stage = &house.stage;
    let (_, alice) = stage.join("alice").await;
    stage.say(&alice, 1, "x").await;
    let asked = house.ask(&Session::default()).await;
    stage.disk.trouble(Some("the disk is full"));
    settle().await;
    assert_eq!(asked.await.unwrap(), Err(RestoreFailed::ReadOnly("the disk is full".into())));
    assert!(matches!(stage.session.shared().mode(), Mode::ReadOnly(_)), "it is told at once");
    let asked = house.ask(&Session::default()).await;
    assert_eq!(asked.await.unwrap(), Err(RestoreFailed::ReadOnly("the disk is full".into())));
    assert!(house.job().is_none());
    stage.disk.trouble(None);
    stage.sync().await;
    assert_eq!(told(&alice), ["ack 1 2"]);
    house.restored(&Session::default()).await;
}

#[tokio::test]
async fn a_restore_waits_for_a_save_under_way_and_whoever_waits_for_another_is_told() {
    let house = house();
    let stage = &house.stage;
    let (_, alice) = stage.join("alice").await;
    let session = stage.session.clone();
    let saving = tokio::spawn(async move { session.save("request".into(), false).await });
    settle().await;
    let job = stage.disk.take_save().expect("a save has begun");
    stage.say(&alice, 1, "x").await;
    stage.sync().await;
    let session = stage.session.clone();
    let next = tokio::spawn(async move { session.save("request".into(), false).await });
    settle().await;
    let asked = house.ask(&Session::default()).await;
    assert!(house.job().is_none(), "a save is under way");
    let refused = stage.at_once(stage.session.save("request".into(), true)).await.unwrap();
    assert!(refused.unwrap_err().contains("is being restored"));
    let saved = saved(&job);
    (job.done)(Ok(saved));
    settle().await;
    assert!(saving.await.unwrap().unwrap().is_ok());
    house.ends(well).await;
    asked.await.unwrap().unwrap();
    assert!(next.await.unwrap().unwrap().unwrap_err().contains("has been restored"));
    assert!(stage.disk.take_save().is_none(), "no state of before is saved any more");
}

#[tokio::test]
async fn one_thing_at_a_time_becomes_of_a_session() {
    let house = house();
    let stage = &house.stage;
    let (_, alice) = stage.join("alice").await;
    stage.say(&alice, 1, "x").await;
    stage.sync().await;
    let asked = house.ask(&Session::default()).await;
    let again = house.ask(&Session::default()).await;
    assert_eq!(again.await.unwrap(), Err(RestoreFailed::Busy));
    let refused = stage.at_once(stage.session.archive()).await;
    assert_eq!(refused, Err(ArchiveError::Busy));
    house.ends(badly).await;
    assert!(asked.await.unwrap().is_err());
    let session = stage.session.clone();
    let archiving = tokio::spawn(async move { session.archive().await });
    settle().await;
    let again = house.ask(&Session::default()).await;
    assert_eq!(again.await.unwrap(), Err(RestoreFailed::Busy));
    let job = stage.disk.take_save().unwrap();
    let saved = saved(&job);
    (job.done)(Ok(saved));
    settle().await;
    stage.sync().await;
    assert!(archiving.await.unwrap().is_ok());
    stage.session.drain(false).await;
    let again = house.ask(&Session::default()).await;
    assert_eq!(again.await.unwrap(), Err(RestoreFailed::Stopping));
}

#[tokio::test]
async fn whoever_asked_for_a_restore_may_go_and_it_is_done_nevertheless() {
    let house = house();
    let stage = &house.stage;
    let (_, alice) = stage.join("alice").await;
    stage.say(&alice, 1, "x").await;
    stage.sync().await;
    let asked = house.ask(&Session::default()).await;
    asked.abort();
    settle().await;
    house.ends(well).await;
    let (_, bob) = house.now().join("bob").await;
    house.now().say(&bob, 1, "y").await;
    house.now().sync().await;
    assert_eq!(texts(&house.now().session.state().await.unwrap()), ["y"]);
    assert_eq!(told(&alice), ["ack 1 2".to_owned(), format!("closing: {MADE_OF}")]);
    assert_eq!(house.now().session.shared().last_save().saved.map(|saved| saved.seq), Some(3));
    assert!(house.now().session.shared().meter.read().released >= 2, "what was counted before counts");
}

#[tokio::test]
async fn a_large_edit_under_way_is_refused_with_the_others_or_made_when_the_restore_has_failed() {
    for fails in [true, false] {
        let house = house();
        let stage = &house.stage;
        let (_, alice) = stage.join("alice").await;
        let large = NodePut {
            payload: Payload::Bytes { media_type: "x/y".into(), data: vec![0; 1 << 20].into() },
            ..node(&NodeId::new("large").unwrap())
        };
        alice.edit(vec![Edit { op: 1, work: Work::Operations(vec![Operation::NodePut(large)]) }]).await.unwrap();
        settle().await;
        let asked = house.ask(&Session::default()).await;
        stage.say(&alice, 2, "behind it").await;
        house.ends(if fails { badly } else { well }).await;
        assert_eq!(asked.await.unwrap().is_err(), fails);
        stage.sync().await;
        stage.sync().await;
        let told = told(&alice);
        if fails {
            assert_eq!(told, ["ack 1 2", "ack 2 3"]);
        } else {
            assert_eq!(told, ["restored 1".to_owned(), "restored 2".to_owned(), format!("closing: {MADE_OF}")]);
            assert_eq!(house.now().session.state().await.unwrap().nodes().count(), 0);
        }
    }
}

#[tokio::test]
async fn the_daemons_own_edits_wait_for_a_restore_and_are_made_if_it_fails() {
    for fails in [true, false] {
        let house = house();
        let stage = &house.stage;
        let (_, alice) = stage.join("alice").await;
        stage.say(&alice, 1, "x").await;
        stage.sync().await;
        let asked = house.ask(&Session::default()).await;
        let put = vec![Operation::NodePut(node(&NodeId::new("chair").unwrap()))];
        let session = stage.session.clone();
        let editing = tokio::spawn(async move { session.edit_as_daemon(put).await });
        settle().await;
        assert!(!editing.is_finished());
        house.ends(if fails { badly } else { well }).await;
        assert_eq!(asked.await.unwrap().is_err(), fails);
        stage.sync().await;
        let edited = stage.at_once(editing).await.unwrap();
        assert_eq!(edited.is_ok(), fails, "{edited:?}");
        assert_eq!(house.now().session.state().await.unwrap().nodes().count(), usize::from(fails));
    }
}

#[tokio::test]
async fn a_stop_ends_a_restore_that_has_not_begun() {
    let house = house();
    let stage = &house.stage;
    let (_, alice) = stage.join("alice").await;
    stage.say(&alice, 1, "x").await;
    let asked = house.ask(&Session::default()).await;
    assert_eq!(stage.at_once(stage.session.drain(false)).await, None);
    assert_eq!(stage.at_once(asked).await.unwrap(), Err(RestoreFailed::Stopping));
    assert!(house.job().is_none());
    stage.sync().await;
    assert!(told(&alice).contains(&"ack 1 2".to_owned()));
}
