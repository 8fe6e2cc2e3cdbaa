//! The reading half: a delta's dicts as typed changes, in the order in which they are applied.

use super::document::Budget;
use super::path::Path;
use super::{Delta, DeltaError, Dialect};
use crate::formats::pickle::{Object, Value};

use std::collections::BTreeMap;
use std::sync::Arc;

/// All that a delta changes.
#[derive(Debug, Clone, Default)]
pub(super) struct Changes {
    pub(super) values: Vec<(Path, Value)>,
    pub(super) members_added: Vec<(Path, Vec<Value>)>,
    pub(super) members_removed: Vec<(Path, Vec<Value>)>,
    pub(super) types: Vec<(Path, TypeChange)>,
    pub(super) opcodes: Vec<(Path, Vec<Opcode>)>,
    /// The last index first.
    pub(super) items_removed: Vec<(Path, Value)>,
    /// The first index first.
    pub(super) items_added: Vec<(Path, Value)>,
    pub(super) rebuilt: Vec<Rebuilt>,
    pub(super) keys_added: Vec<(Path, Value)>,
    /// In the order of `items_removed`.
    pub(super) keys_removed: Vec<(Path, Value)>,
}

/// Another type, by a value or by converting the old one.
#[derive(Debug, Clone)]
pub(super) enum TypeChange {
    Value(Value),
    Conversion(Type),
}

/// A type that a value can be converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Int,
    Float,
    Bool,
    Str,
    Bytes,
    List,
    Tuple,
    Dict,
    Set,
    None,
}

/// A piece of a list that is built anew.
#[derive(Debug, Clone)]
pub(super) enum Opcode {
    /// Items of the old list: the first one, and the one after the last.
    Equal(usize, usize),
    /// New items.
    New(Arc<Vec<Value>>),
}

/// A list whose order does not matter, built anew.
#[derive(Debug, Clone)]
pub(super) struct Rebuilt {
    pub(super) path: Path,
    /// What stands where in the new list, in the delta's order.
    pub(super) added: Vec<(usize, Value)>,
    /// What stood where in the old one.
    pub(super) removed: Vec<(usize, Value)>,
}

const NO_MAPPING: DeltaError = DeltaError::Malformed("a level of the delta is not a dict");

impl Delta {
    /// Takes the value of a delta's pickle apart.
    pub(super) fn of(source: Value) -> Result<Self, DeltaError> {
        let mut reader = Reader { ordered_dicts: false, budget: Budget::full() };
        let changes = reader.changes(&source)?;
        let dialect = match (reader.ordered_dicts, changes.opcodes.is_empty()) {
            (true, false) => return Err(DeltaError::Malformed("it mixes what two versions of the library write")),
            (true, true) => Dialect::OrderedDictPlus,
            (false, false) => Dialect::Opcodes,
            (false, true) => Dialect::Plain,
        };
        Ok(Self { dialect, changes, source })
    }
}

struct Reader {
    /// Whether any level was an `OrderedDictPlus`.
    ordered_dicts: bool,
    budget: Budget,
}

impl Reader {
    fn changes(&mut self, source: &Value) -> Result<Changes, DeltaError> {
        let mut changes = Changes::default();
        let (mut added_at, mut removed_at) = (Vec::new(), Vec::new());
        for (sort, level) in self.entries(source)? {
            match &*sort {
                "values_changed" => changes.values = self.each(level, Self::new_value)?,
                "set_item_added" => changes.members_added = self.each(level, members)?,
                "set_item_removed" => changes.members_removed = self.each(level, members)?,
                "type_changes" => changes.types = self.each(level, Self::type_change)?,
                "_iterable_opcodes" => changes.opcodes = self.each(level, opcodes)?,
                "iterable_item_removed" => changes.items_removed = last_first(self.each(level, data)?),
                "iterable_item_added" => changes.items_added = first_first(self.each(level, data)?),
                "iterable_items_added_at_indexes" => added_at = self.each(level, Self::indexed)?,
                "iterable_items_removed_at_indexes" => removed_at = self.each(level, Self::indexed)?,
                "dictionary_item_added" => changes.keys_added = self.each(level, data)?,
                "dictionary_item_removed" => changes.keys_removed = last_first(self.each(level, data)?),
                unknown => return Err(DeltaError::UnknownChange(shown(unknown))),
            }
        }
        changes.rebuilt = rebuilt(added_at, removed_at);
        if self.ordered_dicts {
            // Version 5 takes these in the order of a set of texts, which Python shuffles in every process. The indexes
            // in a path are those of the old lists, so what lies inside comes first; version 8 keeps the delta's order.
            changes.rebuilt.sort_by_key(|rebuilt| std::cmp::Reverse(rebuilt.path.keys.len()));
        }
        Ok(changes)
    }

