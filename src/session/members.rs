//! Members: who is connected, and what is remembered of those who were.

use super::tasks::Stamp;
use super::{ClientId, MemberName, Role, Timestamp};
use crate::formats::json;
use bytes::Bytes;
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// A member, as the session keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// What they are called.
    pub name: MemberName,
    /// What is remembered about them: a JSON object, kept when they leave.
    pub metadata: Bytes,
    /// Their connection, while they are online.
    pub online: Option<Online>,
    /// When they last came or went.
    pub seen: Timestamp,
    /// The `seq` of the event by which they last came or went.
    pub seen_seq: u64,
}

/// A member's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Online {
    /// The client program.
    pub client: ClientId,
    /// What they may do.
    pub role: Role,
}

/// All members of a session, online or remembered.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Members {
    pub(super) by_name: OrdMap<MemberName, Arc<Member>>,
    pub(super) online: OrdSet<MemberName>,
    /// Those offline, longest first.
    pub(super) offline: OrdSet<(u64, MemberName)>,
}

impl Members {
    pub(super) fn get_online(&self, name: &MemberName) -> Option<Online> {
        self.by_name.get(name).and_then(|member| member.online)
    }

    /// Adds a member that was loaded.
    pub(super) fn insert(&mut self, member: Arc<Member>) {
        if member.online.is_some() {
            self.online.insert(member.name.clone());
        } else {
            self.offline.insert((member.seen_seq, member.name.clone()));
        }
        self.by_name.insert(member.name.clone(), member);
    }

    pub(super) fn joined(&mut self, client: ClientId, role: Role, stamp: Stamp<'_>) {
        let old = self.by_name.get(stamp.author);
        if let Some(old) = old {
            self.offline.remove(&(old.seen_seq, old.name.clone()));
        }
        let metadata = old.map_or_else(|| Bytes::from_static(b"{}"), |old| old.metadata.clone());
        let online = Some(Online { client, role });
        let name = stamp.author.clone();
        self.insert(Arc::new(Member { name, metadata, online, seen: stamp.at, seen_seq: stamp.seq }));
    }

    pub(super) fn left(&mut self, name: &MemberName, at: Timestamp, seq: u64) {
        let Some(member) = self.by_name.get_mut(name) else { return };
        if member.online.is_none() {
            return;
        }
        let member = Arc::make_mut(member);
        member.online = None;
        member.seen = at;
        member.seen_seq = seq;
        self.online.remove(name);
        self.offline.insert((seq, name.clone()));
    }

    pub(super) fn all_left(&mut self, at: Timestamp, seq: u64) {
        for name in self.online.clone() {
            self.left(&name, at, seq);
        }
    }

    pub(super) fn set(&mut self, name: &MemberName, patch: &Bytes) {
        let Some(member) = self.by_name.get_mut(name) else { return };
        if let Ok(metadata) = json::merge(&member.metadata, patch, &json::Bounds::STORED) {
            Arc::make_mut(member).metadata = metadata.into();
        }
    }

    pub(super) fn forget(&mut self, name: &MemberName) {
        if let Some(member) = self.by_name.remove(name) {
            self.online.remove(name);
            self.offline.remove(&(member.seen_seq, name.clone()));
        }
    }

    /// Those longest offline that must go when one more is added.
    pub(super) fn excess(&self, max: u64) -> Vec<MemberName> {
        let over = (self.by_name.len() as u64 + 1).saturating_sub(max);
        let over = usize::try_from(over).unwrap_or(usize::MAX);
        self.offline.iter().take(over).map(|(_, name)| name.clone()).collect()
    }
}
