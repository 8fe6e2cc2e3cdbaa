//! From bytes to messages, without any I/O: what was received goes in, in pieces of any size; messages come out.
//!
//! Memory grows with the bytes received, never with what a length claims. Small chunks of a message share one piece of
//! memory, large ones have their own, so that nothing that is kept for long keeps a whole buffer alive.

use super::framing::{COMMAND, LONG, MORE, SMALL};
use super::{Transport, WireError, WireLimits};

use bytes::Bytes;
use std::ops::Range;

/// Most bytes of a ZMTP command.
const COMMAND_BYTES_MAX: u64 = 4 << 10;

/// What the stream held.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// A message: its chunks.
    Message(Vec<Bytes>),
    /// The body of a ZMTP command.
    Command(Bytes),
}

/// A chunk that is complete.
#[derive(Debug)]
enum Chunk {
    Small(Range<usize>),
    Large(Vec<u8>),
}

/// What the bytes to come are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expecting {
    /// The beginning of a frame, or of a message.
    Head,
    /// So many bytes of a chunk.
    Chunk { left: usize, large: bool },
    /// So many bytes of a command.
    Command { left: usize },
}

/// Puts messages together.
#[derive(Debug)]
pub(super) struct Assembly {
    transport: Transport,
    pub(super) limits: WireLimits,
    expecting: Expecting,
    /// Chunks of the message that are still to come, including the current one; for ZMTP 1 until the last one.
    to_come: u32,
    chunks: Vec<Chunk>,
    small: Vec<u8>,
    large: Vec<u8>,
    command: Vec<u8>,
    /// Bytes of the message so far, including those announced for the current chunk.
    charged: u64,
}

impl Assembly {
    pub(super) fn new(transport: Transport, limits: WireLimits) -> Self {
        Self {
            transport,
            limits,
            expecting: Expecting::Head,
            to_come: 0,
            chunks: Vec::new(),
            small: Vec::new(),
            large: Vec::new(),
            command: Vec::new(),
            charged: 0,
        }
    }

    /// Whether nothing has begun that has not ended.
    pub(super) fn is_idle(&self) -> bool {
        self.expecting == Expecting::Head && self.to_come == 0
    }

    /// Takes bytes from the front of `input`; `None` if it needs more than there are. Heads of frames are left in
    /// `input` until they are whole.
    pub(super) fn take(&mut self, input: &mut &[u8]) -> Result<Option<Item>, WireError> {
        loop {
            match self.expecting {
                Expecting::Head => {
                    let before = input.len();
                    if let Some(item) = self.head(input)? {
                        return Ok(Some(item));
                    }
                    if input.len() == before {
                        return Ok(None);
                    }
                }
                Expecting::Chunk { left, large } => {
                    let taken = front(input, left);
                    if large {
                        reserve(&mut self.large, taken.len(), left);
                        self.large.extend_from_slice(taken);
                    } else {
                        self.small.extend_from_slice(taken);
                    }
                    let left = left - taken.len();
                    self.expecting = Expecting::Chunk { left, large };
                    if left > 0 {
                        return Ok(None);
                    }
                    if let Some(message) = self.end_of_chunk(large) {
                        return Ok(Some(message));
                    }
                }
                Expecting::Command { left } => {
                    let taken = front(input, left);
                    self.command.extend_from_slice(taken);
                    let left = left - taken.len();
                    self.expecting = Expecting::Command { left };
                    if left > 0 {
                        return Ok(None);
                    }
                    self.expecting = Expecting::Head;
                    return Ok(Some(Item::Command(std::mem::take(&mut self.command).into())));
                }
            }
        }
    }

    /// Where the next bytes may be put directly, and how many at most, while a large chunk is being received.
    pub(super) fn direct(&mut self) -> Option<(&mut Vec<u8>, usize)> {
        let Expecting::Chunk { left, large: true } = self.expecting else { return None };
        reserve(&mut self.large, 1, left);
        Some((&mut self.large, left))
    }

    /// So many bytes were put there.
    pub(super) fn put_directly(&mut self, count: usize) {
        if let Expecting::Chunk { left, .. } = &mut self.expecting {
            *left = left.saturating_sub(count);
        }
    }

