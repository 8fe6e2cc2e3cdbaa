//! The malicious pickles as a file, so that tests in other languages can send them through a port.
//!
//! `tests/fixtures/multi-user/malicious.json.gz` is a list of `{"what": text, "hex": bytes}`. `UPDATE_CORPUS=1` writes
//! it anew. An entry may have `"as_delta"`: why the policy for deltas lets it pass; as a delta it is refused even so.

use crate::files::{fixture_path, from_hex, unpacked};
use crate::malicious::{bombs, corpus};

use flate2::Compression;
use flate2::write::GzEncoder;
use hotset::formats::delta::Delta;
use hotset::formats::pickle::{Policy, scan};
use serde_json::{Value as Json, json};
use std::io::Write as _;

const FILE: &str = "malicious.json.gz";

/// Larger pickles are not in the file: they only show again that limits hold.
const BYTES_MAX: usize = 3 << 20;

/// Those that the policy for deltas lets pass, and why that does no harm.
const PASSES_AS_DELTA: &[(&str, &str)] =
    &[("builtins.int: STACK_GLOBAL", "only names a type that may be named, which nothing calls")];

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

fn entries() -> Vec<Json> {
    let bombs = bombs().into_iter().map(|(what, bytes)| (what.to_owned(), bytes));
    let small = corpus().into_iter().chain(bombs).filter(|(_, bytes)| bytes.len() <= BYTES_MAX);
    let entry = |(what, bytes): (String, Vec<u8>)| {
        let mut entry = json!({ "what": what, "hex": hex(&bytes) });
        if let Some((_, why)) = PASSES_AS_DELTA.iter().find(|(name, _)| *name == what) {
            entry["as_delta"] = json!(why);
        }
        entry
    };
    small.map(entry).collect()
}

#[test]
fn the_file_of_malicious_pickles_is_current_and_every_one_is_refused() {
    let entries = entries();
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        let mut packed = GzEncoder::new(Vec::new(), Compression::best());
        packed.write_all(serde_json::to_string_pretty(&entries).unwrap().as_bytes()).unwrap();
        std::fs::write(fixture_path(FILE), packed.finish().unwrap()).unwrap();
    }
    let stored: Vec<Json> = serde_json::from_slice(&unpacked(FILE)).unwrap();
    assert!(stored == entries, "run UPDATE_CORPUS=1 cargo test --test pickle corpus");
    assert!(stored.len() >= 200, "{}", stored.len());
    for entry in &stored {
        let (what, bytes) = (&entry["what"], from_hex(entry["hex"].as_str().unwrap()));
        assert!(scan(&bytes, &Policy::DATA_ONLY).is_err(), "{what}");
        assert_eq!(scan(&bytes, &Policy::COMMIT_DELTA).is_ok(), entry.get("as_delta").is_some(), "{what}");
        assert!(Delta::read(&bytes.into()).is_err(), "{what}");
    }
}