    /// The entries of a level: of two equal keys, the last value at the place of the first.
    fn entries<'v>(&mut self, level: &'v Value) -> Result<Vec<(Arc<str>, &'v Value)>, DeltaError> {
        let mut entries: Vec<(Arc<str>, &Value)> = Vec::new();
        let mut places = BTreeMap::new();
        for (key, value) in self.pairs(level)? {
            let Value::Text(key) = key else { return Err(DeltaError::Malformed("a key is not a text")) };
            if let Some(place) = places.get(key).and_then(|place: &usize| entries.get_mut(*place)) {
                place.1 = value;
            } else {
                places.insert(key.clone(), entries.len());
                entries.push((key.clone(), value));
            }
        }
        Ok(entries)
    }

    fn pairs<'v>(&mut self, level: &'v Value) -> Result<&'v [(Value, Value)], DeltaError> {
        if let Some(object) = ordered_dict(level) {
            self.ordered_dicts = true;
            return Ok(object.state.as_dict().unwrap_or_default());
        }
        level.as_dict().ok_or(NO_MAPPING)
    }

    /// What there is for each path.
    fn each<T>(
        &mut self,
        level: &Value,
        read: impl Fn(&mut Self, &Value) -> Result<T, DeltaError>,
    ) -> Result<Vec<(Path, T)>, DeltaError> {
        let entries = self.entries(level)?;
        entries.into_iter().map(|(path, value)| Ok((Path::read(&path)?, read(self, value)?))).collect()
    }

    fn new_value(&mut self, change: &Value) -> Result<Value, DeltaError> {
        let fields = self.fields(change)?;
        let value = fields.get("new_value").ok_or(DeltaError::Malformed("a changed value is missing"))?;
        data(self, value)
    }

    fn type_change(&mut self, change: &Value) -> Result<TypeChange, DeltaError> {
        let fields = self.fields(change)?;
        let new_type = fields.get("new_type").and_then(|new| Type::of(new));
        let new_type = new_type.ok_or(DeltaError::Malformed("a changed type is missing"))?;
        if let Some(old) = fields.get("old_type") {
            Type::of(old).ok_or(DeltaError::Malformed("an old type is none"))?;
        }
        Ok(match fields.get("new_value") {
            Some(value) => TypeChange::Value(data(self, value)?),
            None => TypeChange::Conversion(new_type),
        })
    }

    /// The fields of a change. Those that the library reads nothing from are checked, because they are passed on.
    fn fields<'v>(&mut self, change: &'v Value) -> Result<BTreeMap<Arc<str>, &'v Value>, DeltaError> {
        let fields: BTreeMap<_, _> = self.entries(change)?.into_iter().collect();
        for (name, value) in &fields {
            match &**name {
                "new_value" | "old_type" | "new_type" => {}
                "old_value" => drop(data(self, value)?),
                "new_path" if value.as_text().is_some() => {}
                unknown => return Err(DeltaError::UnknownChange(shown(unknown))),
            }
        }
        Ok(fields)
    }

    fn indexed(&mut self, level: &Value) -> Result<Vec<(usize, Value)>, DeltaError> {
        let mut items = Vec::new();
        let mut places = BTreeMap::new();
        for (index, value) in self.pairs(level)? {
            let index = index_of(index).ok_or(DeltaError::Malformed("an index is none"))?;
            let value = data(self, value)?;
            if let Some((_, old)) = places.get(&index).and_then(|place: &usize| items.get_mut(*place)) {
                *old = value;
            } else {
                places.insert(index, items.len());
                items.push((index, value));
            }
        }
        Ok(items)
    }
}

impl Type {
    fn of(value: &Value) -> Option<Self> {
        if let Value::Persistent(id) = value {
            return (&**id == "<<NoneType>>").then_some(Self::None);
        }
        let Value::Class(class) = value else { return None };
        if &*class.module != "builtins" {
            return None;
        }
        Some(match &*class.name {
            "int" => Self::Int,
            "float" => Self::Float,
            "bool" => Self::Bool,
            "str" => Self::Str,
            "bytes" => Self::Bytes,
            "list" => Self::List,
            "tuple" => Self::Tuple,
            "dict" => Self::Dict,
            "set" => Self::Set,
            _ => return None,
        })
    }
}

