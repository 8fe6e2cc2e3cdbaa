//! Violations: where a pickle breaks the rules, and which one.

use std::fmt;

/// Most characters of a name in a message.
const NAME_CHARS_MAX: usize = 256;

/// Why a pickle is refused. Safe to log and to show: names are escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// The opcode's name, as Python's `pickletools` calls it.
    pub opcode: &'static str,
    /// Where that opcode begins, in bytes.
    pub offset: u64,
    /// What it asked for, escaped: module and name of a class, or a persistent id.
    pub name: Option<String>,
    /// Which rule it breaks.
    pub reason: Reason,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.opcode, self.offset)?;
        if let Some(name) = &self.name {
            write!(f, " ({name})")?;
        }
        write!(f, ": {}", self.reason)
    }
}

/// A rule that a pickle broke.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No such opcode.
    #[error("there is no such opcode")]
    UnknownOpcode,
    /// The opcode's argument goes beyond the end.
    #[error("the argument is cut off")]
    Truncated,
    /// The input ends without STOP.
    #[error("the pickle has no end")]
    NoStop,
    /// There is something after STOP.
    #[error("{count} bytes follow the end of the pickle")]
    TrailingBytes {
        /// How many bytes.
        count: u64,
    },
    /// The opcode is never allowed, or not by this policy.
    #[error("the opcode is not allowed")]
    ForbiddenOpcode,
    /// The class or persistent id is not on the list.
    #[error("the name is not on the list of what is allowed")]
    NotListed,
    /// A class is named by something that is not a literal text.
    #[error("the name is not a literal text")]
    NameNotLiteral,
    /// The class is listed, but not for this.
    #[error("{0}")]
    Misuse(&'static str),
    /// There is not enough on the stack, above the last mark.
    #[error("the stack is too short")]
    StackUnderflow,
    /// There is no mark.
    #[error("there is no mark")]
    NoMark,
    /// More than one value is left at the end.
    #[error("values are left over")]
    LeftOver,
    /// The memo has no such entry.
    #[error("the memo has no entry {0}")]
    MemoMiss(u32),
    /// The memo has that entry already, or it leaves a large gap.
    #[error("the memo entry {0} is out of order")]
    MemoOrder(u32),
    /// A text is not UTF-8.
    #[error("the text is not valid UTF-8")]
    BadUtf8,
    /// A frame that is not exactly filled by whole opcodes, or lies in another one.
    #[error("the frame does not match its content")]
    Frame,
    /// A protocol other than 2 to 5 (or what the policy allows of them), or declared at another place than the beginning.
    #[error("protocol {0} is not supported here")]
    Protocol(u8),
    /// The opcode belongs to a newer protocol than the declared one.
    #[error("the opcode needs protocol {0}")]
    NewerOpcode(u8),
    /// The opcode changes something that is not of the kind it can change.
    #[error("the opcode does not fit what it changes")]
    WrongTarget,
    /// A container is changed after it was put into another one (or into itself).
    #[error("a container is changed after it was used")]
    ChangedAfterUse,
    /// A dict key or set member that Python could not hash.
    #[error("a key or set member is not hashable")]
    Unhashable,
    /// A key without a value.
    #[error("a key has no value")]
    OddItems,
    /// A negative length.
    #[error("the length is not valid")]
    BadLength,
    /// There is too much of something.
    #[error("more than {max} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most allowed.
        max: u64,
    },
}

/// Escapes and cuts a name for a message.
pub(super) fn escape(parts: &[&[u8]]) -> String {
    let texts: Vec<String> = parts.iter().map(|part| String::from_utf8_lossy(cut(part)).into_owned()).collect();
    texts.join(" ").escape_debug().take(NAME_CHARS_MAX).collect()
}

fn cut(part: &[u8]) -> &[u8] {
    &part[..part.len().min(NAME_CHARS_MAX)]
}
