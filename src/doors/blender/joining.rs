//! Joining: a client fetches, node by node, what is there. It is given one state, whatever happens meanwhile, and is then
//! told of everything since.

use super::farewell::Farewell;
use super::lines::Lines;
use super::objects::{Snapshot, snapshot_init, snapshot_removed, snapshot_set};
use super::room::is_initialised;
use super::roster::Status;
use super::truth;
use super::visit::{Stage, Visit};
use super::wire::Channel;
use crate::session::{NodeId, Session};

/// Named in the catalogue of a session without nodes: a client that is given an empty one leaves.
const NO_NODE: &str = "00000000-0000-0000-0000-000000000000";

impl Visit {
    /// A step of joining.
    pub(super) async fn snapshot(&mut self, step: Snapshot, lines: &mut Lines) -> Result<(), Farewell> {
        match step {
            Snapshot::RequestInit => {
                if matches!(self.stage, Stage::Lobby | Stage::Told) && is_initialised(&self.state().await?) {
                    self.begin_join(lines).await?;
                }
                Ok(())
            }
            Snapshot::Get(id) => {
                self.give(&id, lines).await;
                Ok(())
            }
            Snapshot::Done => {
                if matches!(self.stage, Stage::Syncing(_)) {
                    tracing::info!("{} - Snapshot : done.", self.name());
                    self.is_now(Stage::Active, Status::Active);
                }
                self.follow(lines).await
            }
        }
    }

    /// Whoever waits in the lobby joins as soon as there is something.
    pub(super) async fn leave_the_lobby(&mut self, lines: &mut Lines) -> Result<(), Farewell> {
        if matches!(self.stage, Stage::Lobby) && is_initialised(&self.state().await?) {
            return self.begin_join(lines).await;
        }
        Ok(())
    }

    /// Begins: from here on the client is told everything.
    pub(super) async fn begin_join(&mut self, lines: &mut Lines) -> Result<(), Farewell> {
        let state = self.state().await?;
        tracing::info!("{} - Snapshot : Pushing nodes catalog", self.name());
        lines.send(Channel::Command, &catalog(&state));
        self.cursor = state.seq();
        self.stage = Stage::Syncing(Box::new(state));
        Ok(())
    }

    async fn give(&mut self, id: &NodeId, lines: &mut Lines) {
        let Stage::Syncing(state) = &self.stage else { return };
        let node = match state.node(id) {
            Some(node) => truth::chunks(node, state).await,
            None => None,
        };
        let answer = node.map_or_else(snapshot_removed, |node| snapshot_set(&node));
        lines.send(Channel::Command, &answer);
    }
}

fn catalog(state: &Session) -> Vec<bytes::Bytes> {
    let nodes = state.nodes().filter(|node| node.payload.is_blender());
    let mut ids: Vec<&str> = nodes.map(|node| node.id.as_str()).collect();
    if ids.is_empty() {
        ids.push(NO_NODE);
    }
    snapshot_init(ids)
}
