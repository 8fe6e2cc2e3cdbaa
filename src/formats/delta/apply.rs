//! Application: the steps of a delta, in the order in which the library takes them.
//!
//! Where the library logs that something is not there and goes on, the step is skipped; where an exception would leave
//! it, the whole delta is refused. Tuples are changed in place, which the library manages only for some.

use super::DeltaError;
use super::convert::convert;
use super::document::{Budget, Document, place_of};
use super::equal::{fingerprint, holds, same};
use super::path::Path;
use super::read::{Changes, Opcode, Rebuilt, TypeChange, index_of};
use crate::formats::pickle::Value;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Items that move in one step when one is inserted before them.
const ITEMS_PER_STEP: usize = 16;

/// Applies all changes to a value.
pub(super) fn apply(changes: &Changes, base: &Value) -> Result<Value, DeltaError> {
    let mut document = Document::new(base.clone());
    // The containers of values that were set: the library has made lists of those that are tuples.
    let mut thawed = BTreeSet::new();
    for (path, value) in &changes.values {
        if document.replace(&path.keys, value.clone())? {
            thawed.extend(above(path));
        }
    }
    for (path, members) in &changes.members_added {
        change_members(&mut document, path, |old, budget| union(old, members, budget))?;
    }
    for (path, members) in &changes.members_removed {
        change_members(&mut document, path, |old, budget| difference(old, members, budget))?;
    }
    for (path, change) in &changes.types {
        if change_type(&mut document, path, change)? {
            thawed.extend(above(path));
        }
    }
    for (path, opcodes) in &changes.opcodes {
        run_opcodes(&mut document, path, opcodes, &thawed)?;
    }
    for (path, expected) in &changes.items_removed {
        remove(&mut document, path, expected)?;
    }
    for (path, value) in &changes.items_added {
        insert(&mut document, path, value)?;
    }
    for rebuilt in &changes.rebuilt {
        rebuild(&mut document, rebuilt)?;
    }
    for (path, value) in &changes.keys_added {
        set(&mut document, path, value)?;
    }
    for (path, expected) in &changes.keys_removed {
        remove(&mut document, path, expected)?;
    }
    Ok(document.into_root())
}

/// The text of a path without its last key.
fn above(path: &Path) -> Option<&str> {
    // A key may hold brackets, but then there are quotes around it.
    let text = &*path.text;
    let end = match path.keys.last()?.as_text() {
        Some(key) => text.len().checked_sub(key.len() + "['']".len())?,
        None => text.rfind('[')?,
    };
    text.get(..end)
}

fn change_members(
    document: &mut Document,
    path: &Path,
    change: impl Fn(&[Value], &mut Budget) -> Result<Vec<Value>, DeltaError>,
) -> Result<(), DeltaError> {
    const MISSING: DeltaError = DeltaError::DoesNotApply("there is no set whose members could change");
    let (value, budget) = document.find(&path.keys)?.ok_or(MISSING)?;
    let (Value::Set(members) | Value::FrozenSet(members)) = value else { return Err(MISSING) };
    *members = Arc::new(change(members, budget)?);
    for member in members.iter() {
        budget.check_nesting(path.keys.len() + 1, member)?;
    }
    Ok(())
}

fn union(old: &[Value], more: &[Value], budget: &mut Budget) -> Result<Vec<Value>, DeltaError> {
    budget.copy(old.len() + more.len())?;
    let mut members = old.to_vec();
    for member in more {
        if !holds(&members, member, budget)? {
            members.push(member.clone());
        }
    }
    Ok(members)
}

fn difference(old: &[Value], less: &[Value], budget: &mut Budget) -> Result<Vec<Value>, DeltaError> {
    budget.copy(old.len())?;
    let mut members = Vec::with_capacity(old.len());
    for member in old {
        if !holds(less, member, budget)? {
            members.push(member.clone());
        }
    }
    Ok(members)
}

fn change_type(document: &mut Document, path: &Path, change: &TypeChange) -> Result<bool, DeltaError> {
    let new_type = match change {
        TypeChange::Value(value) => return document.replace(&path.keys, value.clone()),
        TypeChange::Conversion(new_type) => *new_type,
    };
    let Some((old, budget)) = document.find(&path.keys)? else { return Ok(false) };
    match convert(old, new_type, budget)? {
        Some(new) => document.replace(&path.keys, new),
        None => Ok(false),
    }
}

fn run_opcodes(
    document: &mut Document,
    path: &Path,
    opcodes: &[Opcode],
    thawed: &BTreeSet<&str>,
) -> Result<(), DeltaError> {
    const MISSING: DeltaError = DeltaError::DoesNotApply("there is no list to build anew");
    if let Some((container, _)) = path.split()
        && document.find(container)?.is_none()
    {
        return Ok(());
    }
    let (value, budget) = document.find(&path.keys)?.ok_or(MISSING)?;
    if matches!(value, Value::Tuple(_)) && !thawed.contains(&*path.text) {
        // The library builds the new tuple and then keeps the old one.
        return Ok(());
    }
    let (Value::List(items) | Value::Tuple(items)) = value else { return Err(MISSING) };
    let mut built = Vec::new();
    for opcode in opcodes {
        let piece = match opcode {
            Opcode::Equal(from, to) => items.get(*from.min(&items.len())..*to.min(&items.len())).unwrap_or_default(),
            Opcode::New(new) => {
                new.iter().try_for_each(|item| budget.check_nesting(path.keys.len() + 1, item))?;
                &new[..]
            }
        };
        budget.copy(piece.len())?;
        built.extend_from_slice(piece);
    }
    *items = Arc::new(built);
    Ok(())
}

