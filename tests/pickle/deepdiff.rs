//! The real deepdiff's opinion of deltas. It needs Pythons that have it: `HOTSET_DEEPDIFF_8` and `HOTSET_DEEPDIFF_5`
//! name those with versions 8.1.1 and 5.7.0. Without them these tests say that they were skipped.

use crate::files::{DeltaCase, delta_cases};

use bytes::Bytes;
use hotset::formats::delta::Delta;
use hotset::formats::pickle::write;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A Python with one version of the library; `None`, said aloud, if there is none.
fn python(variable: &str) -> Option<PathBuf> {
    let python = std::env::var_os(variable).map(PathBuf::from);
    if python.is_none() {
        // Not by a macro, whose output is kept back when a test passes.
        writeln!(std::io::stderr(), "skip deltas against the real deepdiff: {variable} names no Python").unwrap();
    }
    python
}

/// What the library makes of each base and delta, compared with what we do: `equal`, or what it is instead.
fn verdicts(python: PathBuf, version: &str, cases: &[(&DeltaCase, Bytes)]) -> Vec<String> {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/pickle/deepdiff.py"].iter().collect();
    let mut child = Command::new(python)
        .arg("-I")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a Python that runs");
    let mut input = child.stdin.take().unwrap();
    for (case, delta) in cases {
        let ours = Delta::read(delta).and_then(|delta| delta.apply(&case.base)).ok();
        let ours = ours.map_or_else(Vec::new, |value| write(&value).unwrap());
        for part in [&write(&case.base).unwrap()[..], &delta[..], &ours[..]] {
            input.write_all(&u32::try_from(part.len()).unwrap().to_be_bytes()).unwrap();
            input.write_all(part).unwrap();
        }
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(result["version"], version);
    result["verdicts"].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// The plain forms of all recorded deltas that have one.
fn plain_forms(cases: &[DeltaCase]) -> Vec<(&DeltaCase, Bytes)> {
    cases.iter().filter_map(|case| Some((case, Delta::read(&case.delta).unwrap().plain()?))).collect()
}

fn recorded() -> Vec<DeltaCase> {
    delta_cases("8.1.1").into_iter().chain(delta_cases("5.7.0")).collect()
}

/// Checks that the plain forms mean to the library what they mean to us, but for those that differ in `deltas`, too.
fn accepts_plain_forms(variable: &str, version: &str, exceptions: &[&str]) {
    let Some(python) = python(variable) else { return };
    let recorded = recorded();
    let cases = plain_forms(&recorded);
    assert!(cases.len() > 900, "{}", cases.len());
    for ((case, _), verdict) in cases.iter().zip(verdicts(python, version, &cases)) {
        let excepted = verdict.starts_with("different") && exceptions.contains(&&*case.name) && case.ignore_order;
        assert!(verdict == "equal" || excepted, "{}: {verdict}", case.name);
    }
}

#[test]
fn deepdiff_8_makes_of_a_plain_form_what_we_do() {
    accepts_plain_forms("HOTSET_DEEPDIFF_8", "8.1.1", &["list37", "list55"]);
}

#[test]
fn deepdiff_5_makes_of_a_plain_form_what_we_do() {
    // It may take nested lists in either order: see docs/formats.md.
    accepts_plain_forms("HOTSET_DEEPDIFF_5", "5.7.0", &["list11", "list37", "list55"]);
}

#[test]
fn a_delta_does_to_other_data_what_deepdiff_8_does() {
    let Some(python) = python("HOTSET_DEEPDIFF_8") else { return };
    let recorded = delta_cases("8.1.1");
    let mut cases = Vec::new();
    for (nth, case) in recorded.iter().enumerate() {
        for step in [1, 2, 3, 5, 8, 13, 21, 34] {
            cases.push((&recorded[(nth + step) % recorded.len()], case.delta.clone()));
        }
    }
    let verdicts = verdicts(python, "8.1.1", &cases);
    for ((case, delta), verdict) in cases.iter().zip(&verdicts) {
        if verdict != "equal" { println!("{}: {:.300} {:?} {:?}", case.name, verdict, Delta::read(delta).and_then(|d| d.apply(&case.base)).map(|v| crate::deltas::canonical(&v)), delta); }
    }
    println!("{} of {}", verdicts.iter().filter(|verdict| *verdict == "equal").count(), cases.len());
}
