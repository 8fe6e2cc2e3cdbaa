//! The plain form: the same delta without any class of the library, which each of its versions reads.

use super::read::{Changes, ordered_dict};
use super::{Delta, Dialect};
use crate::formats::pickle::{Policy, Value, write_listed};

use bytes::Bytes;
use std::sync::Arc;

/// Dicts inside each other that belong to a delta itself.
const LEVELS: u32 = 3;

const ADDED: &str = "iterable_items_added_at_indexes";
const REMOVED: &str = "iterable_items_removed_at_indexes";

/// The delta as a pickle of dicts; `None` if it holds opcodes, which only version 8 knows.
pub(super) fn plain(delta: &Delta) -> Option<Bytes> {
    let value = match delta.dialect {
        Dialect::Plain => delta.source.clone(),
        Dialect::Opcodes => return None,
        Dialect::OrderedDictPlus => {
            let mut sorts = pairs(without_objects(&delta.source, LEVELS));
            reorder(&mut sorts, &delta.changes);
            Value::Dict(Arc::new(sorts))
        }
    };
    write_listed(&value, &Policy::COMMIT_DELTA).ok().map(Bytes::from)
}

/// Dicts in place of the library's, which are levels of the delta: the delta itself, its sorts of changes, and changes.
fn without_objects(value: &Value, levels: u32) -> Value {
    let pairs = match ordered_dict(value) {
        Some(object) => object.state.as_dict().unwrap_or_default(),
        None => match value.as_dict().filter(|_| levels > 0) {
            Some(pairs) => pairs,
            None => return value.clone(),
        },
    };
    let below = levels.saturating_sub(1);
    Value::Dict(Arc::new(pairs.iter().map(|(key, value)| (key.clone(), without_objects(value, below))).collect()))
}

fn pairs(value: Value) -> Vec<(Value, Value)> {
    let Value::Dict(pairs) = value else { return Vec::new() };
    Arc::unwrap_or_clone(pairs)
}

/// Writes the lists that are built anew in the order in which they are taken here. Version 8 keeps the order of those
/// that have something added, so all of them are there, if need be with nothing.
fn reorder(sorts: &mut Vec<(Value, Value)>, changes: &Changes) {
    if changes.rebuilt.is_empty() {
        return;
    }
    sorts.retain(|(sort, _)| !matches!(sort.as_text(), Some(ADDED | REMOVED)));
    let level = |items: &dyn Fn(usize) -> Option<Value>| {
        let paths = changes.rebuilt.iter().enumerate();
        let entries = paths.filter_map(|(nth, rebuilt)| Some((Value::Text(rebuilt.path.text.clone()), items(nth)?)));
        Value::Dict(Arc::new(entries.collect()))
    };
    let indexed = |items: &[(usize, Value)]| {
        let index = |index: usize| Value::Int(i64::try_from(index).unwrap_or(i64::MAX));
        Value::Dict(Arc::new(items.iter().map(|(at, item)| (index(*at), item.clone())).collect()))
    };
    let added = level(&|nth| changes.rebuilt.get(nth).map(|rebuilt| indexed(&rebuilt.added)));
    let removed = level(&|nth| {
        let rebuilt = changes.rebuilt.get(nth)?;
        (!rebuilt.removed.is_empty()).then(|| indexed(&rebuilt.removed))
    });
    sorts.push((Value::text(ADDED), added));
    sorts.push((Value::text(REMOVED), removed));
}
