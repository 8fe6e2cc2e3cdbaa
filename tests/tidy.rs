//! The house rules that the compiler cannot check: who may import whom, what the pure rooms may not touch, that every
//! file says what it is for, and how long it may grow.

use std::fs;
use std::path::Path;

/// Each room and the rooms below it. A room may always import itself; a file that is in no room here may import all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("formats", &[]),
    ("session", &["formats"]),
    ("ops", &[]),
    ("storage", &["session", "formats", "ops"]),
    ("live", &["storage", "session", "formats", "ops"]),
    ("doors", &["live", "session", "formats", "ops"]),
    ("console", &["live", "session", "formats", "ops"]),
    ("config", &["doors", "console", "live", "storage", "session", "formats", "ops"]),
    ("server", &["config", "doors", "console", "live", "storage", "session", "formats", "ops"]),
];

/// What would let the outside world, or chance, into a pure room.
const BANNED_IN_PURE_ROOMS: &[&str] = &[
    "tokio",
    "async fn",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "::now()",
    "rand::",
    "getrandom",
    "HashMap",
    "HashSet",
    "tracing::",
    "println!",
];

/// The rooms without I/O, clock, randomness and logging, with what else each of them may not know.
const PURE_ROOMS: &[(&str, &[&str])] = &[("session", &["serde_json", "json_patch"]), ("formats", &[])];

/// Packages that only these places may know, so that replacing one is the work of an afternoon.
const HOMES: &[(&str, &[&str])] = &[
    ("bincode::", &["src/storage/codec.rs"]),
    ("getrandom::", &["src/ops/"]),
    // The measuring client keeps a replica of its own, as other people's clients do.
    ("json_patch::", &["src/formats/", "src/bench/"]),
    ("notify::", &["src/ops/"]),
    ("sd_notify::", &["src/ops/"]),
    ("signal_hook::", &["src/ops/"]),
];

/// All that storage may know of a session: it keeps bytes, not scenes.
const STORAGE_KNOWS: &[&str] = &["SessionName", "Timestamp"];

/// Most lines of a file before its tests.
const FILE_LINES_MAX: usize = 600;

/// Files past that limit, each with its reason. This list should only shrink.
const LONG_FILES: &[(&str, &str)] = &[];

