//! A peer: one Blender client on up to three lines, from the first of them to the last. One task each.

use super::door::BlenderDoor;
use super::farewell::Farewell;
use super::lines::{Arrival, LineEvent, Lines};
use super::login::version_of;
use super::objects::{self, Inbound, ObjectError, ServerInfo, disconnect, ping, server_info};
use super::pulse::{Beat, Pulse};
use super::returning::EXPECTED_FOR;
use super::settling::SETTLED_AFTER;
use super::visit::{Stage, Visit};
use super::wire::{Channel, PeerId, Transport, WireError};
use crate::ops::clock;
use bytes::Bytes;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often a peer looks at its clocks.
const TICK: Duration = Duration::from_millis(100);

/// Bytes that may wait to be written before nothing more is read: more than what others can cause at once.
const WAITING_MAX: usize = 96 << 20;

/// The same for those who have not joined yet: what waits then are answers.
const WAITING_MAX_BEFORE: usize = 256 << 10;

/// Bad messages after which a client is sent away.
const FAULTS_MAX: u32 = 3;

/// How long a client may read nothing of what waits for it.
const STUCK_AFTER: Duration = Duration::from_mins(1);

/// How long a client is given to read why it is sent away.
const GOODBYE: Duration = Duration::from_secs(2);

/// How long lines that come back by themselves may be gone.
const RETURN_WITHIN: Duration = Duration::from_secs(10);

/// How long the helper process of a client may take to come.
const HELPER_WITHIN: Duration = Duration::from_secs(5);

/// A client says at once who it is. One that does not, just after the server has started, thinks that it is known.
const STRANGE_AFTER: Duration = Duration::from_secs(2);

/// What can happen to a peer.
enum Happening {
    Arrived(Box<Arrival>),
    Line(LineEvent),
    Woken,
    Tick,
}

/// One Blender client.
pub(super) struct Peer {
    pub(super) id: PeerId,
    pub(super) door: Arc<BlenderDoor>,
    pub(super) lines: Lines,
    pub(super) visit: Option<Visit>,
    arrivals: mpsc::Receiver<Arrival>,
    pulse: Pulse,
    ticks: Interval,
    faults: u32,
    /// It has probed, or asked to be let in.
    asked: bool,
    came: Instant,
    /// Since when it has no line to be told on.
    gone: Option<Instant>,
    /// What had been written when that last changed, and when.
    progress: (u64, Instant),
}

impl Peer {
    pub(super) fn new(id: PeerId, door: Arc<BlenderDoor>, arrivals: mpsc::Receiver<Arrival>) -> Self {
        let mut ticks = interval(TICK.min(SETTLED_AFTER));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let now = clock::instant();
        Self {
            id,
            door,
            lines: Lines::default(),
            visit: None,
            arrivals,
            pulse: Pulse::default(),
            ticks,
            faults: 0,
            asked: false,
            came: now,
            gone: None,
            progress: (0, now),
        }
    }

    /// Runs until it is over.
    pub(super) async fn run(mut self) {
        let farewell = loop {
            let happening = self.next().await;
            if let Err(farewell) = self.take(happening).await {
                break farewell;
            }
        };
        self.part(farewell).await;
    }

    /// Whether messages are read: not while so much is unanswered, or waits to be written, that answers would only add.
    fn may_read(&self) -> bool {
        let is_active = self.visit.as_ref().is_some_and(|visit| matches!(visit.stage, Stage::Active));
        let most = if is_active { WAITING_MAX } else { WAITING_MAX_BEFORE };
        self.lines.waiting() < most && self.visit.as_ref().is_none_or(Visit::may_read)
    }

    async fn next(&mut self) -> Happening {
        let may_read = self.may_read();
        let Self { arrivals, lines, visit, ticks, .. } = self;
        let woken = std::future::poll_fn(|context| match visit {
            Some(visit) => visit.membership.subscriber().poll_woken(context),
            None => Poll::Pending,
        });
        // In no fixed order, so that neither a flood of messages nor one of news keeps the other waiting.
        tokio::select! {
            Some(arrival) = arrivals.recv() => Happening::Arrived(Box::new(arrival)),
            _ = ticks.tick() => Happening::Tick,
            () = woken => Happening::Woken,
            event = lines.next(may_read) => Happening::Line(event),
        }
    }

