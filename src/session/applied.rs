//! Applied operations: what makes a resent edit harmless, within a window per client program.

use super::limits::OPS_REMEMBERED;
use super::{ClientId, OpKey, Rejection};
use imbl::OrdMap;
use std::collections::BTreeSet;

/// The operations of one client program that were applied last.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ClientOps {
    /// Operation number to the `seq` of its event.
    pub(super) ops: OrdMap<u64, u64>,
    /// The `seq` of the newest of them.
    pub(super) last: u64,
}

/// The applied operations of all client programs.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Applied {
    pub(super) clients: OrdMap<ClientId, ClientOps>,
    /// Client programs by their newest `seq`: the longest silent first.
    pub(super) silent: OrdMap<u64, ClientId>,
}

impl Applied {
    /// The `seq` at which the operation was applied, `None` if it was not.
    pub(super) fn find(&self, key: OpKey) -> Result<Option<u64>, Rejection> {
        let Some(client) = self.clients.get(&key.client) else { return Ok(None) };
        if let Some(seq) = client.ops.get(&key.op) {
            return Ok(Some(*seq));
        }
        let lowest = client.ops.get_min().map_or(0, |(op, _)| *op);
        if client.ops.len() >= OPS_REMEMBERED && key.op < lowest { Err(Rejection::OpExpired) } else { Ok(None) }
    }

    pub(super) fn record(&mut self, key: OpKey, seq: u64) {
        let client = self.clients.entry(key.client).or_default();
        self.silent.remove(&client.last);
        self.silent.insert(seq, key.client);
        client.last = seq;
        client.ops.insert(key.op, seq);
        if client.ops.len() > OPS_REMEMBERED
            && let Some((lowest, _)) = client.ops.get_min().copied()
        {
            client.ops.remove(&lowest);
        }
    }

    pub(super) fn insert(&mut self, id: ClientId, client: ClientOps) {
        self.silent.insert(client.last, id);
        self.clients.insert(id, client);
    }

    /// Takes over what was applied in a state that is left: sent again, it is answered as it was, and not done again.
    pub(super) fn answers_for(&mut self, left: &Self) {
        for (id, theirs) in &left.clients {
            let mut client = self.clients.get(id).cloned().unwrap_or_default();
            let last = client.last.max(theirs.last);
            // In a state of another server the same number may be somebody else's.
            if self.silent.get(&last).is_some_and(|other| other != id) {
                continue;
            }
            for (op, seq) in &theirs.ops {
                client.ops.entry(*op).or_insert(*seq);
            }
            while client.ops.len() > OPS_REMEMBERED
                && let Some((lowest, _)) = client.ops.get_min().copied()
            {
                client.ops.remove(&lowest);
            }
            self.silent.remove(&client.last);
            client.last = last;
            self.insert(*id, client);
        }
    }

    pub(super) fn forget(&mut self, id: ClientId) {
        if let Some(client) = self.clients.remove(&id) {
            self.silent.remove(&client.last);
        }
    }

    /// Those longest silent, but for `online` ones, that must go when `id` is to be remembered.
    pub(super) fn excess(&self, id: ClientId, max: u64, online: impl FnOnce() -> BTreeSet<ClientId>) -> Vec<ClientId> {
        if self.clients.contains_key(&id) {
            return Vec::new();
        }
        let over = (self.clients.len() as u64 + 1).saturating_sub(max.max(1));
        if over == 0 {
            return Vec::new();
        }
        let online = online();
        let over = usize::try_from(over).unwrap_or(usize::MAX);
        self.silent.values().filter(|id| !online.contains(id)).take(over).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(client: u128, op: u64) -> OpKey {
        OpKey { client: ClientId(client), op }
    }

    /// What is known of these operations of client 1.
    fn known(applied: &Applied, ops: &[u64]) -> Vec<Option<u64>> {
        ops.iter().map(|op| applied.find(key(1, *op)).unwrap()).collect()
    }

    #[test]
    fn a_restored_state_answers_for_what_the_state_before_it_had_accepted() {
        let mut restored = Applied::default();
        restored.record(key(1, 1), 10);
        restored.record(key(2, 1), 11);
        let mut left = restored.clone();
        left.record(key(1, 2), 12);
        left.record(key(3, 7), 13);
        restored.answers_for(&left);
        assert_eq!(known(&restored, &[1, 2, 3]), [Some(10), Some(12), None]);
        assert_eq!(restored.find(key(3, 7)), Ok(Some(13)));
        let silent: Vec<_> = restored.silent.iter().map(|(seq, id)| (*seq, id.0)).collect();
        assert_eq!(silent, [(11, 2), (12, 1), (13, 3)]);
        // The other way round: the newer state is restored, and a younger branch is left.
        let mut newer = left.clone();
        let mut younger = Applied::default();
        younger.record(key(1, 1), 10);
        younger.record(key(1, 3), 14);
        newer.answers_for(&younger);
        assert_eq!(known(&newer, &[1, 2, 3]), [Some(10), Some(12), Some(14)]);
        assert_eq!(newer.silent.len(), newer.clients.len());
    }

    #[test]
    fn no_more_is_remembered_than_of_any_client_and_no_two_clients_share_a_number() {
        let mut left = Applied::default();
        for op in 1..=OPS_REMEMBERED as u64 {
            left.record(key(1, op), op);
        }
        let mut restored = Applied::default();
        restored.record(key(1, OPS_REMEMBERED as u64 + 1), 5_000);
        restored.answers_for(&left);
        assert_eq!(restored.clients[&ClientId(1)].ops.len(), OPS_REMEMBERED);
        assert_eq!(restored.find(key(1, 1)), Err(Rejection::OpExpired));
        // Of another server: there, the same number was another one's.
        let mut foreign = Applied::default();
        foreign.record(key(9, 1), 5_000);
        restored.answers_for(&foreign);
        assert_eq!(restored.find(key(9, 1)), Ok(None));
        assert_eq!(restored.silent.len(), restored.clients.len());
    }
}