/// The object, if it is a level as deepdiff 5 writes it.
pub(super) fn ordered_dict(value: &Value) -> Option<&Object> {
    value.as_object("deepdiff.helper", "OrderedDictPlus")
}

/// An index as far as it can be one.
pub(super) fn index_of(value: &Value) -> Option<usize> {
    if let Value::Int(index) = value { usize::try_from(*index).ok() } else { None }
}

fn shown(name: &str) -> String {
    name.chars().take(100).flat_map(char::escape_debug).collect()
}

/// A value that may become part of the data.
fn data(reader: &mut Reader, value: &Value) -> Result<Value, DeltaError> {
    check_data(value, &mut reader.budget)?;
    Ok(value.clone())
}

/// Refuses what is no plain data. Shared parts are visited as often as they are used, as long as the budget lasts.
fn check_data(value: &Value, budget: &mut Budget) -> Result<(), DeltaError> {
    budget.work(1)?;
    match value {
        Value::Class(_) | Value::Persistent(_) | Value::Object(_) => Err(DeltaError::NotData),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            items.iter().try_for_each(|item| check_data(item, budget))
        }
        Value::Dict(pairs) => pairs.iter().try_for_each(|(key, value)| {
            check_data(key, budget)?;
            check_data(value, budget)
        }),
        Value::None
        | Value::Bool(_)
        | Value::Int(_)
        | Value::BigInt(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::Bytes(_) => Ok(()),
    }
}

fn members(reader: &mut Reader, value: &Value) -> Result<Vec<Value>, DeltaError> {
    check_data(value, &mut reader.budget)?;
    let (Value::Set(members) | Value::FrozenSet(members)) = value else {
        return Err(DeltaError::Malformed("changed members are not a set"));
    };
    Ok(members.to_vec())
}

fn opcodes(reader: &mut Reader, value: &Value) -> Result<Vec<Opcode>, DeltaError> {
    let Value::List(opcodes) = value else { return Err(DeltaError::Malformed("the opcodes are not a list")) };
    let mut pieces = Vec::with_capacity(opcodes.len());
    let mut copied = 0;
    for opcode in opcodes.iter() {
        let piece = piece(reader, opcode)?;
        if let Some(Opcode::Equal(from, to)) = piece {
            // The library's never do. So a list cannot grow by more than the delta brings along.
            if from < copied || to < from {
                return Err(DeltaError::Malformed("opcodes take old items twice or out of order"));
            }
            copied = to;
        }
        pieces.extend(piece);
    }
    Ok(pieces)
}

/// One opcode; `None` if it contributes nothing.
fn piece(reader: &mut Reader, opcode: &Value) -> Result<Option<Opcode>, DeltaError> {
    const MALFORMED: DeltaError = DeltaError::Malformed("an opcode is not one");
    let object = opcode.as_object("deepdiff.helper", "Opcode").ok_or(MALFORMED)?;
    let Some([tag, from, to, _, _, _, new]) = object.arguments.as_sequence() else { return Err(MALFORMED) };
    check_data(&object.arguments, &mut reader.budget)?;
    match (tag.as_text(), new) {
        (Some("equal"), _) => {
            let (from, to) = index_of(from).zip(index_of(to)).ok_or(MALFORMED)?;
            Ok(Some(Opcode::Equal(from, to)))
        }
        (Some("replace" | "insert"), Value::List(items) | Value::Tuple(items)) => Ok(Some(Opcode::New(items.clone()))),
        (Some("delete"), _) => Ok(None),
        _ => Err(MALFORMED),
    }
}

fn first_first(mut items: Vec<(Path, Value)>) -> Vec<(Path, Value)> {
    items.sort_by(|(one, _), (other, _)| one.order(other));
    items
}

fn last_first(mut items: Vec<(Path, Value)>) -> Vec<(Path, Value)> {
    items.sort_by(|(one, _), (other, _)| other.order(one));
    items
}

type Indexed = Vec<(Path, Vec<(usize, Value)>)>;

/// Joins both halves: first the paths that have something added, then those that only lose something.
fn rebuilt(added: Indexed, removed: Indexed) -> Vec<Rebuilt> {
    let mut places = BTreeMap::new();
    let mut all: Vec<Rebuilt> = Vec::new();
    for (path, added) in added {
        places.insert(path.text.clone(), all.len());
        all.push(Rebuilt { path, added, removed: Vec::new() });
    }
    for (path, removed) in removed {
        match places.get(&path.text).and_then(|place| all.get_mut(*place)) {
            Some(both) => both.removed = removed,
            None => all.push(Rebuilt { path, added: Vec::new(), removed }),
        }
    }
    all
}
