//! How chunks lie in the stream, for both transports; and how a TCP connection begins.

use super::{Channel, PeerId, Transport, WireError};

use bytes::{BufMut as _, Bytes, BytesMut};

/// Chunks up to so many bytes are copied together with what stands before them; larger ones are shared.
pub(super) const SMALL: usize = 16 << 10;

/// Bit of a ZMTP frame's first byte: more frames of this message follow.
pub(super) const MORE: u8 = 1;

/// Bit of a ZMTP frame's first byte: the length has eight bytes.
pub(super) const LONG: u8 = 2;

/// Bit of a ZMTP frame's first byte: it is a command, and no part of a message.
pub(super) const COMMAND: u8 = 4;

/// Bytes with which a TCP connection begins: the length of an identity, the identity, a role.
pub(super) const PREAMBLE: usize = 4 + 16 + 1;

/// Reads them.
pub(super) fn preamble(bytes: &[u8; PREAMBLE]) -> Result<(PeerId, Channel), WireError> {
    let [0, 0, 0, 16, identity @ .., role] = bytes else {
        return Err(WireError::Malformed("the identity does not have 16 bytes"));
    };
    let Some(peer) = PeerId::new(identity) else {
        return Err(WireError::Malformed("the identity does not have 16 bytes"));
    };
    let channel = match role {
        b'C' => Channel::Command,
        b'D' => Channel::Data,
        b'T' => Channel::Ttl,
        _ => return Err(WireError::Malformed("the role is none of C, D and T")),
    };
    Ok((peer, channel))
}

/// A message as it goes over the wire.
pub(super) fn frame(transport: Transport, chunks: &[Bytes]) -> Vec<Bytes> {
    let small: usize = chunks.iter().map(|chunk| 9 + Some(chunk.len()).filter(|len| *len <= SMALL).unwrap_or(0)).sum();
    let mut pieces = Pieces { done: Vec::new(), open: BytesMut::with_capacity(4 + small) };
    match transport {
        Transport::Tcp => {
            pieces.open.put_u32(u32::try_from(chunks.len()).unwrap_or(u32::MAX));
            for chunk in chunks {
                pieces.open.put_u32(u32::try_from(chunk.len()).unwrap_or(u32::MAX));
                pieces.add(chunk);
            }
        }
        // ZMTP has no message without a frame.
        Transport::Zmtp if chunks.is_empty() => pieces.open.put_slice(&[0, 0]),
        Transport::Zmtp => {
            for (index, chunk) in chunks.iter().enumerate() {
                let more = if index + 1 < chunks.len() { MORE } else { 0 };
                if let Ok(len) = u8::try_from(chunk.len()) {
                    pieces.open.put_slice(&[more, len]);
                } else {
                    pieces.open.put_u8(more | LONG);
                    pieces.open.put_u64(chunk.len() as u64);
                }
                pieces.add(chunk);
            }
        }
    }
    pieces.close();
    pieces.done
}

struct Pieces {
    done: Vec<Bytes>,
    open: BytesMut,
}

impl Pieces {
    fn add(&mut self, chunk: &Bytes) {
        if chunk.len() <= SMALL {
            self.open.put_slice(chunk);
            return;
        }
        self.close();
        self.done.push(chunk.clone());
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.done.push(self.open.split().freeze());
        }
    }
}
