//! Names and identities: each is a type of its own, checked once where it enters.

use std::fmt;
use std::sync::Arc;

/// Why a text cannot be an identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More bytes than the kind of identity allows.
    #[error("must be at most {max} bytes long")]
    TooLong {
        /// Most bytes allowed.
        max: usize,
    },
    /// A character that this kind of identity does not allow.
    #[error("must not contain {0:?}")]
    Character(char),
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            // First, so that comparing rarely has to follow the pointer.
            prefix: u64,
            text: Arc<str>,
        }

        impl $name {
            /// Most bytes of UTF-8 that it may have.
            pub const MAX_BYTES: usize = $max;

            /// Checks a text and takes it as an identity.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                let text = text.as_ref();
                check(text, Self::MAX_BYTES, $allowed)?;
                Ok(Self::unchecked(text.into()))
            }

            /// As `new`, sharing the text instead of copying it.
            pub fn from_shared(text: Arc<str>) -> Result<Self, InvalidId> {
                check(&text, Self::MAX_BYTES, $allowed)?;
                Ok(Self::unchecked(text))
            }

            fn unchecked(text: Arc<str>) -> Self {
                Self { prefix: prefix(&text), text }
            }

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.text
            }

            /// The text itself, shared.
            pub fn shared(&self) -> Arc<str> {
                Arc::clone(&self.text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.text)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.text)
            }
        }
    };
}

fn check(text: &str, max: usize, allowed: fn(char) -> bool) -> Result<(), InvalidId> {
    if text.is_empty() {
        return Err(InvalidId::Empty);
    }
    if text.len() > max {
        return Err(InvalidId::TooLong { max });
    }
    text.chars().find(|c| !allowed(*c)).map_or(Ok(()), |c| Err(InvalidId::Character(c)))
}

/// The first bytes as a number that orders as the texts do. Shorter texts are filled up with zeros, which no identity
/// contains.
fn prefix(text: &str) -> u64 {
    let mut bytes = [0; 8];
    let len = text.len().min(bytes.len());
    bytes[..len].copy_from_slice(&text.as_bytes()[..len]);
    u64::from_be_bytes(bytes)
}

fn no_control(c: char) -> bool {
    !c.is_control()
}

fn slug(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_'
}

text_id!(
    /// Names a node in one session: 1 to 128 bytes without control characters, chosen by the client.
    NodeId, 128, no_control
);
text_id!(
    /// Names a task in one session: 1 to 128 bytes without control characters, chosen by the client.
    TaskId, 128, no_control
);
text_id!(
    /// Names a chat message in one session: 1 to 128 bytes without control characters.
    ChatId, 128, no_control
);
text_id!(
    /// What a member is called; unique among those online. 1 to 64 bytes without control characters.
    MemberName, 64, no_control
);
text_id!(
    /// Names a session: 1 to 64 of `a-z 0-9 - _`. It is also the session's folder name, so nothing else is allowed.
    SessionName, 64, slug
);

impl MemberName {
    /// The author of what the daemon itself does (start, restore, import).
    pub fn daemon() -> Self {
        Self::unchecked("~hotset".into())
    }

    /// Whether this is the daemon's own name.
    pub fn is_daemon(&self) -> bool {
        self.as_str() == "~hotset"
    }

    /// Whether only the server may use it: it begins with `~`.
    pub fn is_reserved(&self) -> bool {
        self.as_str().starts_with('~')
    }
}

impl SessionName {
    /// The session whose files lie in the data directory itself.
    pub fn default_session() -> Self {
        Self::unchecked("default".into())
    }

    /// Whether this is the default session.
    pub fn is_default(&self) -> bool {
        self.as_str() == "default"
    }
}

/// A client program across its reconnects: 128 random bits issued by the server. Secret to that client, because it
/// is half of the idempotency key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u128);

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientId(…)")
    }
}

/// Milliseconds since 1970-01-01 UTC. For display and ages only: order is by `seq`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Sees everything, chats, sets own metadata.
    Viewer,
    /// Edits nodes and tasks as well.
    Member,
    /// Edits what others have locked, and releases their locks.
    Admin,
}

impl Role {
    /// The stable name of the role, as it appears in the protocol.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_order_as_their_texts_do() {
        let mut texts = ["a", "aa", "aaaaaaaa", "aaaaaaaaa", "aaaaaaaab", "aaaaaaab", "b", "é", "日本", "~", "Z"];
        let mut ids = texts.map(|text| NodeId::new(text).expect("an id"));
        texts.sort_unstable();
        ids.sort_unstable();
        assert_eq!(ids.each_ref().map(NodeId::as_str), texts);
    }

    #[test]
    fn what_is_no_identity_is_refused() {
        assert_eq!(NodeId::new(""), Err(InvalidId::Empty));
        assert_eq!(NodeId::new("a\0b"), Err(InvalidId::Character('\0')));
        assert_eq!(NodeId::new("x".repeat(129)), Err(InvalidId::TooLong { max: 128 }));
        assert!(NodeId::new("x".repeat(128)).is_ok());
        assert_eq!(SessionName::new("A"), Err(InvalidId::Character('A')));
        assert_eq!(SessionName::new(".."), Err(InvalidId::Character('.')));
        assert!(SessionName::new("a-b_9").is_ok());
    }

    #[test]
    fn the_daemon_has_a_name_that_nobody_else_may_use() {
        assert!(MemberName::daemon().is_daemon());
        assert!(MemberName::daemon().is_reserved());
        assert_eq!(MemberName::new("~hotset").as_ref(), Ok(&MemberName::daemon()));
        assert!(!MemberName::new("alice").expect("a name").is_reserved());
    }
}
