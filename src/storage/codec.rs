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

/// Appends the encoded value to `out` without `parts`, byte strings of it that are left out where they stand. Returns which
/// of them belongs where in `out`: `(offset, index)`, in order. `None` if one of them is no byte string of the value.
pub fn encode_around<T: Serialize>(value: &T, parts: &[&[u8]], out: &mut Vec<u8>) -> Option<Vec<(usize, usize)>> {
    let shortest = parts.iter().map(|part| part.len()).min().unwrap_or(usize::MAX);
    let mut around = Around { out, parts, shortest, places: Vec::new() };
    bincode::serde::encode_into_std_write(value, &mut around, bincode::config::standard()).ok()?;
    let places = around.places;
    (places.len() == parts.len()).then_some(places)
}

/// Takes byte strings for those that are looked for by where they are in memory: comparing them would take as long as
/// copying.
struct Around<'a> {
    out: &'a mut Vec<u8>,
    parts: &'a [&'a [u8]],
    /// Bytes of the shortest part.
    shortest: usize,
    places: Vec<(usize, usize)>,
}

impl Write for Around<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_missing = |index: usize| self.places.iter().all(|(_, found)| *found != index);
        let is_it = |index: &usize| std::ptr::eq(self.parts[*index], bytes) && is_missing(*index);
        // Of what is written most is small, and the parts are not gone through for that.
        let found = if bytes.len() < self.shortest { None } else { (0..self.parts.len()).find(is_it) };
        match found {
            Some(index) => self.places.push((self.out.len(), index)),
            None => self.out.extend_from_slice(bytes),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn what_is_left_out_belongs_where_it_is_said_to() {
        let value = ("before", Bytes::from(vec![7; 300]), 5u32, Bytes::from(vec![7; 300]), "after");
        let parts = [&value.3[..], &value.1[..]];
        let mut rest = vec![1, 2, 3];
        let places = encode_around(&value, &parts, &mut rest).expect("both are in it");
        assert_eq!(places.iter().map(|(_, index)| *index).collect::<Vec<_>>(), [1, 0], "in the order of the value");
        let mut whole = rest.clone();
        for (at, index) in places.into_iter().rev() {
            whole.splice(at..at, parts[index].iter().copied());
        }
        let mut expected = vec![1, 2, 3];
        encode_into(&value, &mut expected);
        assert_eq!(whole, expected);
        assert_eq!(encode_around(&value, &[&[7; 300]], &mut Vec::new()), None, "equal bytes elsewhere are others");
    }

    #[test]
    fn leaving_out_many_parts_takes_no_longer_for_each_of_many_small_fields() {
        let large: Vec<Bytes> = (0..250).map(|_| vec![7; 300].into()).collect();
        let value = (large, vec![5u32; 100_000]);
        let parts: Vec<&[u8]> = value.0.iter().map(|part| &part[..]).collect();
        let begun = crate::ops::clock::thread_cpu();
        assert_eq!(encode_around(&value, &parts, &mut Vec::new()).map(|places| places.len()), Some(250));
        let took = crate::ops::clock::thread_cpu().saturating_sub(begun);
        assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    }
}
