//! The opening: a session without content is given its first by one client.

use super::farewell::Farewell;
use super::lines::Lines;
use super::objects::{InitState, NodeObject, ServerSnapshot, server_snapshot};
use super::room::{INITIALISED, INITIALISING, is_initialised};
use super::roster::Status;
use super::visit::{Stage, Visit};
use super::wire::Channel;
use crate::live::EditError;
use crate::session::{NodeId, Operation, Session};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Nodes that are removed in one edit.
const REMOVED_AT_ONCE: usize = 1_000;

/// How far a client is with giving the session its content.
pub(super) struct Opening {
    /// Those that are still to come.
    announced: BTreeSet<NodeId>,
    /// It has announced none: then only its word ends it.
    empty: bool,
    /// It has said that there are no more.
    ended: bool,
}

impl Visit {
    /// A step of giving the session its content.
    pub(super) async fn server_snapshot(&mut self, step: ServerSnapshot, lines: &mut Lines) -> Result<(), Farewell> {
        match step {
            ServerSnapshot::Init { nodes } => self.open(nodes, lines).await,
            ServerSnapshot::Set(node) => self.opening_node(node).await,
            ServerSnapshot::End => {
                if let Stage::Opening(opening) = &mut self.stage {
                    opening.ended = true;
                }
                self.go_on_opening(lines).await
            }
        }
    }

    async fn open(&mut self, nodes: Vec<NodeId>, lines: &mut Lines) -> Result<(), Farewell> {
        let state = self.state().await?;
        let reject = server_snapshot(InitState::Rejected);
        if is_initialised(&state) {
            lines.send(Channel::Command, &reject);
            // It is back in the lobby then, and would wait there for ever.
            return match self.stage {
                Stage::Lobby | Stage::Told => self.begin_join(lines).await,
                Stage::DataPending(_) | Stage::Opening(_) | Stage::Syncing(_) | Stage::Active => Ok(()),
            };
        }
        if !matches!(self.stage, Stage::Lobby) || !self.room.open_by(self.membership.subscriber().connection) {
            lines.send(Channel::Command, &reject);
            return Ok(());
        }
        // Another one may have ended its opening just before ours began.
        let state = self.state().await?;
        if is_initialised(&state) {
            self.room.opened_by(self.membership.subscriber().connection);
            lines.send(Channel::Command, &reject);
            return self.begin_join(lines).await;
        }
        match self.clear(&state).await {
            Ok(seq) => self.cursor = seq,
            Err(EditError::Stopping) => return Err(Farewell::Stopping),
            Err(error) => {
                self.room.opened_by(self.membership.subscriber().connection);
                tracing::warn!("{} cannot open the session: {error}", self.name());
                lines.send(Channel::Command, &reject);
                return Ok(());
            }
        }
        let session = self.room.handle.name();
        tracing::info!(%session, "{} - opening the session with {} nodes", self.name(), nodes.len());
        let (empty, announced) = (nodes.is_empty(), nodes.into_iter().collect());
        self.stage = Stage::Opening(Opening { announced, empty, ended: false });
        lines.send(Channel::Command, &server_snapshot(InitState::Accepted));
        self.go_on_opening(lines).await
    }

    /// Takes away what somebody has left who began and did not end.
    async fn clear(&self, state: &Session) -> Result<u64, EditError> {
        let handle = &self.membership;
        let begin = Operation::SettingSet { key: INITIALISING.into(), value: Some(Bytes::from_static(b"true")) };
        let seq = handle.edit_as_daemon(vec![begin]).await?;
        let remains = state.nodes().filter(|node| node.payload.is_blender());
        let remove = |id: NodeId| Operation::NodeRemove { id, recursive: false, if_revision: None };
        let removals: Vec<Operation> = remains.map(|node| remove(node.id.clone())).collect();
        for some in removals.chunks(REMOVED_AT_ONCE) {
            handle.edit_as_daemon(some.to_vec()).await?;
        }
        Ok(seq)
    }

    async fn opening_node(&mut self, node: NodeObject) -> Result<(), Farewell> {
        let Stage::Opening(opening) = &mut self.stage else {
            tracing::debug!("{}: a node of no opening", self.name());
            return Ok(());
        };
        opening.announced.remove(&node.id);
        self.put(node).await
    }

    /// Whether nodes may depend on others that are still to come.
    pub(super) fn is_opening(&self) -> bool {
        matches!(self.stage, Stage::Opening(_))
    }

    /// Ends the opening when everything that was announced is in the session, and durable.
    pub(super) async fn go_on_opening(&mut self, lines: &mut Lines) -> Result<(), Farewell> {
        let Stage::Opening(opening) = &self.stage else { return Ok(()) };
        let complete = opening.ended || (opening.announced.is_empty() && !opening.empty);
        if !complete || !self.desk.is_clear() {
            return Ok(());
        }
        let done = Operation::SettingSet { key: INITIALISED.into(), value: Some(Bytes::from_static(b"true")) };
        let begun = Operation::SettingSet { key: INITIALISING.into(), value: None };
        match self.membership.edit_as_daemon(vec![done, begun]).await {
            Ok(_) => {}
            Err(EditError::Stopping) => return Err(Farewell::Stopping),
            Err(error) => return Err(Farewell::Told(format!("the session could not be opened: {error}"))),
        }
        self.room.opened_by(self.membership.subscriber().connection);
        tracing::info!(session = %self.room.handle.name(), "{} - the session is open", self.name());
        lines.send(Channel::Command, &server_snapshot(InitState::Done));
        self.is_now(Stage::Active, Status::Active);
        Ok(())
    }
}
