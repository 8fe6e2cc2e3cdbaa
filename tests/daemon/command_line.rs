//! What the command line answers, and with which exit code.

use crate::program::{Ended, Place};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::thread::JoinHandle;

#[test]
fn wrong_usage_ends_with_64() {
    let place = Place::new();
    for arguments in [
        &["frobnicate"] as &[_],
        &["--no-such-flag"],
        &["--port"],
        &["config"],
        &["config", "check", "--port", "70000"],
        &["save", "--session", "Not A Slug"],
        &["--server-password", "x"],
    ] {
        let ended = place.run(arguments);
        assert_eq!(ended.code, 64, "{arguments:?}: {ended:?}");
        assert!(!ended.err.is_empty() && ended.out.is_empty(), "{arguments:?}: {ended:?}");
    }
}

#[test]
fn help_and_version_are_no_failures() {
    let place = Place::new();
    assert_eq!(place.run(&["--version"]).out, format!("hotset {}\n", env!("CARGO_PKG_VERSION")));
    let help = place.run(&["--help"]);
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    assert!(help.out.contains("--save-interval"));
}

#[test]
fn wrong_settings_end_with_78_and_say_where_and_what_is_allowed() {
    let place = Place::new();
    place.write(".env", "SAVE_INTERVAL=soon\n");
    place.write("config/hotset.toml", "max_backup = 3\n");
    for command in [&["config", "check"] as &[_], &["config", "show"], &["serve"], &["status"]] {
        let ended = place.run(command);
        assert_eq!(ended.code, 78, "{command:?}: {ended:?}");
        assert_eq!(
            ended.err,
            "hotset: config/hotset.toml:1: there is no setting max_backup (did you mean max_backups?)\n\
             hotset: .env:1: SAVE_INTERVAL is \"soon\", expected a time from 1s to 1d, in seconds or like 2m, 1h30m, 500ms\n"
        );
    }
    assert!(!place.path().join("data").exists(), "nothing is made before the settings are good");
}

#[test]
fn unknown_prefixed_variables_end_with_78() {
    let place = Place::new();
    let output = place.hotset(&["config", "check"]).env("HOTSET_SAVE_INTERVALL", "1").output().unwrap();
    let ended = Ended::from(output);
    assert_eq!(ended.code, 78);
    assert!(ended.err.contains("did you mean HOTSET_SAVE_INTERVAL?"), "{ended:?}");
}

#[test]
fn near_misses_in_env_files_are_warnings() {
    let place = Place::new();
    place.write(".env", "SAVEINTERVAL=9\nUNRELATED=1\n");
    let ended = place.run(&["config", "check"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "the settings are good, with 1 warning (read: .env)\n"));
    assert_eq!(ended.err, "hotset: warning: .env:1: SAVEINTERVAL is no setting (did you mean SAVE_INTERVAL?)\n");
}

#[test]
fn settings_are_shown_with_their_origin_and_without_secrets() {
    let place = Place::new();
    place.write(".env", "SAVE_INTERVAL=60\nSAVE_INTERVAL=2m\nSERVER_PASSWORD=canary-one\n");
    place.write("config/hotset.toml", "max_backups = 5\n");
    let run = |arguments: &[&str]| {
        let mut command = place.hotset(arguments);
        Ended::from(command.env("HTTP_PORT", "8123").env("ADMIN_PASSWORD", "canary-two").output().unwrap())
    };
    let shown = run(&["config", "show", "--json", "--log-level", "debug"]);
    let settings: Value = serde_json::from_str(&shown.out).unwrap();
    let entry = |name: &str| {
        let entry = settings.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap();
        format!("{} {}", entry["value"].as_str().unwrap(), entry["origin"].as_str().unwrap())
    };
    assert_eq!(entry("SAVE_INTERVAL"), "2m .env:2");
    assert_eq!(entry("MAX_BACKUPS"), "5 config/hotset.toml:1");
    assert_eq!(entry("HTTP_PORT"), "8123 environment HTTP_PORT");
    assert_eq!(entry("LOG_LEVEL"), "debug flag --log-level");
    assert_eq!(entry("TIMEOUT"), "10000 default");
    assert_eq!(entry("SERVER_PASSWORD"), "(hidden) .env:3");
    let table = run(&["config", "show"]);
    assert!(table.out.contains("SAVE_INTERVAL") && !table.out.contains('\u{1b}'));
    for ended in [shown, table] {
        assert!(!format!("{ended:?}").contains("canary"), "{ended:?}");
    }
}

#[test]
fn passwords_are_shown_to_whoever_asks_for_them() {
    let place = Place::new();
    place.write("data/admin_password", "kept\n");
    place.write(".env", "SERVER_PASSWORD='$et'\n");
    let shown: Value = serde_json::from_str(&place.run(&["password", "show", "--json"]).out).unwrap();
    assert_eq!(shown["server_password"]["password"], "$et");
    assert_eq!(shown["admin_password"]["password"], "kept");
    assert_eq!(shown["admin_password"]["source"], "data/admin_password");
}

