//! Values: plain Python data as a tree, with shared parts held once.

use bytes::Bytes;
use std::sync::Arc;

/// A Python value. Cloning is cheap; nesting is at most what the policy allowed, so recursion over it is safe.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `None`.
    None,
    /// `True` and `False`.
    Bool(bool),
    /// An `int` that fits into 64 bits.
    Int(i64),
    /// Any other `int`: two's complement, least significant byte first, as short as possible.
    BigInt(Bytes),
    /// A `float`.
    Float(f64),
    /// A `str`.
    Text(Arc<str>),
    /// A `bytes`.
    Bytes(Bytes),
    /// A `list`.
    List(Arc<Vec<Value>>),
    /// A `tuple`.
    Tuple(Arc<Vec<Value>>),
    /// A `dict`, in insertion order. If a key comes twice, the last one counts.
    Dict(Arc<Vec<(Value, Value)>>),
    /// A `set`; members may be listed twice.
    Set(Arc<Vec<Value>>),
    /// A `frozenset`; members may be listed twice.
    FrozenSet(Arc<Vec<Value>>),
    /// A class, as a value.
    Class(Arc<Class>),
    /// What a persistent id stands for.
    Persistent(Arc<str>),
    /// An object of a class that the policy lists. It is described, never made.
    Object(Arc<Object>),
}

/// The name of a class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// The module.
    pub module: Arc<str>,
    /// The name in the module.
    pub name: Arc<str>,
}

/// The description of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Object {
    /// Its class.
    pub class: Class,
    /// The tuple it would be made with.
    pub arguments: Value,
    /// The state it would be given, or the dict of its items; `None` if there is neither.
    pub state: Value,
}

impl Value {
    /// A text.
    pub fn text(text: impl AsRef<str>) -> Self {
        Self::Text(text.as_ref().into())
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The bytes, if it is a `bytes`.
    pub fn as_bytes(&self) -> Option<&Bytes> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// The number, if it is an `int` or `float`.
    pub fn as_f64(&self) -> Option<f64> {
        if let Self::Float(number) = self {
            return Some(*number);
        }
        let Self::Int(number) = self else { return None };
        #[expect(clippy::cast_precision_loss, reason = "beyond 2^53 the nearest double is meant")]
        Some(*number as f64)
    }

    /// The members, if it is a list or a tuple.
    pub fn as_sequence(&self) -> Option<&[Self]> {
        if let Self::List(items) | Self::Tuple(items) = self { Some(items) } else { None }
    }

    /// The pairs, if it is a dict.
    pub fn as_dict(&self) -> Option<&[(Self, Self)]> {
        if let Self::Dict(pairs) = self { Some(pairs) } else { None }
    }

    /// The object, if it is one of this class.
    pub fn as_object(&self, module: &str, name: &str) -> Option<&Object> {
        let Self::Object(object) = self else { return None };
        (&*object.class.module == module && &*object.class.name == name).then_some(object)
    }

    /// The value under a text key, if it is a dict that has it.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let pairs = self.as_dict()?;
        pairs.iter().rev().find(|(candidate, _)| candidate.as_text() == Some(key)).map(|(_, value)| value)
    }
}
