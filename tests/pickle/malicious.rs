//! Pickles that import, call, or take more than they should: every one must be refused, quickly and in little memory.

use hotset::formats::pickle::{Policy, scan};
use std::process::Command;
use std::time::{Duration, Instant};

/// What attacks have used: ways to run code, read files, or reach either through something harmless.
const TARGETS: &[(&str, &str)] = &[
    ("os", "system"),
    ("posix", "system"),
    ("nt", "system"),
    ("os", "popen"),
    ("os", "execv"),
    ("subprocess", "Popen"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("builtins", "__import__"),
    ("builtins", "open"),
    ("builtins", "int"),
    ("__builtin__", "eval"),
    ("importlib", "import_module"),
    ("operator", "attrgetter"),
    ("operator", "methodcaller"),
    ("functools", "partial"),
    ("copyreg", "_reconstructor"),
    ("copyreg", "add_extension"),
    ("pickle", "loads"),
    ("_pickle", "loads"),
    ("codecs", "decode"),
    ("_codecs", "encode"),
    ("types", "FunctionType"),
    ("types", "CodeType"),
    ("timeit", "timeit"),
    ("runpy", "_run_code"),
    ("pty", "spawn"),
    ("socket", "create_connection"),
    ("shutil", "rmtree"),
    ("webbrowser", "open"),
    ("ctypes", "CDLL"),
    ("pdb", "run"),
    ("cProfile", "run"),
    ("bdb", "Bdb"),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start"),
    ("logging.config", "fileConfig"),
    ("urllib.request", "urlopen"),
    ("pydoc", "pipepager"),
    ("ensurepip", "_run_pip"),
    ("collections", "OrderedDict"),
    ("datetime", "datetime"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("bpy.utils", "register_class"),
    ("os.path", "join"),
    ("os", "path.join"),
    ("replication.objects", "Node.__init__"),
    ("replication.objects", "Commit"),
    ("deepdiff.helper", "Delta"),
];

fn short(text: &str) -> Vec<u8> {
    let mut bytes = vec![0x8c, u8::try_from(text.len()).unwrap()];
    bytes.extend(text.as_bytes());
    bytes
}

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn framed(body: &[u8]) -> Vec<u8> {
    joined(&[b"\x80\x04\x95", &(body.len() as u64).to_le_bytes(), body])
}

/// Every way to load and call one target.
fn ways(module: &str, name: &str) -> Vec<(&'static str, Vec<u8>)> {
    let (m, n) = (short(module), short(name));
    let (lm, ln) = (module.as_bytes(), name.as_bytes());
    let stack = joined(&[&m, &n, b"\x93"]);
    vec![
        ("GLOBAL", joined(&[b"c", lm, b"\n", ln, b"\n."])),
        ("GLOBAL in protocol 2", joined(&[b"\x80\x02c", lm, b"\n", ln, b"\nX\x02\0\0\0id\x85R."])),
        ("INST", joined(&[b"(X\x02\0\0\0idi", lm, b"\n", ln, b"\n."])),
        ("OBJ", joined(&[b"\x80\x04(", &stack, b"\x8c\x02ido."])),
        ("STACK_GLOBAL", joined(&[b"\x80\x04", &stack, b"."])),
        ("REDUCE", framed(&joined(&[&stack, b"\x8c\x02id\x85R."]))),
        ("REDUCE, broken tail", joined(&[b"\x80\x04", &stack, b"\x8c\x02id\x85R\xff\xff"])),
        ("REDUCE, popped", joined(&[b"\x80\x04", &stack, b"\x8c\x02id\x85R0N."])),
        ("NEWOBJ", joined(&[b"\x80\x04", &stack, b")\x81."])),
        ("NEWOBJ_EX", joined(&[b"\x80\x04", &stack, b")}\x92."])),
        ("BUILD", joined(&[b"\x80\x04", &stack, b")\x81}\x8c\x01a\x8c\x01bsb."])),
        ("through the memo", joined(&[b"\x80\x04", &m, b"\x94", &n, b"\x9400h\x00h\x01\x93)R."])),
        ("through DUP", joined(&[b"\x80\x04", &m, b"2", &n, b"\x93)R."])),
        ("in a dict", joined(&[b"\x80\x04}\x8c\x04name", &stack, b"\x8c\x02id\x85Rs."])),
        ("names from a list", joined(&[b"\x80\x04](", &m, &n, b"e\x94h\x00h\x00\x93)R."])),
        ("names as bytes", joined(&[b"\x80\x04", &m, b"C", &[u8::try_from(ln.len()).unwrap()], ln, b"\x93)R."])),
        ("after the end", joined(&[b"\x80\x04N.\x80\x04", &stack, b"\x8c\x02id\x85R."])),
    ]
}

/// Attacks that need no name, or play with how names are read.
fn special() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("EXT1", b"\x80\x02\x82\x01.".to_vec()),
        ("EXT2", b"\x80\x02\x83\x01\x00.".to_vec()),
        ("EXT4", b"\x80\x02\x84\x01\x00\x00\x00.".to_vec()),
        ("PERSID", b"Pid\n.".to_vec()),
        ("BINPERSID", b"\x80\x04\x8c\x02idQ.".to_vec()),
        ("BINPERSID of NoneType", b"\x80\x04\x8c\x0c<<NoneType>>Q0\x8c\x0d<<NoneType>> Q.".to_vec()),
        ("NEXT_BUFFER", b"\x80\x05\x97.".to_vec()),
        ("READONLY_BUFFER", b"\x80\x05C\x01a\x98.".to_vec()),
        ("BYTEARRAY8", b"\x80\x05\x96\x01\0\0\0\0\0\0\0a.".to_vec()),
        ("BUILD on a list", b"\x80\x04]}b.".to_vec()),
        ("BUILD on a dict", b"\x80\x04}}\x8c\x01a\x8c\x01bsb.".to_vec()),
        ("REDUCE of a text", b"\x80\x04\x8c\x04eval\x8c\x011\x85R.".to_vec()),
        ("newline in GLOBAL", b"cos\n\nsystem\n.".to_vec()),
        ("newline in STACK_GLOBAL", b"\x80\x04\x8c\x03os\n\x8c\x06system\x93.".to_vec()),
        ("GLOBAL without an end", b"cos\nsystem".to_vec()),
        ("empty names", b"\x80\x04\x8c\x00\x8c\x00\x93.".to_vec()),
        ("names that are not UTF-8", b"\x80\x04\x8c\x02\xff\xfe\x8c\x06system\x93.".to_vec()),
        ("no names", b"\x80\x04\x93.".to_vec()),
        ("names below a mark", b"\x80\x04\x8c\x02os\x8c\x06system(\x93.".to_vec()),
        ("frame too long", b"\x80\x04\x95\x09\0\0\0\0\0\0\0N.".to_vec()),
        ("frame too short", b"\x80\x04\x95\x01\0\0\0\0\0\0\0K\x01.".to_vec()),
        ("frame of 2^63", b"\x80\x04\x95\0\0\0\0\0\0\0\x80N.".to_vec()),
        ("frame in a frame", b"\x80\x04\x95\x0b\0\0\0\0\0\0\0\x95\x02\0\0\0\0\0\0\0N.".to_vec()),
        ("frame of nothing", b"\x80\x04\x95\0\0\0\0\0\0\0\0N.".to_vec()),
        ("end before the frame's", b"\x80\x04\x95\x03\0\0\0\0\0\0\0N.N".to_vec()),
        ("protocol 6", b"\x80\x06N.".to_vec()),
        ("protocol 0", b"\x80\x00N.".to_vec()),
        ("protocol twice", b"\x80\x04\x80\x04N.".to_vec()),
        ("opcode of protocol 4 in 2", b"\x80\x02\x8c\x01a.".to_vec()),
        ("opcode of protocol 4 without protocol", b"\x8c\x01a.".to_vec()),
        ("second pickle", b"\x80\x04N.\x80\x04N.".to_vec()),
        ("no end", b"\x80\x04N".to_vec()),
        ("nothing", Vec::new()),
        ("only the end", b".".to_vec()),
        ("two values", b"\x80\x04NN.".to_vec()),
        ("open mark", b"\x80\x04N(.".to_vec()),
        ("mark below the value", b"\x80\x04(N.".to_vec()),
        ("memo miss", b"\x80\x04h\x00.".to_vec()),
        ("memo gap", b"\x80\x04Nq\x05h\x04.".to_vec()),
        ("memo written twice", b"\x80\x04Nq\x00K\x01q\x00.".to_vec()),
        ("memo of nothing", b"\x80\x04\x94N.".to_vec()),
        ("memo of what is below a mark", b"\x80\x04N(\x94t.".to_vec()),
        ("pop of nothing", b"\x80\x040N.".to_vec()),
        ("key that is a list", b"\x80\x04}]Ns.".to_vec()),
        ("key that is a tuple of a list", b"\x80\x04}]\x85Ns.".to_vec()),
        ("member that is a dict", b"\x80\x04\x8f(}\x90.".to_vec()),
        ("key without a value", b"\x80\x04}(Nu.".to_vec()),
        ("append to a tuple", b"\x80\x04)Na.".to_vec()),
        ("append to a dict", b"\x80\x04}Na.".to_vec()),
        ("append to a text", b"\x80\x04\x8c\x01aNa.".to_vec()),
        ("items of a list", b"\x80\x04]NNs.".to_vec()),
        ("append below a mark", b"\x80\x04](Na.".to_vec()),
        ("list in itself", b"\x80\x04]2a.".to_vec()),
        ("list in itself through the memo", b"\x80\x04]\x94h\x00a.".to_vec()),
        ("list in itself through a tuple", b"\x80\x04]\x94h\x00\x85a.".to_vec()),
        ("dict in itself", b"\x80\x04}\x94\x8c\x01ah\x00s.".to_vec()),
        ("changed after use", b"\x80\x04]\x94]h\x00a0h\x00Na.".to_vec()),
        ("negative length", b"\x80\x04\x8b\xff\xff\xff\xff.".to_vec()),
    ]
}

