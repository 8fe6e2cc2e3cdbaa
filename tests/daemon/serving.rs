//! The running daemon: its log, its settings while it runs, its end.

use crate::program::{Ended, Place};
use crate::running::Running;
use serde_json::Value;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

#[test]
fn changed_files_are_applied_and_told_while_it_runs() {
    let place = Place::new();
    place.write(".env", "SAVE_INTERVAL=60\n");
    let mut daemon = Running::start(&place, &[]);
    daemon.says("Hotset ");
    // The signal is answered only when the daemon looks after its settings.
    daemon.signal("-HUP");
    daemon.says("Settings read again: nothing changed");
    place.write(".env", "SAVE_INTERVAL=60\nSAVE_INTERVAL=30\nLOG_FORMAT=json\nSERVER_PASSWORD=canary\n");
    daemon.says("SAVE_INTERVAL: 60 -> 30 (.env:2), applied");
    daemon.says("SERVER_PASSWORD: (not set) -> (hidden) (.env:4), applied");
    daemon.says("LOG_FORMAT: auto -> json (.env:3), needs a restart");
    place.write(".env", "SAVE_INTERVAL=never\n");
    daemon.says("SAVE_INTERVAL is \"never\"");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_log_is_json_when_asked_for_and_its_level_can_change() {
    let place = Place::new();
    place.write(".env", "LOG_LEVEL=INFO\n");
    let mut daemon = Running::start(&place, &["--log-format", "json"]);
    let line: Value = serde_json::from_str(&daemon.says("Hotset ")).unwrap();
    assert_eq!(line["level"], "INFO");
    daemon.signal("-HUP");
    daemon.says("nothing changed");
    place.write(".env", "LOG_LEVEL=ERROR\nMAX_BACKUPS=3\nMAX_BACKUPS=many\n");
    daemon.says("MAX_BACKUPS is");
    place.write(".env", "LOG_LEVEL=ERROR\nMAX_BACKUPS=3\n");
    place.write(".env", "LOG_LEVEL=DEBUG\nMAX_BACKUPS=4\n");
    daemon.says("MAX_BACKUPS: ");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn secrets_are_generated_for_the_owner_only_and_never_logged() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &["--bind", "0.0.0.0"]);
    daemon.says("Hotset ");
    daemon.signal("-HUP");
    daemon.says("nothing changed");
    daemon.signal("-TERM");
    let rest: Vec<String> = daemon.lines.iter().collect();
    daemon.heard.extend(rest);
    for name in ["server_password", "admin_password", "admin_token"] {
        let path = place.path().join("data").join(name);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        let secret = std::fs::read_to_string(path).unwrap();
        assert!(daemon.heard.iter().all(|line| !line.contains(secret.trim())), "{:?}", daemon.heard);
    }
}

#[test]
fn a_data_directory_that_cannot_be_made_ends_with_73_and_names_it() {
    let place = Place::new();
    place.write("file", "");
    let ended = Ended::from(place.hotset(&["serve", "--data-dir", "file/data"]).output().unwrap());
    assert_eq!(ended.code, 73, "{ended:?}");
    assert!(ended.err.contains("cannot create the data directory file/data"), "{ended:?}");
    assert!(ended.err.contains("running as uid "), "{ended:?}");
}

