//! The end of a project: everything is kept, and the session begins anew; with and without the daemon.

use crate::program::{Ended, Place};
use crate::running::Running;
use crate::serving::{hears, member};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

fn json(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.out).unwrap()
}

/// The numbers of nodes, tasks and messages.
fn counts(place: &Place) -> [usize; 3] {
    let all = json(&place.run(&["export"]));
    ["nodes", "tasks", "chat"].map(|what| all[what].as_array().unwrap().len())
}

/// The old server's session, in which somebody has said something.
fn project() -> Place {
    let place = Place::new();
    let file = format!("{}/tests/fixtures/multi-user/session_snapshot.pkl", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(place.run(&["import", &file]).code, 0);
    place
}

fn restored(place: &Place, archive: &str) -> [usize; 3] {
    let name = archive.rsplit('/').next().unwrap();
    let result = json(&place.run(&["restore", name, "--json"]));
    assert!(result["newer_state_kept_in"].as_str().unwrap().contains("pre_restore_"), "{result}");
    counts(place)
}

#[test]
fn a_project_ends_while_the_daemon_runs_and_everybody_is_told() {
    let place = project();
    let before = counts(&place);
    assert_eq!(before[0], 21);
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    let mut alice = member(&port, "alice");
    alice.send(Message::text(r#"{"type":"op","op":1,"do":"chat.post","text":"done"}"#)).unwrap();
    hears(&mut alice, "ack");
    let archived = json(&place.run(&["sessions", "archive", "--json"]));
    let archive = archived["archive"].as_str().unwrap();
    assert!(archive.starts_with("backups/kept/archived_"), "{archived}");
    let told = loop {
        let event = hears(&mut alice, "event");
        if event["changes"][0]["do"] == "session.clear" {
            break event;
        }
    };
    assert_eq!((&told["changes"][0]["archive"], &told["seq"]), (&archived["archive"], &archived["cleared"]));
    alice.send(Message::text(r#"{"type":"op","op":2,"do":"chat.post","text":"new"}"#)).unwrap();
    hears(&mut alice, "ack");
    assert_eq!(counts(&place), [0, 0, 1], "what was said before is in the archive");
    let listed = json(&place.run(&["sessions", "list", "--json"]));
    assert_eq!((&listed["sessions"][0]["mode"], &listed["sessions"][0]["users"]), (&"live".into(), &1.into()));
    // Everything acknowledged is on disk, whatever happens next.
    drop(daemon);
    assert_eq!(counts(&place), [0, 0, 1]);
    assert_eq!(place.run(&["backups", "verify"]).code, 0);
    assert_eq!(restored(&place, archive), [before[0], before[1], before[2] + 1]);
}

#[test]
fn a_project_ends_without_the_daemon() {
    let place = project();
    let before = counts(&place);
    let ended = place.run(&["sessions", "archive"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let (first, second) = ended.out.split_once('\n').unwrap();
    assert!(first.starts_with("archived: backups/kept/archived_"), "{ended:?}");
    assert_eq!(second, "session default is empty now\n");
    assert_eq!(counts(&place), [0, 0, 0]);
    let again = place.run(&["sessions", "archive"]);
    assert_eq!(again.code, 65, "{again:?}");
    assert!(again.err.contains("the session is empty"), "{again:?}");
    assert_eq!(place.run(&["sessions", "archive", "absent"]).code, 65);
    let listed = json(&place.run(&["sessions", "list", "--json"]));
    assert_eq!(listed["sessions"][0]["mode"], "stopped");
    let archive = first.split(' ').nth(1).unwrap();
    assert_eq!(restored(&place, archive), before);
}

#[test]
fn killed_right_after_the_answer_the_session_stays_empty_and_the_archive_whole() {
    let place = project();
    let before = counts(&place);
    let mut daemon = Running::start(&place, &[]);
    daemon.says("Listening on http://");
    let archived = json(&place.run(&["sessions", "archive", "--json"]));
    // Dropped, it is killed.
    drop(daemon);
    assert_eq!(counts(&place), [0, 0, 0]);
    let mut daemon = Running::start(&place, &[]);
    daemon.says("Listening on http://");
    let again = place.run(&["sessions", "archive"]);
    assert_eq!(again.code, 65, "{again:?}");
    assert!(again.err.contains("the session is empty"), "{again:?}");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(place.run(&["fsck"]).code, 0);
    assert_eq!(restored(&place, archived["archive"].as_str().unwrap()), before);
}

#[test]
fn if_the_archive_cannot_be_written_nothing_is_cleared() {
    let place = project();
    let before = counts(&place);
    let kept = place.path().join("data/backups/kept");
    let mut daemon = Running::start(&place, &[]);
    daemon.says("Listening on http://");
    std::fs::remove_dir(&kept).unwrap();
    place.write("data/backups/kept", "in the way");
    let ended = place.run(&["sessions", "archive"]);
    assert_eq!(ended.code, 74, "{ended:?}");
    assert!(ended.err.contains("nothing was cleared"), "{ended:?}");
    assert_eq!(counts(&place), before);
    assert_eq!(daemon.stop(), 0);
    let ended = place.run(&["sessions", "archive"]);
    assert_eq!(ended.code, 74, "{ended:?}");
    std::fs::remove_file(&kept).unwrap();
    assert_eq!(counts(&place), before);
}

#[test]
fn without_a_daemon_of_its_own_a_directory_is_not_taken_to_that_of_another_one() {
    let (place, other) = (project(), Place::new());
    let before = counts(&place);
    // It has run once, so it has a token; and what the settings say is where another daemon listens.
    let mut once = Running::start(&place, &[]);
    once.says("Listening on http://");
    assert_eq!(once.stop(), 0);
    let mut another = Running::start(&other, &[]);
    place.write(".env", &format!("HTTP_PORT={}\n", another.http_port()));
    assert_eq!(counts(&place), before);
    let archived = json(&place.run(&["sessions", "archive", "--json"]));
    assert!(archived["archive"].as_str().unwrap().starts_with("backups/kept/archived_"), "{archived}");
    assert_eq!(counts(&place), [0, 0, 0]);
}
