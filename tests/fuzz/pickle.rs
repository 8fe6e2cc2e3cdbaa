//! Pickles, damaged and made up: never a panic, never more than linear work, and what is scanned can be read.

use crate::campaign::cases;
use bytes::Bytes;
use flate2::read::GzDecoder;
use hotset::formats::pickle::{Pickler, Policy, Value, read, scan, texts_of, to_json, write};
use mutants::{Chance, mutant, program};
use std::io::Read as _;
use std::time::Duration;

#[path = "../pickle/mutants.rs"]
pub(crate) mod mutants;

/// Pickles longer than this take their time and add nothing.
const BYTES_MAX: usize = 64 << 10;

const POLICIES: [Policy; 7] = [
    Policy::DATA_ONLY,
    Policy::DATA_FILE,
    Policy::LEGACY_SNAPSHOT,
    Policy::COMMIT_DELTA,
    Policy::MESSAGE,
    Policy::MESSAGE,
    Policy::MESSAGE_DELTA,
];

fn fixture(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/fixtures/multi-user/{name}", env!("CARGO_MANIFEST_DIR"));
    let bytes = std::fs::read(path).unwrap();
    let mut unpacked = Vec::new();
    match GzDecoder::new(&*bytes).read_to_end(&mut unpacked) {
        Ok(_) => unpacked,
        Err(_) => bytes,
    }
}

/// Groups of pickles to damage: of the old server, of the add-on, and data of every sort.
fn corpus() -> Vec<Vec<Vec<u8>>> {
    let snapshot = fixture("session_snapshot.pkl");
    let repository = fixture("blender_repository.db");
    let file = read(&Bytes::from(repository.clone()), &Policy::DATA_FILE).unwrap();
    let nodes = file.get("nodes").and_then(Value::as_sequence).unwrap().to_vec();
    let chunks = nodes.iter().flat_map(|node| node.as_sequence().unwrap()[3..].to_vec());
    let datablocks = chunks.map(|chunk| chunk.as_bytes().unwrap().to_vec());
    let small = datablocks.filter(|pickle| pickle.len() <= BYTES_MAX).collect();
    let data: [&[u8]; 7] = [
        b"\x80\x04}\x94(\x8c\x01a\x94K\x01\x8c\x01b\x94]\x94(K\x02h\x01eu.",
        b"\x80\x02}q\x00(U\x01aq\x01K\x01X\x01\0\0\0bq\x02(K\x01K\x02tq\x03u.",
        b"\x80\x04}\x94\x8c\x01a\x8c\x04name\x86\x940h\0h\x01\x85h\0\x8c\x01a]s0.",
        b"\x80\x04\x8a\x09\0\0\0\0\0\0\0\0\x01.",
        b"\x80\x04(\x8f\x94(\x8c\x01a\x8c\x01b\x90C\x03abct.",
        b"(dp0\nVa\np1\nI1\nsVb\np2\n(lp3\nI2\nas.",
        b"\x80\x05\x96\x03\0\0\0\0\0\0\0abc\x94.",
    ];
    let data = data.iter().map(|pickle| pickle.to_vec()).collect();
    vec![vec![snapshot], vec![repository], small, data]
}

fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap(), used.tv_nsec.try_into().unwrap())
}

/// Generous for an unoptimised build, and far below what anything quadratic takes.
fn time_for(bytes: usize) -> Duration {
    Duration::from_millis(500) + Duration::from_micros(20) * u32::try_from(bytes).unwrap()
}

#[test]
fn damaged_pickles_are_refused_or_read_in_linear_time() {
    let corpus = corpus();
    cases("pickle", |chance| {
        let mut mutants = Chance(chance.next());
        let pickle = if chance.once_in(4) { program(&mut mutants) } else { mutant(&corpus, &mut mutants) };
        let policy = chance.one_of(&POLICIES);
        let begin = cpu_time();
        let scanned = scan(&pickle, policy);
        let pickle = Bytes::from(pickle);
        let value = read(&pickle, policy);
        assert_eq!(scanned.is_ok(), value.is_ok(), "reading is scanning first");
        let keys = ["type_id", "name", "a"];
        let texts = texts_of(&pickle, policy, keys);
        assert_eq!(scanned.as_ref().err(), texts.as_ref().err(), "looking for texts is scanning");
        let used = cpu_time().saturating_sub(begin);
        assert!(used <= time_for(pickle.len()), "{used:?} for {} bytes", pickle.len());
        let Ok(value) = value else { return false };
        drop(to_json(&value));
        for (key, text) in keys.iter().zip(texts.unwrap()) {
            let expected = value.get(key).and_then(Value::as_text);
            // Where a pickle takes a dict back from the memo, it may be overlooked.
            assert!(text == expected || (text.is_none() && policy.pickler == Pickler::Any), "{key}: {text:?}");
        }
        // Plain data comes back the same; objects cannot be written.
        if let Ok(written) = write(&value) {
            let again = read(&Bytes::from(written.clone()), &Policy::DATA_FILE).expect("what we write we can read");
            assert_eq!(write(&again).unwrap(), written);
        }
        true
    });
}
