//! Equality as Python has it, and as deepdiff has it for what Python cannot hash.

use super::DeltaError;
use super::document::{Budget, place_of};
use crate::formats::pickle::Value;

/// Bytes that are compared or hashed in one step.
const BYTES_PER_STEP: usize = 64;

/// What hashing anything costs.
const STEPS_PER_DIGEST: usize = 8;

/// `one == other` in Python.
pub(super) fn same(one: &Value, other: &Value, budget: &mut Budget) -> Result<bool, DeltaError> {
    budget.work(1)?;
    Ok(match (one, other) {
        (Value::Text(one), Value::Text(other)) => {
            one.len() == other.len() && {
                budget.work(one.len() / BYTES_PER_STEP)?;
                one == other
            }
        }
        (Value::Bytes(one), Value::Bytes(other)) => {
            one.len() == other.len() && {
                budget.work(one.len() / BYTES_PER_STEP)?;
                one == other
            }
        }
        (Value::BigInt(one), Value::BigInt(other)) => one == other,
        (Value::None, Value::None) => true,
        (Value::List(one), Value::List(other)) | (Value::Tuple(one), Value::Tuple(other)) => {
            same_items(one, other, budget)?
        }
        (Value::Dict(one), Value::Dict(other)) => same_pairs(one, other, budget)?,
        (Value::Set(one) | Value::FrozenSet(one), Value::Set(other) | Value::FrozenSet(other)) => {
            all_in(one, other, budget)? && all_in(other, one, budget)?
        }
        _ => same_numbers(one, other),
    })
}