/// What no pickler of protocol 1 or later writes.
fn outdated() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("text opcode INT", b"I1\n.".to_vec()),
        ("text opcode LONG", b"L1L\n.".to_vec()),
        ("text opcode FLOAT", b"F1\n.".to_vec()),
        ("text opcode STRING", b"S'a'\n.".to_vec()),
        ("text opcode UNICODE", b"Va\n.".to_vec()),
        ("text opcode GET", b"Np0\ng0\n.".to_vec()),
        ("old LIST", b"(Nl.".to_vec()),
        ("old DICT", b"(NNd.".to_vec()),
        ("Python 2 text", b"U\x01a.".to_vec()),
        ("unknown opcode", b"\x80\x04\xff.".to_vec()),
        ("lone surrogate", b"\x80\x04\x8c\x03\xed\xa0\x80.".to_vec()),
    ]
}

/// Classes that a delta may name, for what they are not listed for.
fn misused() -> Vec<(&'static str, Vec<u8>)> {
    let int = joined(&[&short("builtins"), &short("int"), b"\x93"]);
    let mapping = joined(&[&short("deepdiff.helper"), &short("OrderedDictPlus"), b"\x93"]);
    let opcode = joined(&[&short("deepdiff.helper"), &short("Opcode"), b"\x93"]);
    let bodies = [
        ("a type called", joined(&[&int, b")R."])),
        ("a type made", joined(&[&int, b")\x81."])),
        ("a type given a state", joined(&[&int, b"}b."])),
        ("a mapping called with arguments", joined(&[&mapping, b"N\x85R."])),
        ("a mapping made by NEWOBJ", joined(&[&mapping, b")\x81."])),
        ("a mapping given a state", joined(&[&mapping, b")R}b."])),
        ("an opcode with six arguments", joined(&[&opcode, b"(NNNNNNt\x81."])),
        ("an opcode given a state", joined(&[&opcode, b"(NNNNNNNt\x81}b."])),
        ("an opcode called", joined(&[&opcode, b"(NNNNNNNtR."])),
        ("another persistent id", b"\x8c\x0b<<NoneType>Q.".to_vec()),
        ("a persistent id that is no text", b"NQ.".to_vec()),
        ("a type called on an argument", joined(&[&int, b"\x8c\x011\x85R."])),
        ("a type given its name as a list", joined(&[b"\x8c\x08builtins]\x93."])),
        ("a type as a key", joined(&[b"}", &int, b"Ns."])),
        ("a type through INST", b"(ibuiltins\nint\n.".to_vec()),
        ("a mapping as a value", joined(&[&mapping, b"."])),
        ("a mapping called twice", joined(&[&mapping, b")R)R."])),
        ("a mapping as a key", joined(&[b"}", &mapping, b")RNs."])),
        ("a mapping in itself", joined(&[&mapping, b")R\x94\x8c\x01ah\x00s."])),
        ("an opcode as a value", joined(&[&opcode, b"."])),
        ("an opcode of an opcode", joined(&[&opcode, b"(NNNNNN", &opcode, b"t\x81."])),
        ("the names swapped", joined(&[&short("Opcode"), &short("deepdiff.helper"), b"\x93(NNNNNNNt\x81."])),
        ("a name with a dot", joined(&[&short("deepdiff"), &short("helper.Opcode"), b"\x93(NNNNNNNt\x81."])),
        ("the loader of the library", joined(&[&short("deepdiff.serialization"), &short("pickle_load"), b"\x93."])),
    ];
    bodies.into_iter().map(|(what, body)| (what, joined(&[b"\x80\x04", &body]))).collect()
}

