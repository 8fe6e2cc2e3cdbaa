//! Frames on their way out: WebSocket framing (RFC 6455 §5.2) around JSON headers and payloads that are not copied.

use crate::live::Frames;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;

/// Payloads below this are copied next to their header; larger ones stay shared parts of their own.
const SHARE_FROM: usize = 4 << 10;

/// Bytes of the longest frame header and of the length before a binary message's text.
const HEADER_MAX: usize = 14;

/// Larger payloads become base64 piece by piece; a multiple of three, so that the pieces join without padding.
const BASE64_FROM: usize = 192 << 10;

/// Bytes of a framed message, in order with others.
pub(super) enum Piece {
    /// As they are.
    Ready(Bytes),
    /// To be written as base64.
    Base64(Bytes),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Ready(bytes) => bytes.len(),
            Self::Base64(bytes) => 4 * bytes.len().div_ceil(3),
        }
    }

    /// All that is to be written.
    fn whole(self) -> Bytes {
        match self {
            Self::Ready(bytes) => bytes,
            Self::Base64(bytes) => BASE64.encode(bytes).into(),
        }
    }

    /// The beginning of what is to be written, and what remains.
    pub(super) fn take(self) -> (Bytes, Option<Self>) {
        match self {
            Self::Base64(mut bytes) if bytes.len() > BASE64_FROM => {
                let first = bytes.split_to(BASE64_FROM);
                (Self::Base64(first).whole(), Some(Self::Base64(bytes)))
            }
            piece @ (Self::Ready(_) | Self::Base64(_)) => (piece.whole(), None),
        }
    }
}

/// Which of the two native formats a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Binary,
}

/// One message being composed: JSON text with payloads spliced in (JSON format) or appended (binary format).
pub(super) struct Body {
    format: Format,
    text: Vec<u8>,
    splices: Vec<(usize, Piece)>,
    raw: Vec<Bytes>,
}

impl Body {
    /// A body of about this many bytes.
    pub(super) fn about(format: Format, bytes: usize) -> Self {
        let text = Vec::with_capacity(256 + bytes.min(2 * SHARE_FROM));
        Self { format, text, splices: Vec::new(), raw: Vec::new() }
    }

    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// The JSON text so far.
    pub(super) fn text(&mut self) -> &mut Vec<u8> {
        &mut self.text
    }

    /// Puts JSON text in as it is.
    pub(super) fn splice(&mut self, json: &Bytes) {
        if json.len() < SHARE_FROM {
            self.text.extend_from_slice(json);
        } else {
            self.splices.push((self.text.len(), Piece::Ready(json.clone())));
        }
    }

    /// Puts a JSON string in that has these bytes as base64.
    pub(super) fn base64(&mut self, bytes: &Bytes) {
        self.text.push(b'"');
        if bytes.len() <= BASE64_FROM {
            self.text.extend_from_slice(BASE64.encode(bytes).as_bytes());
        } else {
            self.splices.push((self.text.len(), Piece::Base64(bytes.clone())));
        }
        self.text.push(b'"');
    }

    /// Appends raw bytes after the header (binary format).
    pub(super) fn attach(&mut self, bytes: &Bytes) {
        self.raw.push(bytes.clone());
    }

    /// Bytes of the message so far.
    pub(super) fn len(&self) -> usize {
        self.header_len() + self.raw.iter().map(Bytes::len).sum::<usize>()
    }

    fn header_len(&self) -> usize {
        self.text.len() + self.splices.iter().map(|(_, piece)| piece.len()).sum::<usize>()
    }
}

/// Appends one message that is nothing but JSON text.
pub(super) fn small(out: &mut Vec<u8>, format: Format, text: &[u8]) {
    begin_message(out, format, text.len(), text.len());
    out.extend_from_slice(text);
}

