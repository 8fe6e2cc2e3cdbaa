//! The writer: plain data, and listed classes as values, as a pickle of protocol 4, which any Python 3 reads back equal.

use super::policy::{Policy, Use};
use super::value::{Class, Value};

use std::collections::BTreeMap;
use std::sync::Arc;

/// Deepest nesting it writes: what a reader with the default limits takes.
const NESTING_MAX: usize = 64;

/// Members put between a MARK and the opcode that collects them, as CPython does.
const BATCH: usize = 1_000;

/// Most memo entries: beyond them, repeated parts are written out again.
const MEMO_MAX: usize = 1_000_000;

/// Longest text that is remembered by its content. What is remembered takes two bytes more each time it comes, and what we
/// write must not grow when it is read by more than our own limit allows (`Limits::expansion_factor`).
const REMEMBERED_TEXT_MAX: usize = 24;

/// Bytes before the content: PROTO 4 and a FRAME with its length.
const HEADER: usize = 2 + 9;

/// Why a value cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// It holds a class, an object or a persistent id that may not be written.
    #[error("only plain data can be written as a pickle")]
    NotData,
    /// It is nested too deeply.
    #[error("more than {NESTING_MAX} containers inside each other")]
    TooDeep,
}

/// Writes plain data as one pickle, protocol 4, in one frame. Parts that are shared stay shared.
pub fn write(value: &Value) -> Result<Vec<u8>, WriteError> {
    write_listed(value, &Policy::DATA_ONLY)
}

/// The same, and what a policy lets a pickle hold as a value: references to classes, and persistent ids. Objects are
/// never written.
pub fn write_listed(value: &Value, policy: &Policy) -> Result<Vec<u8>, WriteError> {
    let mut writer =
        Writer { policy, out: vec![0; HEADER], texts: BTreeMap::new(), containers: BTreeMap::new(), memo: 0 };
    writer.value(value, 0)?;
    writer.out.push(b'.');
    let len = (writer.out.len() - HEADER) as u64;
    writer.out[..2].copy_from_slice(&[0x80, 4]);
    writer.out[2] = 0x95;
    writer.out[3..HEADER].copy_from_slice(&len.to_le_bytes());
    Ok(writer.out)
}

struct Writer<'v> {
    policy: &'v Policy,
    out: Vec<u8>,
    texts: BTreeMap<&'v str, usize>,
    /// Shared containers, by address: the value being written keeps them where they are.
    containers: BTreeMap<usize, usize>,
    memo: usize,
}

impl<'v> Writer<'v> {
    fn value(&mut self, value: &'v Value, depth: usize) -> Result<(), WriteError> {
        match value {
            Value::None => self.out.push(b'N'),
            Value::Bool(true) => self.out.push(0x88),
            Value::Bool(false) => self.out.push(0x89),
            Value::Int(number) => self.int(*number),
            Value::BigInt(digits) => self.long(digits),
            Value::Float(number) => {
                self.out.push(b'G');
                self.out.extend(number.to_be_bytes());
            }
            Value::Text(text) => self.text(text),
            Value::Bytes(bytes) => self.string(bytes, [b'C', b'B', 0x8e]),
            Value::List(items) => self.container(items, depth, |writer, items, depth| {
                writer.open(b']', items);
                writer.batches(items, b'e', |writer, item| writer.value(item, depth))
            })?,
            Value::Dict(pairs) => self.container(pairs, depth, |writer, pairs, depth| {
                writer.open(b'}', pairs);
                writer.batches(pairs, b'u', |writer, (key, value)| {
                    writer.value(key, depth)?;
                    writer.value(value, depth)
                })
            })?,
            Value::Set(members) => self.container(members, depth, |writer, members, depth| {
                writer.open(0x8f, members);
                writer.batches(members, 0x90, |writer, member| writer.value(member, depth))
            })?,
            Value::FrozenSet(members) => self.container(members, depth, |writer, members, depth| {
                writer.out.push(b'(');
                writer.all(members, depth)?;
                writer.out.push(0x91);
                writer.remember(members);
                Ok(())
            })?,
            Value::Tuple(members) => self.container(members, depth, Self::tuple)?,
            Value::Class(class) => self.class(class)?,
            Value::Persistent(id) if self.policy.persistent_ids.contains(&&**id) => {
                self.text(id);
                self.out.push(b'Q');
            }
            Value::Persistent(_) | Value::Object(_) => return Err(WriteError::NotData),
        }
        Ok(())
    }