/// The beginnings of a harmless pickle.
fn cut() -> impl Iterator<Item = (String, Vec<u8>)> {
    let whole = framed(b"}\x94(\x8c\x07type_id\x94\x8c\x04Mesh\x94\x8c\x02co\x94C\x04abcd\x94\x8c\x01v\x94](K\x01G?\xf0\0\0\0\0\0\0eu.");
    scan(&whole, &Policy::DATA_ONLY).unwrap();
    (0..whole.len()).map(move |len| (format!("cut to {len} bytes"), whole[..len].to_vec()))
}

/// Small pickles that would become large, deep or slow.
pub(crate) fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let laugh = |levels: usize, width: usize| {
        let mut bytes = b"\x80\x04\x8c\x0aabcdefghij\x94".to_vec();
        for level in 0..levels {
            bytes.extend(b"](");
            for _ in 0..width {
                bytes.extend([b'j']);
                bytes.extend(u32::try_from(level).unwrap().to_le_bytes());
            }
            bytes.extend(b"e\x94");
        }
        // Only the last list is wanted: everything goes, and it is fetched again.
        bytes.extend(b"0".repeat(levels + 1));
        bytes.push(b'j');
        bytes.extend(u32::try_from(levels).unwrap().to_le_bytes());
        bytes.push(b'.');
        bytes
    };
    // a0 = [], a1 = [] ... all memoised and empty; then each is put into the one before it, outermost first.
    let mut chain = b"\x80\x04".to_vec();
    chain.extend(b"]\x94".repeat(1_000));
    chain.extend(b"0".repeat(1_000));
    for link in 0..999_u32 {
        chain.push(b'j');
        chain.extend(link.to_le_bytes());
        chain.push(b'j');
        chain.extend((link + 1).to_le_bytes());
        chain.extend(b"a0");
    }
    chain.extend(b"h\x00.");
    let nested = |open: &[u8], close: &[u8], count: usize| {
        joined(&[b"\x80\x04", &open.repeat(count), b"N", &close.repeat(count), b"."])
    };
    vec![
        ("50,000 nested lists", nested(b"]", b"a", 50_000)),
        ("1,000,000 nested lists", nested(b"]", b"a", 1_000_000)),
        ("1,000,000 nested lists, open", b"]".repeat(1_000_000)),
        ("65 nested lists", nested(b"]", b"a", 65)),
        ("1,000,000 nested tuples", joined(&[b"\x80\x04N", &b"\x85".repeat(1_000_000), b"."])),
        ("100,000 nested dicts", nested(b"}N", b"s", 100_000)),
        ("100,000 nested tuples by marks", nested(b"(", b"t", 100_000)),
        ("1,000,000 marks", nested(b"(", b"", 1_000_000)),
        ("lists linked after they were memoised", chain),
        ("memo laugh, 40 levels of 2", laugh(40, 2)),
        ("memo laugh, 9 levels of 10", laugh(9, 10)),
        ("memo laugh, 2 levels of 50,000", laugh(2, 50_000)),
        ("bytes of 2^60", b"\x80\x04\x8e\0\0\0\0\0\0\0\x10abc.".to_vec()),
        ("text of 2^60", b"\x80\x04\x8d\0\0\0\0\0\0\0\x10abc.".to_vec()),
        ("text of 2^32 - 1", b"\x80\x04X\xff\xff\xff\xffabc.".to_vec()),
        ("bytes of 64 MiB, absent", b"\x80\x04B\0\0\0\x04abc.".to_vec()),
        ("integer of 2^31 - 1", b"\x80\x04\x8b\xff\xff\xff\x7fabc.".to_vec()),
        ("integer of 257", joined(&[b"\x80\x04\x8b\x01\x01\0\0", &[1; 257], b"."])),
        ("decimal integer of 1 MB", joined(&[b"L", &b"9".repeat(1_000_000), b"L\n."])),
        ("decimal INT of 1 MB", joined(&[b"I", &b"9".repeat(1_000_000), b"\n."])),
        ("memo index 2^32 - 1", b"\x80\x04Nr\xff\xff\xff\xff.".to_vec()),
        ("memo index 999,999", b"\x80\x04Nr\x3f\x42\x0f\x00.".to_vec()),
        ("1,000,001 memo entries", joined(&[b"\x80\x04N", &b"\x94".repeat(1_000_001), b"."])),
        ("1,000,001 values on the stack", joined(&[b"\x80\x04(", &b"N".repeat(1_000_001), b"t."])),
        ("10,000,001 opcodes", joined(&[b"\x80\x04N", &b"N0".repeat(5_000_000), b"."])),
    ]
}

