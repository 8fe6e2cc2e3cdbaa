//! The messages that the load generator sends and recognises: operations that carry a marker with their origin.

use super::frames;
use std::io::Write;

/// What a server speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The bare room: what one client sends, the others get, byte for byte.
    Room,
    /// The native protocol, JSON format.
    NativeJson,
    /// The native protocol, binary format.
    NativeBinary,
}

impl Dialect {
    /// The WebSocket subprotocol to ask for.
    pub(super) fn subprotocol(self) -> &'static str {
        match self {
            Self::Room | Self::NativeJson => "hotset.v1.json",
            Self::NativeBinary => "hotset.v1.binary",
        }
    }

    /// The opcode of its messages.
    pub(super) fn opcode(self) -> u8 {
        match self {
            Self::Room | Self::NativeJson => frames::TEXT,
            Self::NativeBinary => frames::BINARY,
        }
    }

    /// Whether it is the daemon's protocol.
    pub(super) fn is_native(self) -> bool {
        self != Self::Room
    }
}

/// Which operation is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Edit {
    /// `node.put`: the whole node.
    Put,
    /// `node.patch` with `merge` (RFC 7396).
    Patch,
}

/// Where a message came from and when it should have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    /// The sender's number in its room.
    pub(super) sender: u16,
    /// The sender's count of messages, from 0.
    pub(super) number: u32,
    /// The intended time, in microseconds since the generator began.
    pub(super) at_us: u64,
}

const MARKER_SIGN: u8 = b'~';
const MARKER_BYTES: usize = 1 + 4 + 8 + 12;

impl Marker {
    fn push(self, out: &mut Vec<u8>) {
        out.push(MARKER_SIGN);
        push_hex(out, u64::from(self.sender), 4);
        push_hex(out, u64::from(self.number), 8);
        push_hex(out, self.at_us, 12);
    }

    /// Finds the marker in a message. Nothing else in the generator's messages holds a `~`.
    pub(super) fn find(body: &[u8]) -> Option<Self> {
        let start = body.iter().position(|byte| *byte == MARKER_SIGN)? + 1;
        let digits = body.get(start..start + MARKER_BYTES - 1)?;
        Some(Self {
            sender: u16::try_from(hex(&digits[..4])?).ok()?,
            number: u32::try_from(hex(&digits[4..12])?).ok()?,
            at_us: hex(&digits[12..])?,
        })
    }
}

fn push_hex(out: &mut Vec<u8>, value: u64, digits: u32) {
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[usize::try_from(value >> (4 * place) & 15).expect("4 bits")]);
    }
}

fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |value, digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u64::from(digit))
    })
}

/// Which nodes operations go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Targets {
    /// This many nodes of each sender's own, one after the other.
    Own(u64),
    /// All over a generated scene of this many nodes.
    Scene(u64),
}

/// Writes operations with a payload of a given size.
pub(super) struct OperationWriter {
    dialect: Dialect,
    edit: Edit,
    payload_bytes: usize,
    targets: Targets,
    header: Vec<u8>,
    payload: Vec<u8>,
}

impl OperationWriter {
    /// `payload_bytes` is the size of the JSON payload (at least that of a marker).
    pub(super) fn new(dialect: Dialect, edit: Edit, payload_bytes: usize, targets: Targets) -> Self {
        Self { dialect, edit, payload_bytes, targets, header: Vec::new(), payload: Vec::new() }
    }

