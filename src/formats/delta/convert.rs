//! Conversions: what calling a built-in type with a value gives in Python.
//!
//! A delta asks for one where it gave exactly the new value. Those that would need more of Python than is here (the
//! `repr` of containers, decimal integers beyond 64 bits) are refused; those that raise in Python give `None`, and the
//! library skips them.

use super::DeltaError;
use super::document::Budget;
use super::equal::{holds, is_hashable, whole};
use super::read::{Type, index_of};
use crate::formats::pickle::Value;

use std::sync::Arc;

/// Most zero bytes that an integer is converted to.
const ZEROS_MAX: usize = 1 << 16;

type Converted = Result<Option<Value>, DeltaError>;

/// `new_type(old)`; `None` if that raises.
pub(super) fn convert(old: &Value, new_type: Type, budget: &mut Budget) -> Converted {
    match new_type {
        Type::None => Ok(None),
        Type::Bool => Ok(Some(Value::Bool(is_true(old)))),
        Type::Int => int(old),
        Type::Float => float(old),
        Type::Str => str(old),
        Type::Bytes => bytes(old, budget),
        Type::List => Ok(iterate(old, budget)?.map(|items| Value::List(Arc::new(items)))),
        Type::Tuple => Ok(iterate(old, budget)?.map(|items| Value::Tuple(Arc::new(items)))),
        Type::Set => set(old, budget),
        Type::Dict => dict(old, budget),
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::None => false,
        Value::Bool(truth) => *truth,
        Value::Int(number) => *number != 0,
        Value::Float(number) => *number != 0.0,
        Value::Text(text) => !text.is_empty(),
        Value::Bytes(bytes) => !bytes.is_empty(),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => !items.is_empty(),
        Value::Dict(pairs) => !pairs.is_empty(),
        Value::BigInt(_) | Value::Class(_) | Value::Persistent(_) | Value::Object(_) => true,
    }
}

fn int(value: &Value) -> Converted {
    const UNSUPPORTED: DeltaError = DeltaError::Conversion("int");
    Ok(match value {
        Value::Bool(truth) => Some(Value::Int(i64::from(*truth))),
        Value::Int(_) | Value::BigInt(_) => Some(value.clone()),
        Value::Float(number) if !number.is_finite() => None,
        Value::Float(number) => Some(Value::Int(whole(number.trunc()).ok_or(UNSUPPORTED)?)),
        Value::Text(text) if text.is_ascii() => match digits(text) {
            Some(digits) => Some(Value::Int(digits.parse().map_err(|_| UNSUPPORTED)?)),
            None => None,
        },
        Value::Text(_) | Value::Bytes(_) => return Err(UNSUPPORTED),
        Value::None
        | Value::List(_)
        | Value::Tuple(_)
        | Value::Dict(_)
        | Value::Set(_)
        | Value::FrozenSet(_)
        | Value::Class(_)
        | Value::Persistent(_)
        | Value::Object(_) => None,
    })
}

/// The decimal digits of a text, with their sign; `None` if it is no integer.
fn digits(text: &str) -> Option<String> {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
    let unsigned = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    let groups = unsigned.split('_');
    let valid = groups.clone().all(|group| !group.is_empty() && group.bytes().all(|byte| byte.is_ascii_digit()));
    valid.then(|| trimmed.replace('_', ""))
}

fn float(value: &Value) -> Converted {
    const UNSUPPORTED: DeltaError = DeltaError::Conversion("float");
    Ok(match value {
        Value::Bool(truth) => Some(Value::Float(f64::from(u8::from(*truth)))),
        Value::Int(_) | Value::Float(_) => value.as_f64().map(Value::Float),
        Value::Text(text) if !text.is_ascii() || text.contains('_') => return Err(UNSUPPORTED),
        Value::Text(text) => {
            let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x0b');
            trimmed.parse().ok().map(Value::Float)
        }
        Value::BigInt(_) | Value::Bytes(_) => return Err(UNSUPPORTED),
        Value::None
        | Value::List(_)
        | Value::Tuple(_)
        | Value::Dict(_)
        | Value::Set(_)
        | Value::FrozenSet(_)
        | Value::Class(_)
        | Value::Persistent(_)
        | Value::Object(_) => None,
    })
}

fn str(value: &Value) -> Converted {
    Ok(Some(match value {
        Value::None => Value::text("None"),
        Value::Bool(truth) => Value::text(if *truth { "True" } else { "False" }),
        Value::Int(number) => Value::text(number.to_string()),
        Value::Float(number) => Value::text(float_repr(*number)),
        Value::Text(_) => value.clone(),
        Value::BigInt(_)
        | Value::Bytes(_)
        | Value::List(_)
        | Value::Tuple(_)
        | Value::Dict(_)
        | Value::Set(_)
        | Value::FrozenSet(_)
        | Value::Class(_)
        | Value::Persistent(_)
        | Value::Object(_) => return Err(DeltaError::Conversion("str")),
    }))
}