/// Removes an item or a key. A list that has something else at the index loses the nearest equal item, if there is one.
fn remove(document: &mut Document, path: &Path, expected: &Value) -> Result<(), DeltaError> {
    let Some((container, key)) = path.split() else {
        return Err(DeltaError::DoesNotApply("the root cannot be removed"));
    };
    let Some((value, budget)) = document.find(container)? else { return Ok(()) };
    if let Value::Dict(pairs) = value {
        // A key may be there twice.
        while let Some(place) = place_of(pairs, key, budget)? {
            budget.work(pairs.len() / ITEMS_PER_STEP)?;
            budget.own(pairs)?.remove(place);
        }
        return Ok(());
    }
    if let Value::Text(_) | Value::Bytes(_) = value {
        return Err(DeltaError::DoesNotApply("a text has no items to remove"));
    }
    let is_list = matches!(value, Value::List(_));
    let (Value::List(items) | Value::Tuple(items)) = value else { return Ok(()) };
    let index = index_of(key).ok_or(DeltaError::DoesNotApply("a list has no such index"))?;
    let found = if is_list { nearest(items, index, expected, budget)? } else { Some(index) };
    if let Some(index) = found.filter(|index| *index < items.len()) {
        budget.work((items.len() - index) / ITEMS_PER_STEP)?;
        budget.own(items)?.remove(index);
    }
    Ok(())
}

/// Where the expected item is, or the nearest one that equals it; of two that are as near, the first.
fn nearest(items: &[Value], index: usize, expected: &Value, budget: &mut Budget) -> Result<Option<usize>, DeltaError> {
    let first = index.saturating_add(1).saturating_sub(items.len());
    for distance in first..=index.max(items.len()) {
        for place in [index.checked_sub(distance), index.checked_add(distance)].into_iter().flatten() {
            if let Some(item) = items.get(place)
                && same(item, expected, budget)?
            {
                return Ok(Some(place));
            }
        }
        budget.work(1)?;
    }
    Ok(None)
}

fn insert(document: &mut Document, path: &Path, new: &Value) -> Result<(), DeltaError> {
    const NO_LIST: DeltaError = DeltaError::DoesNotApply("there is no list to insert into");
    let (container, key) = path.split().ok_or(NO_LIST)?;
    document.budget.check_nesting(path.keys.len(), new)?;
    let Some((value, budget)) = document.find(container)? else { return Ok(()) };
    let (Value::List(items) | Value::Tuple(items)) = value else { return Err(NO_LIST) };
    let index = index_of(key).ok_or(NO_LIST)?;
    if index <= items.len() {
        budget.work((items.len() - index) / ITEMS_PER_STEP + 1)?;
        budget.own(items)?.insert(index, new.clone());
    }
    Ok(())
}

/// Sets a key, new or not. A list takes an index that it has, or the next one.
fn set(document: &mut Document, path: &Path, new: &Value) -> Result<(), DeltaError> {
    if document.replace(&path.keys, new.clone())? {
        return Ok(());
    }
    let Some((container, key)) = path.split() else { return Ok(()) };
    let Some((value, budget)) = document.find(container)? else { return Ok(()) };
    if let Value::Dict(pairs) = value {
        budget.own(pairs)?.push((key.clone(), new.clone()));
    } else if let Value::List(items) | Value::Tuple(items) = value
        && index_of(key) == Some(items.len())
    {
        budget.own(items)?.push(new.clone());
    }
    Ok(())
}

/// Builds a list whose order does not matter anew: what was added at its place, and in between, in their order, the old
/// items that are neither removed nor among what was added.
fn rebuild(document: &mut Document, rebuilt: &Rebuilt) -> Result<(), DeltaError> {
    let depth = rebuilt.path.keys.len() + 1;
    let Some((value, budget)) = document.find(&rebuilt.path.keys)? else { return Ok(()) };
    let (Value::List(items) | Value::Tuple(items)) = value else {
        return Err(DeltaError::DoesNotApply("there is no list to build anew"));
    };
    rebuilt.added.iter().try_for_each(|(_, item)| budget.check_nesting(depth, item))?;
    let mut kept = kept(items, rebuilt, budget)?.into_iter();
    budget.copy(items.len() + rebuilt.added.len())?;
    let mut places: BTreeMap<usize, usize> =
        rebuilt.added.iter().enumerate().map(|(nth, (index, _))| (*index, nth)).collect();
    let mut waiting = rebuilt.added.iter().enumerate();
    let mut built = Vec::new();
    loop {
        if let Some((_, item)) = places.remove(&built.len()).and_then(|nth| rebuilt.added.get(nth)) {
            built.push(item.clone());
        } else if let Some(item) = kept.next() {
            built.push(item);
        } else if let Some((_, (index, item))) = waiting.find(|(nth, (index, _))| places.get(index) == Some(nth)) {
            // The list has become too short for the index: the next one goes to the end.
            places.remove(index);
            built.push(item.clone());
        } else {
            break;
        }
    }
    *items = Arc::new(built);
    Ok(())
}

/// The old items that stay.
fn kept(old: &[Value], rebuilt: &Rebuilt, budget: &mut Budget) -> Result<Vec<Value>, DeltaError> {
    let mut added = BTreeSet::new();
    for (_, item) in &rebuilt.added {
        added.extend(fingerprint(item, budget)?);
    }
    let removed: BTreeMap<usize, &Value> = rebuilt.removed.iter().map(|(index, item)| (*index, item)).collect();
    let mut kept = Vec::new();
    for (index, item) in old.iter().enumerate() {
        let goes = match removed.get(&index) {
            Some(expected) => same(item, expected, budget)?,
            None => false,
        };
        if goes || (!added.is_empty() && fingerprint(item, budget)?.is_some_and(|print| added.contains(&print))) {
            continue;
        }
        kept.push(item.clone());
    }
    Ok(kept)
}
