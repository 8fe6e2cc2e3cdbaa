//! Decides what is asked of the session's settings, and that it begins anew.

use super::{Deciding, invalid, text, within};
use crate::formats::json;
use crate::session::{Change, Rejection, Role, is_reserved_setting};
use bytes::Bytes;
use std::sync::Arc;

/// Most bytes of a key.
const KEY_BYTES: usize = 64;

/// Most bytes of the path of an archive.
const ARCHIVE_BYTES: usize = 256;

impl Deciding<'_> {
    pub(super) fn setting_set(&self, key: &Arc<str>, value: Option<&Bytes>) -> Result<Change, Rejection> {
        if is_reserved_setting(key) && !self.author.name.is_daemon() {
            return Err(Rejection::Reserved(format!("the setting {key:?}")));
        }
        if self.author.role != Role::Admin {
            return Err(self.forbidden());
        }
        text("key", key, 1, KEY_BYTES)?;
        if key.chars().any(char::is_control) {
            return Err(invalid("key", "must not contain control characters"));
        }
        if let Some(value) = value {
            within("bytes of one setting", value.len() as u64, self.limits.setting_bytes)?;
            self.work(value.len() as u64)?;
            json::valid(value, self.json_depth()).map_err(|error| invalid("value", error.to_string()))?;
            if value.trim_ascii() == b"null" {
                return Err(invalid("value", "null is no value: leave it out to remove the setting"));
            }
            let settings = &self.session.settings.by_key;
            if !settings.contains_key(key) {
                within("settings", settings.len() as u64 + 1, self.limits.settings)?;
            }
        }
        Ok(Change::SettingChanged { key: Arc::clone(key), value: value.cloned() })
    }

    /// Whether everything is in that file is for whoever asks to know.
    pub(super) fn session_clear(&self, archive: &Arc<str>) -> Result<Change, Rejection> {
        if !self.author.name.is_daemon() {
            return Err(Rejection::Reserved("clearing the session".to_owned()));
        }
        text("archive", archive, 1, ARCHIVE_BYTES)?;
        Ok(Change::SessionCleared { archive: Arc::clone(archive) })
    }
}
