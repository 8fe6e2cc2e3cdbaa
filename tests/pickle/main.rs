//! Pickles against the real thing: files of the old server and the add-on, malicious pickles, and CPython's opinion.

mod differential;
mod malicious;
mod mutants;
mod samples;

use std::path::PathBuf;

/// A file of the folder with the originals.
fn fixture(name: &str) -> Vec<u8> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/multi-user", name].iter().collect();
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A gzip file of that folder, unpacked.
fn unpacked(name: &str) -> Vec<u8> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(&*fixture(name)).read_to_end(&mut bytes).unwrap();
    bytes
}
