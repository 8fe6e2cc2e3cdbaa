//! The doctor: what it finds of an installation that is well, stopped, or wrong.

use crate::program::{Ended, Place};
use crate::running::Running;
use serde_json::Value;
use std::net::TcpListener;

/// A port of which the two after it are free, too.
fn three_ports() -> u16 {
    (20_000 + u16::try_from(std::process::id() % 5_000).unwrap()..32_000)
        .step_by(3)
        .find(|port| (0..3).all(|offset| TcpListener::bind(("127.0.0.1", port + offset)).is_ok()))
        .unwrap()
}

fn examined(place: &Place, settings: &[&str]) -> (i32, Vec<(String, String, String)>) {
    let ended = place.run(&[&["doctor", "--json"], settings].concat());
    let report: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
    assert_eq!(report["ok"], ended.code == 0, "{ended:?}");
    let text = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
    let checks = report["checks"].as_array().unwrap().iter();
    (ended.code, checks.map(|check| (text(check, "grade"), text(check, "check"), text(check, "text"))).collect())
}

/// The grade of the first check of that name whose text contains this.
fn grade<'a>(checks: &'a [(String, String, String)], name: &str, part: &str) -> &'a str {
    let found = checks.iter().find(|(_, check, text)| check == name && text.contains(part));
    found.map_or_else(|| panic!("no {name} with {part:?} in {checks:#?}"), |(grade, ..)| grade)
}

fn lines_fit(ended: &Ended) {
    assert!(ended.out.lines().all(|line| line.chars().count() <= 80), "{ended:?}");
}

#[test]
fn a_running_daemon_and_its_doors_are_well() {
    let place = Place::new();
    let port = three_ports().to_string();
    let environment = [("PORT", port.as_str()), ("BLENDER_SESSIONS", "film=0")];
    let mut daemon = Running::start_with(&place, &[], &environment);
    daemon.says("Listening on http://");
    let (code, checks) = examined(&place, &["--port", &port]);
    assert_eq!(code, 0, "{checks:#?}");
    for (name, part) in [
        ("settings", "valid"),
        ("data directory", "writable"),
        ("free space", "MiB"),
        ("daemon", "runs"),
        ("ready", "serves"),
        ("files", "headers only"),
        ("reachable", "only from this machine"),
        ("Blender port", "(session default, commands) answers"),
        ("Blender port", "(session default, data) answers"),
        ("Blender port", "(session default, signs of life) answers"),
        ("Blender door", "session default answers a probe as version 0."),
        ("Blender port", "(session film, commands) answers"),
        ("Blender port", "(session film, data) answers"),
        ("Blender port", "(session film, signs of life) answers"),
        ("Blender door", "session film answers a probe as version 0."),
        ("server password", "none"),
        ("admin password", "generated"),
    ] {
        let grade = grade(&checks, name, part);
        assert!(grade == "ok" || (name, grade) == ("free space", "warn"), "{name}: {checks:#?}");
    }
    assert_eq!(grade(&checks, "server password", "as set here: none"), "ok");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_running_daemon_is_asked_where_it_listens_whatever_the_settings_say_now() {
    let place = Place::new();
    let mut daemon = Running::start_with(&place, &[], &[("BIND", "0.0.0.0")]);
    daemon.says("Listening on http://");
    let (code, checks) = examined(&place, &["--port", "19", "--http-port", "18"]);
    assert_eq!(code, 0, "{checks:#?}");
    assert_eq!(grade(&checks, "reachable", "from other machines, at 0.0.0.0"), "ok");
    assert_eq!(grade(&checks, "Blender port", "(session default, signs of life) answers"), "ok");
    assert_eq!(grade(&checks, "Blender door", "version 0."), "ok");
    assert_eq!(daemon.stop(), 0);

    let mut daemon = Running::start_with(&place, &[], &[("DOORS", "native")]);
    daemon.says("Listening on http://");
    let (code, checks) = examined(&place, &[]);
    assert_eq!((code, grade(&checks, "Blender door", "closed (DOORS)")), (0, "ok"), "{checks:#?}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_daemon_of_another_directory_is_not_taken_for_ours() {
    let (place, other) = (Place::new(), Place::new());
    let mut once = Running::start(&place, &[]);
    once.says("Listening on http://");
    assert_eq!(once.stop(), 0);
    let mut another = Running::start(&other, &[]);
    let port = another.http_port();
    let (code, checks) = examined(&place, &["--http-port", &port, "--port", "0"]);
    assert_eq!(code, 1, "{checks:#?}");
    let text = format!("none runs on this directory; another Hotset answers at http://127.0.0.1:{port}");
    assert_eq!(grade(&checks, "daemon", &text), "warn");
    assert_eq!(grade(&checks, "HTTP port", "give --data-dir"), "FAIL");
    assert!(checks.iter().all(|(_, name, _)| name != "ready"), "{checks:#?}");
}

#[test]
fn a_stopped_daemon_whose_ports_are_taken_is_told_so_in_lines_that_fit() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = place.run(&["doctor", "--http-port", &port]);
    lines_fit(&ended);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.out.contains(&format!("FAIL  HTTP port: {port} is in use (ss -tlnp shows by whom)")), "{ended:?}");
    assert!(ended.out.contains("warn  data directory: data is not there"), "{ended:?}");
    assert!(!place.path().join("data").exists(), "it changes nothing");
}

