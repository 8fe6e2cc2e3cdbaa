//! The native protocol's two formats, as this client reads and writes them.

use super::replica::Content;
use crate::bench::connection;
use crate::bench::frames;
use crate::bench::messages::Dialect;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::io;

/// A message and the raw bytes behind its header.
pub(super) struct Incoming {
    /// The JSON object.
    pub(super) fields: Map<String, Value>,
    blob: Vec<u8>,
    taken: usize,
}

impl Incoming {
    /// Reads the body of a text or binary frame.
    pub(super) fn decode(dialect: Dialect, body: &[u8]) -> io::Result<Self> {
        let json = connection::json_part(dialect, body)?;
        let blob = if dialect == Dialect::NativeBinary { body[4 + json.len()..].to_vec() } else { Vec::new() };
        Ok(Self { fields: serde_json::from_slice(json)?, blob, taken: 0 })
    }

    /// A text of the message, empty if there is none.
    pub(super) fn text(&self, name: &str) -> &str {
        self.fields.get(name).and_then(Value::as_str).unwrap_or("")
    }

    /// A number of the message, 0 if there is none.
    pub(super) fn number(&self, name: &str) -> u64 {
        self.fields.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A yes or no of the message, no if there is none.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.fields.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// Takes a list of objects out of the message.
    pub(super) fn take_list(&mut self, name: &str) -> Vec<Map<String, Value>> {
        let Some(Value::Array(items)) = self.fields.remove(name) else { return Vec::new() };
        let object = |item| if let Value::Object(fields) = item { Some(fields) } else { None };
        items.into_iter().filter_map(object).collect()
    }

    /// Takes the payload of one entry, in order of appearance; `None` if the entry has none.
    pub(super) fn take_payload(&mut self, entry: &mut Map<String, Value>) -> io::Result<Option<Content>> {
        let media_type = entry.remove("media_type").and_then(|text| Some(text.as_str()?.to_owned()));
        let data = self.take_bytes(entry, "payload")?;
        let deltas = self.take_each(entry, "deltas")?;
        Ok(match (data, media_type) {
            (Some(data), Some(media_type)) => Some(Content::Opaque { media_type, data, deltas }),
            (Some(data), None) => Some(Content::Json(serde_json::from_slice(&data)?)),
            (None, _) => entry.remove("payload").map(Content::Json),
        })
    }

    /// Takes bytes that one entry has under this name, raw or as base64.
    pub(super) fn take_bytes(&mut self, entry: &mut Map<String, Value>, name: &str) -> io::Result<Option<Vec<u8>>> {
        if let Some(len) = entry.remove(&format!("{name}_bytes")) {
            return self.take_raw(&len).map(Some);
        }
        entry.remove(&format!("{name}_base64")).map(|text| from_base64(&text)).transpose()
    }

    /// As [`Incoming::take_bytes`] for a list, empty if the entry has none.
    fn take_each(&mut self, entry: &mut Map<String, Value>, name: &str) -> io::Result<Vec<Vec<u8>>> {
        let mut list = |key: String| entry.remove(&key).and_then(|list| list.as_array().cloned()).unwrap_or_default();
        let (raw, base64) = (list(format!("{name}_bytes")), list(format!("{name}_base64")));
        raw.iter().map(|len| self.take_raw(len)).chain(base64.iter().map(from_base64)).collect()
    }

    fn take_raw(&mut self, len: &Value) -> io::Result<Vec<u8>> {
        let len = len.as_u64().and_then(|len| usize::try_from(len).ok()).unwrap_or(usize::MAX);
        let end = self.taken.saturating_add(len);
        let bytes = self.blob.get(self.taken..end);
        self.taken = end;
        Ok(bytes.ok_or_else(|| io::Error::other("a frame ends before its payload"))?.to_vec())
    }

    /// Fails if bytes are left that no payload has taken.
    pub(super) fn end(&self) -> io::Result<()> {
        if self.taken == self.blob.len() { Ok(()) } else { Err(io::Error::other("bytes behind the last payload")) }
    }
}

fn from_base64(text: &Value) -> io::Result<Vec<u8>> {
    STANDARD.decode(text.as_str().unwrap_or("")).map_err(io::Error::other)
}

/// An operation: its fields, and the payload that travels with it.
pub(super) struct Outgoing {
    /// Everything but the payload.
    pub(super) fields: Map<String, Value>,
    /// The payload, if it has one.
    pub(super) payload: Option<Content>,
}

/// Frames one operation, or several as a batch.
pub(super) fn encode(dialect: Dialect, op: u64, operations: Vec<Outgoing>) -> Vec<u8> {
    let mut blob = Vec::new();
    let single = operations.len() == 1;
    let mut entries = operations.into_iter().map(|operation| with_payload(dialect, operation, &mut blob));
    let mut message = if single { entries.next().unwrap_or_default() } else { Map::new() };
    if !single {
        message.insert("operations".to_owned(), entries.map(Value::Object).collect());
    }
    message.insert("type".to_owned(), if single { "op".into() } else { "batch".into() });
    message.insert("op".to_owned(), op.into());
    let header = Value::Object(message).to_string();
    let mut out = Vec::new();
    if dialect == Dialect::NativeBinary {
        let len = u32::try_from(header.len()).expect("messages are smaller than 4 GiB");
        frames::push_client_header(&mut out, frames::BINARY, 4 + header.len() + blob.len());
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&blob);
    } else {
        frames::push_client_frame(&mut out, frames::TEXT, header.as_bytes());
    }
    out
}

