//! Deltas of the Multi-User add-on: what changed in a node's data, as the Python library deepdiff writes and applies it.
//!
//! [`Delta::read`] takes a commit's pickle apart, [`Delta::apply`] gives the changed data, [`Delta::plain`] says the
//! same in the form that every version of the library accepts, and [`fold`] makes one pickle of a base and the deltas
//! after it. Where the library logs a failure and goes on, so does this; where it would raise, this refuses. All of it
//! is total: work, nesting and size are bounded, whatever the delta asks for.

mod apply;
mod convert;
mod document;
mod equal;
mod path;
mod plain;
mod read;
#[cfg(test)]
mod tests;

use crate::formats::pickle::{Policy, Value, Violation, WriteError, read as read_pickle, scan, write};

use bytes::Bytes;

/// Most steps of work that reading one delta may take, and applying it: a key looked up, a value compared, an item moved.
pub const STEPS_MAX: u64 = 50_000_000;

/// Most values that applying one delta may copy because something else shares them.
pub const COPIES_MAX: u64 = 4_000_000;

/// Most containers inside each other in the result: what a reader takes.
pub const NESTING_MAX: usize = Policy::DATA_ONLY.limits.nesting as usize;

/// What changed in a value: the content of a commit.
#[derive(Debug, Clone)]
pub struct Delta {
    dialect: Dialect,
    changes: read::Changes,
    /// What was read.
    source: Value,
}

/// Which versions of the library understand a delta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// All: it holds dicts and built-in types only.
    Plain,
    /// deepdiff 8: it holds `Opcode` objects.
    Opcodes,
    /// deepdiff 5: its levels are `OrderedDictPlus` objects.
    OrderedDictPlus,
}

/// Why a delta is refused or does not apply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// The pickle, of a delta or of a base, breaks a rule.
    #[error(transparent)]
    Pickle(#[from] Violation),
    /// A delta does not look like this.
    #[error("{0}")]
    Malformed(&'static str),
    /// A change of a sort that the add-on's clients do not make.
    #[error("changes of the sort {0} are not supported")]
    UnknownChange(String),
    /// A path that cannot be read.
    #[error("the path {0} cannot be read")]
    Path(String),
    /// It puts something into the data that is no plain data.
    #[error("a class or an object as data")]
    NotData,
    /// A conversion whose result Python would have to say.
    #[error("the conversion to {0} is not supported")]
    Conversion(&'static str),
    /// The data is not what the delta was made for, so that the library would raise.
    #[error("it does not apply: {0}")]
    DoesNotApply(&'static str),
    /// There is too much of something.
    #[error("more than {max} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most allowed.
        max: u64,
    },
    /// The result cannot be written.
    #[error("the result cannot be written: {0}")]
    Write(#[from] WriteError),
}

impl Delta {
    /// Reads the pickle of a commit's delta.
    pub fn read(pickle: &Bytes) -> Result<Self, DeltaError> {
        Self::of(read_pickle(pickle, &Policy::COMMIT_DELTA)?)
    }

    /// The changed value. What is shared with the base stays shared.
    pub fn apply(&self, base: &Value) -> Result<Value, DeltaError> {
        apply::apply(&self.changes, base)
    }

    /// Which versions of the library understand it as it is.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Whether deepdiff 5 can follow its paths: not where a key holds a quote or a backslash.
    pub fn has_simple_paths(&self) -> bool {
        let groups = self.source.as_dict().unwrap_or_default().iter().filter_map(|(_, group)| group.as_dict());
        let mut paths = groups.flatten().filter_map(|(path, _)| path.as_text());
        paths.all(|path| !path.contains(['"', '\\']))
    }

    /// The same as a pickle that every version understands; `None` if it holds opcodes.
    pub fn plain(&self) -> Option<Bytes> {
        plain::plain(self)
    }
}

/// One pickle of plain data with the same meaning as a base and the deltas after it.
pub fn fold<'a>(base: &Bytes, deltas: impl IntoIterator<Item = &'a Bytes>) -> Result<Bytes, DeltaError> {
    let mut value = read_pickle(base, &Policy::DATA_ONLY)?;
    for delta in deltas {
        value = Delta::read(delta)?.apply(&value)?;
    }
    let folded = write(&value)?;
    // What shares a great deal may have become too small for what it expands to.
    scan(&folded, &Policy::DATA_ONLY)?;
    Ok(folded.into())
}