#[test]
fn opening_the_daemon_to_everybody_while_it_runs_is_warned_about() {
    let place = Place::new();
    place.write(".env", "SERVER_PASSWORD=sesame\n");
    let mut daemon = Running::start(&place, &["--bind", "0.0.0.0"]);
    daemon.says("Listening on");
    daemon.signal("-HUP");
    daemon.says("nothing changed");
    place.write(".env", "SERVER_PASSWORD=\n");
    let line = daemon.says("SERVER_PASSWORD is empty: whoever can reach 0.0.0.0 can join");
    assert!(line.contains("WARN"), "{line}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn commands_find_the_daemon_that_runs_whatever_the_settings_have_become() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    let note = place.path().join("data/http_address");
    assert_eq!(std::fs::read_to_string(&note).unwrap(), format!("127.0.0.1:{port}\n"));
    assert_eq!(note.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    place.write(".env", "HTTP_PORT=1\n");
    for command in [&["healthcheck"] as &[_], &["status"], &["save"], &["backups", "create"]] {
        let ended = place.run(command);
        assert_eq!(ended.code, 0, "{command:?}: {ended:?}");
    }
    place.write(".env", "HTTP_PORT=1\nSAVE_INTERVAL=never\nHOTSET_NONSENSE=1\n");
    let ended = place.run(&["healthcheck"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.err.contains("warning: .env:2: SAVE_INTERVAL is \"never\""), "{ended:?}");
    assert_eq!(daemon.stop(), 0);
    assert!(!note.exists());
    assert_eq!(place.run(&["healthcheck"]).code, 69);
}

#[test]
fn the_status_says_where_blender_clients_connect() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &["--blender-sessions", "film=0, trailer=0"]);
    daemon.says("Connect Blender");
    let film = daemon.says("Port of session film: ");
    daemon.says("Port of session trailer: ");
    let ended = place.run(&["status", "--json"]);
    let status: Value = serde_json::from_str(&ended.out).unwrap();
    let others = status["blender_sessions"].as_object().unwrap();
    assert_eq!(others.keys().collect::<Vec<_>>(), ["film", "trailer"]);
    for door in others.values().chain([&status["blender"]]) {
        let addresses: Vec<&str> = door.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect();
        assert_eq!(addresses.len(), 3, "{ended:?}");
        for address in addresses {
            TcpStream::connect(address).unwrap();
        }
    }
    let (_, port) = others["film"][0].as_str().unwrap().rsplit_once(':').unwrap();
    assert!(film.contains(&format!("film: {port} (")), "{film}");
    let names: Vec<&str> =
        status["sessions"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["default"], "nobody has made the others");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn the_log_says_the_whole_command_that_shows_the_password() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &["--bind", "0.0.0.0", "--data-dir", "elsewhere"]);
    let line = daemon.says("hotset password show");
    let (_, folder) = line.split_once("hotset password show --data-dir ").unwrap();
    assert_eq!(folder.trim(), place.path().canonicalize().unwrap().join("elsewhere").display().to_string());
}

#[test]
fn an_address_of_another_machine_is_called_so() {
    let ended = Ended::from(Place::new().hotset(&["serve", "--bind", "192.0.2.1"]).output().unwrap());
    assert_eq!(ended.code, 69, "{ended:?}");
    assert!(ended.err.contains("It is no address of this machine: set BIND"), "{ended:?}");
}

#[test]
fn a_session_that_is_not_served_is_told_to_all_who_may_know() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    drop(member(&port, "alice"));
    daemon.says("user_disconnect:alice");
    assert_eq!(daemon.stop(), 0);
    place.write("data/session_snapshot.bin", "somebody cut this copy");
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    let why = "session default is not served: ";
    for command in [&["save"] as &[_], &["export"], &["backups", "create"]] {
        let ended = place.run(command);
        assert_eq!(ended.code, 69, "{command:?}: {ended:?}");
        assert!(ended.err.contains(why) && ended.err.contains("(503)"), "{command:?}: {ended:?}");
    }
    let status: Value = serde_json::from_str(&place.run(&["status", "--json"]).out).unwrap();
    assert_eq!(
        (&status["sessions"][0]["name"], &status["sessions"][0]["mode"]),
        (&"default".into(), &"not_served".into())
    );
    let error = refusal(&port, "default");
    assert_eq!(error["code"], "not_served");
    assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn without_a_password_a_missing_session_is_called_missing() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    assert_eq!(refusal(&port, "typo")["code"], "no_such_session");
    daemon.says("CREATE_SESSIONS");
    assert_eq!(daemon.stop(), 0);
    place.write(".env", "SERVER_PASSWORD=sesame\n");
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    assert_eq!(refusal(&port, "typo")["code"], "denied");
}

#[test]
fn a_page_of_another_origin_is_refused_and_logged() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    let stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    let mut request = format!("ws://127.0.0.1:{port}/api/v1/sessions/default/ws").into_client_request().unwrap();
    request.headers_mut().insert("origin", "http://elsewhere.example".parse().unwrap());
    assert!(client(request, stream).is_err());
    let line = daemon.says("http://elsewhere.example");
    assert!(line.contains("WARN") && line.contains("ALLOWED_ORIGINS"), "{line}");
}

