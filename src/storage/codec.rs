//! The body codec: pinned bincode behind a length limit. The only file that knows which codec it is.
//!
//! bincode is unmaintained (RUSTSEC-2025-0141), so it is used only inside our own container, on bytes whose checksum
//! has been verified, through its serde path (which does not allocate by a declared length).

use crate::storage::BadContent;
use bincode::error::EncodeError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{self, Write};

/// The codec id in file headers: 1 = bincode 2.0.1, serde path, `standard()` (little-endian, varint).
pub const CODEC_ID: u8 = 1;

/// Most bytes of one body: a 64 MiB payload and what surrounds it.
const BODY_BYTES_MAX: usize = 80 << 20;

/// Appends the encoded value to `out`.
///
/// # Panics
/// Never for the stored types: they hold nothing that bincode refuses.
pub fn encode_into<T: Serialize>(value: &T, out: &mut Vec<u8>) {
    bincode::serde::encode_into_std_write(value, out, bincode::config::standard()).expect("stored types always encode");
}

/// Writes the encoded value; large byte strings go through as they are, without a copy.
pub fn encode_to<T: Serialize>(value: &T, mut out: &mut dyn Write) -> io::Result<()> {
    match bincode::serde::encode_into_std_write(value, &mut out, bincode::config::standard()) {
        Ok(_) => Ok(()),
        Err(EncodeError::Io { inner, .. }) => Err(inner),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// Decodes one value that takes up the whole of `bytes`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, BadContent> {
    let config = bincode::config::standard().with_limit::<BODY_BYTES_MAX>();
    let (value, used) =
        bincode::serde::decode_from_slice(bytes, config).map_err(|error| BadContent(error.to_string()))?;
    if used == bytes.len() { Ok(value) } else { Err(BadContent(format!("{} bytes too many", bytes.len() - used))) }
}
