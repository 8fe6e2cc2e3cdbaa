//! The originals: files of the old server and of the add-on, and what was recorded of its messages.

use bytes::Bytes;
use std::io::Read as _;
use std::path::PathBuf;

/// A file of the folder with the originals.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path = fixture_path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Where a file of that folder is.
pub(crate) fn fixture_path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/multi-user", name].iter().collect()
}

/// A gzip file of that folder, unpacked.
pub(crate) fn unpacked(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&*fixture(name)).read_to_end(&mut bytes).unwrap();
    bytes
}

/// The messages of a recorded client: each a count of chunks, then chunks with their lengths.
pub(crate) fn client_messages() -> Vec<Vec<Bytes>> {
    let mut rest = Bytes::from(unpacked("blender_4.5_client_messages.frames.gz"));
    let number = |rest: &mut Bytes| {
        let head = rest.split_to(4);
        u32::from_be_bytes(head[..].try_into().unwrap()) as usize
    };
    let mut messages = Vec::new();
    while !rest.is_empty() {
        let count = number(&mut rest);
        messages.push(
            (0..count)
                .map(|_| {
                    let len = number(&mut rest);
                    rest.split_to(len)
                })
                .collect(),
        );
    }
    messages
}

/// The pickles of the recorded deltas of both deepdiff versions.
pub(crate) fn deltas() -> Vec<Vec<u8>> {
    let mut deltas = Vec::new();
    for version in ["5.7.0", "8.1.1"] {
        let text = unpacked(&format!("delta_cases_deepdiff_{version}.json.gz"));
        let cases: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
        deltas.extend(cases.iter().map(|case| from_hex(case["delta_pickle"].as_str().unwrap())));
    }
    assert!(deltas.len() > 900, "{}", deltas.len());
    deltas
}

pub(crate) fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}
