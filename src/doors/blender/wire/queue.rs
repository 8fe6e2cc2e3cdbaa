//! What waits to be written to a connection: whole messages in order, small pieces together, large ones shared.

use bytes::{Buf as _, Bytes, BytesMut};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use tokio::net::TcpStream;

/// Pieces up to so many bytes are copied together, up to [`OPEN_BYTES_MAX`].
const TINY: usize = 2 << 10;

/// Bytes that are copied together, at most.
const OPEN_BYTES_MAX: usize = 16 << 10;

/// Pieces that are written at once.
const AT_ONCE: usize = 64;

/// The queue of one connection.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pieces: VecDeque<Bytes>,
    open: BytesMut,
    bytes: usize,
    /// A PONG is among what waits.
    pong: bool,
}

impl Queue {
    /// Puts whole messages at the end.
    pub(super) fn push(&mut self, pieces: &[Bytes]) {
        for piece in pieces {
            self.bytes += piece.len();
            // A single piece need not be copied: most often it is all there is.
            let alone = pieces.len() == 1 && self.open.is_empty();
            if piece.len() <= TINY && !alone {
                if self.open.len() + piece.len() > OPEN_BYTES_MAX {
                    self.close();
                }
                self.open.extend_from_slice(piece);
            } else {
                self.close();
                self.pieces.push_back(piece.clone());
            }
        }
    }

    /// Puts a PONG at the end, unless one waits already: whoever takes nothing needs no second one.
    pub(super) fn push_pong(&mut self, pong: Bytes) {
        if !self.pong {
            self.push(&[pong]);
            self.pong = true;
        }
    }

    /// Whether a PONG waits.
    pub(super) fn owes_pong(&self) -> bool {
        self.pong
    }

    /// How many bytes wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Writes what the socket takes at once; whether that was everything.
    pub(super) fn try_flush(&mut self, stream: &TcpStream) -> io::Result<bool> {
        self.close();
        while !self.pieces.is_empty() {
            let mut slices = [IoSlice::new(&[]); AT_ONCE];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(piece);
                count += 1;
            }
            match stream.try_write_vectored(&slices[..count]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.pong = false;
        Ok(true)
    }

    fn written(&mut self, mut count: usize) {
        self.bytes -= count;
        while let Some(piece) = self.pieces.front_mut() {
            if piece.len() > count {
                piece.advance(count);
                return;
            }
            count -= piece.len();
            self.pieces.pop_front();
        }
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push_back(self.open.split().freeze());
        }
    }
}