    fn class(&mut self, class: &'v Class) -> Result<(), WriteError> {
        let listed =
            self.policy.find(&class.module, &class.name).and_then(|at| self.policy.classes.get(usize::from(at)));
        if listed.is_none_or(|listed| listed.usage != Use::Reference) {
            return Err(WriteError::NotData);
        }
        self.text(&class.module);
        self.text(&class.name);
        self.out.push(0x93);
        Ok(())
    }

    fn int(&mut self, number: i64) {
        if let Ok(number) = u8::try_from(number) {
            self.out.extend([b'K', number]);
        } else if let Ok(number) = u16::try_from(number) {
            self.out.push(b'M');
            self.out.extend(number.to_le_bytes());
        } else if let Ok(number) = i32::try_from(number) {
            self.out.push(b'J');
            self.out.extend(number.to_le_bytes());
        } else {
            self.long(&number.to_le_bytes());
        }
    }

    fn long(&mut self, digits: &[u8]) {
        if let Ok(len) = u8::try_from(digits.len()) {
            self.out.extend([0x8a, len]);
        } else {
            self.out.push(0x8b);
            self.out.extend(u32::try_from(digits.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        self.out.extend_from_slice(digits);
    }

    /// The shortest of the three forms: a length of one, four or eight bytes.
    fn string(&mut self, bytes: &[u8], [short, medium, long]: [u8; 3]) {
        if let Ok(len) = u8::try_from(bytes.len()) {
            self.out.extend([short, len]);
        } else if let Ok(len) = u32::try_from(bytes.len()) {
            self.out.push(medium);
            self.out.extend(len.to_le_bytes());
        } else {
            self.out.push(long);
            self.out.extend((bytes.len() as u64).to_le_bytes());
        }
        self.out.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &'v str) {
        if let Some(index) = self.texts.get(text) {
            return self.get(*index);
        }
        self.string(text.as_bytes(), [0x8c, b'X', 0x8d]);
        if (2..=REMEMBERED_TEXT_MAX).contains(&text.len()) && self.memo < MEMO_MAX {
            self.texts.insert(text, self.memo);
            self.memoize();
        }
    }

    fn container<T>(
        &mut self,
        members: &'v Arc<Vec<T>>,
        depth: usize,
        body: impl FnOnce(&mut Self, &'v Arc<Vec<T>>, usize) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        if depth >= NESTING_MAX {
            return Err(WriteError::TooDeep);
        }
        if let Some(index) = self.containers.get(&(Arc::as_ptr(members) as usize)) {
            self.get(*index);
            return Ok(());
        }
        body(self, members, depth + 1)
    }

    fn tuple(&mut self, members: &'v Arc<Vec<Value>>, depth: usize) -> Result<(), WriteError> {
        let close = match members.len() {
            0 => b')',
            1 => 0x85,
            2 => 0x86,
            3 => 0x87,
            _ => {
                self.out.push(b'(');
                b't'
            }
        };
        self.all(members, depth)?;
        self.out.push(close);
        self.remember(members);
        Ok(())
    }

    fn all(&mut self, members: &'v [Value], depth: usize) -> Result<(), WriteError> {
        members.iter().try_for_each(|member| self.value(member, depth))
    }

    fn batches<T>(
        &mut self,
        members: &'v [T],
        collect: u8,
        mut each: impl FnMut(&mut Self, &'v T) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        for batch in members.chunks(BATCH) {
            self.out.push(b'(');
            batch.iter().try_for_each(|member| each(self, member))?;
            self.out.push(collect);
        }
        Ok(())
    }

    fn open<T>(&mut self, empty: u8, members: &Arc<Vec<T>>) {
        self.out.push(empty);
        self.remember(members);
    }

    fn remember<T>(&mut self, members: &Arc<Vec<T>>) {
        if Arc::strong_count(members) > 1 && self.memo < MEMO_MAX {
            self.containers.insert(Arc::as_ptr(members) as usize, self.memo);
            self.memoize();
        }
    }

    fn memoize(&mut self) {
        self.out.push(0x94);
        self.memo += 1;
    }

    fn get(&mut self, index: usize) {
        if let Ok(index) = u8::try_from(index) {
            self.out.extend([b'h', index]);
        } else {
            self.out.push(b'j');
            self.out.extend(u32::try_from(index).unwrap_or(u32::MAX).to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::pickle::{Class, Policy, read, scan};

    fn list(items: Vec<Value>) -> Value {
        Value::List(Arc::new(items))
    }

    #[test]
    fn a_small_value_is_written_as_expected() {
        let pairs = vec![(Value::text("ab"), list(vec![Value::Int(1), Value::None]))];
        let written = write(&Value::Dict(Arc::new(pairs))).unwrap();
        assert_eq!(written, b"\x80\x04\x95\x0f\0\0\0\0\0\0\0}(\x8c\x02ab\x94](K\x01Neu.");
    }

    #[test]
    fn shared_parts_and_repeated_texts_are_written_once() {
        let shared = list(vec![Value::text("a text that comes more than once")]);
        let all = list((0..100).map(|_| shared.clone()).collect());
        let written = write(&all).unwrap();
        assert!(written.len() < 300, "{}", written.len());
        assert_eq!(read(&written.into(), &Policy::DATA_ONLY).unwrap(), all);
    }

    #[test]
    fn what_is_no_plain_data_is_refused() {
        let class = Value::Class(Arc::new(Class { module: "builtins".into(), name: "int".into() }));
        assert_eq!(write(&list(vec![class])), Err(WriteError::NotData));
        assert_eq!(write(&Value::Persistent("<<NoneType>>".into())), Err(WriteError::NotData));
    }

    #[test]
    fn what_a_policy_lists_as_a_value_is_written_for_it() {
        let class = |name: &str| Value::Class(Arc::new(Class { module: "builtins".into(), name: name.into() }));
        let value = list(vec![class("int"), class("str"), class("int"), Value::Persistent("<<NoneType>>".into())]);
        let written = write_listed(&value, &Policy::COMMIT_DELTA).unwrap();
        assert_eq!(read(&written.into(), &Policy::COMMIT_DELTA).unwrap(), value);
        for other in [class("eval"), Value::Persistent("<<NoneType>".into())] {
            assert_eq!(write_listed(&other, &Policy::COMMIT_DELTA), Err(WriteError::NotData));
        }
        let opcode = Class { module: "deepdiff.helper".into(), name: "Opcode".into() };
        assert_eq!(write_listed(&Value::Class(Arc::new(opcode)), &Policy::COMMIT_DELTA), Err(WriteError::NotData));
    }

    #[test]
    fn nesting_is_bounded_as_for_reading() {
        let nested = |depth: usize| (0..depth).fold(Value::None, |value, _| list(vec![value]));
        scan(&write(&nested(64)).unwrap(), &Policy::DATA_ONLY).unwrap();
        assert_eq!(write(&nested(65)), Err(WriteError::TooDeep));
    }

    #[test]
    fn what_we_write_we_also_read_however_often_a_text_comes_again() {
        for len in [2, 8, 24, 25, 48, 100, 200] {
            let text = "x".repeat(len);
            for count in [200, 70_000] {
                let texts = (0..count).map(|_| Value::text(&text)).collect();
                let pickle = write(&Value::List(Arc::new(texts))).unwrap();
                let read = read(&pickle.into(), &Policy::MESSAGE);
                assert!(read.is_ok(), "{count} texts of {len} bytes: {:?}", read.err());
            }
        }
    }
}
