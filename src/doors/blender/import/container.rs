//! Unpacks a gzip file without trusting what it claims to hold.

use super::ImportError;

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use std::io::Read as _;

/// Most bytes of an unpacked file.
const UNPACKED_MAX: u64 = 2 << 30;

/// Most unpacked bytes per packed byte...
const RATIO_MAX: u64 = 200;

/// ...beyond this many, which are always allowed.
const RATIO_FREE: u64 = 1 << 20;

/// Unpacks the whole file; checks the size while it grows, and its checksum at the end.
pub(super) fn inflate(packed: &Bytes) -> Result<Bytes, ImportError> {
    let ratio_limit = (packed.len() as u64).saturating_mul(RATIO_MAX).saturating_add(RATIO_FREE);
    let limit = UNPACKED_MAX.min(ratio_limit);
    let mut rest: &[u8] = packed;
    let mut unpacked = Vec::new();
    let read = GzDecoder::new(&mut rest).take(limit + 1).read_to_end(&mut unpacked);
    read.map_err(|error| ImportError::Unpack(error.to_string()))?;
    if unpacked.len() as u64 > limit {
        return Err(ImportError::Unpack(format!("it holds more than {limit} bytes")));
    }
    if !rest.is_empty() {
        return Err(ImportError::Unpack(format!("{} bytes follow its end", rest.len())));
    }
    Ok(unpacked.into())
}