    async fn take(&mut self, happening: Happening) -> Result<(), Farewell> {
        match happening {
            Happening::Arrived(arrival) => self.arrived(*arrival).await,
            Happening::Line(LineEvent::Message(channel, message)) => self.message(channel, &message).await,
            Happening::Line(LineEvent::Ended(channel, why)) => self.ended(channel, why.as_ref()),
            Happening::Line(LineEvent::Drained) | Happening::Woken => match &mut self.visit {
                Some(visit) => visit.woken(&mut self.lines).await,
                None => Ok(()),
            },
            Happening::Tick => self.tick().await,
        }
    }

    async fn arrived(&mut self, arrival: Arrival) -> Result<(), Farewell> {
        let channel = arrival.link.channel();
        let settings = self.door.settings();
        let most = if self.visit.is_some() { settings.message_bytes } else { settings.stranger_bytes };
        let again = self.lines.connect(arrival, most);
        self.gone = None;
        match &mut self.visit {
            Some(visit) if again && channel != Channel::Ttl => {
                visit.room.roster.is_away(visit.name(), false);
                visit.returns();
            }
            Some(_) => {}
            None if self.lines.transport() == Transport::Zmtp => _ = self.welcome_back().await,
            None => {}
        }
        match (channel, &self.visit) {
            (Channel::Data, _) => self.answer_login().await,
            // The helper process says its first word only once.
            (Channel::Ttl, Some(_)) if self.lines.transport() == Transport::Zmtp => {
                self.pulse.begin(clock::instant());
                self.lines.send(Channel::Ttl, &ping());
            }
            (Channel::Ttl | Channel::Command, _) => {}
        }
        Ok(())
    }

    fn ended(&mut self, channel: Channel, why: Option<&WireError>) -> Result<(), Farewell> {
        let text = why.map(ToString::to_string).unwrap_or_default();
        tracing::debug!("{:?} line of {} ended: {text}", channel, self.name());
        if let Some(WireError::TooMuch { .. }) = why
            && self.visit.is_some()
        {
            return Err(Farewell::because("what you have sent is larger than the server takes (MAX_MESSAGE)"));
        }
        if self.lines.transport() == Transport::Tcp && channel != Channel::Ttl {
            return Err(Farewell::Closed);
        }
        if self.lines.has(Channel::Command) || self.lines.has(Channel::Data) {
            return Ok(());
        }
        match &self.visit {
            Some(visit) => visit.room.roster.is_away(visit.name(), true),
            None if self.lines.any() => return Ok(()),
            None => return Err(Farewell::Closed),
        }
        self.gone = Some(self.gone.unwrap_or_else(clock::instant));
        Ok(())
    }

    fn name(&self) -> String {
        self.visit.as_ref().map_or_else(|| "a stranger".to_owned(), |visit| visit.name().to_string())
    }

    async fn message(&mut self, channel: Channel, message: &[Bytes]) -> Result<(), Farewell> {
        let object = match objects::read(channel, message) {
            Ok(object) => object,
            Err(error) => return self.fault(&error),
        };
        match object {
            Inbound::RequestServerInfo => self.probed(),
            Inbound::Auth(auth) => {
                self.asked = true;
                self.log_in(auth).await;
            }
            Inbound::TtlInit => {
                self.pulse.begin(clock::instant());
                // Who asks again and again and reads nothing is answered once.
                if !self.lines.is_busy(Channel::Ttl) {
                    self.lines.send(Channel::Ttl, &ping());
                }
            }
            Inbound::Pong => self.pulse.heard(clock::instant()),
            Inbound::ServerSnapshot(_)
            | Inbound::Snapshot(_)
            | Inbound::Node(_)
            | Inbound::Commit(_)
            | Inbound::Delete(_)
            | Inbound::Right(_)
            | Inbound::Metadata(_)
            | Inbound::Kick(_) => return self.member_says(object).await,
        }
        Ok(())
    }