/// What somebody who gives no password is told at the door of this session.
fn refusal(port: &str, session: &str) -> Value {
    let stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (mut socket, _) = client(format!("ws://127.0.0.1:{port}/api/v1/sessions/{session}/ws"), stream).unwrap();
    socket.send(Message::text(r#"{"type":"hello","name":"bob","password":"wrong"}"#)).unwrap();
    hears(&mut socket, "error")
}

#[test]
fn systemd_is_told_when_it_is_ready_reloading_alive_and_stopping() {
    let place = Place::new();
    let socket = UnixDatagram::bind(place.path().join("notify")).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let notify_socket = place.path().join("notify").display().to_string();
    let environment = [("NOTIFY_SOCKET", notify_socket.as_str()), ("WATCHDOG_USEC", "200000")];
    let mut daemon = Running::start_with(&place, &[], &environment);
    let hears = |word: &str| {
        let mut buffer = [0; 4096];
        loop {
            let len = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{word} was not told: {error}"));
            let told = String::from_utf8_lossy(&buffer[..len]).into_owned();
            if told.lines().any(|line| line == word) {
                return told;
            }
        }
    };
    hears("READY=1");
    hears("WATCHDOG=1");
    daemon.says("Listening on");
    daemon.signal("-HUP");
    assert!(hears("RELOADING=1").contains("MONOTONIC_USEC="));
    hears("READY=1");
    daemon.signal("-TERM");
    hears("STOPPING=1");
}

/// A member of the default session.
pub(crate) fn member(port: &str, name: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let (mut socket, _) = client(format!("ws://127.0.0.1:{port}/api/v1/sessions/default/ws"), stream).unwrap();
    socket.send(Message::text(format!(r#"{{"type":"hello","name":"{name}"}}"#))).unwrap();
    hears(&mut socket, "welcome");
    socket
}

/// The next message of this type.
pub(crate) fn hears(socket: &mut WebSocket<TcpStream>, kind: &str) -> Value {
    loop {
        let Message::Text(text) = socket.read().unwrap() else { continue };
        let message: Value = serde_json::from_str(&text).unwrap();
        if message["type"] == kind {
            return message;
        }
    }
}

#[test]
fn changed_limits_count_for_connections_that_are_open() {
    let place = Place::new();
    place.write(".env", "OPS_PER_SECOND=0\n");
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    let mut alice = member(&port, "alice");
    let mut say = |op: u64, bytes: usize| {
        let text = "x".repeat(bytes);
        alice.send(Message::text(format!(r#"{{"type":"op","op":{op},"do":"chat.post","text":"{text}"}}"#))).unwrap();
        alice.flush().unwrap();
        loop {
            match alice.read() {
                Ok(Message::Text(text)) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    if message["op"] == op && message["type"] != "event" {
                        return message["code"].as_str().unwrap_or("ack").to_owned();
                    }
                }
                Ok(Message::Close(frame)) => return frame.unwrap().reason.to_string(),
                Ok(_) => {}
                Err(error) => return error.to_string(),
            }
        }
    };
    assert_eq!(say(1, 8_000), "ack");
    daemon.signal("-HUP");
    daemon.says("nothing changed");
    place.write(".env", "OPS_PER_SECOND=1\nOPS_BURST=1\n");
    daemon.says("OPS_PER_SECOND: 0 -> 1");
    assert!((2..100).any(|op| say(op, 10) == "rate_limited"));
    place.write(".env", "OPS_PER_SECOND=0\nMAX_MESSAGE=4KiB\n");
    daemon.says("MAX_MESSAGE: ");
    assert_eq!(say(100, 10), "ack");
    assert!(say(101, 8_000).contains("large"));
}

#[test]
fn an_empty_session_is_started_again_without_a_snapshot() {
    let place = Place::new();
    for said in ["first run", "Session is empty", "Session is empty"] {
        let mut daemon = Running::start(&place, &[]);
        daemon.says(said);
        daemon.says("Listening on");
        assert!(daemon.heard.iter().all(|line| !line.contains("1970") && !line.contains("Session saved")));
        assert_eq!(daemon.stop(), 0);
        assert!(!place.path().join("data/session_snapshot.bin").exists());
    }
}

#[test]
fn a_restore_is_told_once_and_with_what_the_snapshot_held() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    let _alice = member(&port, "alice");
    assert_eq!(daemon.stop(), 0);
    let live = place.path().join("data/session_snapshot.bin");
    let with_alice = std::fs::read(&live).unwrap();
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    drop(member(&port, "bob"));
    daemon.says("user_disconnect:bob");
    assert_eq!(daemon.stop(), 0);
    std::fs::write(&live, with_alice).unwrap();
    let mut daemon = Running::start(&place, &[]);
    daemon.says("Users: 1");
    daemon.says("Listening on");
    let told = daemon.heard.iter().filter(|line| line.contains("is kept in backups/kept/")).count();
    assert_eq!(told, 1, "{:#?}", daemon.heard);
}
