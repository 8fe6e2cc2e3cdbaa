//! CPython's opinion: whatever the scanner lets pass must load in CPython, ask for nothing that is not listed, and
//! come back equal from our reader and writer.

use crate::files::{client_messages, deltas, fixture, unpacked};
use crate::malicious;
use crate::mutants::{Chance, mutant, program};

use bytes::Bytes;
use hotset::formats::pickle::{Policy, Value, read, scan, write};
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};

/// Mutants in a normal run, and when `HOTSET_LONG` is 1.
const MUTANTS: u64 = 20_000;
const MUTANTS_LONG: u64 = 1_000_000;

/// Bytes that mutants are made of, at most: larger ones take their time and add nothing.
const SEED_BYTES_MAX: usize = 12_000;

const POLICIES: [Policy; 3] = [Policy::DATA_ONLY, Policy::LEGACY_SNAPSHOT, Policy::COMMIT_DELTA];

fn python(mode: &str) -> Command {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/pickle/differential.py"].iter().collect();
    let mut command = Command::new(std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned()));
    command.arg("-I").arg(script).arg(mode);
    command
}

/// A Python process that checks what it is sent.
struct Judge {
    child: Child,
    input: BufWriter<ChildStdin>,
    sent: u64,
}

impl Judge {
    fn start() -> Self {
        let spawned = python("check").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.expect("these tests need Python 3: install it, or name it in PYTHON");
        let input = BufWriter::new(child.stdin.take().unwrap());
        Self { child, input, sent: 0 }
    }

    fn send(&mut self, policy: usize, pickle: &[u8], rewritten: &[u8]) {
        self.input.write_all(&[u8::try_from(policy).unwrap()]).unwrap();
        for part in [pickle, rewritten] {
            self.input.write_all(&u32::try_from(part.len()).unwrap().to_be_bytes()).unwrap();
            self.input.write_all(part).unwrap();
        }
        self.sent += 1;
    }

    /// Ends the process; panics if it found anything.
    fn verdict(self) {
        let result = self.result();
        for fault in ["asked", "opcodes", "different", "failed"] {
            assert_eq!(result[fault], serde_json::json!([]), "{fault}");
        }
    }

    fn result(self) -> serde_json::Value {
        drop(self.input.into_inner().unwrap());
        let output = self.child.wait_with_output().unwrap();
        assert!(output.status.success());
        let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["checked"], self.sent);
        result
    }
}

/// What Python dumps of plain data, in protocols 1 to 5.
fn python_dumps() -> Vec<Vec<u8>> {
    let output = python("corpus").output().expect("these tests need Python 3: install it, or name it in PYTHON");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut rest = &output.stdout[..];
    let mut dumps = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk() {
        let (dump, tail) = tail.split_at(u32::from_be_bytes(*head) as usize);
        dumps.push(dump.to_vec());
        rest = tail;
    }
    dumps
}

/// The pickles inside a repository file.
fn datablocks() -> Vec<Vec<u8>> {
    let file = read(&unpacked("blender_repository.db").into(), &Policy::DATA_ONLY).unwrap();
    let nodes = file.get("nodes").and_then(Value::as_sequence).unwrap().to_vec();
    let chunks = nodes.iter().flat_map(|node| node.as_sequence().unwrap()[3..].to_vec());
    chunks.map(|chunk| chunk.as_bytes().unwrap().to_vec()).collect()
}

/// Snapshots like the old server's, but of one node, and without memo entries that a change could leave dangling.
fn small_snapshots() -> Vec<Vec<u8>> {
    let graph = b"\x8c\x16replication.repository\x8c\x10GraphObjectStore\x93)\x81";
    let node = b"\x8c\x13replication.objects\x8c\x04Node\x93)\x81\x94";
    let state = b"N}(\x8c\x04data}\x8c\x04name\x8c\x01as\x8c\x0cdependencies]\x94\x8c\x01ba\x8c\x05ownerNu\x86b";
    let file = [b"\x80\x04}\x8c\x05graph", &graph[..], b"}\x8c\x05store}\x8c\x01i", node, state, b"ssbs."].concat();
    vec![file, [b"\x80\x04", &node[..], state, b"."].concat(), [b"\x80\x04", &graph[..], b"}b."].concat()]
}

/// Sends a pickle if a policy lets it pass. Plain data is read and written again, too.
fn judge(judge: &mut Judge, policy: usize, pickle: &[u8]) -> bool {
    if scan(pickle, &POLICIES[policy]).is_err() {
        return false;
    }
    let value = read(&Bytes::copy_from_slice(pickle), &POLICIES[policy]).expect("what was scanned can be read");
    let rewritten = if policy == 0 { write(&value).expect("plain data can be written") } else { Vec::new() };
    judge.send(policy, pickle, &rewritten);
    true
}

