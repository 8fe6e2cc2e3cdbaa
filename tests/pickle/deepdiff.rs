//! The real deepdiff's opinion of deltas. It needs Pythons that have it: `HOTSET_DEEPDIFF_8` and `HOTSET_DEEPDIFF_5`
//! name those with versions 8.1.1 and 5.7.0. Without them these tests say that they were skipped.

use crate::typed::{DeltaCase, delta_cases};

use bytes::Bytes;
use hotset::formats::delta::Delta;
use hotset::formats::pickle::{Policy, Value, read, write};
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

/// Checks that the plain forms mean to the library what they mean to us, but for those that are excepted.
fn accepts_plain_forms(variable: &str, version: &str, excepted: impl Fn(&DeltaCase, &Bytes) -> bool) {
    let Some(python) = python(variable) else { return };
    let recorded = recorded();
    let cases = plain_forms(&recorded);
    assert!(cases.len() > 900, "{}", cases.len());
    let mut exceptions = 0;
    for ((case, delta), verdict) in cases.iter().zip(verdicts(python, version, &cases)) {
        let explained = verdict.starts_with("different") && excepted(case, delta);
        assert!(verdict == "equal" || explained, "{}: {verdict}", case.name);
        exceptions += u32::from(explained);
    }
    assert!(exceptions < 20, "{exceptions}");
}

/// Whether a delta builds a list anew, and something inside that list, too.
fn builds_lists_inside_lists(delta: &Bytes) -> bool {
    let delta = read(delta, &Policy::COMMIT_DELTA).unwrap();
    let sorts = ["iterable_items_added_at_indexes", "iterable_items_removed_at_indexes"];
    let levels = sorts.into_iter().filter_map(|sort| delta.get(sort).and_then(Value::as_dict));
    let paths: Vec<&str> = levels.flatten().map(|(path, _)| path.as_text().unwrap()).collect();
    paths.iter().any(|one| paths.iter().any(|other| other.len() > one.len() && other.starts_with(one)))
}

#[test]
fn deepdiff_8_makes_of_a_plain_form_what_we_do() {
    // Those that differ in `deltas`, too: the same object at several places.
    accepts_plain_forms("HOTSET_DEEPDIFF_8", "8.1.1", |case, _| matches!(&*case.name, "list37" | "list55"));
}

#[test]
fn deepdiff_5_makes_of_a_plain_form_what_we_do() {
    // It takes such lists in an order of chance.
    accepts_plain_forms("HOTSET_DEEPDIFF_5", "5.7.0", |_, delta| builds_lists_inside_lists(delta));
}

#[test]
fn a_delta_does_to_other_data_what_deepdiff_8_does_or_is_refused() {
    let Some(python) = python("HOTSET_DEEPDIFF_8") else { return };
    let recorded = delta_cases("8.1.1");
    let (mut cases, mut authors) = (Vec::new(), Vec::new());
    for (nth, case) in recorded.iter().enumerate() {
        for step in [1, 2, 3, 5, 8, 13, 21, 34] {
            cases.push((&recorded[(nth + step) % recorded.len()], case.delta.clone()));
            authors.push(&*case.name);
        }
    }
    let verdicts = verdicts(python, "8.1.1", &cases);
    for (author, verdict) in authors.iter().zip(&verdicts) {
        // The library loses insertions into tuples with an exception, and shares what it inserts twice.
        let explained = match &**verdict {
            "equal" | "refused" => true,
            tuple if tuple.contains("'tuple' object has no attribute 'insert'") => true,
            other => other.starts_with("different") && ["list37", "list55"].contains(author),
        };
        assert!(explained, "{author}: {verdict}");
    }
    let equal = verdicts.iter().filter(|verdict| *verdict == "equal").count();
    assert!(equal > verdicts.len() * 9 / 10, "{equal} of {}", verdicts.len());
}