#[test]
fn passwords_of_a_directory_where_nothing_is_are_a_failure_that_says_where_it_looked() {
    let place = Place::new();
    let shown = place.run(&["password", "show"]);
    assert_eq!((shown.code, shown.out.as_str()), (65, ""), "{shown:?}");
    let looked_in = place.path().canonicalize().unwrap().join("data");
    assert!(shown.err.contains(&format!("no daemon has been started in {}", looked_in.display())), "{shown:?}");
    assert!(shown.err.contains("--data-dir"), "{shown:?}");
    place.write("data/admin_token", "ht_admin_x\n");
    let shown = place.run(&["password", "show"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    assert!(shown.out.contains("open to this machine only"), "{shown:?}");
}

#[test]
fn without_a_daemon_its_commands_end_with_69() {
    let place = Place::new();
    place.write("data/admin_token", "ht_admin_x\n");
    for command in [&["healthcheck"] as &[_], &["status"], &["save"], &["backups", "create"]] {
        let ended = place.run(&[command, &["--http-port", "1"]].concat());
        assert_eq!(ended.code, 69, "{command:?}: {ended:?}");
        assert!(ended.err.contains("no daemon answers at http://127.0.0.1:1"), "{ended:?}");
    }
    let elsewhere = place.run(&["status", "--data-dir", "elsewhere"]);
    assert_eq!(elsewhere.code, 69);
    assert!(elsewhere.err.contains("elsewhere/admin_token"), "{elsewhere:?}");
}

#[test]
fn a_password_file_that_cannot_be_used_ends_with_65() {
    let place = Place::new();
    place.write("data/admin_token", "\n");
    assert_eq!(place.run(&["status"]).code, 65);
}

/// Answers one request with `answer` and gives back what was asked.
fn daemon_that_answers(answer: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut asked = Vec::new();
        let mut buffer = [0; 4096];
        while !asked.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            let got = stream.read(&mut buffer).unwrap();
            asked.extend_from_slice(&buffer[..got]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    });
    (port, asked)
}

#[test]
fn a_living_daemon_is_healthy_and_a_stuck_one_is_not() {
    let place = Place::new();
    let (port, asked) = daemon_that_answers("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n");
    let ended = place.run(&["healthcheck", "--http-port", &port]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(asked.join().unwrap().starts_with("GET /livez HTTP/1.1\r\n"));
    let (port, _) = daemon_that_answers("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 5\r\n\r\nstuck");
    let ended = place.run(&["healthcheck", "--http-port", &port]);
    assert_eq!(ended.code, 69);
    assert!(ended.err.contains("answers 503: stuck"), "{ended:?}");
}

#[test]
fn session_names_that_are_not_allowed_are_told_what_is() {
    let ended = Place::new().run(&["backups", "list", "--session", "Bad Name!"]);
    assert_eq!(ended.code, 64, "{ended:?}");
    assert!(ended.err.contains("1 to 64 of a-z 0-9 - _"), "{ended:?}");
}

#[test]
fn the_daemon_is_asked_with_the_admin_token_and_its_answer_shown() {
    let place = Place::new();
    place.write("data/admin_token", "ht_admin_secret\n");
    let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1d\r\n{\"seq\": 7, \"bytes\": 9, \"file\"\r\n6\r\n: \"x\"}\r\n0\r\n\r\n";
    let (port, asked) = daemon_that_answers(answer);
    let ended = place.run(&["save", "--session", "stage-2", "--http-port", &port]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "saved: x (seq 7, 9 bytes)\n"), "{ended:?}");
    let asked = asked.join().unwrap();
    assert!(asked.starts_with("POST /api/v1/sessions/stage-2/save HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("authorization: Bearer ht_admin_secret\r\n"));
}

#[test]
fn a_refusing_daemon_is_a_failure_with_its_reason() {
    let place = Place::new();
    place.write("data/admin_token", "ht_admin_secret\n");
    for (answer, code) in [
        ("HTTP/1.1 401 Unauthorized\r\n\r\n{\"message\": \"the reason\"}", 77),
        ("HTTP/1.1 404 Not Found\r\n\r\n{\"error\": {\"message\": \"the reason\"}}", 65),
        ("HTTP/1.1 503 Busy\r\n\r\nthe reason", 69),
        ("HTTP/1.1 500 Oh\r\n\r\nthe reason", 74),
    ] {
        let (port, _) = daemon_that_answers(answer);
        let ended = place.run(&["status", "--http-port", &port]);
        assert_eq!(ended.code, code, "{ended:?}");
        assert!(ended.err.contains(": the reason\n"), "{ended:?}");
    }
}

#[test]
fn an_export_that_breaks_off_is_a_failure_and_leaves_no_file() {
    let place = Place::new();
    place.write("data/admin_token", "ht_admin_secret\n");
    let (port, _) = daemon_that_answers("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}");
    let ended = place.run(&["export", "--to", "out.json", "--http-port", &port]);
    assert_eq!(ended.code, 74, "{ended:?}");
    assert!(!place.path().join("out.json").exists());
}
