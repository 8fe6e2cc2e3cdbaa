//! Presence: what each member is doing right now. Passed on at once, never stored, only the newest of each.

use super::tail::{WIRE_FORMATS, WireFormat};
use crate::session::MemberName;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

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

/// The newest signal of every member who is here, each from the one connection that speaks for them.
#[derive(Debug, Default)]
pub struct PresenceBoard {
    inner: Mutex<Board>,
}

#[derive(Debug, Default)]
struct Board {
    version: u64,
    /// The connection that speaks for each name: nobody else is heard under it.
    speakers: BTreeMap<MemberName, u64>,
    newest: BTreeMap<MemberName, u64>,
    by_version: BTreeMap<u64, Arc<Signal>>,
}

impl PresenceBoard {
    fn lock(&self) -> MutexGuard<'_, Board> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on this connection speaks for the member.
    pub(super) fn admit(&self, name: &MemberName, connection: u64) {
        self.lock().speakers.insert(name.clone(), connection);
    }

    /// Replaces what the member is doing, if this connection speaks for them; says whether it does.
    pub(super) fn signal(&self, name: &MemberName, connection: u64, data: Bytes) -> bool {
        let mut board = self.lock();
        let speaks = board.speakers.get(name) == Some(&connection);
        if speaks {
            board.set(name, Some(data));
        }
        speaks
    }

    /// The connection has gone; if it spoke for the member, so is what they were doing. Says whether anything changed.
    pub(super) fn depart(&self, name: &MemberName, connection: u64) -> bool {
        let mut board = self.lock();
        let speaks = board.speakers.get(name) == Some(&connection);
        if speaks {
            board.speakers.remove(name);
            board.set(name, None);
        }
        speaks
    }

    /// What has changed since `version`, and the version that this is. 0 = everything there is.
    pub fn since(&self, version: u64) -> (u64, Vec<Arc<Signal>>) {
        let board = self.lock();
        if version >= board.version {
            return (version, Vec::new());
        }
        let newer = board.by_version.range(version + 1..).map(|(_, signal)| Arc::clone(signal));
        (board.version, newer.filter(|signal| version > 0 || signal.data.is_some()).collect())
    }
}

impl Board {
    fn set(&mut self, name: &MemberName, data: Option<Bytes>) {
        let before = self.newest.remove(name);
        if before.is_none() && data.is_none() {
            return;
        }
        if let Some(before) = before {
            self.by_version.remove(&before);
        }
        self.version += 1;
        self.newest.insert(name.clone(), self.version);
        let signal = Signal { name: name.clone(), data, frames: Default::default() };
        self.by_version.insert(self.version, Arc::new(signal));
        self.forget_departed();
    }

    /// Departures are kept only for readers that are a little behind.
    fn forget_departed(&mut self) {
        while self.by_version.len() > 2_048 {
            let oldest = self.by_version.iter().find(|(_, signal)| signal.data.is_none()).map(|(version, _)| *version);
            let Some(signal) = oldest.and_then(|version| self.by_version.remove(&version)) else { return };
            self.newest.remove(&signal.name);
        }
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
        board.admit(&alice, 1);
        board.admit(&bob, 2);
        board.signal(&alice, 1, "1".into());
        board.signal(&bob, 2, "2".into());
        let (version, _) = board.since(0);
        board.signal(&alice, 1, "3".into());
        board.signal(&alice, 1, "4".into());
        assert_eq!(told(&board, version), [("alice".to_owned(), Some("4".to_owned()))]);
        board.depart(&bob, 2);
        assert_eq!(told(&board, 0), [("alice".to_owned(), Some("4".to_owned()))], "newcomers hear of nobody who left");
        assert_eq!(told(&board, version).len(), 2, "those who were here hear that bob is gone");
    }

    #[test]
    fn only_the_connection_that_speaks_for_a_name_is_heard_and_takes_it_away() {
        let board = PresenceBoard::default();
        let alice = MemberName::new("alice").unwrap();
        board.admit(&alice, 1);
        board.admit(&alice, 2);
        assert!(!board.signal(&alice, 1, "1".into()), "it was replaced");
        assert!(board.signal(&alice, 2, "2".into()));
        assert!(!board.depart(&alice, 1));
        assert_eq!(told(&board, 0), [("alice".to_owned(), Some("2".to_owned()))]);
        assert!(board.depart(&alice, 2));
        assert!(!board.signal(&alice, 2, "3".into()), "it has gone");
        assert_eq!(told(&board, 0), []);
    }
}
