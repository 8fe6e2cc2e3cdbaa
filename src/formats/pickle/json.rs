//! Values as JSON, for people to look at: readable, but not meant to be turned back into a pickle.

use super::value::{Object, Value};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};

/// Shows a value as JSON.
///
/// Tuples and sets become arrays, bytes `{"$bytes": base64}`, keys text, numbers that JSON lacks text, and objects
/// `{"$class": name, "state": ...}`.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::None => Json::Null,
        Value::Bool(truth) => Json::Bool(*truth),
        Value::Int(number) => Json::from(*number),
        Value::BigInt(digits) => Json::String(decimal(digits)),
        Value::Float(number) => serde_json::Number::from_f64(*number)
            .map_or_else(|| Json::String(not_finite(*number).to_owned()), Json::Number),
        Value::Text(text) => Json::String(text.to_string()),
        Value::Bytes(bytes) => json!({ "$bytes": STANDARD.encode(bytes) }),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            Json::Array(items.iter().map(to_json).collect())
        }
        Value::Dict(pairs) => {
            Json::Object(pairs.iter().map(|(key, value)| (key_text(key), to_json(value))).collect::<Map<_, _>>())
        }
        Value::Class(class) => json!({ "$class": format!("{}.{}", class.module, class.name) }),
        Value::Persistent(id) => json!({ "$persistent": &**id }),
        Value::Object(object) => object_json(object),
    }
}

fn object_json(object: &Object) -> Json {
    let class = format!("{}.{}", object.class.module, object.class.name);
    json!({ "$class": class, "arguments": to_json(&object.arguments), "state": to_json(&object.state) })
}

fn key_text(key: &Value) -> String {
    let shown = to_json(key);
    shown.as_str().map_or_else(|| shown.to_string(), str::to_owned)
}

fn not_finite(number: f64) -> &'static str {
    if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

/// A two's complement number, least significant byte first, in decimal. Quadratic, so only for short numbers: the
/// scanner's limit is 256 bytes.
fn decimal(digits: &[u8]) -> String {
    let negative = digits.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut magnitude: Vec<u8> = digits.to_vec();
    if negative {
        negate(&mut magnitude);
    }
    let mut groups = Vec::new();
    while magnitude.iter().any(|byte| *byte != 0) {
        let mut rest = 0_u64;
        for byte in magnitude.iter_mut().rev() {
            rest = rest << 8 | u64::from(*byte);
            *byte = u8::try_from(rest / 1_000_000_000).unwrap_or(u8::MAX);
            rest %= 1_000_000_000;
        }
        groups.push(rest);
    }
    let first = groups.pop().unwrap_or(0);
    let sign = if negative { "-" } else { "" };
    groups.iter().rev().fold(format!("{sign}{first}"), |text, group| format!("{text}{group:09}"))
}

/// The number with the other sign.
fn negate(digits: &mut [u8]) {
    let mut carry = true;
    for byte in digits {
        let (sum, overflow) = (!*byte).overflowing_add(u8::from(carry));
        *byte = sum;
        carry = overflow;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::sync::Arc;

    #[test]
    fn every_kind_of_value_has_a_readable_form() {
        let shown = |value: Value| to_json(&value).to_string();
        let pair = || Arc::new(vec![Value::Int(1), Value::None]);
        assert_eq!(shown(Value::Tuple(pair())), "[1,null]");
        assert_eq!(shown(Value::FrozenSet(pair())), "[1,null]");
        assert_eq!(shown(Value::Bytes(Bytes::from_static(b"\x00\xff"))), r#"{"$bytes":"AP8="}"#);
        assert_eq!(shown(Value::Float(0.5)), "0.5");
        assert_eq!(shown(Value::Float(f64::NAN)), r#""NaN""#);
        assert_eq!(shown(Value::Float(f64::NEG_INFINITY)), r#""-Infinity""#);
        let keys =
            vec![(Value::Int(1), Value::Bool(true)), (Value::text("a"), Value::None), (Value::None, Value::None)];
        assert_eq!(shown(Value::Dict(Arc::new(keys))), r#"{"1":true,"a":null,"null":null}"#);
    }

    #[test]
    fn long_integers_are_shown_in_decimal() {
        let shown = |digits: &[u8]| to_json(&Value::BigInt(Bytes::copy_from_slice(digits)));
        assert_eq!(shown(&[0, 0, 0, 0, 0, 0, 0, 0, 1]), "18446744073709551616");
        assert_eq!(shown(&[0, 0, 0, 0, 0, 0, 0, 0, 0xff]), "-18446744073709551616");
        assert_eq!(shown(&[0, 0, 0, 0, 0, 0, 0, 0, 0x80]), "-2361183241434822606848");
    }
}
