//! A visit: a Blender client that has logged in, from then until it goes.

use super::astray::Astray;
use super::desk::{Asked, Desk};
use super::dialect::Ear;
use super::farewell::Farewell;
use super::lines::Lines;
use super::opening::Opening;
use super::people::Memory;
use super::relay::{Part, RelayedEvent};
use super::room::Room;
use super::roster::{List, Status};
use super::settling::{SETTLED_AFTER, Settling};
use super::truth;
use super::wire::Channel;
use crate::live::{Closing, Edit, Following, Membership, Mode, Note, Refusal, Work};
use crate::ops::clock;
use crate::session::{ClientId, MemberName, Operation, Rejection, Session};
use serde_json::{Map, Value as Json};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long clients may stay when nothing can be written.
const READ_ONLY_FOR: Duration = Duration::from_secs(30);

/// How far a client is.
pub(super) enum Stage {
    /// Logged in; the answer waits for its data line.
    DataPending(Instant),
    /// It has been told to wait until there is something.
    Lobby,
    /// It has been told that there is something, and will ask for it.
    Told,
    /// It gives the session its first content.
    Opening(Opening),
    /// It fetches what is there: this.
    Syncing(Box<Session>),
    /// It has everything up to its cursor.
    Active,
}

/// A client that has logged in.
pub(super) struct Visit {
    pub(super) room: Arc<Room>,
    pub(super) membership: Membership,
    /// It has shown the administrators' password.
    pub(super) admin: bool,
    pub(super) stage: Stage,
    /// Which deltas it understands.
    pub(super) ear: Ear,
    /// The newest event that it has been told of.
    pub(super) cursor: u64,
    pub(super) desk: Desk,
    pub(super) memory: Memory,
    /// The newest list of users that it has been sent.
    list: Arc<List>,
    /// How much of the roster it has looked at.
    rises: u64,
    /// How much it has been told of what others say of themselves.
    heard: u64,
    settling: Settling,
    /// Nodes of which it must be sent the true content before it is told anything else of them.
    pub(super) astray: Astray,
    /// It is told everything up to this state, which is from that time, and then the truth about those.
    truth: Option<(Box<Session>, Instant)>,
    /// Since when it is back, as long as it has not been told what it may have missed.
    pub(super) returning: Option<Instant>,
    /// What is remembered of what it says of itself.
    pub(super) remembered: Map<String, Json>,
    /// Since when nothing can be written.
    read_only: Option<Instant>,
}

impl Visit {
    pub(super) fn new(room: Arc<Room>, membership: Membership, admin: bool, ear: Ear, stage: Stage) -> Self {
        Self {
            room,
            membership,
            admin,
            stage,
            ear,
            cursor: 0,
            desk: Desk::default(),
            memory: Memory::default(),
            list: Arc::default(),
            rises: 0,
            heard: 0,
            settling: Settling::new(SETTLED_AFTER),
            astray: Astray::default(),
            truth: None,
            returning: None,
            remembered: Map::new(),
            read_only: None,
        }
    }

    /// What it is called.
    pub(super) fn name(&self) -> &MemberName {
        &self.membership.subscriber().name
    }

    /// Who it is in the session.
    pub(super) fn client(&self) -> ClientId {
        self.membership.subscriber().client
    }

    /// The durable state.
    pub(super) async fn state(&self) -> Result<Session, Farewell> {
        self.room.state().await.map_err(|_| Farewell::Stopping)
    }

    /// It is now so far, and everybody sees it.
    pub(super) fn is_now(&mut self, stage: Stage, status: Status) {
        self.stage = stage;
        self.room.roster.now(self.name(), status);
    }

    /// Asks the session for something, in the client's name.
    pub(super) async fn ask(&mut self, asked: Asked, operations: Vec<Operation>, bytes: usize) -> Result<(), Farewell> {
        if let Some(id) = asked.changed() {
            self.astray.changes(id, clock::instant());
        }
        let op = self.desk.ask(asked, bytes);
        let edit = Edit { op, work: Work::Operations(operations) };
        self.membership.edit(vec![edit]).await.map_err(|_| Farewell::Stopping)
    }

    /// Whether the client's messages may be read: not while too much is unanswered.
    pub(super) fn may_read(&self) -> bool {
        !self.desk.is_full()
    }

