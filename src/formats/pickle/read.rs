//! The reader: builds a tree of values from a pickle that the scanner has let pass.

use super::opcodes::{Op, Opcodes, Step};
use super::policy::Policy;
use super::scan::scan;
use super::value::{Class, Object, Value};
use super::violation::{Reason, Violation};

use bytes::Bytes;
use std::sync::Arc;

/// Scans a pickle and reads it. Values of kind `bytes` share the input's memory; shared parts are built once.
pub fn read(bytes: &Bytes, policy: &Policy) -> Result<Value, Violation> {
    scan(bytes, policy)?;
    let mut opcodes = Opcodes::new(bytes, policy);
    let mut builder = Builder { bytes, stack: Vec::new(), marks: Vec::new(), memo: Vec::new(), used: 0, parts: vec![] };
    loop {
        let step = opcodes.next()?;
        // The scanner has seen the same instructions, so none of them can fail here.
        if let Op::Stop = step.op {
            return builder.pop().ok_or_else(|| step.violation(Reason::StackUnderflow));
        }
        builder.run(&step).ok_or_else(|| step.violation(Reason::StackUnderflow))?;
    }
}

/// A value on the stack or in the memo.
#[derive(Clone)]
enum Item {
    Vacant,
    Ready(Value),
    /// A container that may still be filled.
    Part(usize),
}

/// A container, before and after it is complete.
enum Part {
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Set(Vec<Value>),
    Object(Object),
    Complete(Value),
}

struct Builder<'a> {
    bytes: &'a Bytes,
    stack: Vec<Item>,
    marks: Vec<usize>,
    memo: Vec<Item>,
    used: usize,
    parts: Vec<Part>,
}