/// The shortest digits that come back equal, with an exponent only where Python writes one.
fn float_repr(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() { "nan" } else { ["-inf", "inf"][usize::from(number > 0.0)] }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        return format!("{number:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// What iterating over a value gives; `None` if Python cannot.
fn iterate(value: &Value, budget: &mut Budget) -> Result<Option<Vec<Value>>, DeltaError> {
    Ok(match value {
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            budget.copy(items.len())?;
            Some(items.to_vec())
        }
        Value::Dict(pairs) => {
            budget.copy(pairs.len())?;
            distinct(pairs.iter().map(|(key, _)| key.clone()), budget)?
        }
        Value::Text(text) => {
            budget.copy(text.len())?;
            Some(text.chars().map(|c| Value::text(c.encode_utf8(&mut [0; 4]))).collect())
        }
        Value::Bytes(bytes) => {
            budget.copy(bytes.len())?;
            Some(bytes.iter().map(|byte| Value::Int(i64::from(*byte))).collect())
        }
        Value::None
        | Value::Bool(_)
        | Value::Int(_)
        | Value::BigInt(_)
        | Value::Float(_)
        | Value::Class(_)
        | Value::Persistent(_)
        | Value::Object(_) => None,
    })
}

/// Each of several values that are equal once; `None` if one of them cannot be hashed.
fn distinct(values: impl Iterator<Item = Value>, budget: &mut Budget) -> Result<Option<Vec<Value>>, DeltaError> {
    let mut kept = Vec::new();
    for value in values {
        if !is_hashable(&value, budget)? {
            return Ok(None);
        }
        if !holds(&kept, &value, budget)? {
            kept.push(value);
        }
    }
    Ok(Some(kept))
}

fn set(value: &Value, budget: &mut Budget) -> Converted {
    let Some(items) = iterate(value, budget)? else { return Ok(None) };
    Ok(distinct(items.into_iter(), budget)?.map(|members| Value::Set(Arc::new(members))))
}

fn bytes(value: &Value, budget: &mut Budget) -> Converted {
    if let Value::Int(_) | Value::Bool(_) = value {
        let Value::Int(count) = int(value)?.unwrap_or(Value::None) else { return Ok(None) };
        let Ok(count) = usize::try_from(count) else { return Ok(None) };
        let fits = count <= ZEROS_MAX;
        return if fits { Ok(Some(Value::Bytes(vec![0; count].into()))) } else { Err(DeltaError::Conversion("bytes")) };
    }
    if matches!(value, Value::BigInt(_)) {
        return Err(DeltaError::Conversion("bytes"));
    }
    if matches!(value, Value::Text(_)) {
        return Ok(None);
    }
    let Some(items) = iterate(value, budget)? else { return Ok(None) };
    let byte = |item: &Value| {
        let number = if let Value::Bool(truth) = item { Some(usize::from(*truth)) } else { index_of(item) };
        number.and_then(|number| u8::try_from(number).ok())
    };
    let bytes: Option<Vec<u8>> = items.iter().map(byte).collect();
    Ok(bytes.map(|bytes| Value::Bytes(bytes.into())))
}

fn dict(value: &Value, budget: &mut Budget) -> Converted {
    if let Value::Dict(_) = value {
        return Ok(Some(value.clone()));
    }
    let Some(items) = iterate(value, budget)? else { return Ok(None) };
    let mut pairs = Vec::with_capacity(items.len());
    for item in &items {
        // Texts and bytes of two could be pairs as well; nobody means that.
        if matches!(item, Value::Text(_) | Value::Bytes(_) | Value::Set(_) | Value::FrozenSet(_) | Value::Dict(_)) {
            return Err(DeltaError::Conversion("dict"));
        }
        let Some([key, value]) = item.as_sequence() else { return Ok(None) };
        if !is_hashable(key, budget)? {
            return Ok(None);
        }
        pairs.push((key.clone(), value.clone()));
    }
    Ok(Some(Value::Dict(Arc::new(pairs))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(new_type: Type, old: &Value) -> Option<Value> {
        convert(old, new_type, &mut Budget::full()).unwrap()
    }

    #[test]
    fn scalars_are_converted_as_python_does() {
        assert_eq!(to(Type::Int, &Value::Float(-1.9)), Some(Value::Int(-1)));
        assert_eq!(to(Type::Int, &Value::text(" -1_000\n")), Some(Value::Int(-1000)));
        assert_eq!(to(Type::Int, &Value::text("1.0")), None);
        assert_eq!(to(Type::Int, &Value::Float(f64::NAN)), None);
        assert_eq!(to(Type::Float, &Value::text("1e3")), Some(Value::Float(1000.0)));
        assert_eq!(to(Type::Bool, &Value::text("")), Some(Value::Bool(false)));
        assert_eq!(to(Type::None, &Value::Int(0)), None);
        for (number, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1.5e15, "1500000000000000.0"),
            (1.25e-5, "1.25e-05"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(to(Type::Str, &Value::Float(number)), Some(Value::text(text)));
        }
    }

    #[test]
    fn containers_are_converted_as_python_does() {
        let items = || Arc::new(vec![Value::Int(1), Value::Bool(true), Value::Int(2)]);
        assert_eq!(to(Type::Tuple, &Value::List(items())), Some(Value::Tuple(items())));
        let members = Arc::new(vec![Value::Int(1), Value::Int(2)]);
        assert_eq!(to(Type::Set, &Value::List(items())), Some(Value::Set(members)));
        let unhashable = Value::List(Arc::new(vec![Value::List(items())]));
        assert_eq!(to(Type::Set, &unhashable), None);
        assert_eq!(to(Type::List, &Value::Int(1)), None);
        assert_eq!(to(Type::Bytes, &Value::List(items())), Some(Value::Bytes(vec![1, 1, 2].into())));
        let pairs = Value::List(Arc::new(vec![Value::Tuple(Arc::new(vec![Value::Int(1), Value::None]))]));
        assert_eq!(to(Type::Dict, &pairs), Some(Value::Dict(Arc::new(vec![(Value::Int(1), Value::None)]))));
    }

    #[test]
    fn a_number_cannot_become_a_bomb() {
        let result = convert(&Value::Int(1 << 40), Type::Bytes, &mut Budget::full());
        assert_eq!(result, Err(DeltaError::Conversion("bytes")));
        let text = Value::text("x".repeat(5_000_000));
        assert!(matches!(convert(&text, Type::List, &mut Budget::full()), Err(DeltaError::Limit { .. })));
    }
}