#[test]
fn the_ports_of_further_sessions_are_looked_at_before_the_start() {
    let place = Place::new();
    let first = three_ports();
    let taken = TcpListener::bind(("127.0.0.1", first + 2)).unwrap();
    place.write(".env", &format!("PORT=0\nHTTP_PORT=0\nBLENDER_SESSIONS=film = {first}, trailer=0\n"));
    let (code, checks) = examined(&place, &[]);
    assert_eq!(code, 1, "{checks:#?}");
    assert_eq!(grade(&checks, "Blender port", &format!("{first} is free")), "ok");
    assert_eq!(grade(&checks, "Blender port", "otherwise stop it or change BLENDER_SESSIONS"), "FAIL");
    let ended = place.run(&["serve"]);
    let advice = format!("127.0.0.1:{}: Address already in use", first + 2);
    assert!(ended.code == 69 && ended.err.contains(&advice), "{ended:?}");
    assert!(ended.err.contains("Another program is using the port: set BLENDER_SESSIONS"), "{ended:?}");
    drop(taken);
}

#[test]
fn sessions_at_ports_that_others_have_are_an_error_before_the_start() {
    let place = Place::new();
    for (sessions, text) in [
        ("film=5556", "the Blender ports 5555 to 5557 of session default (PORT) and 5556 to 5558 of session film"),
        ("film=8079", "HTTP_PORT 8080 is one of the three Blender ports 8079 to 8081 of session film"),
        ("film=5570,trailer=5572", "5572 to 5574 of session trailer (BLENDER_SESSIONS) overlap: move one of them"),
        ("Film=5570", ".env:1: BLENDER_SESSIONS is \"Film=5570\", expected a list of sessions"),
    ] {
        place.write(".env", &format!("BLENDER_SESSIONS={sessions}\n"));
        for command in [&["config", "check"] as &[_], &["serve"]] {
            let ended = place.run(command);
            assert!(ended.code == 78 && ended.err.contains(text), "{sessions}: {ended:?}");
        }
    }
}

#[test]
fn http_on_one_of_the_blender_ports_is_an_error_before_the_start() {
    let place = Place::new();
    place.write(".env", "PORT=17555\nHTTP_PORT=17557\n");
    let text = "HTTP_PORT 17557 is one of the three Blender ports 17555 to 17557";
    for command in [&["config", "check"] as &[_], &["serve"], &[]] {
        let ended = place.run(command);
        assert!(ended.code == 78 && ended.err.contains(text), "{ended:?}");
    }
    assert_eq!(grade(&examined(&place, &[]).1, "settings", text), "FAIL");
    for apart in [&["--http-port", "17558"], &["--doors", "native"], &["--http-port", "0"]] {
        let ended = place.run(&[&["config", "check"], apart as &[_]].concat());
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    let ended = place.run(&["status"]);
    assert!(ended.err.contains("no daemon has run here"), "{ended:?}");
}

#[test]
fn that_a_file_of_the_old_server_can_be_read_is_not_promised() {
    let place = Place::new();
    place.write("data/session_snapshot.pkl", "not a pickle");
    let (_, checks) = examined(&place, &["--http-port", "0", "--port", "0"]);
    assert_eq!(grade(&checks, "old server", "its import will be tried at the first start"), "ok");
}

#[test]
fn wrong_settings_old_files_and_damage_are_found_together() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    daemon.says("Listening on http://");
    assert_eq!(daemon.stop(), 0);
    place.write("data/session_snapshot.pkl", "old");
    place.write("data/backups/snapshot_20260101_000000.bin", "not a snapshot");
    place.write(".env", "SAVE_INTERVAL=never\nSERVER_PASSWORD=\nBIND=0.0.0.0\nPORT=0\nHTTP_PORT=0\n");
    let (code, checks) = examined(&place, &[]);
    assert_eq!(code, 1, "{checks:#?}");
    assert_eq!(grade(&checks, "settings", "SAVE_INTERVAL is \"never\""), "FAIL");
    assert_eq!(grade(&checks, "daemon", "none runs"), "warn");
    assert_eq!(grade(&checks, "files", "snapshot_20260101_000000.bin"), "FAIL");
    assert_eq!(grade(&checks, "old server", "hotset import"), "warn");
    assert_eq!(grade(&checks, "server password", "Set SERVER_PASSWORD"), "warn");
    lines_fit(&place.run(&["doctor"]));
}
