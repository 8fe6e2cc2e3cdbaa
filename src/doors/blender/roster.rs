//! The roster: which Blender clients are in the session, the list of users that they all are shown, and what each says of
//! itself.

use super::objects::{UserRecord, clients, metadata};
use super::people::Notices;
use super::wire::{Transport, frame};
use crate::formats::pickle::{Value, write};
use crate::live::Subscriber;
use crate::session::{ClientId, MemberName, Role, Session};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The protocol's numbers for what a client is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// In the session, with all of it.
    Active,
    /// Logged in, its data line is not there yet.
    DataPending,
    /// Logged in; there is nothing yet, or it has not asked for it.
    Lobby,
}

impl Status {
    fn number(self) -> u8 {
        match self {
            Self::Active => 2,
            Self::Lobby => 10,
            Self::DataPending => 11,
        }
    }
}

/// Entries of metadata, each key once.
pub(super) type Entries = Vec<(Arc<str>, Value)>;

/// Most entries of one user's metadata.
const ENTRIES_MAX: usize = 64;

struct User {
    subscriber: Arc<Subscriber>,
    admin: bool,
    latency: u32,
    status: Status,
    entries: BTreeMap<Arc<str>, (u64, Value)>,
    /// The newest update, framed by the first who passes it on.
    newest: Update,
    /// It has no line any more, but may come back.
    away: bool,
    /// Why it must go.
    farewell: Option<String>,
}

/// What a user said last, and what they had said before.
#[derive(Default)]
struct Update {
    before: u64,
    version: u64,
    framed: [Option<Vec<Bytes>>; 2],
}

/// A list of users, as it was sent out.
#[derive(Default)]
pub(super) struct List {
    /// Which one it is; 0 = none yet.
    pub(super) version: u64,
    /// Who is in it: of nobody else may a client hear.
    pub(super) names: BTreeSet<MemberName>,
    /// Counts how often tasks or chat had changed.
    pub(super) people: u64,
    /// What it was made from.
    pub(super) state: Option<Session>,
    chunks: Vec<Bytes>,
    framed: [std::sync::OnceLock<Vec<Bytes>>; 2],
}

impl List {
    /// The message, framed by the first who asks.
    pub(super) fn framed(&self, transport: Transport) -> &[Bytes] {
        self.framed[slot(transport)].get_or_init(|| frame(transport, &self.chunks))
    }
}

fn slot(transport: Transport) -> usize {
    match transport {
        Transport::Zmtp => 0,
        Transport::Tcp => 1,
    }
}

#[derive(Default)]
struct Inner {
    users: BTreeMap<MemberName, User>,
    /// Rises with every update of metadata.
    version: u64,
    list: Arc<List>,
}

/// Who is here.
#[derive(Default)]
pub(super) struct Roster {
    inner: Mutex<Inner>,
    /// Rises with everything that a user might have to be told: looking at it takes no lock.
    rises: AtomicU64,
    /// Something happened that everybody is to be told of at once.
    pub(super) news: tokio::sync::Notify,
}

impl Roster {
    /// Whether there may be something that a client which has looked at `seen` has not been told; and what to look at next.
    pub(super) fn has_risen(&self, seen: u64) -> Option<u64> {
        let rises = self.rises.load(Ordering::Acquire);
        (rises > seen).then_some(rises)
    }

