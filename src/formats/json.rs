//! JSON text as pure functions over bytes: validation, merge patches (RFC 7396) and patches (RFC 6902), all bounded.
//!
//! Nesting is measured by a flat scan before anything recursive looks at the text, and a patch may neither grow the
//! document nor work beyond its bounds, whatever its operations say. Patched text is written anew: without white
//! space, of repeated keys the last, and numbers as 64-bit integers or floats.

mod validate;

use json_patch::jsonptr::Pointer;
use json_patch::{Patch, PatchOperation};
use serde_json::Value;
use validate::Fault;

/// What patching may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of the target, of the patch and of the result, each.
    pub bytes: usize,
    /// Nesting of the target and of the result; at most 120 are ever accepted.
    pub depth: usize,
}

impl Bounds {
    /// The widest bounds there are. A patch that was accepted once applies again within them.
    pub const STORED: Self = Self { bytes: 16 << 20, depth: 120 };

    /// These bounds, where they are narrower than the widest ones.
    pub fn new(bytes: u64, depth: u64) -> Self {
        let narrow = |asked: u64, widest: usize| usize::try_from(asked).map_or(widest, |asked| asked.min(widest));
        Self { bytes: narrow(bytes, Self::STORED.bytes), depth: narrow(depth, Self::STORED.depth) }
    }
}

/// Values that a document to be patched, or a patch, may hold: each costs memory far beyond its text.
const VALUES_MAX: usize = 1 << 20;

/// Work that one patch may cause, about in bytes moved: at most this for every byte of the target and the patch,
/// so that many small patches cost no more than a large one.
const WORK_PER_BYTE: usize = 64;

/// Work that every patch may cause, however small it is.
const WORK_FREE: usize = 64 << 10;

/// Work that no patch may cause, however large it is.
const WORK_MAX: usize = 256 << 20;

/// Bytes that an array shifts per element behind the place of an insertion or removal.
const ELEMENT_BYTES: usize = size_of::<Value>();

/// Why JSON text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON (RFC 8259), or with a number beyond 64-bit floats or half of a surrogate pair, which not everybody reads.
    #[error("not valid JSON: {0}")]
    Syntax(String),
    /// Nested too deeply.
    #[error("nested more than {max} levels deep")]
    TooDeep {
        /// Most levels allowed.
        max: usize,
    },
    /// Too many bytes.
    #[error("more than {max} bytes of JSON, as given or as it would become")]
    TooLarge {
        /// Most bytes allowed.
        max: usize,
    },
    /// Too many values to be patched.
    #[error("more than {max} values: replace it as a whole")]
    TooManyValues {
        /// Most values allowed.
        max: usize,
    },
    /// The patch would take too long.
    #[error("the patch does too much work: replace the whole instead")]
    TooMuchWork,
    /// The patch is not a patch, or does not fit the document.
    #[error("the patch does not apply: {0}")]
    NotApplicable(String),
}

/// What a flat scan sees of JSON text, valid or not.
struct Shape {
    depth: usize,
    values: usize,
}

/// Measures nesting and counts values without recursion.
fn shape(text: &[u8]) -> Shape {
    let (mut depth, mut deepest, mut values) = (0usize, 0, 1);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => skip_string(&mut bytes),
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
                values += 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            _ => {}
        }
    }
    Shape { depth: deepest, values }
}

fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// Checks that the text is JSON, nested at most `depth` levels (a number has 0, `[]` has 1).
pub fn valid(text: &[u8], depth: usize) -> Result<(), JsonError> {
    let depth = depth.min(Bounds::STORED.depth);
    check(text, depth, depth)
}

/// As [`valid`], without its bound; `told` is the limit that a refusal names.
fn check(text: &[u8], depth: usize, told: usize) -> Result<(), JsonError> {
    let text = std::str::from_utf8(text).map_err(|error| JsonError::Syntax(error.to_string()))?;
    validate::validate(text, depth).map_err(|fault| match fault {
        Fault::TooDeep => JsonError::TooDeep { max: told },
        Fault::Syntax(expected, at) => JsonError::Syntax(format!("expected {expected} at byte {at}")),
    })
}

/// Checks that the text is a JSON object, nested at most `depth` levels.
pub fn valid_object(text: &[u8], depth: usize) -> Result<(), JsonError> {
    valid(text, depth)?;
    match text.trim_ascii_start().first() {
        Some(b'{') => Ok(()),
        _ => Err(JsonError::Syntax("not an object".to_owned())),
    }
}

