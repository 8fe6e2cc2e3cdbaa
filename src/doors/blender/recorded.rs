//! For tests: what real clients and servers were heard to say.

use super::wire::{Transport, WireLimits, unframe};

use bytes::Bytes;

#[path = "../../../tests/pickle/files.rs"]
pub(super) mod files;

/// Something that was sent in one piece.
pub(super) struct Heard {
    pub(super) port: u16,
    pub(super) from_client: bool,
    pub(super) bytes: Vec<u8>,
    /// Long pieces were not recorded to their end.
    pub(super) whole: bool,
}

/// The recording of one version.
pub(super) fn heard(name: &str) -> Vec<Heard> {
    let text = String::from_utf8(files::fixture(name)).unwrap();
    text.lines().map(line).collect()
}

fn line(line: &str) -> Heard {
    let words: Vec<&str> = line.split(' ').collect();
    let [_, port, direction, length, bytes @ ..] = &words[..] else { panic!("{line}") };
    let whole = bytes.last() != Some(&"...");
    let bytes: Vec<u8> =
        bytes.iter().filter(|byte| **byte != "...").map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    assert!(!whole || bytes.len() == length.parse::<usize>().unwrap(), "{line}");
    Heard { port: port.parse().unwrap(), from_client: *direction == "C->S", bytes, whole }
}

/// What the server sent on a port, from the first message on.
pub(super) fn from_server(name: &str, port: u16, skip: usize) -> Vec<Vec<Bytes>> {
    let lines = heard(name);
    let lines = lines.iter().filter(|heard| heard.port == port && !heard.from_client);
    let bytes: Vec<u8> = lines.flat_map(|heard| heard.bytes.clone()).skip(skip).collect();
    let transport = if name.contains("0.9.10") { Transport::Zmtp } else { Transport::Tcp };
    unframe(transport, WireLimits::default(), &bytes).unwrap()
}

/// The 194 messages that a Blender sent.
pub(super) fn client_messages() -> Vec<Vec<Bytes>> {
    let bytes = files::unpacked("blender_4.5_client_messages.frames.gz");
    let messages = unframe(Transport::Tcp, WireLimits::default(), &bytes).unwrap();
    assert_eq!(messages, files::client_messages());
    messages
}
