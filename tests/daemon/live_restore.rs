//! `hotset restore` while the daemon runs: what is said to whom, what is there afterwards, and what changes nothing.

use crate::program::{Ended, Place};
use crate::running::Running;
use crate::serving::{hears, member};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client as client_of};

fn json(ended: &Ended) -> Value {
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.out).unwrap()
}

fn said(place: &Place) -> Vec<String> {
    let all = json(&place.run(&["export"]));
    all["chat"].as_array().unwrap().iter().map(|message| message["text"].as_str().unwrap().to_owned()).collect()
}

fn say(socket: &mut WebSocket<TcpStream>, op: u64, text: &str) {
    let message = format!(r#"{{"type":"op","op":{op},"do":"chat.post","text":"{text}"}}"#);
    socket.send(Message::text(message)).unwrap();
    hears(socket, "ack");
}

/// A daemon with a backup that holds "saved", and alice, who has said "newer" since.
fn with_backup(place: &Place) -> (Running, String, WebSocket<TcpStream>, String) {
    let mut daemon = Running::start(place, &[]);
    let port = daemon.http_port();
    let mut alice = member(&port, "alice");
    say(&mut alice, 1, "saved");
    let made = json(&place.run(&["backups", "create", "--json"]));
    say(&mut alice, 2, "newer");
    (daemon, port, alice, made["backup"].as_str().unwrap().to_owned())
}

/// What the daemon answers to a request as it is: the status and the body.
fn asked(place: &Place, port: &str, path: &str, body: &str, token: Option<&str>) -> (u16, Value) {
    let read = || std::fs::read_to_string(place.path().join("data/admin_token")).unwrap();
    let token = token.map_or_else(read, ToOwned::to_owned);
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    write!(
        stream,
        "POST /api/v1/sessions/{path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
         content-length: {}\r\n\r\n{body}",
        token.trim(),
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_default())
}

#[test]
fn a_backup_is_restored_while_the_daemon_runs_and_everybody_is_told() {
    let place = Place::new();
    let (mut daemon, port, mut alice, backup) = with_backup(&place);
    let restored = json(&place.run(&["restore", "latest", "--json"]));
    assert_eq!((&restored["session"], &restored["restored"]), (&"default".into(), &"latest".into()), "{restored}");
    assert_eq!((&restored["messages"], &restored["nodes"]), (&1.into(), &0.into()), "{restored}");
    let time = restored["time"].as_str().unwrap();
    let kept = restored["newer_state_kept_in"].as_str().unwrap();
    assert!(kept.starts_with("backups/kept/pre_restore_"), "{restored}");
    let closing = hears(&mut alice, "closing");
    assert_eq!(closing["reason"], format!("the session was restored to the snapshot of {time}: connect again"));
    let end = loop {
        if let Message::Close(frame) = alice.read().unwrap() {
            break frame.unwrap();
        }
    };
    assert_eq!(end.code, CloseCode::Library(4410));
    daemon.says("restored the snapshot of");
    let mut alice = member(&port, "alice");
    say(&mut alice, 3, "after");
    assert_eq!(said(&place), ["saved", "after"]);
    let listed = json(&place.run(&["sessions", "list", "--json"]));
    assert_eq!(listed["sessions"][0]["users"], 1, "{listed}");
    // Dropped, it is killed.
    drop(daemon);
    assert_eq!(said(&place), ["saved", "after"]);
    assert_eq!(place.run(&["fsck"]).code, 0);
    assert_eq!(place.run(&["backups", "verify"]).code, 0);
    let again = json(&place.run(&["restore", kept, "--json"]));
    assert_eq!(said(&place), ["saved", "newer"], "nothing that was acknowledged is lost");
    let fields = |document: &Value| document.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&again), fields(&restored), "with and without the daemon");
    assert!(place.path().join("data").join(backup).exists());
}

#[test]
fn killed_right_after_the_answer_the_restored_state_is_there() {
    let place = Place::new();
    let (daemon, _, _, backup) = with_backup(&place);
    let restored = json(&place.run(&["restore", &backup, "--json"]));
    drop(daemon);
    assert_eq!(said(&place), ["saved"]);
    let mut daemon = Running::start(&place, &[]);
    daemon.says("Listening on http://");
    assert!(daemon.heard.iter().all(|line| !line.contains("is kept in")), "restored twice: {:#?}", daemon.heard);
    assert_eq!(said(&place), ["saved"]);
    json(&place.run(&["restore", restored["newer_state_kept_in"].as_str().unwrap(), "--json"]));
    assert_eq!(said(&place), ["saved", "newer"]);
    assert_eq!(daemon.stop(), 0);
    assert_eq!(said(&place), ["saved", "newer"]);
}