    /// Takes the head of a message or a frame, if it is whole.
    fn head(&mut self, input: &mut &[u8]) -> Result<Option<Item>, WireError> {
        match self.transport {
            Transport::Tcp => self.tcp_head(input),
            Transport::Zmtp => self.zmtp_head(input).map(|()| None),
        }
    }

    fn tcp_head(&mut self, input: &mut &[u8]) -> Result<Option<Item>, WireError> {
        let Some((number, rest)) = input.split_first_chunk() else { return Ok(None) };
        let number = u32::from_be_bytes(*number);
        if self.to_come > 0 {
            self.begin_chunk(u64::from(number))?;
            *input = rest;
            return Ok(None);
        }
        if number as usize > self.limits.chunks {
            return Err(self.too_many_chunks());
        }
        *input = rest;
        self.to_come = number;
        Ok(if number == 0 { Some(self.finish()) } else { None })
    }

    fn zmtp_head(&mut self, input: &mut &[u8]) -> Result<(), WireError> {
        let Some((&flags, rest)) = input.split_first() else { return Ok(()) };
        if flags & !(MORE | LONG | COMMAND) != 0 || flags & (MORE | COMMAND) == MORE | COMMAND {
            return Err(WireError::Malformed("a frame with flags that ZMTP does not know"));
        }
        let (len, rest) = if flags & LONG == 0 {
            let Some((len, rest)) = rest.split_first() else { return Ok(()) };
            (u64::from(*len), rest)
        } else {
            let Some((len, rest)) = rest.split_first_chunk() else { return Ok(()) };
            (u64::from_be_bytes(*len), rest)
        };
        if flags & COMMAND != 0 {
            let left = usize::try_from(len).ok().filter(|_| len <= COMMAND_BYTES_MAX);
            let too_much = WireError::TooMuch { what: "bytes in a command", max: COMMAND_BYTES_MAX };
            self.expecting = Expecting::Command { left: left.ok_or(too_much)? };
        } else {
            if self.chunks.len() >= self.limits.chunks {
                return Err(self.too_many_chunks());
            }
            // One more than this one, or this one alone.
            self.to_come = 1 + u32::from(flags & MORE);
            self.begin_chunk(len)?;
        }
        *input = rest;
        Ok(())
    }

    fn too_many_chunks(&self) -> WireError {
        WireError::TooMuch { what: "chunks", max: self.limits.chunks as u64 }
    }

    fn begin_chunk(&mut self, len: u64) -> Result<(), WireError> {
        let max = self.limits.message_bytes;
        let too_much = WireError::TooMuch { what: "bytes", max };
        let charged = self.charged.checked_add(len).filter(|charged| *charged <= max);
        let (Some(charged), Ok(left)) = (charged, usize::try_from(len)) else { return Err(too_much) };
        self.charged = charged;
        self.expecting = Expecting::Chunk { left, large: left > SMALL };
        Ok(())
    }

    fn end_of_chunk(&mut self, large: bool) -> Option<Item> {
        if large {
            self.chunks.push(Chunk::Large(std::mem::take(&mut self.large)));
        } else {
            let before = self.small_before();
            self.chunks.push(Chunk::Small(before..self.small.len()));
        }
        self.expecting = Expecting::Head;
        self.to_come -= 1;
        if self.to_come > 0 { None } else { Some(self.finish()) }
    }

    /// Where the memory of the last small chunk ends.
    fn small_before(&self) -> usize {
        let ends = self.chunks.iter().rev().find_map(|chunk| match chunk {
            Chunk::Small(range) => Some(range.end),
            Chunk::Large(_) => None,
        });
        ends.unwrap_or(0)
    }

    fn finish(&mut self) -> Item {
        self.charged = 0;
        // Not more memory than it needs, as it may be kept for long.
        let small = Bytes::from(std::mem::take(&mut self.small).into_boxed_slice());
        let chunks = std::mem::take(&mut self.chunks).into_iter().map(|chunk| match chunk {
            Chunk::Small(range) => small.slice(range),
            Chunk::Large(bytes) => bytes.into(),
        });
        Item::Message(chunks.collect())
    }
}

fn front<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}

/// Makes room for at least `least` more bytes, at most doubling what is there and never beyond `left`.
fn reserve(bytes: &mut Vec<u8>, least: usize, left: usize) {
    if bytes.capacity() - bytes.len() < least {
        bytes.reserve_exact(bytes.len().max(2 * SMALL).max(least).min(left));
    }
}
