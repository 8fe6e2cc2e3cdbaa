//! Who comes and who goes: joins, guests while nothing can be written, and connections that end.

use super::SessionTask;
use crate::live::pending::PendingJoin;
use crate::live::request::{JoinError, Joined, ResumeToken, Start};
use crate::live::subscriber::{Closing, Note, Subscriber};
use crate::ops::clock;
use crate::session::{Author, ClientId, Command, MemberName, Rejection, Role, Timestamp};
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
        for earlier in self.shared.subscribers.remove_earlier(subscriber) {
            earlier.leave(Note::Closing(Closing::Replaced));
            earlier.wake();
        }
        Ok(seq)
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
        for earlier in self.guests.extract_if(.., |other| subscriber.replaces(other)) {
            self.shared.subscribers.remove(&earlier);
            earlier.leave(Note::Closing(Closing::Replaced));
            earlier.wake();
        }
        let limit = self.settings.borrow().limits.members_online;
        let decided = if (self.guests.len() as u64) < limit {
            self.guests.push(Arc::clone(&subscriber));
            Ok(self.durable.state(self.ear.durable_seq()).clone())
        } else {
            Err(Rejection::LimitExceeded { what: "guests", limit })
        };
        self.welcome(PendingJoin { subscriber, token, reply, decided });
    }

    pub(super) fn welcome(&self, join: PendingJoin) {
        let state = match join.decided {
            Ok(state) => state,
            Err(rejection) => return drop(join.reply.send(Err(rejection.into()))),
        };
        let resume = self.store.resume_point(&self.name);
        let head = self.shared.tail.head();
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
            self.shared.presence.set(name, None);
            self.shared.subscribers.wake_all();
            tracing::info!(session = %self.name, "{name} left");
        }
        self.awaited.remove(name);
    }

    pub(super) fn notice_departures(&mut self, at: Timestamp) {
        for gone in self.shared.subscribers.remove_gone() {
            // Whoever has not joined cannot leave: a member of the same name is somebody else.
            let was_guest = self.guests.extract_if(.., |guest| guest.connection == gone.connection).count() > 0;
            // Who is sent away by a stop has not left: locks wait for them after the restart.
            if !was_guest && !self.draining {
                self.leave(&gone.name, at);
            }
        }
    }

    pub(super) fn release_the_missing(&mut self, at: Timestamp) {
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
                self.shared.subscribers.remove(&guest);
                guest.leave(Note::Closing(Closing::Replaced));
                guest.wake();
            }
        }
        self.hand_to_journal();
    }
}