#[test]
fn the_house_is_tidy() {
    let mut faults = Vec::new();
    let mut files = 0;
    visit(Path::new("src"), &mut |path, text| {
        files += 1;
        faults.extend(faults_of(path, text));
    });
    for folder in ["tests", "benches", "fuzz"] {
        visit(Path::new(folder), &mut |path, text| faults.extend(faults_anywhere(path, text)));
    }
    assert!(files > 10, "only {files} files seen: is this the root of the package?");
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn the_node_lock_file_names_no_registry() {
    let lock = fs::read_to_string("tests/clients/node/package-lock.json").unwrap();
    assert!(lock.contains("\"integrity\""), "the lock file pins what it fetches");
    assert!(!lock.contains("\"resolved\""), "write it with omit-lockfile-registry-resolved=true");
}

#[test]
fn every_rule_bites() {
    let cases = [
        ("src/live/a.rs", "fn a() {}\n", "first line"),
        ("src/live/a.rs", "//! A.\nuse crate::doors::native;\n", "live may not import doors"),
        ("src/ops/a.rs", "//! A.\nuse crate::session::Event;\n", "ops may not import session"),
        ("src/live/a.rs", "//! A.\nuse crate::{ops, storage};\n", "one room per `use`"),
        ("src/live/mod.rs", "//! A.\nuse super::storage::Store;\n", "leave a room through"),
        ("src/doors/native/a.rs", "//! A.\nuse crate::doors::blender::Flow;\n", "another door"),
        ("src/doors/native/a.rs", "//! A.\nuse crate::doors::{Denied, blender::Flow};\n", "another door"),
        ("src/doors/native/mod.rs", "//! A.\nuse super::blender::Flow;\n", "another door"),
        ("src/doors/native/a.rs", "//! A.\nuse super::super::blender::Flow;\n", "climb with"),
        ("src/session/a.rs", "//! A.\nuse std::collections::HashMap;\n", "`HashMap` in a pure room"),
        ("src/session/a.rs", "//! A.\nuse serde_json::Value;\n", "`serde_json` in a pure room"),
        ("src/formats/a.rs", "//! A.\nlet now = Instant::now();\n", "`Instant` in a pure room"),
        ("src/storage/a.rs", "//! A.\nuse crate::session::{NodeId, SessionName};\n", "storage may not know `NodeId`"),
        ("src/storage/a.rs", "//! A.\nuse crate::session;\n", "storage may not know"),
        ("src/live/a.rs", "//! A.\nbincode::encode();\n", "belongs to src/storage/codec.rs"),
        ("src/live/a.rs", concat!("//! A.\n#[", "allow(dead_code)]\n"), "#[expect"),
    ];
    for (path, text, expected) in cases {
        let faults = faults_of(path, text).join("\n");
        assert!(faults.contains(expected), "{text:?} in {path} gave {faults:?}, not {expected:?}");
    }
    let long = format!("//! A.\n{}", "fn a() {}\n".repeat(FILE_LINES_MAX));
    assert!(faults_of("src/live/a.rs", &long).join("").contains("lines before its tests"));
}

#[test]
fn tidy_code_passes() {
    let cases = [
        ("src/live/a.rs", "//! A.\nuse crate::storage::Store;\nuse super::b;\n// tokio::sync in a comment\n"),
        ("src/session/a.rs", "//! A.\n/// Not a HashMap.\nfn a() {}\n#[cfg(test)]\nmod tests {\n use std::fs;\n}\n"),
        ("src/formats/a.rs", "//! A.\nuse serde_json::Value;\n"),
        ("src/storage/a.rs", "//! A.\nuse crate::session::{SessionName, Timestamp};\n"),
        ("src/doors/native/a.rs", "//! A.\nuse crate::doors::native::wire;\nuse crate::doors::{Denied, frames};\n"),
        ("src/cli/a.rs", "//! A.\nuse crate::storage::Store;\nuse crate::server::run;\n"),
    ];
    for (path, text) in cases {
        assert_eq!(faults_of(path, text), Vec::<String>::new(), "{text:?} in {path}");
    }
}

/// Everything wrong with one file of the package's sources.
fn faults_of(path: &str, text: &str) -> Vec<String> {
    let mut faults = faults_anywhere(path, text);
    let code = before_tests(path, text);
    let lines = code.lines().count();
    if lines > FILE_LINES_MAX && !LONG_FILES.iter().any(|(long, _)| *long == path) {
        faults.push(format!("{path}: {lines} lines before its tests, over {FILE_LINES_MAX}: split it"));
    }
    for (package, homes) in HOMES {
        if code.contains(package) && !homes.iter().any(|home| path.starts_with(home)) {
            faults.push(format!("{path}: `{package}` belongs to {}", homes.join(" and ")));
        }
    }
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !is_comment(line)) {
        let at = format!("{path}:{}", index + 1);
        faults.extend(import_faults(path, line).into_iter().map(|fault| format!("{at}: {fault}")));
        if line.contains("super::super::") && index < lines {
            faults.push(format!("{at}: climb with `crate::`, not `super::super::`"));
        }
        let pure = PURE_ROOMS.iter().find(|(room, _)| *room == room_of(path));
        let Some((_, more)) = pure.filter(|_| index < lines) else { continue };
        for word in BANNED_IN_PURE_ROOMS.iter().chain(*more).filter(|word| line.contains(**word)) {
            faults.push(format!("{at}: `{word}` in a pure room"));
        }
    }
    if room_of(path) == "storage" {
        faults.extend(scenes_in_storage(text).into_iter().map(|name| format!("{path}: storage may not know `{name}`")));
    }
    faults
}

