//! Commands on the data directory: import, backups, restore, recover, export, check.

use crate::program::{Ended, Place};
use crate::running::Running;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/multi-user/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// A data directory with the old server's session in it.
fn imported() -> Place {
    let place = Place::new();
    let ended = place.run(&["import", &fixture("session_snapshot.pkl"), "--json"]);
    assert_eq!(json(&ended)["nodes"], 21);
    place
}

fn json(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.out).unwrap()
}

fn backups(place: &Place) -> Vec<PathBuf> {
    let listed = json(&place.run(&["backups", "list", "--json"]));
    listed["backups"].as_array().unwrap().iter().map(|backup| backup["file"].as_str().unwrap().into()).collect()
}

/// Flips one byte in the middle of a file.
fn damage(place: &Place, file: &str) {
    let path = place.path().join(file);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(path, bytes).unwrap();
}

#[test]
fn old_sessions_are_imported_into_empty_sessions_only() {
    let place = imported();
    let again = place.run(&["import", &fixture("session_snapshot.pkl")]);
    assert_eq!(again.code, 73);
    assert!(again.err.contains("--session NAME"), "{again:?}");
    let other = place.run(&["import", &fixture("blender_repository.db"), "--session", "other", "--json"]);
    assert_eq!(json(&other)["nodes"], 24);
    let listed = json(&place.run(&["export", "--session", "other"]));
    assert_eq!(listed["nodes"].as_array().unwrap().len(), 24);
}

#[test]
fn what_is_no_session_is_refused_and_leaves_nothing_behind() {
    let place = Place::new();
    place.write("bad.pkl", "cos\nsystem\n(S'true'\ntR.");
    assert_eq!(place.run(&["import", "bad.pkl"]).code, 65);
    assert_eq!(place.run(&["import", "absent.pkl"]).code, 74);
    assert!(!place.path().join("data").exists());
}

#[test]
fn an_old_session_is_taken_over_or_refused_at_every_start_of_an_empty_session() {
    let place = Place::new();
    place.write("data/session_snapshot.pkl", "cos\nsystem\n(S'true'\ntR.");
    let start = || Ended::from(place.hotset(&["serve"]).env("PORT", "0").env("HTTP_PORT", "0").output().unwrap());
    for attempt in 1..=2 {
        let ended = start();
        assert_eq!(ended.code, 65, "start {attempt}: {ended:?}");
        assert!(ended.err.contains("session_snapshot.pkl cannot be imported"), "{ended:?}");
    }
    fs::copy(fixture("session_snapshot.pkl"), place.path().join("data/session_snapshot.pkl")).unwrap();
    let mut daemon = Running::start(&place, &[]);
    daemon.says("Imported data/session_snapshot.pkl");
    assert_eq!(daemon.stop(), 0);
    let mut daemon = Running::start(&place, &[]);
    let line = daemon.says("session_snapshot.pkl is not read: the session has content already");
    assert!(line.contains("WARN") && line.contains("hotset import data/session_snapshot.pkl"), "{line}");
    assert_eq!(daemon.stop(), 0);
    assert_eq!(json(&place.run(&["export"]))["nodes"].as_array().unwrap().len(), 21);
}

#[test]
fn a_mistyped_data_directory_is_an_error_and_not_a_new_one() {
    let place = Place::new();
    for command in [
        &["fsck"] as &[_],
        &["backups", "list"],
        &["backups", "verify"],
        &["restore", "latest"],
        &["recover"],
        &["export"],
    ] {
        let ended = place.run(&[command, &["--data-dir", "absent"]].concat());
        assert_eq!(ended.code, 65, "{command:?}: {ended:?}");
        assert!(ended.err.contains("there is no data directory absent"), "{ended:?}");
    }
    assert!(!place.path().join("absent").exists());
}

#[test]
fn backups_are_made_listed_verified_copied_and_restored() {
    let place = imported();
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    let made = place.run(&["backups", "create", "--to", "copy.bin", "--http-port", &port, "--json"]);
    assert_eq!(json(&made)["seq"], 1);
    let online = place.run(&["export", "--http-port", &port]);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(place.run(&["export"]).out, online.out, "the same with and without the daemon");
    assert!(!backups(&place).is_empty());
    assert_eq!(place.run(&["backups", "verify"]).code, 0);
    for from in ["latest", "copy.bin"] {
        let shown = json(&place.run(&["restore", from, "--dry-run", "--json"]));
        assert_eq!(shown["nodes"], 21, "{shown}");
        let restored = json(&place.run(&["restore", from, "--json"]));
        assert_eq!((&restored["nodes"], &restored["session"]), (&21.into(), &"default".into()), "{restored}");
    }
    assert_eq!(place.run(&["fsck"]).code, 0);
    let mut daemon = Running::start(&place, &[]);
    daemon.says("Session restored from disk");
    daemon.says("Nodes: 21");
}

