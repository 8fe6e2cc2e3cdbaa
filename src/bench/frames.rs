//! WebSocket framing for the load generator: client frames with a zero mask, and a scanner for server frames.

use std::io::{self, Read};

/// Text message.
pub(super) const TEXT: u8 = 1;
/// Binary message.
pub(super) const BINARY: u8 = 2;
/// The peer closes.
pub(super) const CLOSE: u8 = 8;
/// The peer asks for a pong.
pub(super) const PING: u8 = 9;
/// Answer to a ping.
pub(super) const PONG: u8 = 10;

/// Frames larger than this are only looked at by their first [`PREFIX_BYTES`]; the rest is counted and dropped.
const LARGE_BYTES: usize = 64 << 10;
/// What is looked at of a large frame.
const PREFIX_BYTES: usize = 1 << 10;
/// Bytes that one `read` may deliver; the scratch buffer also holds what was left of the read before.
pub(super) const SCRATCH_BYTES: usize = 512 << 10;

/// Begins a masked client frame whose body has `len` bytes. The mask is zero, so the body follows as it is.
pub(super) fn push_client_header(out: &mut Vec<u8>, opcode: u8, len: usize) {
    out.push(0x80 | opcode);
    match len {
        0..=125 => out.push(0x80 | u8::try_from(len).expect("at most 125")),
        126..=0xffff => {
            out.push(0x80 | 0x7e);
            out.extend_from_slice(&u16::try_from(len).expect("at most 65,535").to_be_bytes());
        }
        _ => {
            out.push(0x80 | 0x7f);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
}

/// Appends a whole masked client frame.
pub(super) fn push_client_frame(out: &mut Vec<u8>, opcode: u8, body: &[u8]) {
    push_client_header(out, opcode, body.len());
    out.extend_from_slice(body);
}

/// The header of a server frame: opcode, length of what comes before the body, length of the body.
struct Header {
    opcode: u8,
    prefix_len: usize,
    body_len: usize,
}

/// Reads the header at the front of `bytes`; `None` if it is not complete yet.
fn header(bytes: &[u8]) -> Option<Header> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (prefix_len, body_len) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?),
        short => (2, usize::from(short)),
    };
    Some(Header { opcode: first & 0x0f, prefix_len, body_len })
}

/// Cuts a byte stream into frames, without a buffer of its own as long as frames arrive whole.
#[derive(Default)]
pub(super) struct Scanner {
    carry: Vec<u8>,
    skip: usize,
}

impl Scanner {
    /// Goes on after bytes that somebody else had read already.
    pub(super) fn after(carry: Vec<u8>) -> Self {
        Self { carry, skip: 0 }
    }

    /// Reads once and calls `on_frame` with opcode and body of each frame that is complete (of a large frame only
    /// the beginning). Returns the bytes read; 0 at the end of the stream. `scratch` has [`SCRATCH_BYTES`].
    pub(super) fn read(
        &mut self,
        stream: &mut impl Read,
        scratch: &mut [u8],
        on_frame: &mut impl FnMut(u8, &[u8]),
    ) -> io::Result<usize> {
        let kept = self.carry.len();
        scratch[..kept].copy_from_slice(&self.carry);
        let read = stream.read(&mut scratch[kept..])?;
        self.carry.clear();
        self.scan(&scratch[..kept + read], on_frame);
        Ok(read)
    }

    fn scan(&mut self, mut bytes: &[u8], on_frame: &mut impl FnMut(u8, &[u8])) {
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let Some(Header { opcode, prefix_len, body_len }) = header(bytes) else { break };
            let end = prefix_len.saturating_add(body_len);
            if end <= bytes.len() {
                on_frame(opcode, &bytes[prefix_len..end]);
                bytes = &bytes[end..];
            } else if body_len > LARGE_BYTES && bytes.len() >= prefix_len + PREFIX_BYTES {
                on_frame(opcode, &bytes[prefix_len..prefix_len + PREFIX_BYTES]);
                self.skip = end - bytes.len();
                return;
            } else {
                break;
            }
        }
        self.carry.extend_from_slice(bytes);
    }
}

/// One whole message, read without epoll.
pub(super) struct Message {
    /// What sort of frame it came in.
    pub(super) opcode: u8,
    /// Its body.
    pub(super) body: Vec<u8>,
}

