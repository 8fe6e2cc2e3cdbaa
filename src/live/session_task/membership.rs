//! Who comes and who goes: joins, guests while nothing can be written, and connections that end.

use super::SessionTask;
use crate::live::pending::PendingJoin;
use crate::live::request::{JoinError, Joined, ResumeToken, Start};
use crate::live::subscriber::{Closing, Note, Subscriber};
use crate::ops::clock;
use crate::session::{Author, ClientId, Command, MemberName, Rejection, Role, Session, Timestamp};
use crate::storage::ResumePoint;
use std::sync::Arc;
use tokio::sync::oneshot;

impl SessionTask {
    pub(super) fn join(
        &mut self,
        subscriber: Arc<Subscriber>,
        token: Option<ResumeToken>,
        reply: oneshot::Sender<Result<Joined, JoinError>>,
        at: Timestamp,
    ) {
        if self.draining {
            _ = reply.send(Err(JoinError::Stopping));
            return;
        }
        if self.refuses_writes().is_some() {
            return self.join_as_guest(subscriber, token, reply);
        }
        let joined = self.join_as_member(&subscriber, at);
        if let Err(rejection) = &joined {
            self.shared.meter.rejected(rejection.code());
        }
        let decided = joined.map(|_| self.state.clone());
        // Who is refused learns who else has joined, so a refusal waits for that state too.
        self.pending.join(self.state.seq(), PendingJoin { subscriber, token, reply, decided });
    }

    fn join_as_member(&mut self, subscriber: &Arc<Subscriber>, at: Timestamp) -> Result<u64, Rejection> {
        let author = Author { name: subscriber.name.clone(), role: subscriber.role };
        if self.awaited.contains_key(&author.name) && !self.is_online_as(&author.name, subscriber.client) {
            // Nobody is connected under that name any more: its earlier holder was lost with the last run.
            self.leave(&author.name, at);
        }
        let seq = self.decide(&Command::Join { client: subscriber.client }, &author, at)?;
        self.awaited.remove(&author.name);
        self.give_name(subscriber);
        Ok(seq)
    }

    /// From now on this connection has the name; an earlier one of the same client is closed, or is when its own join
    /// is durable.
    fn give_name(&mut self, subscriber: &Arc<Subscriber>) {
        self.shared.presence.admit(&subscriber.name, subscriber.connection);
        let earlier = self.holders.insert(subscriber.name.clone(), Arc::clone(subscriber));
        if let Some(earlier) = earlier.filter(|earlier| earlier.connection != subscriber.connection) {
            self.send_away(&earlier);
        }
    }

    fn send_away(&mut self, replaced: &Subscriber) {
        self.backlog.forget(replaced);
        self.shared.subscribers.remove(replaced);
        replaced.leave(Note::Closing(Closing::Replaced));
        replaced.wake();
    }

    /// Whether this is the connection that is online under its name.
    pub(super) fn holds_name(&self, subscriber: &Subscriber) -> bool {
        self.holders.get(&subscriber.name).is_some_and(|holder| holder.connection == subscriber.connection)
    }

    fn is_online_as(&self, name: &MemberName, client: ClientId) -> bool {
        self.state.member(name).and_then(|member| member.online).is_some_and(|online| online.client == client)
    }

    fn join_as_guest(
        &mut self,
        subscriber: Arc<Subscriber>,
        token: Option<ResumeToken>,
        reply: oneshot::Sender<Result<Joined, JoinError>>,
    ) {
        let decided = self.admit_guest(&subscriber);
        self.welcome(PendingJoin { subscriber, token, reply, decided });
    }

    /// A guest may look on under a name that is nobody else's. Who else is connected is no secret of the disk's, so the
    /// refusal need not wait for it.
    fn admit_guest(&mut self, guest: &Arc<Subscriber>) -> Result<Session, Rejection> {
        let mut others = self.guests.iter().chain(self.holders.get(&guest.name));
        if others.any(|other| other.name == guest.name && other.client != guest.client) {
            return Err(Rejection::NameTaken(guest.name.clone()));
        }
        let earlier: Vec<_> = self.guests.extract_if(.., |other| guest.replaces(other)).collect();
        for earlier in earlier {
            self.send_away(&earlier);
        }
        let limit = self.settings.borrow().limits.members_online;
        if self.guests.len() as u64 >= limit {
            return Err(Rejection::LimitExceeded { what: "guests", limit });
        }
        self.guests.push(Arc::clone(guest));
        if self.holders.contains_key(&guest.name) {
            // The member's own client: it goes on here, and the name leaves when this connection does.
            self.give_name(guest);
        } else {
            self.shared.presence.admit(&guest.name, guest.connection);
        }
        Ok(self.durable.state(self.ear.durable_seq()).clone())
    }