/// The target with a merge patch (RFC 7396) applied.
pub fn merge(target: &[u8], patch: &[u8], bounds: &Bounds) -> Result<Vec<u8>, JsonError> {
    let mut document: Value = parse(target, bounds, bounds.depth)?;
    let patch: Value = parse(patch, bounds, bounds.depth)?;
    json_patch::merge(&mut document, &patch);
    write(&document, bounds)
}

/// The target with a patch (RFC 6902) applied: all of its operations, or an error.
pub fn patch(target: &[u8], patch: &[u8], bounds: &Bounds) -> Result<Vec<u8>, JsonError> {
    let mut document: Value = parse(target, bounds, bounds.depth)?;
    // Operations lie in an array of objects, which the values inside them need not pay for.
    let Patch(operations) = parse(patch, bounds, bounds.depth + 2)?;
    let work = WORK_FREE.saturating_add(WORK_PER_BYTE.saturating_mul(target.len() + patch.len())).min(WORK_MAX);
    let mut meter = Meter { bounds, bytes: target.len(), work };
    for (index, operation) in operations.iter().enumerate() {
        meter.charge(&document, operation)?;
        json_patch::patch_unsafe(&mut document, std::slice::from_ref(operation))
            .map_err(|error| JsonError::NotApplicable(format!("operation {index}: {}", error.kind)))?;
    }
    write(&document, bounds)
}

fn parse<T: serde::de::DeserializeOwned>(text: &[u8], bounds: &Bounds, depth: usize) -> Result<T, JsonError> {
    if text.len() > bounds.bytes {
        return Err(JsonError::TooLarge { max: bounds.bytes });
    }
    check(text, depth, bounds.depth)?;
    let shape = shape(text);
    if shape.values > VALUES_MAX {
        return Err(JsonError::TooManyValues { max: VALUES_MAX });
    }
    serde_json::from_slice(text).map_err(syntax)
}

fn write(document: &Value, bounds: &Bounds) -> Result<Vec<u8>, JsonError> {
    let text = serde_json::to_vec(document).map_err(syntax)?;
    if text.len() > bounds.bytes {
        return Err(JsonError::TooLarge { max: bounds.bytes });
    }
    if shape(&text).depth > bounds.depth {
        return Err(JsonError::TooDeep { max: bounds.depth });
    }
    Ok(text)
}

/// Most bytes of a parser's message: it may quote from the text.
const MESSAGE_BYTES: usize = 200;

#[expect(clippy::needless_pass_by_value, reason = "it is the argument of map_err")]
fn syntax(error: serde_json::Error) -> JsonError {
    let mut message = error.to_string();
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
    if error.is_data() { JsonError::NotApplicable(message) } else { JsonError::Syntax(message) }
}

/// Keeps account of what a patch costs, before each of its operations.
struct Meter<'a> {
    bounds: &'a Bounds,
    /// At least the size of the document.
    bytes: usize,
    /// What may still be worked.
    work: usize,
}

