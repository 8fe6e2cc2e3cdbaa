//! What an operator reads: the log after a signal, and what commands say beside a running daemon.

use crate::program::Place;
use crate::running::Running;
use crate::serving::{hears, member};
use tokio_tungstenite::tungstenite::Message;

/// Says something in the default session, so that there is something to save.
fn chat(port: &str, name: &str) {
    let mut socket = member(port, name);
    socket.send(Message::text(r#"{"type":"op","op":1,"do":"chat.post","text":"x"}"#)).unwrap();
    hears(&mut socket, "ack");
    let _closed = socket.close(None);
}

#[test]
fn wrong_settings_and_a_dump_are_told_in_plain_lines() {
    let place = Place::new();
    place.write(".env", "SAVE_INTERVAL=60\n");
    let mut daemon = Running::start(&place, &[]);
    daemon.http_port();
    daemon.signal("-QUIT");
    let session = daemon.says("State");
    assert!(session.contains("session=default") && session.contains("connections=0"), "{session}");
    let store = daemon.says("Store");
    assert!(store.contains("disk_free_bytes="), "{store}");
    place.write(".env", "SAVE_INTERVAL=never\nMAX_BACKUPS=many\n");
    let first = daemon.says("SAVE_INTERVAL is");
    let second = daemon.says("MAX_BACKUPS is");
    for line in [session, store, first, second] {
        assert!(!line.contains("\\n") && !line.contains('{') && !line.contains("Some("), "{line}");
    }
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_backup_says_its_name_and_a_save_what_it_has_done() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    chat(&port, "alice");
    daemon.says("(reason: user_disconnect:alice)");
    let run = |command: &[&str]| place.run(&[command, &["--http-port", &port]].concat());
    let ended = run(&["backups", "create"]);
    let name = ended.out.strip_prefix("backup: ").unwrap_or_else(|| panic!("{ended:?}")).trim();
    assert!(name.starts_with("backups/snapshot_") && place.path().join("data").join(name).is_file(), "{ended:?}");
    let ended = run(&["save"]);
    assert!(ended.out.starts_with("nothing to save: all is in session_snapshot.bin of 20"), "{ended:?}");
    let ended = run(&["status"]);
    assert!(ended.out.lines().all(|line| line.chars().count() <= 80) && !ended.out.contains('{'), "{ended:?}");
    assert!(run(&["backups", "list"]).out.contains("Z  "));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_pending_restore_is_told_wherever_somebody_looks() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    chat(&port, "alice");
    daemon.says("(reason: user_disconnect:alice)");
    let run = |command: &[&str]| place.run(&[command, &["--http-port", &port]].concat());
    let backup = run(&["backups", "create", "--json"]);
    let backup: serde_json::Value = serde_json::from_str(&backup.out).unwrap();
    let data = place.path().join("data");
    // Copied over it, as with `cp`: another file in its place.
    std::fs::copy(data.join(backup["backup"].as_str().unwrap()), data.join("copy")).unwrap();
    std::fs::rename(data.join("copy"), data.join("session_snapshot.bin")).unwrap();
    chat(&port, "bob");
    daemon.says("restore pending");
    for command in ["save", "status"] {
        let ended = run(&[command]);
        assert!(ended.code == 0 && ended.out.contains("restore pending"), "{command}: {ended:?}");
    }
    assert_eq!(daemon.stop(), 0);
    let ended = place.run(&["restore", "latest"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let told: Vec<&str> = ended.err.lines().filter(|line| line.contains("restored the snapshot of")).collect();
    assert_eq!(told.len(), 1, "{ended:?}");
}
