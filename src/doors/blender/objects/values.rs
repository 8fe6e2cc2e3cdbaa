//! What stands in the pickles that the server reads itself, and how large those may be.

use super::{Fault, Owner};
use crate::formats::pickle::{Limits, Policy, Value, read};
use crate::session::{MemberName, NodeId};

use bytes::Bytes;
use std::sync::Arc;

/// A policy, and most bytes of the pickle.
pub(super) struct Size {
    policy: Policy,
    bytes: usize,
}

/// A few texts.
pub(super) const SMALL: Size = size("message-small/1", 64 << 10, Limits { opcodes: 4_096, nesting: 8, ..BASE });

/// A list of ids: two opcodes for each, and two where one comes again.
pub(super) const LIST: Size = size("message-list/1", 32 << 20, Limits { opcodes: 1_000_000, nesting: 8, ..BASE });

/// A list of ids or of a node's chunks.
pub(super) const SNAPSHOT: Size = size("message-snapshot/1", usize::MAX, LIST.policy.limits);

/// A user's metadata. It is nested less deeply than others, because it is sent inside a list of users.
const METADATA: Size = size("message-metadata/1", 4 << 20, Limits { opcodes: 200_000, nesting: 32, ..BASE });

/// Most entries of a user's metadata, and bytes of a key.
const ENTRIES_MAX: usize = 256;
const KEY_BYTES_MAX: usize = 256;

const BASE: Limits = Policy::MESSAGE.limits;

const fn size(version: &'static str, bytes: usize, limits: Limits) -> Size {
    Size { policy: Policy { version, limits, ..Policy::MESSAGE }, bytes }
}

/// Scans a pickle and builds its value.
pub(super) fn pickle(data: &Bytes, size: &Size) -> Result<Value, Fault> {
    if data.len() > size.bytes {
        return Err(Fault::TooMuch { what: "bytes", max: size.bytes as u64 });
    }
    Ok(read(data, &size.policy)?)
}

/// A dict that is read field by field. Fields that nobody asks for are of no account: they are not passed on.
pub(super) struct FieldsOf<'v>(pub(super) &'v Value);

impl<'v> FieldsOf<'v> {
    pub(super) fn get(&self, key: &'static str) -> Result<&'v Value, Fault> {
        self.0.get(key).ok_or(Fault::Missing(key))
    }

    pub(super) fn text(&self, key: &'static str) -> Result<Arc<str>, Fault> {
        self.text_or_none(key)?.ok_or(Fault::Missing(key))
    }

    pub(super) fn text_or_none(&self, key: &'static str) -> Result<Option<Arc<str>>, Fault> {
        let value = self.get(key)?;
        if *value == Value::None {
            return Ok(None);
        }
        let Value::Text(text) = value else { return Err(Fault::Missing(key)) };
        Ok(Some(Arc::clone(text)))
    }
}

/// An id of a node.
pub(super) fn id(value: &Value) -> Result<NodeId, Fault> {
    let Value::Text(text) = value else { return Err(Fault::Shape("an id is not a text")) };
    NodeId::from_shared(Arc::clone(text)).map_err(|_| Fault::Shape("this cannot be a node's id"))
}

/// A list of ids.
pub(super) fn ids(value: &Value) -> Result<Vec<NodeId>, Fault> {
    let Value::List(items) = value else { return Err(Fault::Shape("not a list of ids")) };
    items.iter().map(id).collect()
}

/// An owner of nodes.
pub(super) fn owner(name: &str) -> Result<Owner, Fault> {
    if name == Owner::COMMON {
        return Ok(Owner::Common);
    }
    MemberName::new(name).map(Owner::Member).map_err(|_| Fault::Shape("this cannot be a user's name"))
}

/// The entries of a user's metadata. If a key comes twice, the last one counts.
pub(super) fn entries(data: &Bytes) -> Result<Vec<(Arc<str>, Value)>, Fault> {
    let value = pickle(data, &METADATA)?;
    let pairs = value.as_dict().ok_or(Fault::Shape("not a dict"))?;
    if pairs.len() > ENTRIES_MAX {
        return Err(Fault::TooMuch { what: "entries", max: ENTRIES_MAX as u64 });
    }
    let mut entries: Vec<(Arc<str>, Value)> = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let Value::Text(key) = key else { return Err(Fault::Shape("a key is not a text")) };
        if key.len() > KEY_BYTES_MAX {
            return Err(Fault::TooMuch { what: "bytes of a key", max: KEY_BYTES_MAX as u64 });
        }
        match entries.iter_mut().find(|(known, _)| known == key) {
            Some(known) => known.1 = value.clone(),
            None => entries.push((Arc::clone(key), value.clone())),
        }
    }
    Ok(entries)
}
