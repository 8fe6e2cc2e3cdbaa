//! The document: a value that is being changed, with a budget for the work and for what has to be copied.

use super::equal::same;
use super::read::index_of;
use super::{COPIES_MAX, DeltaError, NESTING_MAX, STEPS_MAX};
use crate::formats::pickle::Value;

use std::sync::Arc;

/// What is left of the limits.
#[derive(Debug)]
pub(super) struct Budget {
    steps: u64,
    copies: u64,
}

impl Budget {
    pub(super) fn full() -> Self {
        Self { steps: STEPS_MAX, copies: COPIES_MAX }
    }

    /// Takes so many steps of work.
    pub(super) fn work(&mut self, steps: usize) -> Result<(), DeltaError> {
        let left = self.steps.checked_sub(steps as u64);
        self.steps = left.ok_or(DeltaError::Limit { what: "steps of work for one delta", max: STEPS_MAX })?;
        Ok(())
    }

    /// Makes so many values anew.
    pub(super) fn copy(&mut self, values: usize) -> Result<(), DeltaError> {
        self.work(values)?;
        let left = self.copies.checked_sub(values as u64);
        self.copies = left.ok_or(DeltaError::Limit { what: "values copied for one delta", max: COPIES_MAX })?;
        Ok(())
    }

    /// The parts of a container, to change them: copied if something else has them too.
    pub(super) fn own<'v, T: Clone>(&mut self, parts: &'v mut Arc<Vec<T>>) -> Result<&'v mut Vec<T>, DeltaError> {
        if Arc::get_mut(parts).is_none() {
            self.copy(parts.len())?;
        }
        Ok(Arc::make_mut(parts))
    }

    /// Refuses a value that would lie too deep, below so many containers.
    pub(super) fn check_nesting(&mut self, above: usize, value: &Value) -> Result<(), DeltaError> {
        self.work(1)?;
        let is_container = value.as_dict().is_some() || items_of(value).is_some();
        if is_container && above >= NESTING_MAX {
            return Err(DeltaError::Limit { what: "containers inside each other", max: NESTING_MAX as u64 });
        }
        items_of(value).unwrap_or_default().iter().try_for_each(|item| self.check_nesting(above + 1, item))?;
        value.as_dict().unwrap_or_default().iter().try_for_each(|(key, value)| {
            self.check_nesting(above + 1, key)?;
            self.check_nesting(above + 1, value)
        })
    }
}

/// The items of a container that is no dict.
fn items_of(value: &Value) -> Option<&[Value]> {
    if let Value::Set(items) | Value::FrozenSet(items) = value { Some(items) } else { value.as_sequence() }
}

/// A value that is being changed.
pub(super) struct Document {
    root: Value,
    pub(super) budget: Budget,
}

impl Document {
    pub(super) fn new(root: Value) -> Self {
        Self { root, budget: Budget::full() }
    }

    pub(super) fn into_root(self) -> Value {
        self.root
    }

    /// The value at a path, to change it; `None` if there is none. Everything above it is made its own.
    pub(super) fn find(&mut self, keys: &[Value]) -> Result<Option<(&mut Value, &mut Budget)>, DeltaError> {
        let mut value = &mut self.root;
        for key in keys {
            match child(value, key, &mut self.budget)? {
                Some(found) => value = found,
                None => return Ok(None),
            }
        }
        Ok(Some((value, &mut self.budget)))
    }

    /// Puts a value where there is one. Says whether there was.
    pub(super) fn replace(&mut self, keys: &[Value], new: Value) -> Result<bool, DeltaError> {
        self.budget.check_nesting(keys.len(), &new)?;
        let Some((old, _)) = self.find(keys)? else { return Ok(false) };
        *old = new;
        Ok(true)
    }
}

/// What a container has under a key.
fn child<'v>(value: &'v mut Value, key: &Value, budget: &mut Budget) -> Result<Option<&'v mut Value>, DeltaError> {
    budget.work(1)?;
    if let Value::Dict(pairs) = value {
        let Some(place) = place_of(pairs, key, budget)? else { return Ok(None) };
        return Ok(budget.own(pairs)?.get_mut(place).map(|(_, value)| value));
    }
    let (Value::List(items) | Value::Tuple(items)) = value else { return Ok(None) };
    match index_of(key).filter(|index| *index < items.len()) {
        Some(index) => Ok(budget.own(items)?.get_mut(index)),
        None => Ok(None),
    }
}

/// Where a dict has a key. If it is there twice, the last one counts.
pub(super) fn place_of(
    pairs: &[(Value, Value)],
    key: &Value,
    budget: &mut Budget,
) -> Result<Option<usize>, DeltaError> {
    for (place, (candidate, _)) in pairs.iter().enumerate().rev() {
        if same(candidate, key, budget)? {
            return Ok(Some(place));
        }
    }
    Ok(None)
}