impl Meter<'_> {
    fn charge(&mut self, document: &Value, operation: &PatchOperation) -> Result<(), JsonError> {
        let path = operation.path();
        self.work(path.len() + 64)?;
        match operation {
            PatchOperation::Add(add) => {
                self.shift(document, path)?;
                self.place(path, &add.value)
            }
            PatchOperation::Replace(replace) => self.place(path, &replace.value),
            PatchOperation::Remove(_) => self.shift(document, path),
            PatchOperation::Test(test) => self.work(Size::of(&test.value).bytes),
            PatchOperation::Move(r#move) => {
                self.work(r#move.from.len())?;
                self.shift(document, &r#move.from)?;
                self.shift(document, path)?;
                self.place_from(document, &r#move.from, path)
            }
            PatchOperation::Copy(copy) => {
                self.work(copy.from.len())?;
                self.shift(document, path)?;
                self.place_from(document, &copy.from, path)
            }
        }
    }

    fn work(&mut self, amount: usize) -> Result<(), JsonError> {
        self.work = self.work.checked_sub(amount).ok_or(JsonError::TooMuchWork)?;
        Ok(())
    }

    /// Charges for the elements that move when something enters or leaves an array.
    fn shift(&mut self, document: &Value, path: &Pointer) -> Result<(), JsonError> {
        let Some((parent, last)) = path.split_back() else { return Ok(()) };
        let Some(Value::Array(array)) = document.pointer(parent.as_str()) else { return Ok(()) };
        let behind = last.encoded().parse().map_or(0, |index: usize| array.len().saturating_sub(index));
        self.work(behind.saturating_mul(ELEMENT_BYTES))
    }

    fn place_from(&mut self, document: &Value, from: &Pointer, path: &Pointer) -> Result<(), JsonError> {
        // A missing source is the patch's own error, reported when it is applied.
        document.pointer(from.as_str()).map_or(Ok(()), |value| self.place(path, value))
    }

    /// Charges for a value that is put at `path`, and keeps the document within its bounds.
    fn place(&mut self, path: &Pointer, value: &Value) -> Result<(), JsonError> {
        let size = Size::of(value);
        if path.count() + size.depth > self.bounds.depth {
            return Err(JsonError::TooDeep { max: self.bounds.depth });
        }
        let key = path.split_back().map_or(0, |(_, last)| last.encoded().len());
        self.bytes = self.bytes.saturating_add(size.bytes + key);
        if self.bytes > self.bounds.bytes.saturating_mul(4) {
            return Err(JsonError::TooLarge { max: self.bounds.bytes });
        }
        self.work(size.bytes.saturating_mul(4))
    }
}

/// About how much a value takes, counting at least a few bytes for each value in it.
struct Size {
    bytes: usize,
    depth: usize,
}

impl Size {
    /// Recursive, but only over values whose depth is bounded already.
    fn of(value: &Value) -> Self {
        match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => Self { bytes: 8, depth: 0 },
            Value::String(text) => Self { bytes: text.len() + 8, depth: 0 },
            Value::Array(items) => Self::sum(items.iter().map(Self::of)),
            Value::Object(fields) => Self::sum(fields.iter().map(|(key, value)| {
                let size = Self::of(value);
                Self { bytes: size.bytes + key.len() + 8, ..size }
            })),
        }
    }

    fn sum(parts: impl Iterator<Item = Self>) -> Self {
        let all = parts.fold(Self { bytes: 8, depth: 0 }, |all, part| Self {
            bytes: all.bytes + part.bytes,
            depth: all.depth.max(part.depth),
        });
        Self { depth: all.depth + 1, ..all }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: Bounds = Bounds::STORED;

    fn merged(target: &str, patch: &str) -> String {
        String::from_utf8(merge(target.as_bytes(), patch.as_bytes(), &WIDE).expect("it merges")).expect("UTF-8")
    }

    fn patched(target: &str, operations: &str) -> Result<String, JsonError> {
        patch(target.as_bytes(), operations.as_bytes(), &WIDE).map(|text| String::from_utf8(text).expect("UTF-8"))
    }

    #[test]
    fn valid_text_is_accepted_and_everything_else_is_not() {
        for text in ["null", " [1, 2.5e300, \"\\u00e9\"] ", r#"{"a":{"b":[]}}"#, r#""[[[\"[[[""#] {
            assert_eq!(valid(text.as_bytes(), 3), Ok(()), "{text}");
        }
        for text in ["", "nul", "[1,]", "{\"a\"}", "[1] 2", "\"\n\"", "'a'", "01", "[", "\"\\"] {
            assert!(matches!(valid(text.as_bytes(), 3), Err(JsonError::Syntax(_))), "{text}");
        }
        assert!(matches!(valid(b"\"\xff\"", 3), Err(JsonError::Syntax(_))), "not UTF-8");
    }

    #[test]
    fn no_key_makes_something_else_of_an_object() {
        let reserved = "{\"$serde_json::private::RawValue\":\"1\"}";
        for result in [merge(b"{}", reserved.as_bytes(), &WIDE), merge(reserved.as_bytes(), b"{}", &WIDE)] {
            assert!(matches!(result, Err(JsonError::Syntax(_))), "{result:?}");
        }
        let operations = format!(r#"[{{"op":"add","path":"/a","value":{reserved}}}]"#);
        assert!(matches!(patched("{}", &operations), Err(JsonError::Syntax(_))));
    }

    #[test]
    fn nesting_is_refused_before_anything_recursive_sees_it() {
        assert_eq!(valid(b"[[[]]]", 3), Ok(()));
        assert_eq!(valid(b"[[[[]]]]", 3), Err(JsonError::TooDeep { max: 3 }));
        let deep = "[".repeat(1_000_000);
        assert_eq!(valid(deep.as_bytes(), usize::MAX), Err(JsonError::TooDeep { max: 120 }));
        let deepest = format!("{}{}", "[".repeat(120), "]".repeat(120));
        assert_eq!(valid(deepest.as_bytes(), usize::MAX), Ok(()));
        assert_eq!(
            patched(&deepest, r#"[{"op":"test","path":"/0","value":1}]"#)
                .map_err(|error| matches!(error, JsonError::NotApplicable(_))),
            Err(true)
        );
    }

    #[test]
    fn only_objects_are_objects() {
        assert_eq!(valid_object(b" {}", 3), Ok(()));
        assert!(valid_object(b"[]", 3).is_err());
        assert!(valid_object(b"{", 3).is_err());
    }

    #[test]
    fn merge_patches_do_what_rfc_7396_says() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            assert_eq!(merged(target, patch), result, "{target} merged with {patch}");
        }
    }

    #[test]
    fn patches_do_what_rfc_6902_says() {
        for (target, operations, result) in [
            (r#"{"a":1}"#, r#"[{"op":"add","path":"/b","value":[2]}]"#, r#"{"a":1,"b":[2]}"#),
            ("[1,3]", r#"[{"op":"add","path":"/1","value":2},{"op":"add","path":"/-","value":4}]"#, "[1,2,3,4]"),
            ("[1,2,3]", r#"[{"op":"remove","path":"/1"}]"#, "[1,3]"),
            (
                r#"{"a/b":1,"m~n":2}"#,
                r#"[{"op":"replace","path":"/a~1b","value":3},{"op":"test","path":"/m~0n","value":2}]"#,
                r#"{"a/b":3,"m~n":2}"#,
            ),
            (r#"{"a":[1],"b":2}"#, r#"[{"op":"move","from":"/b","path":"/a/0"}]"#, r#"{"a":[2,1]}"#),
            (r#"{"a":{"x":1}}"#, r#"[{"op":"copy","from":"/a","path":"/b"}]"#, r#"{"a":{"x":1},"b":{"x":1}}"#),
            ("1", r#"[{"op":"replace","path":"","value":{}}]"#, "{}"),
        ] {
            assert_eq!(patched(target, operations).as_deref(), Ok(result), "{target} patched with {operations}");
        }
    }

    #[test]
    fn numbers_keep_their_precision_through_a_patch() {
        let text = r#"{"a":0.1,"b":18446744073709551615,"c":-9223372036854775808,"d":2.2250738585072014e-308}"#;
        assert_eq!(merged(text, "{}"), text);
    }

    #[test]
    fn copies_cannot_double_a_document_without_bound() {
        let double = r#"{"op":"copy","from":"/a","path":"/a/-"}"#;
        let operations = format!("[{}]", vec![double; 40].join(","));
        assert_eq!(patched(r#"{"a":["0123456789"]}"#, &operations), Err(JsonError::TooMuchWork));
        let narrow = Bounds { bytes: 10_000, depth: 120 };
        let result = patch(br#"{"a":["0123456789"]}"#, operations.as_bytes(), &narrow);
        assert!(matches!(result, Err(JsonError::TooLarge { max: 10_000 } | JsonError::TooMuchWork)), "{result:?}");
        let deeper = format!("[{}]", [r#"{"op":"copy","from":"","path":"/a"}"#; 5].join(","));
        let shallow = Bounds { bytes: 10_000, depth: 4 };
        assert_eq!(patch(b"{}", deeper.as_bytes(), &shallow), Err(JsonError::TooDeep { max: 4 }));
    }

    #[test]
    fn a_patch_cannot_work_for_minutes() {
        let target = format!("[{}0]", "0,".repeat(900_000));
        let shift = r#"{"op":"add","path":"/0","value":0},{"op":"remove","path":"/0"}"#;
        let operations = format!("[{}]", vec![shift; 1_000].join(","));
        assert_eq!(patched(&target, &operations), Err(JsonError::TooMuchWork));
    }

    #[test]
    fn what_costs_too_much_memory_as_values_is_refused() {
        let many = format!("[{}0]", "0,".repeat(VALUES_MAX));
        assert_eq!(patched(&many, "[]"), Err(JsonError::TooManyValues { max: VALUES_MAX }));
        let long = format!("\"{}\"", "x".repeat(WIDE.bytes));
        assert_eq!(patched(&long, "[]"), Err(JsonError::TooLarge { max: WIDE.bytes }));
    }

    #[test]
    fn what_is_no_patch_says_so_in_few_words() {
        let odd = format!(r#"[{{"op":"{}","path":""}}]"#, "é".repeat(10_000));
        let Err(JsonError::NotApplicable(message)) = patched("{}", &odd) else { panic!("it was accepted") };
        assert!(message.len() <= MESSAGE_BYTES, "{message}");
        assert!(matches!(patched("{}", "{}"), Err(JsonError::NotApplicable(_))));
        assert!(matches!(patched("1e999", "[]"), Err(JsonError::Syntax(_))), "no 64-bit float holds it");
    }
}