    /// Appends the operation, framed, to `out`. `op` numbers the sender's operations from 1.
    pub(super) fn push(&mut self, out: &mut Vec<u8>, op: u64, marker: Marker) {
        self.payload.clear();
        self.payload.extend_from_slice(br#"{"mark":""#);
        marker.push(&mut self.payload);
        self.payload.extend_from_slice(br#"","fill":""#);
        let fill = self.payload_bytes.saturating_sub(self.payload.len() + 2);
        self.payload.resize(self.payload.len() + fill, b'x');
        self.payload.extend_from_slice(br#""}"#);
        self.header.clear();
        // A patch needs a node: the first round over them puts.
        let edit = if matches!(self.targets, Targets::Own(nodes) if op <= nodes) { Edit::Put } else { self.edit };
        let id = self.target(op, marker.sender);
        let operation = match edit {
            Edit::Put => format_args!(r#"{{"type":"op","op":{op},"do":"node.put","id":"{id}","kind":"bench""#),
            Edit::Patch => format_args!(r#"{{"type":"op","op":{op},"do":"node.patch","id":"{id}""#),
        };
        self.header.write_fmt(operation).expect("memory takes every write");
        let field: &[u8] = match edit {
            Edit::Put => b",\"payload",
            Edit::Patch => b",\"merge",
        };
        self.header.extend_from_slice(field);
        // A merge patch is small JSON: only whole payloads travel outside the header.
        if self.dialect == Dialect::NativeBinary {
            self.push_binary(out, edit);
        } else {
            self.header.extend_from_slice(b"\":");
            let len = self.header.len() + self.payload.len() + 1;
            frames::push_client_header(out, self.dialect.opcode(), len);
            out.extend_from_slice(&self.header);
            out.extend_from_slice(&self.payload);
            out.push(b'}');
        }
    }

    fn target(&self, op: u64, sender: u16) -> String {
        match self.targets {
            Targets::Own(nodes) => format!("n{}", u64::from(sender) * nodes + op % nodes.max(1)),
            // A large odd factor visits the scene in no order that a cache or a tree would like.
            Targets::Scene(nodes) => {
                let place = (op * 64 + u64::from(sender)).wrapping_mul(0x9e37_79b9_7f4a_7c15) % nodes.max(1);
                format!("node-{place:07}")
            }
        }
    }

    fn push_binary(&mut self, out: &mut Vec<u8>, edit: Edit) {
        let raw: &[u8] = match edit {
            Edit::Put => {
                write!(self.header, "_bytes\":{}}}", self.payload.len()).expect("memory takes every write");
                &self.payload
            }
            Edit::Patch => {
                self.header.extend_from_slice(b"\":");
                self.header.extend_from_slice(&self.payload);
                self.header.push(b'}');
                &[]
            }
        };
        let header_len = u32::try_from(self.header.len()).expect("headers are small");
        frames::push_client_header(out, frames::BINARY, 4 + self.header.len() + raw.len());
        out.extend_from_slice(&header_len.to_le_bytes());
        out.extend_from_slice(&self.header);
        out.extend_from_slice(raw);
    }
}

/// What a message from the daemon is, as far as the generator cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An event with its `seq`.
    Event(u64),
    /// The answer to an accepted operation.
    Ack,
    /// The answer to a refused operation.
    Reject,
    /// Something about the connection as a whole is wrong.
    Error,
    /// A snapshot file is in place.
    Saved,
    /// Anything else.
    Other,
}

impl Kind {
    /// Looks at the first bytes of a native message; the daemon writes `type` first and `seq` second.
    pub(super) fn of(dialect: Dialect, body: &[u8]) -> Self {
        let json = if dialect == Dialect::NativeBinary { body.get(4..).unwrap_or(&[]) } else { body };
        let Some(rest) = json.strip_prefix(br#"{"type":""#) else { return Self::Other };
        if let Some(rest) = rest.strip_prefix(br#"event","seq":"#) {
            let seq = rest.iter().take_while(|byte| byte.is_ascii_digit());
            Self::Event(seq.fold(0, |seq, digit| seq * 10 + u64::from(digit - b'0')))
        } else if rest.starts_with(b"ack\"") {
            Self::Ack
        } else if rest.starts_with(b"reject\"") {
            Self::Reject
        } else if rest.starts_with(b"error\"") {
            Self::Error
        } else if rest.starts_with(b"saved\"") {
            Self::Saved
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    const MARKER: Marker = Marker { sender: 3, number: 0x00c0_ffee, at_us: 0x1234_5678_9abc };

    /// The body of the only (masked) frame in `out`.
    fn body(out: &[u8]) -> &[u8] {
        &out[match out[1] & 0x7f {
            126 => 8,
            127 => 14,
            _ => 6,
        }..]
    }

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        let mut out = b"before".to_vec();
        MARKER.push(&mut out);
        assert_eq!(Marker::find(&out), Some(MARKER));
        assert_eq!(Marker::find(&out[..out.len() - 1]), None);
        assert_eq!(Marker::find(b"~notahexnumberatall......."), None);
    }

    #[test]
    fn operations_are_valid_json_with_a_payload_of_the_size_asked_for() {
        for edit in [Edit::Put, Edit::Patch] {
            let mut out = Vec::new();
            OperationWriter::new(Dialect::NativeJson, edit, 1_024, Targets::Own(10)).push(&mut out, 12, MARKER);
            let message: Value = serde_json::from_slice(body(&out)).unwrap();
            assert_eq!(message["op"], 12);
            assert_eq!(message["id"], "n32");
            let field = if edit == Edit::Put { "payload" } else { "merge" };
            assert_eq!(message[field].to_string().len(), 1_024);
            assert_eq!(Marker::find(body(&out)), Some(MARKER));
        }
    }

    #[test]
    fn a_binary_put_has_its_payload_after_the_header() {
        let mut out = Vec::new();
        OperationWriter::new(Dialect::NativeBinary, Edit::Put, 1_024, Targets::Own(10)).push(&mut out, 12, MARKER);
        let body = body(&out);
        let len = u32::from_le_bytes(body[..4].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&body[4..4 + len]).unwrap();
        assert_eq!(header["payload_bytes"], 1_024);
        assert_eq!(body.len(), 4 + len + 1_024);
    }

    #[test]
    fn kinds_of_messages_are_told_apart() {
        let kind = |text: &str| Kind::of(Dialect::NativeJson, text.as_bytes());
        assert_eq!(kind(r#"{"type":"event","seq":1207,"at":5}"#), Kind::Event(1_207));
        assert_eq!(kind(r#"{"type":"ack","op":7,"seq":12}"#), Kind::Ack);
        assert_eq!(kind(r#"{"type":"reject","op":7}"#), Kind::Reject);
        assert_eq!(kind(r#"{"type":"presence"}"#), Kind::Other);
        assert_eq!(Kind::of(Dialect::NativeBinary, b"\x10\0\0\0{\"type\":\"ack\",\"op\":1}"), Kind::Ack);
    }
}
