//! Decides who comes, who goes, and what is remembered of them.

use super::{Deciding, invalid, within};
use crate::formats::json::{self, Bounds, JsonError};
use crate::session::{Change, ClientId, Rejection};
use bytes::Bytes;

impl Deciding<'_> {
    pub(super) fn join(&self, client: ClientId) -> Result<Vec<Change>, Rejection> {
        let name = &self.author.name;
        if name.is_reserved() && !name.is_daemon() {
            return Err(Rejection::NameReserved);
        }
        let members = &self.session.members;
        match members.get_online(name) {
            Some(online) if online.client != client => return Err(Rejection::NameTaken(name.clone())),
            Some(_) => {}
            None => within("members online", members.online.len() as u64 + 1, self.limits.members_online)?,
        }
        let mut changes = vec![Change::MemberJoined { client, role: self.author.role }];
        if self.session.member(name).is_none() {
            let members = members.excess(self.limits.members_remembered);
            if !members.is_empty() {
                changes.push(Change::Forgotten { messages: 0, members, clients: Vec::new() });
            }
        }
        Ok(changes)
    }

    pub(super) fn leave(&self) -> Result<Vec<Change>, Rejection> {
        let name = &self.author.name;
        if self.session.members.get_online(name).is_none() {
            return Err(Rejection::NotJoined(name.clone()));
        }
        let ids: Vec<_> = self.session.locked_by(name).cloned().collect();
        let left = Change::MemberLeft { name: name.clone() };
        Ok(if ids.is_empty() { vec![left] } else { vec![Change::NodesUnlocked { ids }, left] })
    }

    pub(super) fn member_set(&self, metadata: &Bytes) -> Result<Change, Rejection> {
        let name = &self.author.name;
        let member = self.session.member(name).filter(|member| member.online.is_some());
        let member = member.ok_or_else(|| Rejection::NotJoined(name.clone()))?;
        let bounds = Bounds::new(self.limits.metadata_bytes, self.limits.json_depth);
        within("bytes of member metadata", metadata.len() as u64, self.limits.metadata_bytes)?;
        json::valid_object(metadata, bounds.depth).map_err(|error| invalid("metadata", error.to_string()))?;
        self.work((member.metadata.len() + metadata.len()) as u64)?;
        match json::merge(&member.metadata, metadata, &bounds) {
            Ok(_) => Ok(Change::MemberSet { metadata: metadata.clone() }),
            Err(JsonError::TooLarge { .. }) => {
                Err(Rejection::LimitExceeded { what: "bytes of member metadata", limit: self.limits.metadata_bytes })
            }
            Err(error) => Err(invalid("metadata", error.to_string())),
        }
    }
}
