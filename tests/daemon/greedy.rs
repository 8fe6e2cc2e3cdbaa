//! Clients that take what they can get: the daemon gives them no more than their share.

use crate::program::Place;
use crate::running::Running;
use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::time::Duration;
use tokio_tungstenite::tungstenite::{Message, WebSocket, client};

fn connect(port: &str) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    client(format!("ws://127.0.0.1:{port}/api/v1/sessions/default/ws"), stream).unwrap().0
}

/// A masked frame: a mask of zeros is a mask.
fn frame(opcode: u8, data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    if let Ok(short @ ..=125) = u8::try_from(data.len()) {
        frame.push(0x80 | short);
    } else {
        frame.push(0xfe);
        frame.extend_from_slice(&u16::try_from(data.len()).unwrap().to_be_bytes());
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(data);
    frame
}

/// The code with which the server closes.
fn close_code(socket: &mut WebSocket<TcpStream>) -> u16 {
    loop {
        if let Message::Close(Some(frame)) = socket.read().unwrap() {
            return frame.code.into();
        }
    }
}

#[test]
fn whoever_does_not_read_answers_is_not_read_from_until_they_do() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let mut socket = connect(&daemon.http_port());
    socket.send(Message::text(r#"{"type":"hello","name":"mallory"}"#)).unwrap();
    let ping = frame(1, format!(r#"{{"type":"ping","id":"{}"}}"#, "x".repeat(250)).as_bytes());
    let pings = ping.repeat(200);
    let stream = socket.get_mut();
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut sent = 0;
    let (whole, rest) = loop {
        assert!(sent < 64 << 20, "everything was taken in although nothing was read");
        match stream.write(&pings[sent % ping.len()..]) {
            Ok(written) => sent += written,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break (sent / ping.len(), sent % ping.len());
            }
            Err(error) => panic!("{error}"),
        }
    };
    let mut writer = stream.try_clone().unwrap();
    let tail = ping[rest..].to_vec();
    let ends = std::thread::spawn(move || {
        writer.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
        writer.write_all(&tail).unwrap();
    });
    let mut pongs = 0;
    while pongs < whole + 1 {
        if let Message::Text(text) = socket.read().unwrap() {
            pongs += usize::from(text.contains(r#""type":"pong""#));
        }
    }
    ends.join().unwrap();
}

#[test]
fn pings_are_counted_before_hello_too() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let mut socket = connect(&daemon.http_port());
    socket.get_mut().write_all(&frame(9, &[b'x'; 125]).repeat(1_000)).unwrap();
    assert_eq!(close_code(&mut socket), 1008);
}

#[test]
fn a_ping_that_wants_much_back_is_a_bad_message() {
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let mut socket = connect(&daemon.http_port());
    socket.send(Message::text(r#"{"type":"hello","name":"mallory"}"#)).unwrap();
    let mut answer = |id: usize| {
        let id = "x".repeat(id);
        socket.send(Message::text(format!(r#"{{"type":"ping","id":"{id}"}}"#))).unwrap();
        loop {
            let Message::Text(text) = socket.read().unwrap() else { continue };
            for said in ["pong", "bad_message"] {
                if text.contains(&format!("\"{said}\"")) {
                    return said;
                }
            }
        }
    };
    assert_eq!(answer(254), "pong");
    assert_eq!(answer(255), "bad_message");
}

#[test]
fn readers_of_base64_hold_only_the_piece_that_they_are_reading() {
    const PAYLOAD: usize = 9 << 20;
    let place = Place::new();
    let mut daemon = Running::start(&place, &[]);
    let port = daemon.http_port();
    let mut writer = connect(&port);
    writer.send(Message::text(r#"{"type":"hello","name":"writer"}"#)).unwrap();
    let payload = "A".repeat(PAYLOAD / 3 * 4);
    let put = format!(
        r#"{{"type":"op","op":1,"do":"node.put","id":"n","kind":"k","media_type":"a/b","payload_base64":"{payload}"}}"#
    );
    writer.send(Message::text(put)).unwrap();
    while !writer.read().unwrap().to_text().unwrap().contains(r#""type":"ack""#) {}
    drop(writer);
    let before = daemon.memory();
    let mut readers = Vec::new();
    for index in 0..30 {
        let mut reader = connect(&port);
        reader.send(Message::text(format!(r#"{{"type":"hello","name":"reader {index}"}}"#))).unwrap();
        while !reader.read().unwrap().to_text().unwrap().contains(r#""type":"welcome""#) {}
        readers.push(reader);
    }
    let grown = daemon.memory().saturating_sub(before);
    assert!(grown < 5 * PAYLOAD, "{} MiB for 30 readers", grown >> 20);
    // Answers come after the message that has been begun, not in the midst of it.
    let reader = &mut readers[0];
    reader.send(Message::text(r#"{"type":"ping","id":1}"#)).unwrap();
    let (mut state, mut pong) = (0, false);
    while state < payload.len() || !pong {
        let Message::Text(text) = reader.read().unwrap() else { continue };
        let message: serde_json::Value = serde_json::from_str(&text).unwrap();
        pong |= message["type"] == "pong";
        state += message["nodes"][0]["payload_base64"].as_str().map_or(0, str::len);
    }
    assert_eq!(daemon.stop(), 0);
}
