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
    match key {
        Value::Text(text) => text.to_string(),
        other => match to_json(other) {
            Json::String(text) => text,
            json => json.to_string(),
        },
    }
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