/// Appends what stands before a message of `len` bytes whose JSON text has `header_len`.
fn begin_message(out: &mut Vec<u8>, format: Format, len: usize, header_len: usize) {
    match format {
        Format::Json => frame_header(out, 0x1, len),
        Format::Binary => {
            frame_header(out, 0x2, len + 4);
            out.extend_from_slice(&u32::try_from(header_len).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
}

/// Collects framed messages into as few parts as possible.
#[derive(Default)]
pub(super) struct FrameWriter {
    parts: Vec<Piece>,
    /// Where each message begins: part and offset in it.
    starts: Vec<(usize, usize)>,
    open: Vec<u8>,
}

impl FrameWriter {
    /// Frames one message.
    pub(super) fn message(&mut self, body: Body) {
        self.starts.push((self.parts.len(), self.open.len()));
        self.open.reserve(HEADER_MAX + body.text.len());
        begin_message(&mut self.open, body.format, body.len(), body.header_len());
        let mut from = 0;
        for (at, splice) in body.splices {
            self.open.extend_from_slice(&body.text[from..at]);
            from = at;
            self.push(splice);
        }
        self.open.extend_from_slice(&body.text[from..]);
        for raw in body.raw {
            self.push(Piece::Ready(raw));
        }
    }

    fn push(&mut self, piece: Piece) {
        match piece {
            Piece::Ready(bytes) if bytes.len() < SHARE_FROM => self.open.extend_from_slice(&bytes),
            piece @ (Piece::Ready(_) | Piece::Base64(_)) => {
                self.close();
                self.parts.push(piece);
            }
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.parts.push(Piece::Ready(std::mem::take(&mut self.open).into()));
        }
    }

    /// The framed bytes.
    pub(super) fn finish(mut self) -> Frames {
        // A message that begins in a part which was never opened begins in the next one.
        self.close();
        Frames { parts: self.parts.into_iter().map(Piece::whole).collect(), starts: self.starts }
    }

    /// The same in pieces, for somebody who takes them one by one.
    pub(super) fn pieces(mut self) -> Vec<Piece> {
        self.close();
        self.parts
    }
}

/// Appends the header of one final, unmasked frame.
fn frame_header(out: &mut Vec<u8>, opcode: u8, len: usize) {
    out.push(0x80 | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(short @ ..=125), _) => out.push(short),
        (_, Ok(medium)) => {
            out.push(126);
            out.extend_from_slice(&medium.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(format: Format, payload_len: usize) -> Vec<u8> {
        let mut body = Body::about(format, 0);
        body.text().extend_from_slice(b"{\"payload\":");
        body.splice(&Bytes::from(vec![b'7'; payload_len]));
        body.text().push(b'}');
        let mut writer = FrameWriter::default();
        writer.message(body);
        writer.finish().parts.concat()
    }

    #[test]
    fn lengths_take_the_three_forms_of_the_standard() {
        assert_eq!(framed(Format::Json, 10)[..2], [0x81, 22]);
        assert_eq!(framed(Format::Json, 300)[..4], [0x81, 126, 1, 56]);
        let large = framed(Format::Json, 100_000);
        assert_eq!(large[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0x86, 0xac]);
        assert_eq!(large.len(), 10 + 12 + 100_000);
    }

    #[test]
    fn base64_in_pieces_is_the_same_as_in_one() {
        for len in [0, 1, BASE64_FROM - 1, BASE64_FROM, BASE64_FROM + 1, 3 * BASE64_FROM, 5 * BASE64_FROM + 2] {
            let payload: Vec<u8> = (0..=250).cycle().take(len).collect();
            let writer = || {
                let mut body = Body::about(Format::Json, 0);
                body.base64(&payload.clone().into());
                let mut writer = FrameWriter::default();
                writer.message(body);
                writer
            };
            let mut joined = Vec::new();
            for mut piece in writer().pieces() {
                loop {
                    let (bytes, rest) = piece.take();
                    assert!(bytes.len() <= BASE64_FROM / 3 * 4 + HEADER_MAX + 2, "{}", bytes.len());
                    joined.extend_from_slice(&bytes);
                    let Some(rest) = rest else { break };
                    piece = rest;
                }
            }
            assert!(joined == writer().finish().parts.concat(), "{len}");
            assert!(joined.ends_with(format!("{}\"", BASE64.encode(&payload)).as_bytes()), "{len}");
        }
    }

    #[test]
    fn a_large_payload_is_not_copied() {
        let payload = Bytes::from(vec![b'1'; 1 << 20]);
        let mut body = Body::about(Format::Binary, 0);
        body.text().extend_from_slice(b"{}");
        body.attach(&payload);
        let mut writer = FrameWriter::default();
        writer.message(body);
        let parts = writer.finish().parts;
        assert_eq!(parts.len(), 2);
        assert_eq!(parts[1].as_ptr(), payload.as_ptr());
    }

    #[test]
    fn every_message_knows_where_it_begins() {
        let mut writer = FrameWriter::default();
        for len in [10, 5_000, 20, 6_000] {
            let mut body = Body::about(Format::Json, 0);
            body.splice(&Bytes::from(vec![b'1'; len]));
            writer.message(body);
        }
        let frames = writer.finish();
        for (part, offset) in &frames.starts {
            assert_eq!(frames.parts[*part][*offset], 0x81);
        }
        assert_eq!(frames.starts.len(), 4);
    }
}