/// `None` in the results below would mean that the scanner let something pass that it should not have.
impl Builder<'_> {
    fn run(&mut self, step: &Step<'_>) -> Option<()> {
        match step.op {
            Op::Mark => self.marks.push(self.stack.len()),
            Op::Pop if self.marks.last() == Some(&self.stack.len()) => drop(self.marks.pop()),
            Op::Pop => drop(self.stack.pop()?),
            Op::PopMark => {
                let mark = self.marks.pop()?;
                self.stack.truncate(mark);
            }
            Op::Dup => self.stack.push(self.stack.last()?.clone()),
            Op::None => self.push(Value::None),
            Op::Bool(truth) => self.push(Value::Bool(truth)),
            Op::Int(number) => self.push(Value::Int(number)),
            Op::Long(digits) => self.push(integer(digits)),
            Op::Float(number) => self.push(Value::Float(number)),
            Op::Text(text) => self.push(Value::text(text)),
            Op::Bytes(bytes) => self.push(Value::Bytes(self.bytes.slice_ref(bytes))),
            Op::EmptyList => self.push_part(Part::List(Vec::new())),
            Op::EmptyDict => self.push_part(Part::Dict(Vec::new())),
            Op::EmptySet => self.push_part(Part::Set(Vec::new())),
            Op::Append | Op::SetItem | Op::Build => self.fill(if matches!(step.op, Op::SetItem) { 2 } else { 1 })?,
            Op::Appends | Op::SetItems | Op::AddItems => {
                let count = self.stack.len() - self.marks.pop()?;
                self.fill(count)?;
            }
            Op::FrozenSet => {
                let members = self.pop_to_mark()?;
                self.push(Value::FrozenSet(Arc::new(members)));
            }
            Op::TupleOfMark => {
                let members = self.pop_to_mark()?;
                self.push(Value::Tuple(Arc::new(members)));
            }
            Op::TupleOf(count) => {
                let members = self.pop_many(usize::from(count))?;
                self.push(Value::Tuple(Arc::new(members)));
            }
            Op::Put(index) => self.put(index as usize)?,
            Op::Memoize => self.put(self.used)?,
            Op::Get(index) => self.stack.push(self.memo.get(index as usize)?.clone()),
            Op::StackGlobal => self.name_class()?,
            Op::NewObject | Op::Reduce => self.new_object()?,
            Op::PersistentId => self.persistent_id()?,
            // The walker and the caller handle these.
            Op::Stop | Op::Proto(_) | Op::Frame(_) => {}
        }
        Some(())
    }

    fn push(&mut self, value: Value) {
        self.stack.push(Item::Ready(value));
    }

    fn push_part(&mut self, part: Part) {
        self.stack.push(Item::Part(self.parts.len()));
        self.parts.push(part);
    }

    /// Takes the top value; a container is complete from now on.
    fn pop(&mut self) -> Option<Value> {
        let item = self.stack.pop()?;
        self.complete(item)
    }

    fn complete(&mut self, item: Item) -> Option<Value> {
        let index = match item {
            Item::Vacant => return None,
            Item::Ready(value) => return Some(value),
            Item::Part(index) => index,
        };
        let part = self.parts.get_mut(index)?;
        let value = match std::mem::replace(part, Part::List(Vec::new())) {
            Part::List(items) => Value::List(Arc::new(items)),
            Part::Dict(pairs) => Value::Dict(Arc::new(pairs)),
            Part::Set(members) => Value::Set(Arc::new(members)),
            Part::Object(object) => Value::Object(Arc::new(object)),
            Part::Complete(value) => value,
        };
        *part = Part::Complete(value.clone());
        Some(value)
    }

    fn pop_many(&mut self, count: usize) -> Option<Vec<Value>> {
        let items = self.stack.split_off(self.stack.len().checked_sub(count)?);
        items.into_iter().map(|item| self.complete(item)).collect()
    }

    fn pop_to_mark(&mut self) -> Option<Vec<Value>> {
        let count = self.stack.len().checked_sub(self.marks.pop()?)?;
        self.pop_many(count)
    }

    /// Moves the top values into the container below them.
    fn fill(&mut self, count: usize) -> Option<()> {
        let values = self.pop_many(count)?;
        let Item::Part(index) = *self.stack.last()? else { return None };
        match self.parts.get_mut(index)? {
            Part::List(items) | Part::Set(items) => items.extend(values),
            Part::Dict(pairs) => pairs.extend(in_pairs(values)),
            Part::Object(object) => give(object, values),
            Part::Complete(_) => return None,
        }
        Some(())
    }

    fn put(&mut self, index: usize) -> Option<()> {
        if index >= self.memo.len() {
            self.memo.resize(index + 1, Item::Vacant);
        }
        self.memo[index] = self.stack.last()?.clone();
        self.used += 1;
        Some(())
    }

    fn name_class(&mut self) -> Option<()> {
        let (Value::Text(name), Value::Text(module)) = (self.pop()?, self.pop()?) else { return None };
        self.push(Value::Class(Arc::new(Class { module, name })));
        Some(())
    }

    fn new_object(&mut self) -> Option<()> {
        let arguments = self.pop()?;
        let Value::Class(class) = self.pop()? else { return None };
        self.push_part(Part::Object(Object { class: Class::clone(&class), arguments, state: Value::None }));
        Some(())
    }

    fn persistent_id(&mut self) -> Option<()> {
        let Value::Text(id) = self.pop()? else { return None };
        self.push(Value::Persistent(id));
        Some(())
    }
}

/// One value is a state (BUILD); more are the items of a mapping.
fn give(object: &mut Object, mut values: Vec<Value>) {
    if values.len() == 1 {
        object.state = values.remove(0);
        return;
    }
    if let Value::Dict(items) = &mut object.state {
        Arc::make_mut(items).extend(in_pairs(values));
    } else {
        object.state = Value::Dict(Arc::new(in_pairs(values)));
    }
}

fn in_pairs(values: Vec<Value>) -> Vec<(Value, Value)> {
    let mut values = values.into_iter();
    std::iter::from_fn(|| Some((values.next()?, values.next()?))).collect()
}

