//! The commands and the opening of ZMTP 3.x, on the side of a ROUTER with mechanism NULL, as bytes.
//!
//! This is all of ZMTP that a server of DEALERs needs, besides the frames (`assembly`, `framing`). The specification
//! is <https://rfc.zeromq.org/spec/37/>.

use super::{PeerId, WireError};

use bytes::Bytes;

/// Bytes with which each side begins.
pub(super) const GREETING: usize = 64;

/// Bytes of the longest context of a PING.
const CONTEXT_BYTES_MAX: usize = 16;

/// What begins a connection: signature, version 3.1, mechanism NULL. The rest is zeros.
pub(super) fn greeting() -> [u8; GREETING] {
    let mut greeting = [0; GREETING];
    greeting[0] = 0xff;
    greeting[8] = 1;
    greeting[9] = 0x7f;
    greeting[10] = 3;
    greeting[11] = 1;
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

/// Checks as much of the peer's greeting as has come: what is wrong shall be told before the rest is waited for.
pub(super) fn check_greeting(bytes: &[u8]) -> Result<(), WireError> {
    // Between 0xff and 0x7f old versions see a length.
    if bytes.first().is_some_and(|byte| *byte != 0xff) || bytes.get(9).is_some_and(|byte| *byte != 0x7f) {
        return Err(WireError::Malformed("the signature is not that of ZMTP"));
    }
    if bytes.get(10).is_some_and(|major| *major < 3) {
        return Err(WireError::Malformed("a version of ZMTP before 3.0"));
    }
    let mechanism = b"NULL".iter().chain(std::iter::repeat(&0)).take(20);
    if bytes.iter().skip(12).take(20).zip(mechanism).any(|(byte, expected)| byte != expected) {
        return Err(WireError::Malformed("a mechanism other than NULL"));
    }
    Ok(())
}

/// The READY command of a ROUTER without an identity, as a frame.
pub(super) const READY: &[u8] = b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\0";

/// Reads the peer's READY. Properties that are not known are of no account.
pub(super) fn ready(body: &[u8]) -> Result<PeerId, WireError> {
    let malformed = WireError::Malformed("a READY that cannot be read");
    let Some((b"READY", mut rest)) = name(body) else {
        return Err(WireError::Malformed("another command in the place of READY"));
    };
    let (mut dealer, mut peer) = (false, None);
    while !rest.is_empty() {
        let Some((property, value, after)) = property(rest) else { return Err(malformed) };
        if property.eq_ignore_ascii_case(b"Socket-Type") {
            dealer = value == b"DEALER";
        } else if property.eq_ignore_ascii_case(b"Identity") {
            peer = PeerId::new(value);
        }
        rest = after;
    }
    if !dealer {
        return Err(WireError::Malformed("not a DEALER socket"));
    }
    peer.ok_or(WireError::Malformed("the identity does not have 16 bytes"))
}

/// A name, and what follows it.
fn name(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

/// A property's name and value, and what follows them.
fn property(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (name, rest) = name(bytes)?;
    let (len, rest) = rest.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    Some((name, value, rest))
}

/// What a command between messages asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// These bytes as an answer: a PONG.
    Pong(Bytes),
    /// To end the connection.
    End,
    /// Nothing that concerns us.
    Nothing,
}

/// Reads a command.
pub(super) fn command(body: &[u8]) -> Result<Wish, WireError> {
    let Some((name, rest)) = name(body) else { return Err(WireError::Malformed("a command without a name")) };
    match name {
        // After the name: how long the peer waits for us, which it will see to itself, and a context to be sent back.
        b"PING" => match rest.split_at_checked(2) {
            Some((_, context)) if context.len() <= CONTEXT_BYTES_MAX => {
                let len = u8::try_from(5 + context.len()).unwrap_or(u8::MAX);
                Ok(Wish::Pong([&[super::framing::COMMAND, len, 4][..], b"PONG", context].concat().into()))
            }
            _ => Err(WireError::Malformed("a PING that cannot be read")),
        },
        b"ERROR" => Ok(Wish::End),
        _ => Ok(Wish::Nothing),
    }
}
