//! Returning: clients of replication 0.9.10 come back by themselves, after a restart of the server or a break of the line,
//! and do not notice. What was under way then may have been lost, in both directions, so they are told the truth about
//! everything that happened lately.

use super::dialect::Ear;
use super::farewell::Farewell;
use super::lines::Lines;
use super::login::enter;
use super::objects::{delete, right};
use super::peer::Peer;
use super::people::Memory;
use super::room::{Room, owner_text};
use super::roster::Status;
use super::said;
use super::visit::{ARCHIVED, Stage, Visit, restored};
use super::wire::Channel;
use crate::live::{Following, Tail};
use crate::ops::clock;
use crate::session::{Change, Event, MemberName, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a client that has come back is listened to before it is told anything: what it said meanwhile waits in its
/// own queue.
const LISTEN_FOR: Duration = Duration::from_millis(400);

/// How far back a client may have missed something, in milliseconds.
const MISSED_MS: i64 = 30_000;

/// How long after the start of the server, or a restore, clients of before are expected.
pub(super) const EXPECTED_FOR: Duration = Duration::from_mins(1);

/// What has happened to nodes lately.
#[derive(Default)]
struct Lately {
    changed: BTreeSet<NodeId>,
    owned: BTreeSet<NodeId>,
    removed: BTreeSet<NodeId>,
}

impl Peer {
    /// Lets in a client that was in the session before the server was.
    pub(super) async fn welcome_back(&mut self) -> Option<()> {
        let room = self.door.room().ok()??;
        let state = room.state().await.ok()?;
        let client = self.id.client();
        if !self.id.is_random() {
            return None;
        }
        let member = state.online().find(|member| member.online.is_some_and(|online| online.client == client))?;
        let name = member.name.clone();
        if room.roster.has(&name) || has_begun_anew(&room, &name) {
            return None;
        }
        let membership = match enter(&room, name.clone(), self.id).await {
            Ok(membership) => membership,
            Err(why) => {
                tracing::warn!("{name} is still connected, but cannot come back: {why}");
                return None;
            }
        };
        tracing::info!("{name} is back.");
        room.roster.enter(membership.subscriber(), false, Status::Active);
        room.roster.said(&name, said::remembered(&member.metadata));
        self.lines.take_messages_of(self.door.settings().message_bytes);
        let mut visit = Visit::new(room, membership, false, Ear::Unknown, Stage::Active);
        visit.memory = Memory::of_one_who_stayed(&state);
        visit.returns();
        self.visit = Some(visit);
        Some(())
    }

    /// What a client is told that the server does not know.
    pub(super) fn unknown(&self) -> Farewell {
        let replaced = self.door.room().ok().flatten().and_then(|room| replaced(&room));
        let unknown = || "the server was restarted and does not know you any more: connect again".to_owned();
        Farewell::Told(replaced.unwrap_or_else(unknown))
    }
}

impl Visit {
    /// The client has come back; in a moment it is told what it may have missed.
    pub(super) fn returns(&mut self) {
        let now = clock::instant();
        self.astray.returns(now);
        self.returning = Some(now);
    }

    /// Tells a client that has come back what it may have missed.
    pub(super) async fn catch_up(&mut self, lines: &mut Lines, now: Instant) -> Result<(), Farewell> {
        let Some(since) = self.returning else { return Ok(()) };
        let ready = self.desk.is_clear() && lines.has(Channel::Data) && lines.has(Channel::Command);
        if now.saturating_duration_since(since) < LISTEN_FOR || !ready {
            return Ok(());
        }
        let state = self.state().await?;
        let mut lately = lately(&self.membership.shared().tail, state.seq());
        // What it holds it was probably working on.
        lately.changed.extend(state.locked_by(self.name()).cloned());
        for id in lately.removed.iter().filter(|id| state.node(id).is_none()) {
            lines.send(Channel::Command, &delete(id.as_str()));
        }
        for id in lately.owned.difference(&lately.changed) {
            if let Some(node) = state.node(id) {
                lines.send(Channel::Command, &right([id.as_str()], owner_text(node.owner.as_ref())));
            }
        }
        self.cursor = state.seq();
        self.astray.extend(lately.changed);
        self.returning = None;
        Ok(())
    }
}

/// What has happened to nodes lately, up to this event.
fn lately(tail: &Tail, until: u64) -> Lately {
    let mut lately = Lately::default();
    let events = events_of(tail, until);
    let newest = events.last().map_or(0, |event| event.at.0);
    for event in events.iter().filter(|event| event.at.0 >= newest - MISSED_MS) {
        event.changes.iter().for_each(|change| lately.note(change));
    }
    lately
}

/// All events in memory, up to this one.
fn events_of(tail: &Tail, until: u64) -> Vec<Arc<Event>> {
    let mut cursor = tail.begin();
    let mut events = Vec::new();
    while let Following::Chunk { chunk, .. } = tail.after(cursor) {
        events.extend(chunk.events().iter().filter(|event| event.seq <= until).cloned());
        cursor = chunk.last_seq();
    }
    events
}

impl Lately {
    fn note(&mut self, change: &Change) {
        match change {
            Change::NodePut(put) => _ = self.changed.insert(put.id.clone()),
            Change::NodePatched { id, .. } => _ = self.changed.insert(id.clone()),
            Change::NodesRemoved { ids } => self.removed.extend(ids.iter().cloned()),
            Change::NodeLocked { id, .. } => _ = self.owned.insert(id.clone()),
            Change::NodesUnlocked { ids } => self.owned.extend(ids.iter().cloned()),
            Change::TaskPut(_) | Change::TaskPatched { .. } | Change::TaskRemoved { .. } | Change::ChatPosted(_) => {}
            Change::MemberJoined { .. } | Change::MemberLeft { .. } | Change::MemberSet { .. } => {}
            Change::Restored { .. }
            | Change::SessionCleared { .. }
            | Change::Forgotten { .. }
            | Change::SettingChanged { .. } => {}
        }
    }
}

/// What clients are told whose state was replaced lately, if it was.
fn replaced(room: &Room) -> Option<String> {
    let told_of = |change: &Change| {
        if let Change::Restored { source } = change {
            return Some(restored(source));
        }
        matches!(change, Change::SessionCleared { .. }).then(|| ARCHIVED.to_owned())
    };
    let told = |event: &Arc<Event>| event.changes.iter().find_map(told_of);
    events_of(&room.handle.shared().tail, u64::MAX).iter().rev().find_map(told)
}

/// Whether the session has begun anew since this member joined it: what their client has is no part of it then.
fn has_begun_anew(room: &Room, name: &MemberName) -> bool {
    let newest = |event: &Arc<Event>| {
        event.changes.iter().rev().find_map(|change| {
            let cleared = matches!(change, Change::SessionCleared { .. });
            let joined = matches!(change, Change::MemberJoined { .. }) && event.author == *name;
            (cleared || joined).then_some(cleared)
        })
    };
    events_of(&room.handle.shared().tail, u64::MAX).iter().rev().find_map(newest).unwrap_or(false)
}
