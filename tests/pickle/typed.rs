//! The recordings' JSON, in which values keep their Python types.

use super::files::{from_hex, unpacked};
use bytes::Bytes;
use hotset::formats::pickle::Value;
use std::sync::Arc;

/// A recorded delta, what it was applied to, and what the library made of it.
pub(crate) struct DeltaCase {
    pub(crate) name: String,
    pub(crate) ignore_order: bool,
    pub(crate) base: Value,
    pub(crate) delta: Bytes,
    pub(crate) result: Value,
}

/// The recorded cases of one version of deepdiff.
pub(crate) fn delta_cases(version: &str) -> Vec<DeltaCase> {
    let text = unpacked(&format!("delta_cases_deepdiff_{version}.json.gz"));
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&text).unwrap();
    let case = |case: &serde_json::Value| DeltaCase {
        name: case["name"].as_str().unwrap().to_owned(),
        ignore_order: case["ignore_order"].as_bool().unwrap(),
        base: from_json(&case["base"]),
        delta: from_hex(case["delta_pickle"].as_str().unwrap()).into(),
        result: from_json(&case["result"]),
    };
    cases.iter().map(case).collect()
}

/// A value in the JSON of the recordings, in which an object of one entry names a type: `{"i": "1"}` is an integer.
pub(crate) fn from_json(json: &serde_json::Value) -> Value {
    let all = |json: &serde_json::Value| Arc::new(json.as_array().unwrap().iter().map(from_json).collect());
    match json {
        serde_json::Value::Null => Value::None,
        serde_json::Value::Bool(truth) => Value::Bool(*truth),
        serde_json::Value::String(text) => Value::text(text),
        serde_json::Value::Array(_) => Value::List(all(json)),
        serde_json::Value::Number(_) => panic!("numbers are typed"),
        serde_json::Value::Object(typed) => {
            let (kind, json) = typed.iter().next().unwrap();
            match &**kind {
                "i" => Value::Int(json.as_str().unwrap().parse().unwrap()),
                "f" => Value::Float(from_float_hex(json.as_str().unwrap())),
                "b" => Value::Bytes(from_hex(json.as_str().unwrap()).into()),
                "tu" => Value::Tuple(all(json)),
                "s" => Value::Set(all(json)),
                "d" => {
                    let pair = |pair: &serde_json::Value| (from_json(&pair[0]), from_json(&pair[1]));
                    Value::Dict(Arc::new(json.as_array().unwrap().iter().map(pair).collect()))
                }
                other => panic!("{other}"),
            }
        }
    }
}

/// What `float.hex()` writes in Python, `-0x1.8p+1`.
fn from_float_hex(text: &str) -> f64 {
    let (sign, digits) = text.strip_prefix('-').map_or((1.0, text), |digits| (-1.0, digits));
    let (mantissa, exponent) = digits.strip_prefix("0x").unwrap().split_once('p').unwrap();
    let (whole, fraction) = mantissa.split_once('.').unwrap();
    let bits = u64::from_str_radix(&format!("{whole}{fraction}"), 16).unwrap();
    let exponent = exponent.parse::<i32>().unwrap() - 4 * i32::try_from(fraction.len()).unwrap();
    let [high, low] = [bits >> 32, bits & 0xffff_ffff].map(|half| f64::from(u32::try_from(half).unwrap()));
    sign * (high * 2_f64.powi(32) + low) * 2_f64.powi(exponent)
}