#[test]
fn what_would_disturb_a_running_daemon_ends_with_75() {
    let place = imported();
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    json(&place.run(&["backups", "create", "--http-port", &port, "--json"]));
    let second = Ended::from(place.hotset(&["serve"]).env("PORT", "0").env("HTTP_PORT", "0").output().unwrap());
    assert_eq!(second.code, 75, "{second:?}");
    assert!(second.err.contains("another daemon (pid "), "{second:?}");
    for command in [&["recover"] as &[_], &["import", &fixture("blender_repository.db")]] {
        let ended = place.run(command);
        assert_eq!(ended.code, 75, "{command:?}: {ended:?}");
        assert!(ended.err.contains("the daemon (pid ") && ended.err.contains("is running: stop it first"), "{ended:?}");
    }
    assert_eq!(place.run(&["fsck"]).code, 0, "looking is allowed");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn damage_is_found_and_ends_with_65() {
    let place = imported();
    json(&place.run(&["import", &fixture("blender_repository.db"), "--session", "other", "--json"]));
    assert_eq!(place.run(&["fsck"]).code, 0);
    damage(&place, "data/session_snapshot.bin");
    let checked = place.run(&["fsck", "--json"]);
    assert_eq!(checked.code, 65, "{checked:?}");
    let report: Value = serde_json::from_str(&checked.out).unwrap();
    let finding = |file: &str| report["findings"].as_array().unwrap().iter().find(|f| f["file"] == file).unwrap();
    assert_eq!(finding("session_snapshot.bin")["condition"], "corrupt");
    assert_eq!(finding("sessions/other/session_snapshot.bin")["condition"], "clean");
}

#[test]
fn a_damaged_backup_is_not_restored() {
    let place = imported();
    json(&place.run(&["restore", "data/session_snapshot.bin", "--json"]));
    let backup = backups(&place).remove(0);
    damage(&place, &format!("data/{}", backup.display()));
    let verified = place.run(&["backups", "verify"]);
    assert_eq!(verified.code, 65, "{verified:?}");
    let before = place.run(&["export"]).out;
    for flags in [&[] as &[_], &["--dry-run"]] {
        let ended = place.run(&[&["restore", backup.to_str().unwrap()], flags].concat());
        assert_eq!(ended.code, 65, "{ended:?}");
    }
    assert_eq!(place.run(&["restore", "no-such-backup"]).code, 65);
    assert_eq!(place.run(&["export"]).out, before, "nothing has changed");
}

#[test]
fn what_was_never_a_snapshot_is_called_so() {
    let place = imported();
    for (name, text) in [("wrong.txt", "shopping list"), ("empty.bin", "")] {
        place.write(name, text);
        let ended = place.run(&["restore", name]);
        assert_eq!(ended.code, 65, "{ended:?}");
        assert!(ended.err.contains("not a Hotset snapshot") && !ended.err.contains("damaged"), "{ended:?}");
    }
}

#[test]
fn a_mistyped_session_has_no_backups_because_there_is_none() {
    let place = imported();
    assert_eq!(place.run(&["backups", "list"]).code, 0);
    for what in ["list", "verify"] {
        let ended = place.run(&["backups", what, "--session", "typo"]);
        assert_eq!((ended.code, ended.out.as_str()), (65, ""), "{ended:?}");
        assert!(ended.err.contains("there is no session typo"), "{ended:?}");
    }
}

#[test]
fn recover_shows_the_loss_and_accepts_it_only_with_its_token() {
    let place = imported();
    assert_eq!(json(&place.run(&["recover", "--json"]))["damaged"], false);
    json(&place.run(&["restore", "data/session_snapshot.bin", "--json"]));
    place.write("data/session_snapshot.bin", "somebody cut this copy");
    assert_eq!(place.run(&["export"]).code, 65);
    let shown = place.run(&["recover", "--json"]);
    assert_eq!(shown.code, 65, "{shown:?}");
    let loss: Value = serde_json::from_str(&shown.out).unwrap();
    let command = loss["to_go_on_without_it"].as_str().unwrap();
    assert_eq!(place.run(&["recover", "--accept-loss", "000000000000"]).code, 64);
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    assert_eq!(place.run(&words).code, 0);
    assert_eq!(json(&place.run(&["recover", "--json"]))["damaged"], false);
}

#[test]
fn an_export_never_replaces_a_file_and_leaves_nothing_incomplete() {
    let place = imported();
    assert_eq!(place.run(&["export", "--to", "out.json"]).code, 0);
    assert_eq!(place.run(&["export", "--to", "out.json"]).code, 73);
    let failed = place.run(&["export", "--session", "absent", "--to", "absent.json"]);
    assert_eq!(failed.code, 65, "{failed:?}");
    assert!(!place.path().join("absent.json").exists());
}
