//! From the wire: every client message of `docs/native-protocol.md`, parsed strictly, allocated by what has arrived.

use super::frame::Format;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use tokio_tungstenite::tungstenite::Message;

/// Payloads from this size share the message's memory; smaller ones are copied out, so as not to pin a read buffer.
const SHARE_FROM: usize = 64 << 10;

/// Most bytes that are said about a bad message: what is wrong may quote from it, and be as long as it.
const WHY_BYTES: usize = 500;

/// A message that is not what the protocol describes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(super) struct BadMessage {
    /// The operation that it was to be, if that could be read.
    pub(super) op: Option<u64>,
    /// What is wrong with it.
    pub(super) why: String,
}

impl BadMessage {
    #[expect(clippy::needless_pass_by_value, reason = "it is the argument of map_err")]
    pub(super) fn new(op: Option<u64>, why: impl ToString) -> Self {
        let mut why = why.to_string();
        why.truncate(why.floor_char_boundary(WHY_BYTES));
        Self { op, why }
    }
}

/// Only the type of a message.
#[derive(Deserialize)]
pub(super) struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
}

/// What every message may have.
#[derive(Deserialize)]
pub(super) struct Envelope<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(default)]
    pub(super) op: Option<u64>,
    #[serde(borrow, default, deserialize_with = "bounded")]
    pub(super) operations: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) id: Option<&'a RawValue>,
}

/// The first message.
#[derive(Deserialize)]
pub(super) struct Hello {
    pub(super) name: String,
    #[serde(default)]
    pub(super) password: Option<String>,
    #[serde(default)]
    pub(super) token: Option<String>,
    #[serde(default)]
    pub(super) role: Option<String>,
    #[serde(default)]
    pub(super) client: Option<String>,
    #[serde(default)]
    pub(super) resume: Option<Resume>,
}

/// What a resuming client says it has.
#[derive(Deserialize)]
pub(super) struct Resume {
    pub(super) branch: String,
    pub(super) run: String,
    pub(super) seq: u64,
    #[serde(default)]
    pub(super) op: Option<u64>,
}

/// An operation with all the fields that any of them may have.
#[derive(Deserialize)]
pub(super) struct RawOperation<'a> {
    #[serde(rename = "do", borrow)]
    pub(super) verb: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) parent: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) order: Option<f64>,
    #[serde(borrow, default, deserialize_with = "bounded")]
    pub(super) dependencies: Option<Vec<Cow<'a, str>>>,
    #[serde(default)]
    pub(super) if_revision: Option<u64>,
    #[serde(default)]
    pub(super) recursive: bool,
    #[serde(borrow, default)]
    pub(super) title: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) assignee: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) node: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) set: Option<RawSet<'a>>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) payload_base64: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(super) payload_bytes: Option<usize>,
    #[serde(borrow, default)]
    pub(super) media_type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) merge: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) patch: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) value: Option<&'a RawValue>,
}

/// The fields that a patch sets; a field that is absent stays, one that is `null` is emptied.
#[derive(Deserialize, Default)]
#[expect(clippy::option_option, reason = "absent, null and a value are three things")]
pub(super) struct RawSet<'a> {
    #[serde(borrow, default)]
    pub(super) kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) name: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) parent: Option<Option<Cow<'a, str>>>,
    #[serde(default, deserialize_with = "present")]
    pub(super) order: Option<Option<f64>>,
    #[serde(borrow, default, deserialize_with = "bounded")]
    pub(super) dependencies: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow, default)]
    pub(super) title: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) assignee: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) status: Option<Cow<'a, str>>,
    #[serde(borrow, default, deserialize_with = "present")]
    pub(super) node: Option<Option<Cow<'a, str>>>,
}

/// Tells a field that is `null` from one that is absent.
pub(super) fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// Entries of a list that are looked at at all; the session's own limits are lower.
const LIST_MAX: usize = 65_536;

/// Reads a list (or `null`) and stops when it gets too long: memory is allocated by what is accepted.
fn bounded<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    struct Entries<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
        type Value = Option<Vec<T>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {LIST_MAX} entries")
        }
        fn visit_unit<E>(self) -> Result<Self::Value, E> {
            Ok(None)
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(entry) = seq.next_element()? {
                if entries.len() == LIST_MAX {
                    return Err(de::Error::invalid_length(LIST_MAX + 1, &self));
                }
                entries.push(entry);
            }
            Ok(Some(entries))
        }
    }
    deserializer.deserialize_any(Entries(PhantomData))
}

/// A message as it arrived: header text and, in the binary format, raw bytes after it.
pub(super) struct Incoming {
    header: Bytes,
    raw: Bytes,
}

impl Incoming {
    /// Takes a whole WebSocket message apart.
    pub(super) fn new(format: Format, mut message: Bytes) -> Result<Self, BadMessage> {
        match format {
            Format::Json => Ok(Self { header: message, raw: Bytes::new() }),
            Format::Binary => {
                let Some(len) = message.first_chunk::<4>().map(|len| u32::from_le_bytes(*len) as usize) else {
                    return Err(BadMessage::new(None, "a binary message begins with the length of its header, u32"));
                };
                if message.len() - 4 < len {
                    return Err(BadMessage::new(None, "the header is longer than the message"));
                }
                let mut header = message.split_off(4);
                let raw = header.split_off(len);
                Ok(Self { header, raw })
            }
        }
    }

    /// As [`Incoming::new`], and checks that the frame is of the kind that the format has.
    pub(super) fn from_message(format: Format, message: Message) -> Result<Self, BadMessage> {
        match (format, message) {
            (Format::Json, Message::Text(text)) => Self::new(format, text.into()),
            (Format::Binary, Message::Binary(bytes)) => Self::new(format, bytes),
            (Format::Json, _) => Err(BadMessage::new(None, "hotset.v1.json has text frames only")),
            (Format::Binary, _) => Err(BadMessage::new(None, "hotset.v1.binary has binary frames only")),
        }
    }

    /// The header, shared.
    pub(super) fn header(&self) -> Bytes {
        self.header.clone()
    }

    /// The memory of a part of the header's text, shared if it is worth it.
    pub(super) fn keep(&self, part: &str) -> Bytes {
        if part.len() < SHARE_FROM {
            Bytes::copy_from_slice(part.as_bytes())
        } else {
            self.header.slice_ref(part.as_bytes())
        }
    }

    /// Takes the next raw bytes.
    pub(super) fn take_raw(&mut self, len: usize) -> Result<Bytes, String> {
        if len > self.raw.len() {
            return Err(format!("payload_bytes is {len}, and only {} raw bytes are left", self.raw.len()));
        }
        let bytes = self.raw.split_to(len);
        Ok(if len < SHARE_FROM { Bytes::copy_from_slice(&bytes) } else { bytes })
    }
}

/// The header as text.
pub(super) fn text(header: &Bytes) -> Result<&str, BadMessage> {
    std::str::from_utf8(header).map_err(|error| BadMessage::new(None, error))
}

/// Decodes base64 text.
pub(super) fn base64(text: &str) -> Result<Bytes, String> {
    BASE64.decode(text).map(Bytes::from).map_err(|error| format!("payload_base64: {error}"))
}

/// Reads 32 hex digits.
pub(super) fn hex_id(text: &str) -> Option<u128> {
    (text.len() == 32 && text.bytes().all(|c| c.is_ascii_hexdigit()))
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}
