//! The desk: what a client has asked the session for and not been answered yet.

use crate::ops::clock;
use crate::session::NodeId;
use std::collections::BTreeMap;

/// Edits that may be unanswered before nothing more is read from the client.
const UNANSWERED_MAX: usize = 256;

/// Bytes of them.
const UNANSWERED_BYTES_MAX: usize = 64 << 20;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// A whole node.
    Node(NodeId),
    /// A change of a node.
    Commit(NodeId),
    /// That a node goes.
    Delete(NodeId),
    /// That nodes change hands: to the asker, or to everyone.
    Right {
        /// Which.
        nodes: Vec<NodeId>,
        /// To the asker.
        lock: bool,
        /// It was refused before, for some of them.
        again: bool,
    },
    /// Something about tasks or chat.
    People,
}

impl Asked {
    /// The node whose content changes.
    pub(super) fn changed(&self) -> Option<&NodeId> {
        match self {
            Self::Node(id) | Self::Commit(id) => Some(id),
            Self::Delete(_) | Self::Right { .. } | Self::People => None,
        }
    }
}

/// What is unanswered.
#[derive(Debug)]
pub(super) struct Desk {
    asked: BTreeMap<u64, (Asked, usize)>,
    bytes: usize,
    last_op: u64,
}

impl Default for Desk {
    /// Operations are numbered by the clock: the same client may have been here before this daemon was.
    fn default() -> Self {
        let last_op = u64::try_from(clock::now_ms()).unwrap_or(0).saturating_mul(1_000);
        Self { asked: BTreeMap::new(), bytes: 0, last_op }
    }
}

impl Desk {
    /// Something is asked for that takes so many bytes; says under which number.
    pub(super) fn ask(&mut self, asked: Asked, bytes: usize) -> u64 {
        self.last_op += 1;
        self.bytes += bytes;
        self.asked.insert(self.last_op, (asked, bytes));
        self.last_op
    }

    /// It was answered.
    pub(super) fn answered(&mut self, op: u64) -> Option<Asked> {
        let (asked, bytes) = self.asked.remove(&op)?;
        self.bytes -= bytes;
        Some(asked)
    }

    /// Whether so much is unanswered that nothing more should be read.
    pub(super) fn is_full(&self) -> bool {
        self.asked.len() >= UNANSWERED_MAX || self.bytes >= UNANSWERED_BYTES_MAX
    }

    /// Whether everything is answered.
    pub(super) fn is_clear(&self) -> bool {
        self.asked.is_empty()
    }

    /// Whether a change of this node that the client has made is unanswered.
    pub(super) fn is_changing(&self, id: &NodeId) -> bool {
        self.asked.values().any(|(asked, _)| asked.changed() == Some(id))
    }

    /// Whether the client has put this node, and nobody knows yet whether it is there.
    pub(super) fn is_putting(&self, id: &NodeId) -> bool {
        self.asked.values().any(|(asked, _)| matches!(asked, Asked::Node(put) if put == id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_held_until_it_is_answered() {
        let mut desk = Desk::default();
        let id = NodeId::new("n").unwrap();
        let op = desk.ask(Asked::Node(id.clone()), UNANSWERED_BYTES_MAX);
        assert!(desk.is_full() && desk.is_putting(&id) && desk.is_changing(&id) && !desk.is_clear());
        assert!(desk.ask(Asked::People, 0) > op);
        assert_eq!(desk.answered(op), Some(Asked::Node(id.clone())));
        assert_eq!(desk.answered(op), None);
        assert!(!desk.is_full() && !desk.is_putting(&id) && !desk.is_changing(&id));
    }
}
