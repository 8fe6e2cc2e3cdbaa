//! Settings from damaged files and a hostile environment: settings or errors, never a panic, and no secret in a message.

use crate::campaign::{Chance, cases};
use hotset::config::{ConfigError, KEYS, Sources, default_toml, env_example};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;

/// A password that must not turn up in anything that people read.
const SECRET: &str = "tr0ub4dor-and-3";

/// What settings are made of, and what breaks parsers.
const PIECES: &[&[u8]] = &[
    b"=",
    b"\n",
    b"\"",
    b"'",
    b"\\",
    b"#",
    b" # ",
    b"export ",
    b"$",
    b"${HOME}",
    b"[",
    b"[[",
    b"{ a = 1 }",
    b"\"\"\"",
    b"\xff\xfe",
    b"\0",
    b"\xef\xbb\xbf",
    b"18446744073709551616",
    b"-1",
    b"1e400",
    b"999999999999d",
    b"99999999999999999999TiB",
    b"PORT=",
    b"HOTSET_PORT=70000",
    b"SERVER_PASSWORD_FILE=/dev/zero",
    b"max_nodes = 0",
    b"history = \"-1h\"",
    b"::1",
    b"nan",
    b"\xc2\xa0",
];

/// Files with every setting in them, none left out as a comment.
fn corpus() -> (Vec<u8>, Vec<u8>) {
    let sets = |line: &&str| {
        line.split_once('=').is_some_and(|(name, _)| !name.contains(|c: char| c != '_' && !c.is_ascii_uppercase()))
    };
    let uncommented = |text: &str| {
        let lines = text.lines().map(|line| line.strip_prefix("# ").filter(sets).unwrap_or(line));
        lines.collect::<Vec<_>>().join("\n")
    };
    let toml = format!("server_password = \"{SECRET}\"\n{}", default_toml());
    let env = format!("ADMIN_PASSWORD='{SECRET}'\n{}", uncommented(&env_example()));
    (toml.into_bytes(), env.into_bytes())
}

fn damaged(bytes: &[u8], chance: &mut Chance) -> Vec<u8> {
    // Most files are mostly right.
    let lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').filter(|_| !chance.once_in(5)).collect();
    let mut bytes = lines.join(&b'\n');
    for _ in 0..chance.below(3) {
        chance.damage(&mut bytes, PIECES);
    }
    if chance.once_in(50) {
        let opening = *chance.one_of(&[&b"port = ["[..], b"[a.", b"{a=", b"a.", b"["]);
        bytes.extend(opening.repeat(1 << chance.below(15)));
    }
    bytes
}

fn variable(chance: &mut Chance) -> (OsString, OsString) {
    let key = chance.one_of(KEYS);
    let default = key.default.unwrap_or(SECRET);
    let key = key.name.to_ascii_uppercase();
    let mut name = match chance.below(8) {
        0..=2 => format!("HOTSET_{key}"),
        3 => format!("{key}_FILE"),
        _ => key,
    }
    .into_bytes();
    let others = ["1", "2h", "64MiB", "true", "json", "127.0.0.1", "", "native"];
    let value = if chance.once_in(4) { chance.one_of(&others) } else { default };
    let mut value = value.as_bytes().to_vec();
    if chance.once_in(6) {
        chance.damage(&mut name, PIECES);
    }
    if chance.once_in(3) {
        chance.damage(&mut value, PIECES);
    }
    (OsString::from_vec(name), OsString::from_vec(value))
}

#[test]
fn whatever_the_files_say_there_are_settings_or_errors() {
    let (toml, env) = corpus();
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("config")).unwrap();
    cases("configuration", |chance| {
        fs::write(folder.path().join("config/hotset.toml"), damaged(&toml, chance)).unwrap();
        fs::write(folder.path().join(".env"), damaged(&env, chance)).unwrap();
        let mut sources = Sources { directory: folder.path().into(), ..Sources::default() };
        for _ in 0..chance.below(4) {
            let (name, value) = variable(chance);
            sources.environment.insert(name, value);
        }
        match sources.load() {
            Ok(loaded) => {
                let shown: String = KEYS.iter().map(|key| loaded.entries[key.name].shown(key)).collect();
                assert!(!shown.contains(SECRET));
                let warnings: String = loaded.warnings.iter().map(|warning| warning.0.as_str()).collect();
                assert!(!warnings.contains(SECRET), "{warnings}");
                assert_eq!(sources.load().unwrap().settings, loaded.settings);
                true
            }
            Err(errors) => {
                assert!(!errors.0.is_empty());
                // A value that damage has put behind another setting's name is that setting's, and is shown.
                for error in errors.0.iter().filter(|error| matches!(error, ConfigError::Syntax { .. })) {
                    assert!(!format!("{error} {error:?}").contains(SECRET), "{error}");
                }
                false
            }
        }
    });
}
