//! Deltas, damaged and made up, applied to data that they were made for and to other data: never a panic, bounded work,
//! and a result that can be stored and read again.

use crate::campaign::{Chance, cases};
use crate::pickle::mutants::{self, mutant};
use bytes::Bytes;
use hotset::formats::delta::{Delta, fold};
use hotset::formats::pickle::{Policy, Value, read, write, write_listed};
use std::sync::Arc;
use std::time::Duration;
use typed::{DeltaCase, delta_cases};

#[path = "../pickle/files.rs"]
#[expect(dead_code, reason = "the recorded deltas are all that is wanted here")]
mod files;
#[path = "../pickle/typed.rs"]
#[expect(dead_code, reason = "what the library made of them is not wanted here")]
mod typed;

/// Generous for an unoptimised build. Mutants are small; whatever is not nearly linear in them takes far longer.
const TIME_MAX: Duration = Duration::from_secs(1);

/// What paths and values are made of.
struct Parts {
    paths: Vec<Value>,
    values: Vec<Value>,
}

fn parts(cases: &[DeltaCase]) -> Parts {
    let mut parts = Parts { paths: Vec::new(), values: Vec::new() };
    for case in cases {
        collect(&read(&case.delta, &Policy::COMMIT_DELTA).unwrap(), &mut parts);
    }
    parts
}

fn collect(value: &Value, parts: &mut Parts) {
    if value.as_text().is_some_and(|text| text.starts_with("root")) {
        parts.paths.push(value.clone());
    } else {
        parts.values.push(value.clone());
    }
    value.as_sequence().unwrap_or_default().iter().for_each(|item| collect(item, parts));
    for (key, value) in value.as_dict().unwrap_or_default() {
        collect(key, parts);
        collect(value, parts);
    }
}

/// A copy in which a few parts are others.
fn changed(value: &Value, parts: &Parts, chance: &mut Chance) -> Value {
    if chance.once_in(40) {
        if value.as_text().is_some_and(|text| text.starts_with("root")) {
            return chance.one_of(&parts.paths).clone();
        }
        if let Value::Int(number) = value {
            return Value::Int(chance.number(number.unsigned_abs()).cast_signed());
        }
        return chance.one_of(&parts.values).clone();
    }
    let mut each = |items: &[Value]| Arc::new(items.iter().map(|item| changed(item, parts, chance)).collect());
    if let Value::List(items) = value {
        return Value::List(each(items));
    }
    if let Value::Tuple(items) = value {
        return Value::Tuple(each(items));
    }
    let Some(pairs) = value.as_dict() else { return value.clone() };
    let mut changed_pairs = Vec::new();
    for (key, value) in pairs {
        let key = if matches!(key, Value::Text(_) | Value::Int(_)) { changed(key, parts, chance) } else { key.clone() };
        changed_pairs.push((key, changed(value, parts, chance)));
    }
    Value::Dict(Arc::new(changed_pairs))
}

/// A delta's pickle with parts of others.
fn made_up(delta: &Bytes, parts: &Parts, chance: &mut Chance) -> Option<Bytes> {
    let plain = Delta::read(delta).unwrap().plain()?;
    let value = read(&plain, &Policy::COMMIT_DELTA).unwrap();
    write_listed(&changed(&value, parts, chance), &Policy::COMMIT_DELTA).ok().map(Bytes::from)
}

fn cpu_time() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(used.tv_sec.try_into().unwrap(), used.tv_nsec.try_into().unwrap())
}

#[test]
fn damaged_deltas_are_refused_or_applied_within_bounds() {
    let recorded: Vec<DeltaCase> = ["8.1.1", "5.7.0"].into_iter().flat_map(delta_cases).collect();
    let corpus = vec![recorded.iter().map(|case| case.delta.to_vec()).collect::<Vec<_>>()];
    let parts = parts(&recorded);
    cases("delta", |chance| {
        let case = chance.one_of(&recorded);
        let base = if chance.once_in(2) { &case.base } else { &chance.one_of(&recorded).base };
        let damaged = |chance: &mut Chance| Bytes::from(mutant(&corpus, &mut mutants::Chance(chance.next())));
        let made = if chance.once_in(3) { None } else { made_up(&case.delta, &parts, chance) };
        let pickle = made.unwrap_or_else(|| damaged(chance));
        let begin = cpu_time();
        let Ok(delta) = Delta::read(&pickle) else { return false };
        let applied = delta.apply(base);
        let used = cpu_time().saturating_sub(begin);
        assert!(used <= TIME_MAX, "{used:?} for {} bytes", pickle.len());
        if let Some(plain) = delta.plain() {
            // By their text, because no `nan` equals another.
            let again = Delta::read(&plain).expect("what we write we can read").apply(base);
            assert_eq!(format!("{again:?}"), format!("{applied:?}"));
        }
        let Ok(value) = applied else { return false };
        let stored = write(&value).expect("the result is plain data, and not too deep");
        let folded = fold(&write(base).unwrap().into(), [&pickle]).expect("the result can be read");
        let read = |bytes: Vec<u8>| read(&bytes.into(), &Policy::DATA_ONLY).unwrap();
        assert_eq!(format!("{:?}", read(folded.to_vec())), format!("{:?}", read(stored)));
        true
    });
}