fn with_payload(dialect: Dialect, operation: Outgoing, blob: &mut Vec<u8>) -> Map<String, Value> {
    let mut fields = operation.fields;
    let binary = dialect == Dialect::NativeBinary;
    match operation.payload {
        None => {}
        Some(Content::Json(value)) if !binary => {
            fields.insert("payload".to_owned(), value);
        }
        Some(Content::Json(value)) => {
            let text = value.to_string();
            fields.insert("payload_bytes".to_owned(), text.len().into());
            blob.extend_from_slice(text.as_bytes());
        }
        Some(Content::Opaque { media_type, data, deltas: _ }) => {
            fields.insert("media_type".to_owned(), media_type.into());
            if binary {
                fields.insert("payload_bytes".to_owned(), data.len().into());
                blob.extend_from_slice(&data);
            } else {
                fields.insert("payload_base64".to_owned(), STANDARD.encode(&data).into());
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn put(payload: Content) -> Outgoing {
        let Value::Object(fields) = json!({"do": "node.put", "id": "n"}) else { unreachable!() };
        Outgoing { fields, payload: Some(payload) }
    }

    fn body(frame: &[u8]) -> &[u8] {
        &frame[if frame[1] & 0x7f == 126 { 8 } else { 6 }..]
    }

    #[test]
    fn payloads_survive_both_formats() {
        for dialect in [Dialect::NativeJson, Dialect::NativeBinary] {
            let bytes = Content::Opaque { media_type: "a/b".to_owned(), data: vec![0, 255, 7], deltas: vec![] };
            let frame = encode(dialect, 9, vec![put(Content::Json(json!({"k": [1]}))), put(bytes.clone())]);
            let mut message = Incoming::decode(dialect, body(&frame)).unwrap();
            assert_eq!((message.text("type"), message.number("op")), ("batch", 9));
            let mut entries = message.take_list("operations");
            assert_eq!(message.take_payload(&mut entries[0]).unwrap(), Some(Content::Json(json!({"k": [1]}))));
            assert_eq!(message.take_payload(&mut entries[1]).unwrap(), Some(bytes));
            message.end().unwrap();
        }
    }

    #[test]
    fn what_was_appended_follows_the_bytes_in_both_formats() {
        let object = |value: Value| if let Value::Object(fields) = value { fields } else { unreachable!() };
        let wanted =
            Content::Opaque { media_type: "x".into(), data: b"a".to_vec(), deltas: vec![b"b".into(), b"".into()] };
        let mut message = Incoming { fields: Map::new(), blob: b"abnext".to_vec(), taken: 0 };
        let mut entry = object(json!({"media_type": "x", "payload_bytes": 1, "deltas_bytes": [1, 0]}));
        assert_eq!(message.take_payload(&mut entry).unwrap().as_ref(), Some(&wanted));
        let mut next = object(json!({"append_bytes": 4}));
        assert_eq!(message.take_bytes(&mut next, "append").unwrap(), Some(b"next".to_vec()));
        message.end().unwrap();
        let mut entry = object(json!({"media_type": "x", "payload_base64": "YQ==", "deltas_base64": ["Yg==", ""]}));
        assert_eq!(message.take_payload(&mut entry).unwrap(), Some(wanted));
    }

    #[test]
    fn a_payload_beyond_the_frame_is_an_error() {
        let mut message = Incoming { fields: Map::new(), blob: vec![1], taken: 0 };
        let Value::Object(mut entry) = json!({"payload_bytes": 2}) else { unreachable!() };
        assert!(message.take_payload(&mut entry).is_err());
    }
}