    fn rise(&self) {
        self.rises.fetch_add(1, Ordering::AcqRel);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody has logged in.
    pub(super) fn enter(&self, subscriber: &Arc<Subscriber>, admin: bool, status: Status) {
        let (entries, newest) = (BTreeMap::new(), Update::default());
        let subscriber = Arc::clone(subscriber);
        let name = subscriber.name.clone();
        let user = User { subscriber, admin, latency: 999, status, entries, newest, away: false, farewell: None };
        self.lock().users.insert(name, user);
    }

    /// Somebody has gone. Says whether nobody is left.
    pub(super) fn leave(&self, subscriber: &Subscriber) -> bool {
        let mut inner = self.lock();
        let users = &mut inner.users;
        if users.get(&subscriber.name).is_some_and(|user| user.subscriber.connection == subscriber.connection) {
            users.remove(&subscriber.name);
        }
        let nobody = users.is_empty();
        if nobody {
            // Nobody looks at it any more, and what it holds may be large.
            let version = inner.list.version;
            inner.list = Arc::new(List { version, ..List::default() });
        }
        self.news.notify_one();
        nobody
    }

    /// Somebody does something else now; everybody is told.
    pub(super) fn now(&self, name: &MemberName, status: Status) {
        if let Some(user) = self.lock().users.get_mut(name) {
            user.status = status;
        }
        self.news.notify_one();
    }

    /// How long somebody's answers take.
    pub(super) fn answers_in(&self, name: &MemberName, latency: u32) {
        if let Some(user) = self.lock().users.get_mut(name) {
            user.latency = latency;
        }
    }

    /// Sends a user away; `false` if there is none of that name.
    pub(super) fn send_away(&self, name: &str, why: &str) -> bool {
        let inner = self.lock();
        let Some(name) = inner.users.keys().find(|user| user.as_str() == name).cloned() else { return false };
        drop(inner);
        let mut inner = self.lock();
        let Some(user) = inner.users.get_mut(&name) else { return false };
        user.farewell = Some(why.to_owned());
        self.rise();
        user.subscriber.wake();
        true
    }

    /// Why this user must go, if so.
    pub(super) fn farewell(&self, name: &MemberName) -> Option<String> {
        self.lock().users.get_mut(name).and_then(|user| user.farewell.take())
    }

    /// Takes over what a user says of itself, and wakes all others.
    pub(super) fn said(&self, name: &MemberName, said: Entries) {
        let mut inner = self.lock();
        inner.version += 1;
        let version = inner.version;
        let Some(user) = inner.users.get_mut(name) else { return };
        for (key, value) in said {
            if user.entries.len() < ENTRIES_MAX || user.entries.contains_key(&key) {
                user.entries.insert(key, (version, value));
            }
        }
        self.rise();
        user.newest = Update { before: user.newest.version, version, framed: Default::default() };
        for (other, user) in &inner.users {
            if other != name {
                user.subscriber.wake();
            }
        }
    }

    /// All that a user has said of itself.
    pub(super) fn entries(&self, name: &MemberName) -> Entries {
        let inner = self.lock();
        let entries = inner.users.get(name).map(|user| user.entries.iter());
        entries.into_iter().flatten().map(|(key, (_, value))| (Arc::clone(key), value.clone())).collect()
    }

    /// What others have said since `seen`, framed; and the version that this is. Only of users in the list that the
    /// client has.
    pub(super) fn said_since(
        &self,
        seen: u64,
        own: &MemberName,
        list: &List,
        transport: Transport,
    ) -> (u64, Vec<Vec<Bytes>>) {
        let mut inner = self.lock();
        let version = inner.version;
        if seen >= version {
            return (version, Vec::new());
        }
        let others = inner
            .users
            .iter_mut()
            .filter(|(name, user)| *name != own && user.newest.version > seen && list.names.contains(*name));
        let messages = others.filter_map(|(name, user)| user.update_since(name, seen, transport)).collect();
        (version, messages)
    }

    /// Makes a new list of all users, and wakes them.
    pub(super) fn publish(&self, state: &Session, people: u64, notices: &Notices) {
        let mut inner = self.lock();
        if inner.users.is_empty() {
            return;
        }
        let list = inner.list(state, people, notices);
        inner.list = Arc::new(list);
        self.rise();
        for user in inner.users.values() {
            user.subscriber.wake();
        }
    }

    /// The newest list.
    pub(super) fn list(&self) -> Arc<List> {
        Arc::clone(&self.lock().list)
    }

    /// Whether somebody of this name is here.
    pub(super) fn has(&self, name: &MemberName) -> bool {
        self.lock().users.contains_key(name)
    }

    /// Which client has this name.
    pub(super) fn client_called(&self, name: &str) -> Option<ClientId> {
        self.lock().users.iter().find(|(user, _)| user.as_str() == name).map(|(_, user)| user.subscriber.client)
    }

    /// Somebody has no line any more, but may come back.
    pub(super) fn is_away(&self, name: &MemberName, away: bool) {
        if let Some(user) = self.lock().users.get_mut(name) {
            user.away = away;
        }
    }

    /// Whether a user of this name has no line any more.
    pub(super) fn is_gone(&self, name: &str) -> bool {
        self.lock().users.iter().any(|(user, record)| user.as_str() == name && record.away)
    }

    /// Sends a user away who has no line any more: somebody else, or the same one anew, wants the name.
    pub(super) fn make_way(&self, name: &str) -> bool {
        let mut inner = self.lock();
        let Some((_, user)) = inner.users.iter_mut().find(|(user, _)| user.as_str() == name) else { return false };
        if user.away {
            user.farewell = Some("connected again".to_owned());
            self.rise();
            user.subscriber.wake();
        }
        user.away
    }

    /// Whether anybody is here.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().users.is_empty()
    }
}

impl User {
    /// One message with all that this user has said since.
    fn update_since(&mut self, name: &MemberName, seen: u64, transport: Transport) -> Option<Vec<Bytes>> {
        let only_newest = self.newest.before <= seen;
        let slot = slot(transport);
        if only_newest && let Some(framed) = &self.newest.framed[slot] {
            return Some(framed.clone());
        }
        let newer = self.entries.iter().filter(|(_, (version, _))| *version > seen);
        let pairs = newer.map(|(key, (_, value))| (Value::Text(Arc::clone(key)), value.clone())).collect();
        let data = write(&Value::Dict(Arc::new(pairs))).ok()?;
        let framed = frame(transport, &metadata(name.as_str(), data.into()));
        if only_newest {
            self.newest.framed[slot] = Some(framed.clone());
        }
        Some(framed)
    }
}

impl Inner {
    fn list(&self, state: &Session, people: u64, notices: &Notices) -> List {
        let own: Vec<(&MemberName, Entries)> = self
            .users
            .iter()
            .map(|(name, user)| {
                (name, user.entries.iter().map(|(key, (_, value))| (Arc::clone(key), value.clone())).collect())
            })
            .collect();
        let blender = own.iter().filter_map(|(name, entries)| {
            let user = self.users.get(*name)?;
            let (admin, latency, status) = (user.admin, user.latency, user.status.number());
            Some(UserRecord { name: name.as_str(), admin, latency, status, metadata: entries })
        });
        let native = state.online().filter(|member| !self.users.contains_key(&member.name)).map(|member| UserRecord {
            name: member.name.as_str(),
            admin: member.online.is_some_and(|online| online.role == Role::Admin),
            latency: 0,
            status: Status::Active.number(),
            metadata: &[],
        });
        let session = notices.entries();
        let session = session.as_ref().map(|entries| UserRecord {
            name: Notices::USER,
            admin: false,
            latency: 0,
            status: Status::Active.number(),
            metadata: entries,
        });
        let names = self.users.keys().chain(state.online().map(|member| &member.name)).cloned().collect();
        let chunks = clients(blender.chain(native).chain(session)).unwrap_or_else(|error| {
            tracing::error!("The list of users cannot be written: {error}");
            Vec::new()
        });
        let (version, state) = (self.list.version + 1, Some(state.clone()));
        List { version, names, people, state, chunks, framed: Default::default() }
    }
}