    /// Something has happened in the session, or among the others.
    pub(super) async fn woken(&mut self, lines: &mut Lines) -> Result<(), Farewell> {
        for note in self.membership.subscriber().take_notes() {
            self.noted(note).await?;
        }
        if self.room.roster.has_risen(self.rises).is_some()
            && let Some(why) = self.room.roster.farewell(self.name())
        {
            return Err(Farewell::Told(why));
        }
        self.go_on_opening(lines).await?;
        self.leave_the_lobby(lines).await?;
        self.tell_of_others(lines);
        self.follow(lines).await
    }

    async fn noted(&mut self, note: Note) -> Result<(), Farewell> {
        match note {
            Note::Ack { op, .. } => {
                if let Some(Asked::Commit(id)) = self.answered(op) {
                    self.room.proofreader.check(id, self.name());
                }
            }
            Note::Reject { op, why } => {
                if let Some(asked) = self.answered(op) {
                    self.refused(asked, why).await?;
                }
            }
            Note::Health(mode) => self.health(&mode),
            Note::Saved(_) => {}
            Note::Closing(Closing::Stopping) => return Err(Farewell::Stopping),
            Note::Closing(Closing::Archived) => return Err(Farewell::because(ARCHIVED)),
            Note::Closing(Closing::Restored(what)) => return Err(Farewell::Told(restored(&what))),
            Note::Closing(Closing::Replaced) => {
                return Err(Farewell::because("this client has connected again elsewhere"));
            }
        }
        Ok(())
    }

    fn answered(&mut self, op: u64) -> Option<Asked> {
        let asked = self.desk.answered(op)?;
        if let Some(id) = asked.changed() {
            self.astray.changes(id, clock::instant());
        }
        Some(asked)
    }

    async fn refused(&mut self, asked: Asked, why: Refusal) -> Result<(), Farewell> {
        tracing::debug!("{}: {asked:?} refused: {why:?}", self.name());
        let rejection = match why {
            // Everybody has been told, or is in a moment, and nobody's screen is overwritten with old nodes.
            Refusal::ReadOnly(_) | Refusal::SaveFailed(_) | Refusal::Restored(_) => return Ok(()),
            Refusal::TooMuchWork => return Err(Farewell::because("too much was unfinished at once: connect again")),
            Refusal::Rejected(rejection) => rejection,
        };
        match (asked, rejection) {
            (Asked::Node(id) | Asked::Commit(id), Rejection::Locked { .. }) => self.astray.add(id),
            // Somebody has removed it meanwhile, and everybody is told.
            (Asked::Commit(_) | Asked::Delete(_), Rejection::NoSuchNode(_)) => {}
            (Asked::Node(id) | Asked::Commit(id), rejection) => {
                let why = format!("{id} was refused, and your copy differs now: {rejection}. Connect again");
                return Err(Farewell::Told(why));
            }
            (Asked::Right { nodes, lock, again: false }, _) => self.ask_for_rights(nodes, lock, true).await?,
            (Asked::Right { .. } | Asked::Delete(_) | Asked::People, _) => {}
        }
        Ok(())
    }

    fn health(&mut self, mode: &Mode) {
        self.room.say_health(mode);
        self.read_only = match mode {
            Mode::Live => None,
            Mode::ReadOnly(_) => self.read_only.or_else(|| Some(clock::instant())),
        };
    }

    /// Time has passed.
    pub(super) async fn tick(&mut self, lines: &mut Lines, now: Instant) -> Result<(), Farewell> {
        if self.read_only.is_some_and(|since| now.saturating_duration_since(since) >= READ_ONLY_FOR) {
            return Err(Farewell::because("server disk full: save your .blend now"));
        }
        self.astray.time_passes(lines.waiting() == 0 && self.may_read(), now);
        self.catch_up(lines, now).await?;
        self.follow(lines).await
    }

    /// The newest list of users, and what they say of themselves.
    pub(super) fn tell_of_others(&mut self, lines: &mut Lines) {
        if matches!(self.stage, Stage::DataPending(_)) {
            return;
        }
        let Some(rises) = self.room.roster.has_risen(self.rises).filter(|_| lines.has_room()) else { return };
        self.rises = rises;
        let transport = lines.transport();
        let list = self.room.roster.list();
        if list.version > self.list.version {
            lines.send_framed(Channel::Command, list.framed(transport));
            if list.people != self.list.people
                && let Some(state) = &list.state
            {
                self.memory.shown(state);
            }
            self.list = list;
        }
        // What is said while there is no room is told later, all at once.
        let own = self.membership.subscriber().name.clone();
        let (heard, messages) = self.room.roster.said_since(self.heard, &own, &self.list, transport);
        self.heard = heard;
        for message in messages {
            lines.send_framed(Channel::Command, &message);
        }
    }

