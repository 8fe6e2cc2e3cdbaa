//! Presence: what each member is doing right now. Passed on at once, never stored, only the newest of each.

use super::tail::{WIRE_FORMATS, WireFormat};
use crate::session::MemberName;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What one member is doing: JSON text, or nothing any more.
#[derive(Debug)]
pub struct Signal {
    /// Whose.
    pub name: MemberName,
    /// JSON text; `None` = the member is gone.
    pub data: Option<Bytes>,
    frames: [OnceLock<Bytes>; WIRE_FORMATS],
}

impl Signal {
    /// The framed bytes, encoded by the first who asks.
    pub fn frame(&self, format: WireFormat, encode: fn(&Signal) -> Bytes) -> Bytes {
        self.frames[format.slot()].get_or_init(|| encode(self)).clone()
    }
}

/// The newest signal of every member online.
#[derive(Debug, Default)]
pub struct PresenceBoard {
    inner: Mutex<Board>,
}

#[derive(Debug, Default)]
struct Board {
    version: u64,
    newest: BTreeMap<MemberName, u64>,
    by_version: BTreeMap<u64, Arc<Signal>>,
}

impl PresenceBoard {
    /// Replaces what the member is doing.
    pub fn set(&self, name: &MemberName, data: Option<Bytes>) {
        let mut board = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Board { version, newest, by_version } = &mut *board;
        let before = newest.remove(name);
        if before.is_none() && data.is_none() {
            return;
        }
        if let Some(before) = before {
            by_version.remove(&before);
        }
        *version += 1;
        newest.insert(name.clone(), *version);
        by_version.insert(*version, Arc::new(Signal { name: name.clone(), data, frames: Default::default() }));
        Self::forget_departed(newest, by_version);
    }

    /// Departures are kept only for readers that are a little behind.
    fn forget_departed(newest: &mut BTreeMap<MemberName, u64>, by_version: &mut BTreeMap<u64, Arc<Signal>>) {
        while by_version.len() > 2_048 {
            let Some(oldest) = by_version.iter().find(|(_, signal)| signal.data.is_none()).map(|(v, _)| *v) else {
                return;
            };
            if let Some(signal) = by_version.remove(&oldest) {
                newest.remove(&signal.name);
            }
        }
    }

    /// What has changed since `version`, and the version that this is. 0 = everything there is.
    pub fn since(&self, version: u64) -> (u64, Vec<Arc<Signal>>) {
        let board = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if version >= board.version {
            return (version, Vec::new());
        }
        let newer = board.by_version.range(version + 1..).map(|(_, signal)| Arc::clone(signal));
        (board.version, newer.filter(|signal| version > 0 || signal.data.is_some()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(board: &PresenceBoard, version: u64) -> Vec<(String, Option<String>)> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        board.since(version).1.iter().map(|s| (s.name.to_string(), s.data.as_ref().map(text))).collect()
    }

    #[test]
    fn a_reader_that_is_behind_gets_only_the_newest_of_each_member() {
        let board = PresenceBoard::default();
        let (alice, bob) = (MemberName::new("alice").unwrap(), MemberName::new("bob").unwrap());
        board.set(&alice, Some("1".into()));
        board.set(&bob, Some("2".into()));
        let (version, _) = board.since(0);
        board.set(&alice, Some("3".into()));
        board.set(&alice, Some("4".into()));
        assert_eq!(told(&board, version), [("alice".to_owned(), Some("4".to_owned()))]);
        board.set(&bob, None);
        assert_eq!(told(&board, 0), [("alice".to_owned(), Some("4".to_owned()))], "newcomers hear of nobody who left");
        assert_eq!(told(&board, version).len(), 2, "those who were here hear that bob is gone");
    }
}
