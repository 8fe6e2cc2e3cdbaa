//! Secrets that cannot be shown by accident, and comparing them without telling how near a guess was.

use std::fmt;
use std::io;
use std::path::Path;

/// A password or token. Its `Debug` and `Display` are redacted; [`Secret::reveal`] is the only way to its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<str>);

impl Secret {
    /// Takes a text as a secret.
    pub fn new(text: &str) -> Self {
        Self(text.into())
    }

    /// The text itself: for writing it to its own file or showing it to the operator who asked.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether it is deliberately none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Knows a secret only as a keyed hash, and compares in constant time.
#[derive(Clone)]
pub struct SecretCheck {
    key: [u8; 32],
    expected: blake3::Hash,
}

impl SecretCheck {
    /// Prepares the check; `key` should be random and new for each start.
    pub fn new(secret: &Secret, key: [u8; 32]) -> Self {
        Self { key, expected: blake3::keyed_hash(&key, secret.reveal().as_bytes()) }
    }

    /// Whether `candidate` is the secret. How long it takes depends on the candidate's length only.
    pub fn accepts(&self, candidate: &[u8]) -> bool {
        blake3::keyed_hash(&self.key, candidate) == self.expected
    }
}

impl fmt::Debug for SecretCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretCheck(…)")
    }
}

/// Refuses what is no regular file: opening a pipe to read a secret from would wait for a writer, perhaps for ever.
pub fn check_file(path: &Path) -> io::Result<()> {
    if path.metadata()?.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::new("hunter2");
        assert!(!format!("{secret:?} {secret}").contains("hunter2"));
        assert!(!format!("{:?}", SecretCheck::new(&secret, [7; 32])).contains("hunter2"));
    }

    #[test]
    fn only_the_secret_itself_is_accepted() {
        let check = SecretCheck::new(&Secret::new("hunter2"), [7; 32]);
        assert!(check.accepts(b"hunter2"));
        for guess in ["", "hunter", "hunter22", "Hunter2", "hunter2\0"] {
            assert!(!check.accepts(guess.as_bytes()), "{guess:?}");
        }
    }
}
