//! Logging in: who comes in, under which name, and what everybody else is told.

use super::dialect::Ear;
use super::door::BlenderDoor;
use super::objects::{Auth, auth_reply};
use super::peer::Peer;
use super::room::{Room, is_initialised};
use super::roster::Status;
use super::visit::{Stage, Visit};
use super::wire::{Channel, PeerId, Transport};
use crate::doors::{Credentials, Denied};
use crate::live::{JoinError, Membership, Mode, Subscriber};
use crate::ops::clock;
use crate::session::{MemberName, Rejection, Role};
use std::net::IpAddr;
use std::sync::Arc;

/// What a server of replication 0.9.10 calls itself.
const VERSION_ZMTP: &str = "0.9.10";

/// What a server of the newest replication calls itself.
const VERSION_TCP: &str = "0.10.2";

/// How often a name is looked at before it is called taken.
const ATTEMPTS: u32 = 40;

/// How long to wait in between.
const ATTEMPT_AFTER: std::time::Duration = std::time::Duration::from_millis(25);

/// Beginnings of the versions that are understood.
const VERSIONS: [&str; 2] = ["0.9.1", "0.10."];

/// The version that clients of this transport expect.
pub(super) fn version_of(transport: Transport) -> &'static str {
    match transport {
        Transport::Zmtp => VERSION_ZMTP,
        Transport::Tcp => VERSION_TCP,
    }
}

fn is_understood(version: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    VERSIONS.iter().any(|start| version.strip_prefix(start).is_some_and(digits))
}

impl Peer {
    /// Logs the client in, or tells it why not.
    pub(super) async fn log_in(&mut self, auth: Auth) {
        if self.visit.is_some() {
            tracing::debug!("{} logs in twice", auth.name);
            return;
        }
        match self.admit(&auth).await {
            Ok(visit) => {
                tracing::info!(session = %self.door.session, "{} logged in.", auth.name);
                self.welcome(visit).await;
            }
            Err(why) => {
                tracing::info!(session = %self.door.session, "{:?} is not let in: {why}", auth.name);
                self.lines.send(Channel::Command, &auth_reply(&format!("FAILED: {why}")));
            }
        }
    }

    async fn admit(&self, auth: &Auth) -> Result<Visit, String> {
        if let Some(room) = self.door.room()? {
            is_free(&auth.name, self.id, &room, false).await?;
        }
        let address = self.lines.address().map_or(IpAddr::from([0, 0, 0, 0]), |address| address.ip());
        let admin = self.door.judge(auth, address)?;
        if !is_understood(&auth.version) {
            let own = version_of(self.lines.transport());
            return Err(format!("wrong client version ({} != {own})", auth.version));
        }
        let name = MemberName::new(&*auth.name).map_err(|invalid| format!("the name {invalid}"))?;
        if name.is_reserved() {
            return Err(Rejection::NameReserved.to_string());
        }
        // Only now: who cannot come in makes no session, and sends nobody away.
        let room = self.door.open_room().await?;
        is_free(&auth.name, self.id, &room, true).await?;
        let membership = enter(&room, name, self.id).await?;
        let stage = Stage::DataPending(clock::instant());
        let ear = if auth.version.starts_with(VERSION_ZMTP) { Ear::Unknown } else { Ear::Eight };
        Ok(Visit::new(room, membership, admin, ear, stage))
    }

    async fn welcome(&mut self, visit: Visit) {
        visit.room.roster.enter(visit.membership.subscriber(), visit.admin, Status::DataPending);
        self.lines.take_messages_of(self.door.settings().message_bytes);
        self.visit = Some(visit);
        self.answer_login().await;
    }

    /// Answers as soon as the client can be told of everything: clients of the TCP transport wait for their data line.
    pub(super) async fn answer_login(&mut self) {
        let transport = self.lines.transport();
        let Some(visit) = &mut self.visit else { return };
        if !matches!(visit.stage, Stage::DataPending(_)) {
            return;
        }
        if transport == Transport::Tcp && !self.lines.has(Channel::Data) {
            return;
        }
        let is_open = visit.room.state().await.is_ok_and(|state| is_initialised(&state));
        let (stage, answer) = if is_open { (Stage::Told, "RUNNING") } else { (Stage::Lobby, "LOBBY") };
        visit.is_now(stage, Status::Lobby);
        visit.room.publish().await;
        // The client looks itself up in the list, so it must be there before anything else happens.
        match transport {
            Transport::Zmtp => {
                visit.tell_of_others(&mut self.lines);
                self.lines.send(Channel::Command, &auth_reply(answer));
            }
            Transport::Tcp => {
                self.lines.send(Channel::Command, &auth_reply(answer));
                visit.tell_of_others(&mut self.lines);
            }
        }
    }
}

/// The old servers looked at the name first, too. Whoever has just closed is given a moment to be gone.
/// With `take`, who has no line any more must make way; without, such a name counts as free.
async fn is_free(name: &str, id: PeerId, room: &Room, take: bool) -> Result<(), String> {
    for attempt in 0..ATTEMPTS {
        if room.roster.client_called(name).is_none_or(|client| client == id.client()) {
            return Ok(());
        }
        let is_away = if take { room.roster.make_way(name) } else { room.roster.is_gone(name) };
        if is_away && !take {
            return Ok(());
        }
        if !is_away && attempt >= ATTEMPTS / 4 {
            break;
        }
        tokio::time::sleep(ATTEMPT_AFTER).await;
    }
    Err("client already logged in".to_owned())
}

/// Makes the client a member of the session.
pub(super) async fn enter(room: &Arc<Room>, name: MemberName, id: PeerId) -> Result<Membership, String> {
    let subscriber = Subscriber::of_one_project(name, Role::Member, id.client());
    let (joined, membership) = room.handle.join(subscriber, None).await.map_err(|error| match error {
        JoinError::Rejected(Rejection::NameTaken(_)) | JoinError::Replaced => "client already logged in".to_owned(),
        JoinError::Rejected(_) | JoinError::Restoring | JoinError::Stopping => error.to_string(),
    })?;
    match joined.mode {
        Mode::Live => Ok(membership),
        Mode::ReadOnly(why) => Err(format!("the session cannot be written at the moment: {why}")),
    }
}

impl BlenderDoor {
    /// Whether the passwords open the session, and whether they make an administrator.
    fn judge(&self, auth: &Auth, address: IpAddr) -> Result<bool, String> {
        let wrong = |which: &str| {
            let which = which.to_owned();
            move |denied: Denied| match denied {
                Denied::Wrong => format!("wrong {which} password"),
                Denied::TooManyAttempts(_) => denied.to_string(),
            }
        };
        if auth.admin {
            let password = auth.admin_password.as_deref().unwrap_or_default();
            let admitted = self.authority.admit(address, Credentials::AdminPassword(password));
            return admitted.map(|_| true).map_err(wrong("admin"));
        }
        // The add-on sends an empty text where no password was typed; the library alone sends `None`.
        let shown = auth.server_password.as_deref().unwrap_or_default();
        let credentials = if shown.is_empty() { Credentials::None } else { Credentials::Password(shown) };
        self.authority.admit(address, credentials).map(|_| false).map_err(wrong("server"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_published_versions_are_understood_and_no_others() {
        for version in ["0.9.10", "0.9.12", "0.10.2", "0.10.3", "0.10.14"] {
            assert!(is_understood(version), "{version}");
        }
        for version in ["0.9.1", "0.9.9", "0.8.12", "0.11.0", "1.0", "", "0.10.", "0.10.3x"] {
            assert!(!is_understood(version), "{version}");
        }
    }
}
