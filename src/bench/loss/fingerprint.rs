//! Fingerprints of payloads: SHA-256 over what a payload means, the same in every language that the loss test speaks.

use super::replica::Content;
use serde_json::Value;
use std::fmt::Write;

/// The fingerprint of a payload, however its numbers and keys were written.
pub(super) fn of_content(content: &Content) -> String {
    match content {
        Content::Json(value) => of_json(value),
        Content::Opaque { media_type, data, deltas } => {
            let layers = std::iter::once(data).chain(deltas).map(|layer| hex(&sha256(layer)));
            std::iter::once(media_type.clone()).chain(layers).collect::<Vec<_>>().join(" ")
        }
    }
}

/// The fingerprint of a JSON value.
pub(super) fn of_json(value: &Value) -> String {
    let mut canonical = Vec::new();
    push(&mut canonical, value);
    format!("json {}", hex(&sha256(&canonical)))
}

fn push(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => out.push(b'n'),
        Value::Bool(true) => out.push(b't'),
        Value::Bool(false) => out.push(b'f'),
        Value::String(text) => push_text(out, text),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            out.push(b'd');
            out.extend_from_slice(&(if number == 0.0 { 0.0 } else { number }).to_be_bytes());
        }
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                push(out, item);
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            let mut keys: Vec<&String> = fields.keys().collect();
            keys.sort();
            out.push(b'{');
            for key in keys {
                push_text(out, key);
                push(out, &fields[key]);
            }
            out.push(b'}');
        }
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(format!("s{}:", text.len()).as_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes every write");
        text
    })
}

/// SHA-256 (FIPS 180-4), because it is what every language has without a package.
fn sha256(data: &[u8]) -> [u8; 32] {
    let mut state: [u32; 8] = std::array::from_fn(|n| fraction_bits(PRIMES[n], 2));
    let constants: [u32; 64] = std::array::from_fn(|n| fraction_bits(PRIMES[n], 3));
    let mut tail = data[data.len() / 64 * 64..].to_vec();
    tail.push(0x80);
    tail.resize((tail.len() + 8).next_multiple_of(64), 0);
    let length_at = tail.len() - 8;
    tail[length_at..].copy_from_slice(&(data.len() as u64 * 8).to_be_bytes());
    for block in data.chunks_exact(64).chain(tail.chunks_exact(64)) {
        compress(&mut state, block, &constants);
    }
    let mut digest = [0; 32];
    for (place, word) in digest.chunks_exact_mut(4).zip(state) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    digest
}

#[expect(clippy::many_single_char_names, reason = "the names of the standard")]
fn compress(state: &mut [u32; 8], block: &[u8], constants: &[u32; 64]) {
    let mut words = [0_u32; 64];
    for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
        *word = u32::from_be_bytes(bytes.try_into().expect("four bytes"));
    }
    for n in 16..64 {
        let (x, y) = (words[n - 15], words[n - 2]);
        let low = x.rotate_right(7) ^ x.rotate_right(18) ^ (x >> 3);
        let high = y.rotate_right(17) ^ y.rotate_right(19) ^ (y >> 10);
        words[n] = words[n - 16].wrapping_add(low).wrapping_add(words[n - 7]).wrapping_add(high);
    }
    let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
    for (word, constant) in words.iter().zip(constants) {
        let sum = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
        let choice = (e & f) ^ (!e & g);
        let first = h.wrapping_add(sum).wrapping_add(choice).wrapping_add(*constant).wrapping_add(*word);
        let sum = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
        let majority = (a & b) ^ (a & c) ^ (b & c);
        let second = sum.wrapping_add(majority);
        (h, g, f, e) = (g, f, e, d.wrapping_add(first));
        (d, c, b, a) = (c, b, a, first.wrapping_add(second));
    }
    for (word, more) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
        *word = word.wrapping_add(more);
    }
}

/// The first 32 bits of the fraction of the square (2) or cube (3) root of a small prime, in whole numbers.
fn fraction_bits(prime: u128, root: u32) -> u32 {
    // The root of prime * 2^(32 * root) is the root of the prime, shifted by 32 bits.
    let target = prime << (32 * root);
    let (mut low, mut high) = (0_u128, 1 << 37);
    while high - low > 1 {
        let middle = u128::midpoint(low, high);
        if middle.pow(root) <= target { low = middle } else { high = middle }
    }
    u32::try_from(low & 0xffff_ffff).expect("32 bits")
}

const PRIMES: [u128; 64] = [
    2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167, 173, 179, 181, 191, 193, 197, 199, 211, 223, 227, 229, 233, 239,
    241, 251, 257, 263, 269, 271, 277, 281, 283, 293, 307, 311,
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn known_digests_come_out() {
        assert_eq!(hex(&sha256(b"")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex(&sha256(b"abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let two_blocks = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(hex(&sha256(two_blocks)), "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
        let no_room_for_the_length = [b'a'; 63];
        assert_eq!(
            hex(&sha256(&no_room_for_the_length)),
            "7d3e74a05d7db15bce4ad9ec0658ea98e3f06eeecf16b4c6fff2da457ddc2f34"
        );
        let long = vec![b'a'; 1_000_000];
        assert_eq!(hex(&sha256(&long)), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }

    #[test]
    fn how_a_value_was_written_does_not_matter() {
        assert_eq!(of_json(&json!({"a": 1, "b": [0.0, null]})), of_json(&json!({"b": [-0.0, null], "a": 1.0})));
        assert_ne!(of_json(&json!(["ab"])), of_json(&json!(["a", "b"])));
    }
}
