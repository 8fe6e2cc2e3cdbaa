//! Settling: a client reads commands before data. It must not hear that a node is gone while a change of that node may
//! still be on its way: a change of a node that it lacks makes it leave.

use crate::session::NodeId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long data may take to be read by a client that keeps up.
pub(super) const SETTLED_AFTER: Duration = Duration::from_millis(200);

/// Nodes that are remembered before the settled ones are forgotten.
const REMEMBERED: usize = 256;

/// Which nodes were sent to one client a moment ago.
#[derive(Debug)]
pub(super) struct Settling {
    after: Duration,
    sent: BTreeMap<NodeId, Instant>,
}

impl Settling {
    /// Nodes settle after this time.
    pub(super) fn new(after: Duration) -> Self {
        Self { after, sent: BTreeMap::new() }
    }

    /// A node, or a change of it, was sent.
    pub(super) fn sent(&mut self, id: &NodeId, now: Instant) {
        if self.sent.len() >= REMEMBERED && !self.sent.contains_key(id) {
            self.sent.retain(|_, at| now.saturating_duration_since(*at) < self.after);
        }
        self.sent.insert(id.clone(), now);
    }

    /// When the node, or a change of it, was sent last, as far as that is remembered.
    pub(super) fn last(&self, id: &NodeId) -> Option<Instant> {
        self.sent.get(id).copied()
    }

    /// Whether what was sent of the node has been read by now.
    pub(super) fn is_settled(&self, id: &NodeId, now: Instant) -> bool {
        self.sent.get(id).is_none_or(|at| now.saturating_duration_since(*at) >= self.after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::clock;

    #[test]
    fn a_node_settles_after_a_while() {
        let (mut settling, start) = (Settling::new(SETTLED_AFTER), clock::instant());
        let id = NodeId::new("n").unwrap();
        assert!(settling.is_settled(&id, start));
        settling.sent(&id, start);
        assert!(!settling.is_settled(&id, start + SETTLED_AFTER / 2));
        assert!(settling.is_settled(&id, start + SETTLED_AFTER));
    }

    #[test]
    fn those_settled_are_forgotten() {
        let (mut settling, start) = (Settling::new(SETTLED_AFTER), clock::instant());
        for n in 0..10 * REMEMBERED {
            let id = NodeId::new(n.to_string()).unwrap();
            settling.sent(&id, start + SETTLED_AFTER * u32::try_from(n / REMEMBERED).unwrap());
        }
        assert!(settling.sent.len() <= 2 * REMEMBERED);
    }
}
