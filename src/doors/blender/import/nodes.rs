//! The nodes of both files: what each of the old parts becomes in a session.

use super::{DATABLOCK_MEDIA_TYPE, ImportError, UNKNOWN_KIND, Warnings};
use crate::formats::pickle::{Policy, Value, Violation, read, write};
use crate::session::{Limits, NodeId, NodePut, Payload};

use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes that a session allows in a node's kind and name.
const KIND_BYTES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 256;

/// The type number of a node message, in the first chunk.
const NODE_TYPE: i64 = 2;

/// `graph.store` of a snapshot: a dict of node objects by id.
pub(super) fn of_snapshot(file: &Value, limits: &Limits, warnings: &mut Warnings) -> Result<Vec<NodePut>, ImportError> {
    let store = file
        .get("graph")
        .and_then(|graph| graph.as_object("replication.repository", "GraphObjectStore"))
        .and_then(|graph| graph.state.get("store"))
        .and_then(Value::as_dict)
        .ok_or_else(|| ImportError::Structure("it has no graph with a store of nodes".to_owned()))?;
    let mut nodes = Nodes::new(limits, warnings);
    for (index, (key, object)) in store.iter().enumerate() {
        let place = || format!("number {index}");
        let id = key.as_text().ok_or_else(|| fault(place(), "its id is not a text"))?;
        let slots = object
            .as_object("replication.objects", "Node")
            .and_then(|node| node.state.as_sequence())
            .and_then(|pair| pair.get(1))
            .ok_or_else(|| fault(id, "it is not a node object with a state"))?;
        if slots.get("uuid").and_then(Value::as_text) != Some(id) {
            return Err(fault(id, "it carries another id"));
        }
        let data = slots.get("data").ok_or_else(|| fault(id, "it has no data"))?;
        let dependencies = slots.get("dependencies").ok_or_else(|| fault(id, "it has no dependencies"))?;
        let pickled = write(data).map_err(|source| ImportError::Write { node: shown(id), source })?;
        nodes.add(id, data, dependencies, pickled.into())?;
    }
    Ok(nodes.done)
}

/// `nodes` of a repository file: a list of nodes, each in the five chunks it has on the wire.
pub(super) fn of_repository(
    file: &Value,
    limits: &Limits,
    warnings: &mut Warnings,
) -> Result<Vec<NodePut>, ImportError> {
    let entries = file
        .get("nodes")
        .and_then(Value::as_sequence)
        .ok_or_else(|| ImportError::Structure("it has no list of nodes".to_owned()))?;
    let mut nodes = Nodes::new(limits, warnings);
    for (index, entry) in entries.iter().enumerate() {
        let place = format!("number {index}");
        let chunks: Option<Vec<&Bytes>> =
            entry.as_sequence().and_then(|chunks| chunks.iter().map(Value::as_bytes).collect());
        let Some([kind, id, _owner, dependencies, data]) = chunks.as_deref() else {
            return Err(fault(place, "it does not have five chunks of bytes"));
        };
        if nested(&place, "type", kind)? != Value::Int(NODE_TYPE) {
            return Err(fault(place, "it is not a node"));
        }
        let id = std::str::from_utf8(id).map_err(|_| fault(place, "its id is not UTF-8"))?;
        let dependencies = nested(id, "dependencies", dependencies)?;
        // Its own copy, so that a small node does not keep the whole file in memory.
        let pickled = Bytes::copy_from_slice(data);
        nodes.add(id, &nested(id, "data", data)?, &dependencies, pickled)?;
    }
    Ok(nodes.done)
}

fn nested(node: &str, part: &'static str, pickled: &Bytes) -> Result<Value, ImportError> {
    let refused = |violation: Violation| ImportError::NestedPickle { node: shown(node), part, violation };
    read(pickled, &Policy::DATA_ONLY).map_err(refused)
}

struct Nodes<'a> {
    limits: &'a Limits,
    warnings: &'a mut Warnings,
    seen: BTreeSet<NodeId>,
    done: Vec<NodePut>,
}

impl<'a> Nodes<'a> {
    fn new(limits: &'a Limits, warnings: &'a mut Warnings) -> Self {
        Self { limits, warnings, seen: BTreeSet::new(), done: Vec::new() }
    }

    fn add(&mut self, id: &str, data: &Value, dependencies: &Value, pickled: Bytes) -> Result<(), ImportError> {
        let node = node_id(id, id)?;
        if !self.seen.insert(node.clone()) {
            return Err(fault(id, "there is another one with its id"));
        }
        if pickled.len() as u64 > self.limits.payload_bytes {
            return Err(fault(id, format!("its data has {} bytes, over {}", pickled.len(), self.limits.payload_bytes)));
        }
        let put = NodePut {
            id: node,
            kind: self.kind(id, data)?,
            name: self.name(id, data),
            parent: None,
            order: None,
            dependencies: self.dependencies(id, dependencies)?,
            payload: Payload::Bytes { media_type: DATABLOCK_MEDIA_TYPE.into(), data: pickled },
            if_revision: None,
        };
        self.done.push(put);
        Ok(())
    }

    fn kind(&mut self, id: &str, data: &Value) -> Result<Arc<str>, ImportError> {
        match data.get("type_id").and_then(Value::as_text) {
            Some(kind) if kind.len() > KIND_BYTES_MAX => Err(fault(id, "its type has more than 64 bytes")),
            Some(kind) if !kind.is_empty() => Ok(kind.into()),
            _ => {
                self.warnings.push(format!("node {}: it does not say what it is", shown(id)));
                Ok(UNKNOWN_KIND.into())
            }
        }
    }

    fn name(&mut self, id: &str, data: &Value) -> Arc<str> {
        let name = data.get("name").and_then(Value::as_text).unwrap_or_default();
        let kept = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        if kept.len() < name.len() {
            self.warnings.push(format!("node {}: its name was cut to {} bytes", shown(id), kept.len()));
        }
        kept.into()
    }

    fn dependencies(&self, id: &str, dependencies: &Value) -> Result<Vec<NodeId>, ImportError> {
        let entries = dependencies.as_sequence().ok_or_else(|| fault(id, "its dependencies are not a list"))?;
        if entries.len() as u64 > self.limits.dependencies {
            let why = format!("it has {} dependencies, over {}", entries.len(), self.limits.dependencies);
            return Err(fault(id, why));
        }
        let texts = entries.iter().map(|entry| entry.as_text().ok_or_else(|| fault(id, "a dependency is not a text")));
        texts.map(|text| node_id(id, text?)).collect()
    }
}

fn node_id(node: &str, text: &str) -> Result<NodeId, ImportError> {
    NodeId::new(text).map_err(|invalid| fault(node, format!("the id {:?} {invalid}", shown(text))))
}

fn fault(node: impl AsRef<str>, why: impl Into<String>) -> ImportError {
    ImportError::Node { node: shown(node.as_ref()), why: why.into() }
}

/// An id for a message: escaped and cut.
fn shown(id: &str) -> String {
    id.escape_debug().take(NodeId::MAX_BYTES).collect()
}