/// What holds for every Rust file, tests included.
fn faults_anywhere(path: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//! ") {
        faults.push(format!("{path}: the first line must say what the file is for (//!)"));
    }
    for (index, line) in text.lines().enumerate() {
        if line.contains(concat!("#[", "allow(")) || line.contains(concat!("#![", "allow(")) {
            faults.push(format!("{path}:{}: use #[expect(…, reason = \"…\")]", index + 1));
        }
    }
    faults
}

/// What one line imports, or reaches for, that it should not.
fn import_faults(path: &str, line: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let room = room_of(path);
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else { return faults };
    for (index, found) in line.match_indices("crate::") {
        let rest = &line[index + found.len()..];
        let target = leading_name(rest);
        if target.is_empty() {
            faults.push("import one room per `use`, so that this check can read it".into());
        } else if target != room && !allowed.contains(&target) && !rest.starts_with(|c: char| c.is_uppercase()) {
            faults.push(format!("{room} may not import {target}"));
        }
        if let Some(named) = rest.strip_prefix("doors::").filter(|_| room == "doors") {
            let list =
                named.strip_prefix('{').map_or(leading_name(named), |list| list.split('}').next().unwrap_or(list));
            if list.split(',').map(leading_of_trimmed).any(|name| is_another_door(path, name)) {
                faults.push("a door may not import another door".into());
            }
        }
    }
    let depth = path.split('/').count() - if path.ends_with("/mod.rs") { 2 } else { 1 };
    for (index, found) in line.match_indices("super::") {
        let name = leading_name(&line[index + found.len()..]);
        if depth == 1 && name != room && MAY_IMPORT.iter().any(|(other, _)| *other == name) {
            faults.push("leave a room through `crate::`, not `super::`".into());
        }
        if room == "doors" && depth == 2 && is_another_door(path, name) {
            faults.push("a door may not import another door".into());
        }
    }
    faults
}

/// Whether `name` is a door's folder, and not the one that `path` is in.
fn is_another_door(path: &str, name: &str) -> bool {
    let is_door = !name.is_empty() && Path::new("src/doors").join(name).is_dir();
    is_door && path.split('/').nth(2) != Some(name)
}

/// Names of session types other than [`STORAGE_KNOWS`] that a storage file imports or spells out.
fn scenes_in_storage(text: &str) -> Vec<String> {
    let mut unknown = Vec::new();
    for (index, found) in text.match_indices("crate::session") {
        let rest = &text[index + found.len()..];
        let Some(names) = rest.strip_prefix("::") else {
            unknown.push("the whole of session".to_owned());
            continue;
        };
        let names = match names.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default(),
            None => leading_name(names),
        };
        let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
        unknown.extend(names.filter(|name| !STORAGE_KNOWS.contains(name)).map(str::to_owned));
    }
    unknown
}

/// The part of a file that ships. A file that holds only tests has none.
fn before_tests<'a>(path: &str, text: &'a str) -> &'a str {
    if path.ends_with("/tests.rs") || path.contains("/tests/") {
        return "";
    }
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    &text[..end]
}

/// The room a file is in: its folder below `src`, or the name of a file that lies there itself.
fn room_of(path: &str) -> &str {
    let inside = path.trim_start_matches("src/");
    inside.split('/').next().unwrap_or_default().trim_end_matches(".rs")
}

fn leading_name(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

fn leading_of_trimmed(text: &str) -> &str {
    leading_name(text.trim_start())
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// Calls `each` with every Rust file below `folder`, in order; a folder that does not exist has none.
fn visit(folder: &Path, each: &mut impl FnMut(&str, &str)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    for path in paths {
        let is_output = path.file_name().is_some_and(|name| name == "target" || name == "node_modules");
        if path.is_dir() && !is_output {
            visit(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a readable file");
            each(path.to_str().expect("a path in UTF-8"), &text);
        }
    }
}
