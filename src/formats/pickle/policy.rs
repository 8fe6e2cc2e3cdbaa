//! Policies: which classes a pickle may name, exactly, what it may do with them, and how large it may be.

/// What a pickle may contain besides plain data. Everything that is not listed is refused.
#[derive(Debug, Clone)]
pub struct Policy {
    /// For logs: which rules these are, for example `data-only/1`. Changes whenever a rule changes.
    pub version: &'static str,
    /// Whose opcodes are allowed.
    pub pickler: Pickler,
    /// The classes that may be named.
    pub classes: &'static [AllowedClass],
    /// The persistent ids that may be used, as exact texts.
    pub persistent_ids: &'static [&'static str],
    /// How large it may be.
    pub limits: Limits,
}

/// Whose opcodes are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pickler {
    /// Any that writes one of the protocols 2 to 5, also by hand.
    Any,
    /// CPython's, in protocol 4: neither POP, POP_MARK and DUP nor PUT.
    CPython4,
}

/// One class that a pickle may name: an exact pair, compared byte for byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllowedClass {
    /// The module, without any alias.
    pub module: &'static str,
    /// The name in the module; a dotted name is never listed.
    pub name: &'static str,
    /// What may be done with it.
    pub usage: Use,
}

/// What a pickle may do with a class that it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Only hold it as a value; never call it.
    Reference,
    /// Only make an object by NEWOBJ with a tuple of exactly so many arguments.
    NewObject {
        /// How many arguments.
        arguments: u32,
        /// What BUILD may give it.
        state: StateShape,
    },
    /// Only make an empty mapping by REDUCE with `()`, and set items in it.
    EmptyMapping,
}

/// What BUILD may give to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateShape {
    /// Nothing: BUILD is refused.
    Nothing,
    /// A dict with text keys, or the pair of `None` and such a dict.
    Attributes,
}

/// How large a pickle may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Opcodes.
    pub opcodes: u64,
    /// Containers inside each other, and marks open at once.
    pub nesting: u32,
    /// Values on the stack at once.
    pub stack: usize,
    /// Entries in the memo.
    pub memo: usize,
    /// Bytes of one integer.
    pub integer_bytes: usize,
    /// Bytes of one text or bytes value.
    pub string_bytes: usize,
    /// The size the pickle would have without shared references may be this many times its own...
    pub expansion_factor: u64,
    /// ...plus this many bytes.
    pub expansion_bytes: u64,
}

impl Limits {
    /// For pickles that arrive over a network.
    pub const MESSAGE: Self = Self {
        opcodes: 10_000_000,
        nesting: 64,
        stack: 1_000_000,
        memo: 1_000_000,
        integer_bytes: 256,
        string_bytes: 64 << 20,
        expansion_factor: 16,
        expansion_bytes: 1 << 20,
    };

    /// For a file that holds a whole session in one pickle, given by the operator: ten times as many parts, and room
    /// for what lies around the nodes.
    pub const SESSION_FILE: Self = Self { opcodes: 100_000_000, memo: 10_000_000, nesting: 72, ..Self::MESSAGE };
}

impl Policy {
    /// Plain data and no class at all: every message of the Multi-User add-on but one, and the `.db` files.
    pub const DATA_ONLY: Self = Self {
        version: "data-only/1",
        pickler: Pickler::Any,
        classes: &[],
        persistent_ids: &[],
        limits: Limits::MESSAGE,
    };

    /// Plain data, in a file that holds a whole session.
    pub const DATA_FILE: Self = Self {
        version: "data-file/1",
        pickler: Pickler::Any,
        classes: &[],
        persistent_ids: &[],
        limits: Limits::SESSION_FILE,
    };

    /// What the old server's `session_snapshot.pkl` names.
    pub const LEGACY_SNAPSHOT: Self = Self {
        version: "legacy-snapshot/1",
        pickler: Pickler::Any,
        classes: &[
            AllowedClass {
                module: "replication.repository",
                name: "GraphObjectStore",
                usage: Use::NewObject { arguments: 0, state: StateShape::Attributes },
            },
            AllowedClass {
                module: "replication.objects",
                name: "Node",
                usage: Use::NewObject { arguments: 0, state: StateShape::Attributes },
            },
        ],
        persistent_ids: &[],
        limits: Limits::SESSION_FILE,
    };

    /// What the delta in a Multi-User commit names, as the two versions of deepdiff in use write it.
    pub const COMMIT_DELTA: Self = Self {
        version: "commit-delta/1",
        pickler: Pickler::Any,
        classes: &[
            reference("int"),
            reference("float"),
            reference("bool"),
            reference("str"),
            reference("bytes"),
            reference("list"),
            reference("tuple"),
            reference("dict"),
            reference("set"),
            AllowedClass {
                module: "deepdiff.helper",
                name: "Opcode",
                usage: Use::NewObject { arguments: 7, state: StateShape::Nothing },
            },
            AllowedClass { module: "deepdiff.helper", name: "OrderedDictPlus", usage: Use::EmptyMapping },
        ],
        persistent_ids: &["<<NoneType>>"],
        limits: Limits::MESSAGE,
    };

    /// What Multi-User clients send, but for deltas. A whole file may be one bytes value.
    pub const MESSAGE: Self = Self {
        version: "message/1",
        pickler: Pickler::CPython4,
        limits: Limits { string_bytes: 256 << 20, ..Limits::MESSAGE },
        ..Self::DATA_ONLY
    };

    /// The delta in a commit that Multi-User clients send.
    pub const MESSAGE_DELTA: Self = Self {
        version: "message-delta/1",
        classes: Self::COMMIT_DELTA.classes,
        persistent_ids: Self::COMMIT_DELTA.persistent_ids,
        ..Self::MESSAGE
    };

    /// The place of a class in the list, if it is there.
    pub(super) fn find(&self, module: &str, name: &str) -> Option<u16> {
        let found = self.classes.iter().position(|class| class.module == module && class.name == name)?;
        u16::try_from(found).ok()
    }
}

/// A built-in type, as the value of `old_type` and `new_type`.
const fn reference(name: &'static str) -> AllowedClass {
    AllowedClass { module: "builtins", name, usage: Use::Reference }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_listed_class_has_a_dotted_name_and_none_of_the_builtins_can_be_called() {
        for policy in [Policy::DATA_ONLY, Policy::DATA_FILE, Policy::LEGACY_SNAPSHOT, Policy::COMMIT_DELTA] {
            for class in policy.classes {
                assert!(!class.name.contains('.'), "{class:?}");
                assert!(class.module != "builtins" || class.usage == Use::Reference, "{class:?}");
            }
        }
        assert!(Policy::DATA_ONLY.classes.is_empty() && Policy::DATA_FILE.classes.is_empty());
    }
}