/// Everything that must be refused.
pub(crate) fn corpus() -> Vec<(String, Vec<u8>)> {
    let aimed = TARGETS.iter().flat_map(|(module, name)| {
        ways(module, name).into_iter().map(move |(way, bytes)| (format!("{module}.{name}: {way}"), bytes))
    });
    let others = special().into_iter().chain(outdated()).chain(misused());
    aimed.chain(others.map(|(what, bytes)| (what.to_owned(), bytes))).chain(cut()).collect()
}

#[test]
fn every_malicious_pickle_is_refused_as_plain_data() {
    let corpus = corpus();
    assert!(corpus.len() >= 200, "{}", corpus.len());
    for (what, bytes) in &corpus {
        let refused = scan(bytes, &Policy::DATA_ONLY);
        assert!(refused.is_err(), "{what}: {refused:?}");
    }
}

#[test]
fn every_malicious_pickle_is_refused_by_the_policies_with_classes_unless_it_only_names_a_listed_type() {
    for policy in [Policy::LEGACY_SNAPSHOT, Policy::COMMIT_DELTA] {
        for (what, bytes) in corpus() {
            match scan(&bytes, &policy) {
                Err(_) => {}
                Ok(_) if policy.version.starts_with("commit") && what == "builtins.int: STACK_GLOBAL" => {}
                Ok(found) => panic!("{}: {what}: {found:?}", policy.version),
            }
        }
    }
}