    pub(super) fn welcome(&self, join: PendingJoin) {
        let state = match join.decided {
            Ok(state) => state,
            Err(rejection) => return drop(join.reply.send(Err(rejection.into()))),
        };
        let resume = self.store.resume_point(&self.name);
        let head = self.shared.tail.head();
        if let Some(token) = join.token.filter(|token| token.branch != resume.branch.0) {
            join.subscriber.comes_from_before(token.op);
        }
        let start = match join.token.filter(|token| self.can_resume(*token, &resume, head)) {
            Some(token) => Start::Resumed(token.seq),
            None => Start::State(Box::new(state)),
        };
        self.shared.subscribers.add(Arc::clone(&join.subscriber));
        let joined = Joined { resume, head, start, mode: self.shared.mode() };
        if join.reply.send(Ok(joined)).is_err() {
            // The connection ended while it waited.
            join.subscriber.set_gone();
            self.ear.departed();
        }
    }

    fn can_resume(&self, token: ResumeToken, point: &ResumePoint, head: u64) -> bool {
        let issued = point.runs.iter().position(|(run, _)| run.0 == token.run).is_some_and(|index| {
            // A run issued what was durable at its start, up to what was durable at the start of the next one.
            let until = point.runs.get(index + 1).map_or(head, |(_, first)| first - 1);
            token.seq <= until
        });
        token.branch == point.branch.0 && issued && self.shared.tail.reaches(token.seq)
    }

    fn leave(&mut self, name: &MemberName, at: Timestamp) {
        let author = Author { name: name.clone(), role: Role::Member };
        // Somebody who is not online any more has nothing to leave.
        if self.decide(&Command::Leave, &author, at).is_ok() {
            self.plan.left(name.as_str(), self.state.seq());
            tracing::info!(session = %self.name, "{name} left");
        }
        self.awaited.remove(name);
    }

    /// Those who have gone, and those who were expected and have not come.
    pub(super) fn notice_all_departures(&mut self, at: Timestamp) {
        if self.departing {
            self.notice_departures(at);
        }
        self.release_the_missing(at);
    }

    fn notice_departures(&mut self, at: Timestamp) {
        // Whoever has gone leaves when what they had asked for is done.
        for gone in self.shared.subscribers.remove_gone(|gone| self.backlog.holds(gone)) {
            self.guests.retain(|guest| guest.connection != gone.connection);
            self.forget_presence(&gone);
            // Whoever is not the one online under the name cannot leave: that is somebody else. And who is sent away by
            // a stop has not left: locks wait for them after the restart.
            if self.holds_name(&gone) && !self.draining {
                self.holders.remove(&gone.name);
                self.leave(&gone.name, at);
            }
        }
        self.departing = !self.backlog.is_empty();
    }

    fn forget_presence(&self, gone: &Subscriber) {
        if self.shared.presence.depart(&gone.name, gone.connection) {
            self.shared.subscribers.wake_all();
        }
    }

    fn release_the_missing(&mut self, at: Timestamp) {
        if self.awaited.is_empty() || self.sealed.is_some() || self.draining {
            return;
        }
        let now = clock::instant();
        let missing: Vec<_> =
            self.awaited.iter().filter(|(_, until)| **until <= now).map(|(name, _)| name.clone()).collect();
        for name in missing {
            self.leave(&name, at);
        }
    }

    pub(super) fn admit_guests(&mut self) {
        let at = Timestamp(clock::now_ms());
        for guest in std::mem::take(&mut self.guests) {
            if let Err(rejection) = self.join_as_member(&guest, at) {
                tracing::warn!(session = %self.name, "{} cannot stay: {rejection}", guest.name);
                self.send_away(&guest);
                self.forget_presence(&guest);
            }
        }
        self.hand_to_journal();
    }
}