/// An integer in two's complement, least significant byte first.
fn integer(digits: &[u8]) -> Value {
    let negative = digits.last().is_some_and(|byte| byte & 0x80 != 0);
    let filler = if negative { 0xff } else { 0 };
    let mut digits = digits;
    // A leading byte is redundant if it only repeats the sign of the one before it.
    while let [rest @ .., before, last] = digits
        && *last == filler
        && (before & 0x80 != 0) == negative
    {
        digits = &digits[..=rest.len()];
    }
    if digits.len() > 8 {
        return Value::BigInt(Bytes::copy_from_slice(digits));
    }
    let mut number = [filler; 8];
    number[..digits.len()].copy_from_slice(digits);
    Value::Int(i64::from_le_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> Value {
        read(&Bytes::copy_from_slice(bytes), &Policy::DATA_ONLY).unwrap()
    }

    #[test]
    fn integers_of_any_length_have_one_form() {
        assert_eq!(plain(b"\x80\x02\x8a\x00."), Value::Int(0));
        assert_eq!(plain(b"\x80\x02\x8a\x01\xff."), Value::Int(-1));
        assert_eq!(plain(b"\x80\x02\x8a\x0b\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff."), Value::Int(-1));
        assert_eq!(plain(b"\x80\x02\x8a\x09\x05\0\0\0\0\0\0\0\0."), Value::Int(5));
        assert_eq!(plain(b"\x80\x02\x8a\x08\0\0\0\0\0\0\0\x80."), Value::Int(i64::MIN));
        let large = Bytes::from_static(b"\0\0\0\0\0\0\0\x80\0");
        assert_eq!(plain(b"\x80\x02\x8a\x0a\0\0\0\0\0\0\0\x80\0\0."), Value::BigInt(large));
    }

    #[test]
    fn shared_parts_are_held_once() {
        let Value::List(items) = plain(b"\x80\x04](]\x94h\x00h\x00e.") else { panic!() };
        let [Value::List(first), Value::List(second), Value::List(third)] = &items[..] else { panic!("{items:?}") };
        assert!(Arc::ptr_eq(first, second) && Arc::ptr_eq(second, third));
    }

    #[test]
    fn bytes_share_the_memory_of_the_input() {
        let input = Bytes::from_static(b"\x80\x04C\x03abc.");
        let Value::Bytes(bytes) = read(&input, &Policy::DATA_ONLY).unwrap() else { panic!() };
        assert_eq!(bytes.as_ptr(), input[4..].as_ptr());
    }

    #[test]
    fn objects_are_described_and_not_made() {
        let node = b"\x80\x04\x8c\x13replication.objects\x8c\x04Node\x93)\x81N}\x8c\x01aK\x01s\x86b.";
        let value = read(&Bytes::from_static(node), &Policy::LEGACY_SNAPSHOT).unwrap();
        let object = value.as_object("replication.objects", "Node").unwrap();
        assert_eq!(object.arguments, Value::Tuple(Arc::new(vec![])));
        assert_eq!(object.state.as_sequence().unwrap()[1].get("a"), Some(&Value::Int(1)));
        assert!(read(&Bytes::from_static(node), &Policy::DATA_ONLY).is_err());
    }

    #[test]
    fn the_items_of_a_mapping_are_its_state() {
        let mapping = b"\x80\x04\x8c\x0fdeepdiff.helper\x8c\x0fOrderedDictPlus\x93)R(\x8c\x01aNu(\x8c\x01bNu.";
        let value = read(&Bytes::from_static(mapping), &Policy::COMMIT_DELTA).unwrap();
        let state = &value.as_object("deepdiff.helper", "OrderedDictPlus").unwrap().state;
        assert_eq!(state.as_dict().unwrap().len(), 2);
    }

    #[test]
    fn of_two_equal_keys_the_last_one_counts() {
        let value = plain(b"\x80\x04}(\x8c\x01aK\x01\x8c\x01aK\x02u.");
        assert_eq!(value.get("a"), Some(&Value::Int(2)));
    }
}