#[test]
fn a_refusal_says_where_and_what_was_asked_for() {
    let violation = |bytes: &[u8]| scan(bytes, &Policy::DATA_ONLY).unwrap_err();
    let reduce = violation(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.");
    assert_eq!((reduce.opcode, reduce.offset, reduce.name.as_deref()), ("STACK_GLOBAL", 14, Some("os system")));
    let global = violation(b"]cos\nsys\x1btem\n.");
    assert_eq!((global.opcode, global.offset), ("GLOBAL", 1));
    assert_eq!(global.to_string(), "GLOBAL at byte 1 (os sys\\u{1b}tem): the opcode is not allowed");
    let id = violation(b"\x80\x04\x8c\x02\x00xQ.");
    assert_eq!((id.opcode, id.name.as_deref()), ("BINPERSID", Some("\\0x")));
}

#[test]
fn listed_classes_are_allowed_only_for_what_they_are_listed_for() {
    let node = joined(&[&short("replication.objects"), &short("Node"), b"\x93"]);
    let legacy = |body: &[&[u8]]| scan(&joined(&[b"\x80\x04", &joined(body)]), &Policy::LEGACY_SNAPSHOT);
    assert!(legacy(&[&node, b")\x81."]).is_ok());
    assert!(legacy(&[&node, b")\x81}b."]).is_ok());
    assert!(legacy(&[&node, b")\x81N}\x8c\x01aNs\x86b."]).is_ok());
    for (what, tail) in [
        ("as a value", &b"."[..]),
        ("in a list", b"\x85."),
        ("called", b")R."),
        ("made with arguments", b"N\x85\x81."),
        ("made with a list", b"]\x81."),
        ("made with named arguments", b")}\x92."),
        ("state that is no dict", b")\x81]b."),
        ("state with a key that is no text", b")\x81}NNsb."),
        ("state pair that begins with a dict", b")\x81}}\x86b."),
        ("state triple", b")\x81N}N\x87b."),
        ("two states", b")\x81}b}b."),
        ("items", b")\x81NNs."),
        ("as a key", b")\x81\x94}h\x00Ns."),
    ] {
        assert!(legacy(&[&node, tail]).is_err(), "{what}");
    }
    let swapped = joined(&[&short("Node"), &short("replication.objects"), b"\x93)\x81."]);
    assert!(legacy(&[&swapped]).is_err());

    let delta = |body: &[&[u8]]| scan(&joined(&[b"\x80\x04", &joined(body)]), &Policy::COMMIT_DELTA);
    let int = joined(&[&short("builtins"), &short("int"), b"\x93"]);
    let mapping = joined(&[&short("deepdiff.helper"), &short("OrderedDictPlus"), b"\x93"]);
    let opcode = joined(&[&short("deepdiff.helper"), &short("Opcode"), b"\x93"]);
    assert!(delta(&[&int, b"\x85."]).is_ok());
    assert!(delta(&[&mapping, b")R(NNu."]).is_ok());
    assert!(delta(&[&opcode, b"(NNNNNNNt\x81."]).is_ok());
    assert!(delta(&[b"\x8c\x0c<<NoneType>>Q."]).is_ok());
    for (what, bytes) in misused() {
        assert!(scan(&bytes, &Policy::COMMIT_DELTA).is_err(), "{what}");
    }
}

#[test]
fn every_bomb_is_refused_at_once() {
    for (what, bytes) in bombs() {
        #[expect(clippy::disallowed_methods, reason = "measures how long the scan takes")]
        let begun = Instant::now();
        let refused = scan(&bytes, &Policy::DATA_ONLY);
        let took = begun.elapsed();
        assert!(refused.is_err(), "{what}: {refused:?}");
        // Linear even in an unoptimised build: 3 µs for each byte, which is far above what it needs.
        assert!(took < Duration::from_millis(500) + Duration::from_micros(3) * u32::try_from(bytes.len()).unwrap());
    }
}

#[test]
fn what_stays_within_the_limits_is_not_taken_for_a_bomb() {
    let nested = joined(&[b"\x80\x04", &b"]".repeat(64), &b"a".repeat(63), b"."]);
    assert_eq!(scan(&nested, &Policy::DATA_ONLY).unwrap().nesting, 64);
    let wide = joined(&[b"\x80\x04](", &b"K\x07".repeat(999_000), b"e."]);
    assert_eq!(scan(&wide, &Policy::DATA_ONLY).unwrap().nesting, 1);
}

/// Prints by how many KiB scanning each bomb raised this process's memory at its highest.
#[test]
#[ignore = "runs in a process of its own, started by the test below"]
fn measure_the_memory_for_bombs() {
    for (what, bytes) in bombs() {
        let before = highest_memory_kib();
        drop(scan(&bytes, &Policy::DATA_ONLY));
        println!("MEASURED {} {} {what}", highest_memory_kib() - before, bytes.len());
    }
}

fn highest_memory_kib() -> u64 {
    // Forget the highest value so far, so that the next one is this scan's own.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn no_bomb_takes_much_memory() {
    let own = std::env::current_exe().unwrap();
    let run = Command::new(own)
        .args(["--exact", "malicious::measure_the_memory_for_bombs", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let out = String::from_utf8(run.stdout).unwrap();
    let mut measured = 0;
    for line in out.lines().filter_map(|line| line.strip_prefix("MEASURED ")) {
        let mut fields = line.splitn(3, ' ');
        let mut number = || fields.next().unwrap().parse::<u64>().unwrap();
        let (kib, bytes) = (number(), number());
        // 52 bytes for each opcode that makes a container and puts it on the stack, and doubling vectors.
        assert!(kib * 1024 <= (16 << 20) + 128 * bytes.min(1_000_000), "{line}");
        measured += 1;
    }
    assert_eq!(measured, bombs().len(), "{out}");
}
