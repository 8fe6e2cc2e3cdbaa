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