    async fn member_says(&mut self, object: Inbound) -> Result<(), Farewell> {
        let Some(visit) = &mut self.visit else {
            return Err(self.unknown());
        };
        let lines = &mut self.lines;
        match object {
            Inbound::ServerSnapshot(step) => visit.server_snapshot(step, lines).await,
            Inbound::Snapshot(step) => visit.snapshot(step, lines).await,
            Inbound::Node(node) => visit.node(node).await,
            Inbound::Commit(commit) => visit.commit(commit).await,
            Inbound::Delete(id) => visit.delete(id).await,
            Inbound::Right(right) => visit.right(right, lines).await,
            Inbound::Metadata(said) => visit.says(said).await,
            Inbound::Kick(name) => {
                visit.kick(&name);
                Ok(())
            }
            Inbound::RequestServerInfo | Inbound::Auth(_) | Inbound::TtlInit | Inbound::Pong => Ok(()),
        }
    }

    fn probed(&mut self) {
        self.asked = true;
        let version = version_of(self.lines.transport());
        let info = ServerInfo { private: !self.door.authority.is_open(), version };
        self.lines.send(Channel::Command, &server_info(info));
    }

    /// A message was refused. It was not stored, nor passed on.
    fn fault(&mut self, error: &ObjectError) -> Result<(), Farewell> {
        self.faults += 1;
        tracing::warn!("Refused a message of {} ({:?}): {error}", self.name(), self.lines.address());
        self.door.metrics.refused(error.violation().is_some());
        if self.faults < FAULTS_MAX { Ok(()) } else { Err(Farewell::because("three of your messages were refused")) }
    }

    async fn tick(&mut self) -> Result<(), Farewell> {
        let now = clock::instant();
        let settings = self.door.settings();
        match self.pulse.beat(settings.timeout, now) {
            Beat::Wait => {}
            Beat::Ping => self.lines.send(Channel::Ttl, &ping()),
            Beat::Lost => return Err(Farewell::Lost),
        }
        if self.gone.is_some_and(|since| now.saturating_duration_since(since) >= RETURN_WITHIN.min(settings.timeout)) {
            return Err(Farewell::Lost);
        }
        self.is_stuck(now)?;
        let Some(visit) = &mut self.visit else {
            return self.stranger(now, settings.timeout);
        };
        self.pulse.expect(HELPER_WITHIN, now);
        if let Stage::DataPending(since) = visit.stage
            && now.saturating_duration_since(since) >= settings.timeout
        {
            self.lines.send(Channel::Command, &objects::auth_reply("FAILED: data channel timeout"));
            return Err(Farewell::Closed);
        }
        visit.is_abandoning(now)?;
        visit.room.roster.answers_in(visit.name(), self.pulse.latency());
        visit.tick(&mut self.lines, now).await
    }

    /// Somebody who has not logged in must do so, or is from before a restart and waits to be told.
    fn stranger(&self, now: Instant, timeout: Duration) -> Result<(), Farewell> {
        let here = now.saturating_duration_since(self.came);
        let expected = self.came.saturating_duration_since(self.door.since()) < EXPECTED_FOR;
        let silent = !self.asked && self.lines.has(Channel::Command) && self.lines.transport() == Transport::Zmtp;
        if expected && silent && here >= STRANGE_AFTER {
            return Err(self.unknown());
        }
        if here >= timeout { Err(Farewell::Closed) } else { Ok(()) }
    }

    fn is_stuck(&mut self, now: Instant) -> Result<(), Farewell> {
        let written = self.lines.written();
        if self.lines.waiting() == 0 || written != self.progress.0 {
            self.progress = (written, now);
        }
        if now.saturating_duration_since(self.progress.1) < STUCK_AFTER {
            return Ok(());
        }
        Err(Farewell::because("nothing was read for 60 seconds"))
    }

    /// Parts with the client: its user is told why, its locks are released.
    async fn part(self, farewell: Farewell) {
        let Self { id, door, mut lines, visit, arrivals, .. } = self;
        door.forget(id, arrivals);
        if let Some(visit) = visit {
            tracing::info!(session = %door.session, "{} disconnected from the server [{farewell}]", visit.name());
            visit.end();
        }
        let why = match &farewell {
            Farewell::Told(why) => Some(why.clone()),
            // Those of the other transport come back by themselves, and shall not notice.
            Farewell::Stopping if lines.transport() == Transport::Tcp => Some(farewell.to_string()),
            Farewell::Stopping | Farewell::Closed | Farewell::Lost => None,
        };
        if let Some(why) = &why {
            lines.send(Channel::Command, &disconnect(why));
        }
        _ = tokio::time::timeout(GOODBYE, lines.close(why.is_some())).await;
    }
}
