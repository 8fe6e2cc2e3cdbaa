//! Opening connections, one after the other and blocking: TCP, WebSocket handshake, and for the daemon `hello` until
//! the last part of the state.

use super::frames::{self, Inbox, Message};
use super::messages::Dialect;
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

/// A server that does not answer a handshake for this long has failed.
const PATIENCE: Duration = Duration::from_mins(2);
/// A response head longer than this is not one.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// A connection that is ready for operations.
pub(super) struct Opened {
    /// The connection itself; it still blocks.
    pub(super) stream: TcpStream,
    /// Bytes that arrived after the state.
    pub(super) rest: Vec<u8>,
    /// The newest event in the state; 0 for a bare room.
    pub(super) seq: u64,
    /// Bytes of state that arrived.
    pub(super) state_bytes: u64,
}

/// What a message says of itself. Everything else in it is passed over.
#[derive(Debug, Deserialize)]
struct Greeting {
    r#type: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    last: bool,
    #[serde(default)]
    resumed: bool,
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    reason: String,
}

/// Connects a member called `name` to a room or session.
pub(super) fn open(dialect: Dialect, port: u16, room: &str, name: &str) -> io::Result<Opened> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let path = if dialect.is_native() { format!("/api/v1/sessions/{room}/ws") } else { format!("/{room}") };
    let rest = upgrade(&mut stream, port, &path, dialect.subprotocol())?;
    let mut inbox = Inbox::after(rest);
    let (mut seq, mut state_bytes) = (0, 0);
    if dialect.is_native() {
        send_text(&mut stream, dialect, &serde_json::json!({"type": "hello", "name": name}))?;
        (seq, state_bytes) = await_state(&mut stream, &mut inbox, dialect)?;
    }
    Ok(Opened { stream, rest: inbox.into_rest(), seq, state_bytes })
}

/// Sends one message without payload bytes.
pub(super) fn send_text(stream: &mut TcpStream, dialect: Dialect, message: &serde_json::Value) -> io::Result<()> {
    let mut out = Vec::new();
    push_text(&mut out, dialect, &message.to_string());
    stream.write_all(&out)
}

/// Appends one message without payload bytes, framed.
pub(super) fn push_text(out: &mut Vec<u8>, dialect: Dialect, json: &str) {
    if dialect == Dialect::NativeBinary {
        let len = u32::try_from(json.len()).expect("messages are smaller than 4 GiB");
        frames::push_client_header(out, frames::BINARY, 4 + json.len());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(json.as_bytes());
    } else {
        frames::push_client_frame(out, frames::TEXT, json.as_bytes());
    }
}

/// The JSON part of a message in either format.
pub(super) fn json_part(dialect: Dialect, body: &[u8]) -> io::Result<&[u8]> {
    if dialect != Dialect::NativeBinary {
        return Ok(body);
    }
    let len = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes);
    body.get(4..4 + len as usize).ok_or_else(|| io::Error::other("a message is shorter than its header says"))
}

/// Does the WebSocket handshake and returns what was read beyond it.
pub(super) fn upgrade(stream: &mut TcpStream, port: u16, path: &str, subprotocol: &str) -> io::Result<Vec<u8>> {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: aG90c2V0IGlzIHdhcm1lZA==\r\n\
         Sec-WebSocket-Protocol: {subprotocol}\r\n\r\n"
    )?;
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 || head.len() > HEAD_BYTES_MAX {
            return Err(io::Error::other(format!("no answer to the handshake: {}", String::from_utf8_lossy(&head))));
        }
        head.extend_from_slice(&buffer[..read]);
        if let Some(end) = head.windows(4).position(|window| window == b"\r\n\r\n") {
            if !head.starts_with(b"HTTP/1.1 101") {
                return Err(io::Error::other(format!("handshake refused: {}", String::from_utf8_lossy(&head))));
            }
            return Ok(head.split_off(end + 4));
        }
    }
}

fn await_state(stream: &mut TcpStream, inbox: &mut Inbox, dialect: Dialect) -> io::Result<(u64, u64)> {
    let mut state_bytes = 0;
    loop {
        let Message { opcode, body } = inbox.next(stream)?;
        if opcode == frames::PING {
            let mut pong = Vec::new();
            frames::push_client_frame(&mut pong, frames::PONG, &body);
            stream.write_all(&pong)?;
            continue;
        }
        if opcode == frames::CLOSE {
            return Err(io::Error::other(format!("closed while joining: {}", close_reason(&body))));
        }
        let greeting: Greeting = serde_json::from_slice(json_part(dialect, &body)?)?;
        match greeting.r#type.as_str() {
            "state" => {
                state_bytes += body.len() as u64;
                if greeting.last {
                    return Ok((greeting.seq, state_bytes));
                }
            }
            "welcome" if greeting.resumed => return Ok((greeting.seq, 0)),
            "error" | "closing" => {
                let Greeting { code, message, reason, .. } = greeting;
                return Err(io::Error::other(format!("refused while joining: {code} {message}{reason}")));
            }
            _ => {}
        }
    }
}

/// What a close frame says, for people.
pub(super) fn close_reason(body: &[u8]) -> String {
    let code = body.get(..2).and_then(|bytes| bytes.try_into().ok()).map_or(1005, u16::from_be_bytes);
    format!("{code} {}", String::from_utf8_lossy(body.get(2..).unwrap_or(&[])))
}
