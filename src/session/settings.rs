//! Settings of the session: a few values that doors and clients keep with it, by key.

use bytes::Bytes;
use imbl::OrdMap;
use std::sync::Arc;

/// Keys that begin so are those of the door for Blender: only the daemon itself sets them.
const RESERVED: &str = "multi-user.";

/// A setting of the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// Its name: 1 to 64 bytes without control characters.
    pub key: Arc<str>,
    /// JSON text, never `null`.
    pub value: Bytes,
}

/// The settings of a session, by key.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Settings {
    pub(super) by_key: OrdMap<Arc<str>, Arc<Setting>>,
}

impl Settings {
    pub(super) fn set(&mut self, key: &Arc<str>, value: Option<&Bytes>) {
        let Some(value) = value else {
            self.by_key.remove(key);
            return;
        };
        let setting = Setting { key: Arc::clone(key), value: value.clone() };
        self.by_key.insert(Arc::clone(key), Arc::new(setting));
    }
}

/// Whether only the daemon itself sets this one.
pub fn is_reserved_setting(key: &str) -> bool {
    key.starts_with(RESERVED)
}
