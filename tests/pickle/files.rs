//! The originals: files of the old server and of the add-on, and what was recorded of its messages.

use bytes::Bytes;
use std::io::Read as _;
use std::path::PathBuf;

/// A file of the folder with the originals.
pub(crate) fn fixture(name: &str) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/multi-user", name].iter().collect();
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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
        let cases: serde_json::Value = serde_json::from_slice(&text).unwrap();
        find_deltas(&cases, &mut deltas);
    }
    assert!(deltas.len() > 900, "{}", deltas.len());
    deltas
}

fn find_deltas(cases: &serde_json::Value, found: &mut Vec<Vec<u8>>) {
    for case in cases.as_array().unwrap() {
        let hex = case.get("delta_pickle").and_then(|delta| delta.as_str()).unwrap();
        found.push((0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect());
    }
}