/// Reads whole messages from a stream that blocks: for handshakes and for clients that need not be cheap.
pub(super) struct Inbox {
    buffer: Vec<u8>,
    start: usize,
}

impl Inbox {
    /// Goes on after bytes that somebody else had read already.
    pub(super) fn after(buffer: Vec<u8>) -> Self {
        Self { buffer, start: 0 }
    }

    /// What was read and not yet taken.
    pub(super) fn into_rest(mut self) -> Vec<u8> {
        self.buffer.split_off(self.start)
    }

    /// The next message. Continuation frames are joined to the message they continue.
    pub(super) fn next(&mut self, stream: &mut impl Read) -> io::Result<Message> {
        let mut message: Option<Message> = None;
        loop {
            let (last, opcode, body) = self.next_frame(stream)?;
            if opcode >= CLOSE {
                return Ok(Message { opcode, body });
            }
            match message.as_mut() {
                Some(message) => message.body.extend_from_slice(&body),
                None => message = Some(Message { opcode, body }),
            }
            if last && let Some(message) = message.take() {
                return Ok(message);
            }
        }
    }

    fn next_frame(&mut self, stream: &mut impl Read) -> io::Result<(bool, u8, Vec<u8>)> {
        loop {
            let bytes = &self.buffer[self.start..];
            if let Some(Header { opcode, prefix_len, body_len }) = header(bytes)
                && bytes.len() >= prefix_len + body_len
            {
                let last = bytes[0] & 0x80 != 0;
                let body = bytes[prefix_len..prefix_len + body_len].to_vec();
                self.start += prefix_len + body_len;
                return Ok((last, opcode, body));
            }
            self.fill(stream)?;
        }
    }

    fn fill(&mut self, stream: &mut impl Read) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let old = self.buffer.len();
        let more = if header(&self.buffer).is_some_and(|h| h.body_len > LARGE_BYTES) { 1 << 20 } else { 16 << 10 };
        self.buffer.resize(old + more, 0);
        let outcome = stream.read(&mut self.buffer[old..]);
        self.buffer.truncate(old + outcome.as_ref().map_or(0, |read| *read));
        if outcome? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server_frame(opcode: u8, body: &[u8]) -> Vec<u8> {
        let mut masked = Vec::new();
        push_client_frame(&mut masked, opcode, body);
        let header_len = masked.len() - body.len() - 4;
        masked[1] &= 0x7f;
        masked.drain(header_len..header_len + 4);
        masked
    }

    fn scan_in_pieces(stream: &[u8], piece: usize) -> Vec<(u8, usize)> {
        let mut scratch = vec![0; SCRATCH_BYTES];
        let mut scanner = Scanner::default();
        let mut frames = Vec::new();
        for mut part in stream.chunks(piece) {
            scanner.read(&mut part, &mut scratch, &mut |opcode, body| frames.push((opcode, body.len()))).unwrap();
        }
        frames
    }

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let mut stream = Vec::new();
        for len in [0, 1, 125, 126, 1_000, 65_535, 65_536] {
            stream.extend(server_frame(TEXT, &vec![b'x'; len]));
        }
        stream.extend(server_frame(CLOSE, b"ab"));
        for piece in [1, 7, 1_000, 200_000] {
            let frames = scan_in_pieces(&stream, piece);
            assert_eq!(frames.len(), 8, "cut every {piece}");
            assert_eq!(frames[5], (TEXT, 65_535));
            assert_eq!(frames[7], (CLOSE, 2));
        }
    }

    #[test]
    fn of_a_large_frame_only_the_beginning_is_kept() {
        let mut stream = server_frame(BINARY, &vec![b'x'; 3 << 20]);
        stream.extend(server_frame(TEXT, b"after"));
        assert_eq!(scan_in_pieces(&stream, 100_000), [(BINARY, PREFIX_BYTES), (TEXT, 5)]);
    }

    #[test]
    fn an_inbox_joins_fragments_and_keeps_the_rest() {
        let mut first = server_frame(TEXT, b"one ");
        first[0] &= 0x7f;
        let mut stream = first;
        stream.extend(server_frame(0, b"message"));
        stream.extend(server_frame(PING, b"!"));
        let mut inbox = Inbox::after(Vec::new());
        let mut reader = stream.as_slice();
        assert_eq!(inbox.next(&mut reader).unwrap().body, b"one message");
        assert_eq!(inbox.into_rest(), server_frame(PING, b"!"));
    }
}
