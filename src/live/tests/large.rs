//! Large edits: what they carry is on disk before they have a place in the order.

use super::*;

impl Disk {
    /// Large parts that wait for the disk.
    fn early(&self) -> Vec<Arc<Early>> {
        std::mem::take(&mut self.inner.lock().unwrap().early)
    }

    /// Puts them on disk.
    fn prepared(&self, early: &[Arc<Early>]) {
        for early in early {
            early.set_durable();
        }
        self.inner.lock().unwrap().listener.as_ref().unwrap().prepared();
    }
}

fn large(id: &str) -> Vec<Operation> {
    let data = vec![7; 300 << 10].into();
    let payload = Payload::Bytes { media_type: "model/gltf-binary".into(), data };
    vec![Operation::NodePut(NodePut { payload, ..node(&NodeId::new(id).unwrap()) })]
}

async fn put_large(who: &Membership, op: u64, id: &str) {
    who.edit(vec![Edit { op, work: Work::Operations(large(id)) }]).await.unwrap();
    settle().await;
}

fn refusals(who: &Membership) -> Vec<u64> {
    let refused = |note| if let Note::Reject { op, why: Refusal::ReadOnly(_) } = note { Some(op) } else { None };
    who.subscriber().take_notes().into_iter().filter_map(refused).collect()
}

#[tokio::test]
async fn small_edits_of_others_pass_a_large_one_that_waits_for_the_disk() {
    let stage = stage_with(Session::default());
    let ((_, alice), (_, bob)) = (stage.join("alice").await, stage.join("bob").await);
    let head = stage.head();
    put_large(&alice, 1, "chair").await;
    let early = stage.disk.early();
    assert_eq!(early.iter().map(|early| early.bytes().len()).collect::<Vec<_>>(), [300 << 10]);
    stage.say(&bob, 1, "quick").await;
    stage.sync().await;
    assert_eq!((acks(&bob), acks(&alice)), (vec![(1, head + 1)], vec![]));
    stage.disk.prepared(&early);
    settle().await;
    assert_eq!(acks(&alice), [], "its event is not on disk yet");
    stage.sync().await;
    assert_eq!(acks(&alice), [(1, head + 2)]);
}

#[tokio::test]
async fn nothing_passes_a_large_edit_of_the_same_connection() {
    let stage = stage_with(Session::default());
    let ((_, alice), (_, bob)) = (stage.join("alice").await, stage.join("bob").await);
    let head = stage.head();
    put_large(&alice, 1, "chair").await;
    put_large(&alice, 2, "table").await;
    stage.say(&alice, 3, "both are there").await;
    stage.say(&bob, 1, "meanwhile").await;
    let early = stage.disk.early();
    stage.disk.prepared(&early[1..]);
    stage.sync().await;
    assert_eq!(acks(&alice), [], "the first is not on disk");
    stage.disk.prepared(&early[..1]);
    stage.sync().await;
    stage.sync().await;
    assert_eq!(acks(&alice), [(1, head + 2), (2, head + 3), (3, head + 4)]);
}

#[tokio::test]
async fn a_large_edit_without_a_chance_is_refused_and_not_written() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    let patch = NodePatch { payload: Some(PayloadChange::Append(vec![7; 300 << 10].into())), ..NodePatch::default() };
    let patch = Operation::NodePatch { id: NodeId::new("nowhere").unwrap(), patch, if_revision: None };
    alice.edit(vec![Edit { op: 1, work: Work::Operations(vec![patch]) }]).await.unwrap();
    settle().await;
    assert!(stage.disk.early().is_empty());
    stage.sync().await;
    assert_eq!(rejections(&alice), [(1, "not_found")]);
    let viewer = Subscriber::new(MemberName::new("vera").unwrap(), Role::Viewer, ClientId(9));
    let (_, viewer) = stage.join_as(viewer).await;
    put_large(&viewer, 1, "chair").await;
    assert!(stage.disk.early().is_empty());
    stage.sync().await;
    assert_eq!(rejections(&viewer).len(), 1);
}

