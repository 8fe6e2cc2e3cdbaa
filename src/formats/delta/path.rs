//! Paths of a delta: `root['a'][2]` as the keys that lead from the root to a value.

use super::DeltaError;
use crate::formats::pickle::Value;

use std::cmp::Ordering;
use std::sync::Arc;

/// Most keys in a path: there is nothing deeper in a pickle.
const KEYS_MAX: usize = 64;

/// Longest text of a path. Blender's names have at most 63 bytes.
const BYTES_MAX: usize = 64 << 10;

/// A path as it was written, and what it means.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Path {
    pub(super) text: Arc<str>,
    /// Texts, integers, floats, booleans and `None`.
    pub(super) keys: Vec<Value>,
}

impl Path {
    /// Reads a path, once from left to right.
    pub(super) fn read(text: &Arc<str>) -> Result<Self, DeltaError> {
        if text.len() > BYTES_MAX {
            return Err(DeltaError::Limit { what: "bytes in a path", max: BYTES_MAX as u64 });
        }
        let mut rest = text.strip_prefix("root").ok_or_else(|| refused(text))?;
        let mut keys = Vec::new();
        while !rest.is_empty() {
            if keys.len() == KEYS_MAX {
                return Err(DeltaError::Limit { what: "keys in a path", max: KEYS_MAX as u64 });
            }
            let (key, tail) = rest.strip_prefix('[').and_then(first_key).ok_or_else(|| refused(text))?;
            keys.push(key);
            rest = tail;
        }
        Ok(Self { text: text.clone(), keys })
    }

    /// The path of the container, and the last key in it; `None` for the root.
    pub(super) fn split(&self) -> Option<(&[Value], &Value)> {
        self.keys.split_last().map(|(key, container)| (container, key))
    }

    /// The order in which the library inserts items: indexes by size. Keys of different kinds only need some order.
    pub(super) fn order(&self, other: &Self) -> Ordering {
        let pairs = self.keys.iter().zip(&other.keys);
        let differing = pairs.map(|(one, other)| key_order(one, other)).find(|order| order.is_ne());
        differing.unwrap_or_else(|| self.keys.len().cmp(&other.keys.len()))
    }
}

fn refused(text: &str) -> DeltaError {
    DeltaError::Path(text.chars().take(100).flat_map(char::escape_debug).collect())
}

fn key_order(one: &Value, other: &Value) -> Ordering {
    match (one.as_text(), other.as_text()) {
        (Some(one), Some(other)) => one.cmp(other),
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (None, None) => match (one, other) {
            (Value::Int(one), Value::Int(other)) => one.cmp(other),
            _ => one.as_f64().unwrap_or(0.0).total_cmp(&other.as_f64().unwrap_or(0.0)),
        },
    }
}

/// The key after an opening bracket, and what follows the closing one.
fn first_key(inside: &str) -> Option<(Value, &str)> {
    let quote = inside.chars().next().filter(|first| matches!(first, '\'' | '"'));
    if let Some(quote) = quote {
        // The text between the quotes is the key as it is: the library escapes nothing when it writes a path.
        let (key, tail) = inside[1..].split_once(quote)?;
        return Some((Value::text(key), tail.strip_prefix(']')?));
    }
    let (key, tail) = inside.split_once(']')?;
    Some((bare(key)?, tail))
}

/// A key without quotes, as Python writes it.
fn bare(key: &str) -> Option<Value> {
    let digits = key.strip_prefix('-').unwrap_or(key);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let canonical = digits == "0" || !digits.starts_with('0');
        return canonical.then(|| key.parse().ok().map(Value::Int)).flatten();
    }
    match key {
        "None" => Some(Value::None),
        "True" => Some(Value::Bool(true)),
        "False" => Some(Value::Bool(false)),
        _ if digits.starts_with(|first: char| first.is_ascii_digit()) => key.parse().ok().map(Value::Float),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Option<Vec<Value>> {
        Path::read(&text.into()).ok().map(|path| path.keys)
    }

    #[test]
    fn a_path_is_read_as_its_keys() {
        assert_eq!(keys("root"), Some(vec![]));
        let mixed = vec![Value::text("a"), Value::Int(2), Value::text("it's"), Value::Int(-1), Value::Float(0.5)];
        assert_eq!(keys(r#"root['a'][2]["it's"][-1][0.5]"#), Some(mixed));
        assert_eq!(keys("root[''][None][True]"), Some(vec![Value::text(""), Value::None, Value::Bool(true)]));
        assert_eq!(keys(r"root['a]b[\n']"), Some(vec![Value::text(r"a]b[\n")]));
    }

    #[test]
    fn whatever_else_is_no_path() {
        for text in ["", "roo", "root.a", "root[", "root['a'", "root['a]", "root[a]", "root[]", "root[007]", "rootx"] {
            assert_eq!(keys(text), None, "{text}");
        }
        for text in ["root[(1, 2)]", "root['a']x", "root['a'b']", "root[--1]", "root[99999999999999999999]"] {
            assert_eq!(keys(text), None, "{text}");
        }
        assert!(keys(&format!("root{}", "[0]".repeat(64))).is_some());
        assert_eq!(keys(&format!("root{}", "[0]".repeat(65))), None);
        assert_eq!(keys(&format!("root['{}']", "x".repeat(BYTES_MAX))), None);
    }

    #[test]
    fn indexes_are_ordered_by_size() {
        let order =
            |one: &str, other: &str| Path::read(&one.into()).unwrap().order(&Path::read(&other.into()).unwrap());
        assert_eq!(order("root['l'][9]", "root['l'][10]"), Ordering::Less);
        assert_eq!(order("root['l'][9]", "root['l'][9]['v'][1]"), Ordering::Less);
        assert_eq!(order("root['m'][0]", "root['l'][10]"), Ordering::Greater);
        assert_eq!(order("root[1]", "root['l']"), Ordering::Less);
    }
}