/// Whether an equal value is among these.
pub(super) fn holds(members: &[Value], value: &Value, budget: &mut Budget) -> Result<bool, DeltaError> {
    for member in members {
        if same(member, value, budget)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn same_items(one: &[Value], other: &[Value], budget: &mut Budget) -> Result<bool, DeltaError> {
    if one.len() != other.len() {
        return Ok(false);
    }
    for (one, other) in one.iter().zip(other) {
        if !same(one, other, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn same_pairs(one: &[(Value, Value)], other: &[(Value, Value)], budget: &mut Budget) -> Result<bool, DeltaError> {
    for (first, second) in [(one, other), (other, one)] {
        for (key, _) in first {
            let Some((_, theirs)) = place_of(second, key, budget)?.and_then(|place| second.get(place)) else {
                return Ok(false);
            };
            // The key may be there twice: its value is that of the last one.
            let mine = place_of(first, key, budget)?.and_then(|place| first.get(place));
            if let Some((_, mine)) = mine
                && !same(mine, theirs, budget)?
            {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

fn all_in(some: &[Value], all: &[Value], budget: &mut Budget) -> Result<bool, DeltaError> {
    for member in some {
        if !holds(all, member, budget)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn same_numbers(one: &Value, other: &Value) -> bool {
    match (number(one), number(other)) {
        (Some(Number::Int(one)), Some(Number::Int(other))) => one == other,
        (Some(Number::Float(one)), Some(Number::Float(other))) => one.to_bits() == other.to_bits(),
        _ => false,
    }
}

/// A number with one form for all that Python holds equal: booleans and whole floats are integers, and no `nan` is any.
enum Number {
    Int(i64),
    Float(f64),
}

fn number(value: &Value) -> Option<Number> {
    match value {
        Value::Bool(truth) => Some(Number::Int(i64::from(*truth))),
        Value::Int(number) => Some(Number::Int(*number)),
        Value::Float(number) if number.is_nan() => None,
        Value::Float(number) => Some(whole(*number).map_or(Number::Float(*number), Number::Int)),
        Value::None
        | Value::BigInt(_)
        | Value::Text(_)
        | Value::Bytes(_)
        | Value::List(_)
        | Value::Tuple(_)
        | Value::Dict(_)
        | Value::Set(_)
        | Value::FrozenSet(_)
        | Value::Class(_)
        | Value::Persistent(_)
        | Value::Object(_) => None,
    }
}

/// The integer that a float is, if it is one of 64 bits.
pub(super) fn whole(number: f64) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    #[expect(clippy::float_cmp, reason = "whole numbers are exact")]
    let fits = number.trunc() == number && (-LIMIT..LIMIT).contains(&number);
    #[expect(clippy::cast_possible_truncation, reason = "it is a whole number of 64 bits")]
    fits.then_some(number as i64)
}

/// What two values share if deepdiff finds one in a set made of the other. Hashable ones are in it if they are equal,
/// `nan` never; the others as its `DeepHash` has it, for which the order and the repetitions in a list and keys that
/// begin with two underscores do not count, but the types of numbers do.
pub(super) fn fingerprint(value: &Value, budget: &mut Budget) -> Result<Option<[u8; 32]>, DeltaError> {
    if is_hashable(value, budget)? { exact(value, budget) } else { loose(value, budget).map(Some) }
}

/// Whether Python can hash it.
pub(super) fn is_hashable(value: &Value, budget: &mut Budget) -> Result<bool, DeltaError> {
    budget.work(1)?;
    if let Value::Tuple(items) = value {
        for item in items.iter() {
            if !is_hashable(item, budget)? {
                return Ok(false);
            }
        }
    }
    Ok(!matches!(value, Value::List(_) | Value::Dict(_) | Value::Set(_)))
}

/// Equal for values that are equal in Python; `None` if it is equal to nothing.
fn exact(value: &Value, budget: &mut Budget) -> Result<Option<[u8; 32]>, DeltaError> {
    if let Value::Tuple(items) | Value::FrozenSet(items) = value {
        let mut digests = Vec::with_capacity(items.len());
        for item in items.iter() {
            let Some(digest) = exact(item, budget)? else { return Ok(None) };
            digests.push(digest);
        }
        let ordered = matches!(value, Value::Tuple(_));
        return Ok(Some(join(if ordered { b't' } else { b'f' }, digests, ordered)));
    }
    budget.work(1)?;
    let number = match number(value) {
        Some(Number::Int(number)) => digest(b'i', &number.to_le_bytes(), budget)?,
        Some(Number::Float(number)) => digest(b'd', &number.to_bits().to_le_bytes(), budget)?,
        None if matches!(value, Value::Float(_)) => return Ok(None),
        None => scalar(value, budget)?,
    };
    Ok(Some(number))
}

fn loose(value: &Value, budget: &mut Budget) -> Result<[u8; 32], DeltaError> {
    budget.work(1)?;
    let each = |items: &[Value], budget: &mut Budget| {
        items.iter().map(|item| loose(item, budget)).collect::<Result<Vec<_>, _>>()
    };
    Ok(match value {
        Value::List(items) => join(b'L', each(items, budget)?, false),
        Value::Tuple(items) => join(b'T', each(items, budget)?, false),
        Value::Set(items) => join(b'S', each(items, budget)?, false),
        Value::FrozenSet(items) => join(b'F', each(items, budget)?, false),
        Value::Dict(pairs) => {
            let mut digests = Vec::with_capacity(pairs.len());
            let counts = |key: &Value| key.as_text().is_none_or(|key| !key.starts_with("__"));
            for (key, value) in pairs.iter().filter(|(key, _)| counts(key)) {
                digests.push(join(b'P', vec![loose(key, budget)?, loose(value, budget)?], true));
            }
            join(b'D', digests, false)
        }
        Value::Float(number) if number.is_nan() => digest(b'N', &[], budget)?,
        Value::Float(number) => digest(b'R', &number.to_bits().to_le_bytes(), budget)?,
        Value::Bool(truth) => digest(b'B', &[u8::from(*truth)], budget)?,
        Value::Int(number) => digest(b'I', &number.to_le_bytes(), budget)?,
        Value::None
        | Value::BigInt(_)
        | Value::Text(_)
        | Value::Bytes(_)
        | Value::Class(_)
        | Value::Persistent(_)
        | Value::Object(_) => scalar(value, budget)?,
    })
}

fn scalar(value: &Value, budget: &mut Budget) -> Result<[u8; 32], DeltaError> {
    if let Value::Text(text) = value {
        return digest(b'u', text.as_bytes(), budget);
    }
    if let Value::BigInt(digits) = value {
        return digest(b'l', digits, budget);
    }
    match value.as_bytes() {
        Some(bytes) => digest(b'y', bytes, budget),
        None => digest(b'n', &[], budget),
    }
}

fn digest(kind: u8, bytes: &[u8], budget: &mut Budget) -> Result<[u8; 32], DeltaError> {
    budget.work(STEPS_PER_DIGEST + bytes.len() / BYTES_PER_STEP)?;
    Ok(*blake3::Hasher::new().update(&[kind]).update(bytes).finalize().as_bytes())
}

fn join(kind: u8, mut digests: Vec<[u8; 32]>, ordered: bool) -> [u8; 32] {
    if !ordered {
        digests.sort_unstable();
        digests.dedup();
    }
    *blake3::Hasher::new().update(&[kind]).update(&digests.concat()).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn list(items: &[Value]) -> Value {
        Value::List(Arc::new(items.to_vec()))
    }

    fn equal(one: &Value, other: &Value) -> bool {
        same(one, other, &mut Budget::full()).unwrap()
    }

    #[test]
    fn numbers_are_equal_across_their_types_and_nan_to_nothing() {
        assert!(equal(&Value::Int(1), &Value::Bool(true)));
        assert!(equal(&Value::Int(-3), &Value::Float(-3.0)));
        assert!(equal(&Value::Float(0.0), &Value::Float(-0.0)));
        assert!(!equal(&Value::Int(1), &Value::Float(1.5)));
        assert!(!equal(&Value::Int(i64::MAX), &Value::Float(9_223_372_036_854_775_807.0)));
        assert!(!equal(&Value::Float(f64::NAN), &Value::Float(f64::NAN)));
        assert!(!equal(&Value::Int(1), &Value::text("1")) && !equal(&Value::None, &Value::Bool(false)));
    }

    #[test]
    fn the_order_of_a_dict_does_not_count_and_of_two_equal_keys_the_last_one_does() {
        let dict = |pairs: &[(i64, i64)]| {
            Value::Dict(Arc::new(pairs.iter().map(|(key, value)| (Value::Int(*key), Value::Int(*value))).collect()))
        };
        assert!(equal(&dict(&[(1, 2), (3, 4)]), &dict(&[(3, 4), (1, 2)])));
        assert!(equal(&dict(&[(1, 0), (1, 2)]), &dict(&[(1, 2)])));
        assert!(!equal(&dict(&[(1, 2), (1, 0)]), &dict(&[(1, 2)])));
        assert!(!equal(&dict(&[(1, 2)]), &dict(&[(1, 2), (3, 4)])));
        assert!(!equal(&list(&[Value::Int(1)]), &Value::Tuple(Arc::new(vec![Value::Int(1)]))));
    }

    #[test]
    fn what_cannot_be_hashed_is_compared_as_deepdiff_does() {
        let print = |value: &Value| fingerprint(value, &mut Budget::full()).unwrap();
        let (one, two) = (Value::Int(1), Value::Int(2));
        assert_eq!(print(&list(&[one.clone(), two.clone()])), print(&list(&[two.clone(), one.clone(), two])));
        assert_ne!(print(&list(std::slice::from_ref(&one))), print(&list(&[Value::Float(1.0)])));
        assert_eq!(print(&one), print(&Value::Float(1.0)));
        assert_ne!(print(&one), print(&list(&[one])));
        assert_eq!(print(&Value::Float(f64::NAN)), None);
    }
}