#[tokio::test]
async fn large_edits_that_wait_are_refused_when_the_disk_fails() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    put_large(&alice, 1, "chair").await;
    put_large(&alice, 2, "table").await;
    let early: Vec<_> = stage.disk.early().iter().map(Arc::downgrade).collect();
    assert!(early.iter().all(|early| early.strong_count() > 0));
    stage.disk.trouble(Some("disk full"));
    settle().await;
    assert_eq!(refusals(&alice), [1, 2]);
    assert!(early.iter().all(|early| early.strong_count() == 0), "the journal may let go of them");
    stage.disk.trouble(None);
    settle().await;
    stage.say(&alice, 3, "again").await;
    stage.sync().await;
    assert_eq!(acks(&alice).len(), 1);
}

#[tokio::test]
async fn large_edits_by_the_daemon_wait_for_the_disk_too() {
    let stage = stage_with(Session::default());
    let (_, bob) = stage.join("bob").await;
    let editing = stage.session.edit_as_daemon(large("chair"));
    tokio::pin!(editing);
    tokio::select! {
        _ = &mut editing => panic!("answered before the disk"),
        () = settle() => {}
    }
    stage.say(&bob, 1, "quick").await;
    let head = stage.head();
    stage.disk.prepared(&stage.disk.early());
    settle().await;
    stage.disk.sync();
    assert_eq!(stage.at_once(&mut editing).await.unwrap(), head + 2);
    let waiting = stage.session.edit_as_daemon(large("table"));
    tokio::pin!(waiting);
    tokio::select! {
        _ = &mut waiting => panic!("answered before the disk"),
        () = settle() => {}
    }
    stage.disk.trouble(Some("disk full"));
    assert!(matches!(stage.at_once(waiting).await, Err(EditError::ReadOnly(_))));
}

#[tokio::test]
async fn who_goes_with_a_large_edit_under_way_leaves_when_it_is_done() {
    let stage = stage_with(Session::default());
    let ((_, alice), (_, bob)) = (stage.join("alice").await, stage.join("bob").await);
    put_large(&alice, 1, "chair").await;
    let early = stage.disk.early();
    drop(alice);
    settle().await;
    stage.say(&bob, 1, "still here?").await;
    stage.sync().await;
    let state = stage.session.state().await.unwrap();
    assert_eq!(state.online().count(), 2, "what she has asked for is not done");
    stage.disk.prepared(&early);
    settle().await;
    stage.sync().await;
    stage.sync().await;
    let state = stage.session.state().await.unwrap();
    assert_eq!((state.online().count(), state.nodes().count()), (1, 1));
}

#[tokio::test]
async fn what_is_refused_again_and_again_is_not_written_for_ever() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    let data: bytes::Bytes = [b"\"".to_vec(), vec![b'a'; 16 << 20], b"\"".to_vec()].concat().into();
    let mut op = 0;
    let mut written = async || {
        op += 1;
        let payload = Some(PayloadChange::Replace(Payload::Json(data.clone())));
        let patch = NodePatch { payload, ..NodePatch::default() };
        let patch = Operation::NodePatch { id: NodeId::new("nowhere").unwrap(), patch, if_revision: None };
        alice.edit(vec![Edit { op, work: Work::Operations(vec![patch]) }]).await.unwrap();
        settle().await;
        let early = stage.disk.early();
        stage.disk.prepared(&early);
        stage.sync().await;
        assert_eq!(rejections(&alice), [(op, "not_found")]);
        early.len()
    };
    let mut total = 0;
    for _ in 0..40 {
        total += written().await;
    }
    assert!((30..36).contains(&total), "{total}");
    alice.edit(vec![Edit { op: 1_000, work: Work::Save }]).await.unwrap();
    settle().await;
    let job = stage.disk.take_save().unwrap();
    let saved = saved(&job);
    (job.done)(Ok(saved));
    settle().await;
    alice.subscriber().take_notes();
    assert_eq!(written().await, 1, "the journal may have let go of it");
}

#[tokio::test]
async fn a_change_of_what_is_still_on_its_way_is_written_early_too() {
    let stage = stage_with(Session::default());
    let (_, alice) = stage.join("alice").await;
    put_large(&alice, 1, "chair").await;
    let patch = NodePatch { payload: Some(PayloadChange::Append(vec![8; 300 << 10].into())), ..NodePatch::default() };
    let patch = Operation::NodePatch { id: NodeId::new("chair").unwrap(), patch, if_revision: None };
    alice.edit(vec![Edit { op: 2, work: Work::Operations(vec![patch]) }]).await.unwrap();
    settle().await;
    assert_eq!(stage.disk.early().len(), 2);
}
