//! Small server messages, and the words for refusals.

use crate::live::{Mode, Refusal};
use serde::Serialize;
use serde_json::value::RawValue;

/// A server message that is small and the same in both formats.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Outgoing<'a> {
    Welcome(&'a Welcome<'a>),
    Ack { op: u64, seq: u64 },
    Reject { op: Option<u64>, code: &'a str, message: &'a str },
    Saved { seq: u64, at: i64, reason: &'a str },
    Health { mode: &'a str, message: &'a str },
    Error { code: &'a str, message: &'a str },
    Closing { reason: &'a str, retry_in_ms: u64 },
    Pong(Pong<'a>),
}

/// The answer to `hello`.
#[derive(Debug, Serialize)]
pub(super) struct Welcome<'a> {
    pub(super) session: &'a str,
    pub(super) name: &'a str,
    pub(super) role: &'a str,
    pub(super) client: String,
    pub(super) branch: String,
    pub(super) run: String,
    pub(super) seq: u64,
    pub(super) resumed: bool,
    pub(super) mode: &'a str,
    pub(super) message: &'a str,
    pub(super) pending_max: usize,
    pub(super) message_bytes_max: usize,
}

/// The answer to `ping`.
#[derive(Debug, Serialize)]
pub(super) struct Pong<'a> {
    id: &'a RawValue,
}

pub(super) fn pong(id: &str) -> Outgoing<'_> {
    let id = serde_json::from_str(id).unwrap_or(RawValue::NULL);
    Outgoing::Pong(Pong { id })
}

pub(super) fn mode_words(mode: &Mode) -> (&'static str, &str) {
    match mode {
        Mode::Live => ("live", ""),
        Mode::ReadOnly(why) => ("read_only", why),
    }
}

pub(super) fn health(mode: &Mode) -> Outgoing<'_> {
    let (mode, message) = mode_words(mode);
    Outgoing::Health { mode, message }
}

/// The stable code of a refusal, and what it says to people.
pub(super) fn refusal(why: &Refusal) -> (&'static str, String) {
    match why {
        Refusal::Rejected(rejection) => (rejection.code(), rejection.to_string()),
        Refusal::ReadOnly(why) => ("read_only", why.to_string()),
        Refusal::TooMuchWork => {
            ("rate_limited", "too much of what you asked for is unfinished: wait for its acks".to_owned())
        }
        Refusal::Restored(why) => ("restored", (*why).to_owned()),
        Refusal::SaveFailed(why) => ("save_failed", why.to_string()),
    }
}