#[test]
fn the_comparison_notices_what_should_not_have_passed() {
    let mut python = Judge::start();
    python.send(0, b"cos\nsystem\n(S'id'\ntR.", b"");
    python.send(0, b"N.", b"K\x01.");
    python.send(1, b"cbuiltins\nint\n.", b"");
    python.send(2, b"\x80\x04\x8c\x02idQ.", b"");
    python.send(0, b"\x80\x04h\x07.", b"");
    let result = python.result();
    let found = |kind: &str| result[kind].as_array().unwrap().len();
    assert_eq!((found("asked"), found("different"), found("failed")), (4, 1, 1), "{result}");
}

#[test]
fn plain_data_in_every_binary_protocol_passes_and_survives_reading_and_writing() {
    let dumps = python_dumps();
    assert!(dumps.len() > 250, "{}", dumps.len());
    let mut python = Judge::start();
    for dump in dumps.iter().chain(&datablocks()) {
        if let Err(violation) = scan(dump, &Policy::DATA_ONLY) {
            panic!("{violation}: {:02x?}", &dump[..dump.len().min(80)]);
        }
        judge(&mut python, 0, dump);
    }
    python.verdict();
}

#[test]
fn what_is_written_has_one_form() {
    for dump in python_dumps().iter().chain(&datablocks()) {
        let once = write(&read(&Bytes::copy_from_slice(dump), &Policy::DATA_ONLY).unwrap()).unwrap();
        let twice = write(&read(&Bytes::copy_from_slice(&once), &Policy::DATA_ONLY).unwrap()).unwrap();
        assert_eq!(once, twice);
    }
}

#[test]
fn real_files_and_deltas_ask_cpython_only_for_what_is_listed() {
    let mut python = Judge::start();
    assert!(judge(&mut python, 1, &fixture("session_snapshot.pkl")));
    for delta in deltas() {
        assert!(judge(&mut python, 2, &delta));
    }
    python.verdict();
}

#[test]
fn a_truncated_datablock_never_passes_and_a_changed_byte_never_asks_for_a_class() {
    let mut python = Judge::start();
    let mut changed = 0;
    let seeds: Vec<Vec<u8>> = datablocks().into_iter().filter(|pickle| pickle.len() < 1_600).collect();
    for pickle in &seeds {
        for len in 0..pickle.len() {
            assert!(scan(&pickle[..len], &Policy::DATA_ONLY).is_err());
        }
        for at in 0..pickle.len() {
            let mut copy = pickle.clone();
            copy[at] ^= 0xff;
            changed += u32::from(judge(&mut python, 0, &copy));
        }
    }
    assert!(changed > 1_000, "{changed}");
    python.verdict();
}

#[test]
fn no_mutant_that_passes_asks_cpython_for_an_unlisted_class() {
    let long = std::env::var("HOTSET_LONG").is_ok_and(|value| value == "1");
    let count = if long { MUTANTS_LONG } else { MUTANTS };
    let seed = std::env::var("HOTSET_SEED").map_or(0x5eed, |seed| seed.parse().expect("HOTSET_SEED is a number"));
    println!("{count} mutants, HOTSET_SEED={seed}");

    let mut plain = python_dumps();
    plain.extend(client_messages().into_iter().flatten().map(|chunk| chunk.to_vec()));
    let legacy = vec![fixture("session_snapshot.pkl")];
    let attacks = malicious::corpus().into_iter().map(|(_, bytes)| bytes).collect();
    let mut groups = [plain, datablocks(), deltas(), legacy, small_snapshots(), attacks];
    for group in &mut groups {
        group.retain(|seed| (1..=SEED_BYTES_MAX).contains(&seed.len()));
    }

    let mut chance = Chance(seed);
    let mut python = Judge::start();
    let mut passed = [0_u64; POLICIES.len()];
    for _ in 0..count {
        let mutant = if chance.below(4) == 0 { program(&mut chance) } else { mutant(&groups, &mut chance) };
        for (policy, passed) in passed.iter_mut().enumerate() {
            // What passes without any class needs no second look with some.
            if (policy == 0 || scan(&mutant, &POLICIES[0]).is_err()) && judge(&mut python, policy, &mutant) {
                *passed += 1;
            }
        }
    }
    println!("passed: {passed:?}");
    assert!(passed.iter().all(|passed| *passed > count / 100), "{passed:?}");
    assert!(passed[0] > count / 20, "{passed:?}");
    python.verdict();
}