/// Says hello with a client id of before, and returns what `welcome` says.
fn returns(port: &str, client: &str) -> (WebSocket<TcpStream>, Value) {
    let stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (mut socket, _) = client_of(format!("ws://127.0.0.1:{port}/api/v1/sessions/default/ws"), stream).unwrap();
    let hello = format!(r#"{{"type":"hello","name":"alice"{client}}}"#);
    socket.send(Message::text(hello)).unwrap();
    let welcome = hears(&mut socket, "welcome");
    (socket, welcome)
}

#[test]
fn an_operation_that_was_acknowledged_before_a_restore_is_acknowledged_again_and_not_done_again() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let mut port = daemon.http_port();
    let (mut alice, welcome) = returns(&port, "");
    say(&mut alice, 1, "saved");
    let backup = json(&place.run(&["backups", "create", "--json"]))["backup"].as_str().unwrap().to_owned();
    say(&mut alice, 2, "abandoned");
    let client = format!(r#","client":{}"#, welcome["client"]);
    for running in [true, false] {
        if running {
            json(&place.run(&["restore", &backup, "--json"]));
        } else {
            assert_eq!(daemon.stop(), 0);
            json(&place.run(&["restore", &backup, "--json"]));
            daemon = Running::start(&place, &[]);
            port = daemon.http_port();
        }
        let (mut alice, _) = returns(&port, &client);
        say(&mut alice, 2, "abandoned");
        assert_eq!(said(&place), ["saved"], "{running}");
        let resume =
            format!(r#"{client},"resume":{{"branch":{},"run":{},"seq":2,"op":3}}"#, welcome["branch"], welcome["run"]);
        let (mut alice, welcome) = returns(&port, &resume);
        assert_eq!(welcome["resumed"], false);
        alice.send(Message::text(r#"{"type":"op","op":3,"do":"chat.post","text":"under way"}"#)).unwrap();
        assert_eq!(hears(&mut alice, "reject")["code"], "restored");
        assert_eq!(said(&place), ["saved"], "{running}");
    }
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_file_elsewhere_is_restored_by_its_name_as_the_shell_knows_it() {
    let place = Place::new();
    let (daemon, port, _, backup) = with_backup(&place);
    std::fs::create_dir(place.path().join("usb")).unwrap();
    std::fs::copy(place.path().join("data").join(backup), place.path().join("usb/copy.bin")).unwrap();
    let restored = json(&place.run(&["restore", "usb/copy.bin", "--json"]));
    assert_eq!(restored["restored"], "usb/copy.bin");
    assert_eq!(said(&place), ["saved"]);
    let (status, answer) = asked(&place, &port, "default/restore", r#"{"file": "usb/copy.bin"}"#, None);
    assert_eq!((status, answer["error"].as_str()), (400, Some("file must be an absolute path")));
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn what_cannot_be_restored_changes_nothing_and_disconnects_nobody() {
    let place = Place::new();
    let (daemon, port, mut alice, backup) = with_backup(&place);
    place.write("list.txt", "shopping list");
    let damaged = place.path().join("damaged.bin");
    let mut bytes = std::fs::read(place.path().join("data").join(&backup)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    for from in ["no-such-backup", "list.txt", "damaged.bin"] {
        let ended = place.run(&["restore", from]);
        assert_eq!(ended.code, 65, "{from}: {ended:?}");
    }
    assert_eq!(place.run(&["restore", "latest", "--session", "absent"]).code, 65);
    let ask = |path: &str, body: &str| asked(&place, &port, path, body, None).0;
    let wanted = format!(r#"{{"backup": "{backup}"}}"#);
    assert_eq!(asked(&place, &port, "default/restore", &wanted, Some("wrong")).0, 401);
    assert_eq!(ask("absent/restore", &wanted), 404);
    assert_eq!(ask("default/restore", ""), 400);
    assert_eq!(ask("default/restore", r#"{"backup": 7}"#), 400);
    assert_eq!(ask("default/restore", r#"{"backup": "damaged.bin"}"#), 404, "only a backup is found by its name");
    assert_eq!(ask("default/restore", r#"{"file": "/no/such/file"}"#), 404);
    assert_eq!(ask("default/restore", &format!(r#"{{"file": "{}"}}"#, damaged.display())), 422);
    let shown = json(&place.run(&["restore", "latest", "--dry-run", "--json"]));
    assert_eq!(shown["messages"], 1, "looking is allowed");
    say(&mut alice, 3, "still here");
    assert_eq!(said(&place), ["saved", "newer", "still here"]);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn if_what_was_newer_cannot_be_kept_nothing_is_restored() {
    let place = Place::new();
    let (daemon, _, mut alice, backup) = with_backup(&place);
    std::fs::copy(place.path().join("data").join(backup), place.path().join("copy.bin")).unwrap();
    let kept = place.path().join("data/backups/kept");
    std::fs::remove_dir(&kept).unwrap();
    place.write("data/backups/kept", "in the way");
    let ended = place.run(&["restore", "copy.bin"]);
    assert_eq!(ended.code, 74, "{ended:?}");
    assert!(ended.err.contains("nothing was restored"), "{ended:?}");
    say(&mut alice, 3, "still here");
    assert_eq!(said(&place), ["saved", "newer", "still here"]);
    std::fs::remove_file(&kept).unwrap();
    json(&place.run(&["restore", "copy.bin", "--json"]));
    assert_eq!(said(&place), ["saved"]);
    assert_eq!(daemon.stop(), 0);
}