    /// Tells the client what has happened since its cursor, as far as there is room.
    pub(super) async fn follow(&mut self, lines: &mut Lines) -> Result<(), Farewell> {
        let is_reached = lines.has(Channel::Data) && lines.has(Channel::Command);
        if !matches!(self.stage, Stage::Active) || self.returning.is_some() || !is_reached {
            return Ok(());
        }
        let shared = Arc::clone(self.membership.shared());
        while lines.has_room() {
            let now = clock::instant();
            if self.truth.is_none() && self.astray.is_due(|id| self.desk.is_changing(id), now) {
                self.truth = Some((Box::new(self.state().await?), now));
            }
            let until = self.truth.as_ref().map_or(u64::MAX, |(state, _)| state.seq());
            if self.cursor >= until {
                self.tell_the_truth(lines).await;
                continue;
            }
            let chunk = match shared.tail.after(self.cursor) {
                Following::Nothing => return Ok(()),
                Following::Gone => {
                    return Err(Farewell::because("your connection was too slow to keep up: connect again"));
                }
                Following::Chunk { chunk, .. } => chunk,
            };
            let events = self.room.encoder.encode(&chunk, lines.transport(), &self.room);
            let after = self.cursor;
            for event in events.iter().filter(|event| event.seq > after && event.seq <= until) {
                if self.tell(event, lines)?.is_break() {
                    return Ok(());
                }
                self.cursor = event.seq;
            }
            self.cursor = self.cursor.max(chunk.last_seq().min(until));
        }
        Ok(())
    }

    /// Tells the client of one event. It breaks if that must wait a moment.
    fn tell(&mut self, event: &RelayedEvent, lines: &mut Lines) -> Result<ControlFlow<()>, Farewell> {
        let now = clock::instant();
        let settled = |part: &Part| match part {
            Part::Delete(id, _) => self.settling.is_settled(id, now),
            Part::Node(..) | Part::Commit(..) | Part::Right(_) | Part::Restored(_) => true,
        };
        if !event.parts.iter().all(settled) {
            return Ok(ControlFlow::Break(()));
        }
        let own = event.author == Some(self.client());
        for part in &event.parts {
            match part {
                Part::Node(id, _) | Part::Commit(id, _) if own || self.astray.contains(id) => {}
                Part::Node(id, frames) => {
                    lines.send_framed(Channel::Data, frames);
                    self.settling.sent(id, now);
                }
                Part::Commit(id, speech) => match speech.to(self.ear) {
                    Some(frames) => {
                        lines.send_framed(Channel::Data, frames);
                        self.settling.sent(id, now);
                    }
                    // From here on it hears nothing of that node but all of it.
                    None => self.astray.add(id.clone()),
                },
                Part::Delete(id, frames) => {
                    self.astray.remove(id);
                    lines.send_framed(Channel::Command, frames);
                }
                Part::Right(frames) => lines.send_framed(Channel::Command, frames),
                Part::Restored(what) => return Err(Farewell::Told(restored(what))),
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn tell_the_truth(&mut self, lines: &mut Lines) {
        let Some((state, true_at)) = self.truth.take() else { return };
        let due = self.astray.take_due(|id| self.desk.is_changing(id), true_at, clock::instant());
        for id in &due {
            let Some(node) = state.node(id) else { continue };
            if let Some(messages) = truth::about(node, &state).await {
                lines.send(Channel::Data, &messages.node);
                lines.send(Channel::Command, &messages.right);
                self.settling.sent(id, clock::instant());
            }
        }
        self.astray.told(&due, clock::instant());
    }
}

/// What clients are told when the session begins anew.
pub(super) const ARCHIVED: &str = "session archived: connect again";

/// What clients are told after a restore.
pub(super) fn restored(what: &str) -> String {
    format!("session restored to {what}: connect again")
}

impl Visit {
    /// Sends somebody away, if the client is an administrator's.
    pub(super) fn kick(&self, name: &str) {
        if !self.admin {
            return tracing::warn!("{} is no administrator and cannot kick {name}", self.name());
        }
        if self.room.roster.send_away(name, "kicked by admin") {
            tracing::warn!("{name} kicked from the session.");
        } else {
            tracing::warn!("Can't kick {name}, user not found.");
        }
    }

    /// The client goes; its membership ends, and with it its locks.
    pub(super) fn end(self) {
        let subscriber = self.membership.subscriber();
        self.room.opened_by(subscriber.connection);
        if self.room.roster.leave(subscriber) {
            self.room.forget_state();
        }
    }
}
