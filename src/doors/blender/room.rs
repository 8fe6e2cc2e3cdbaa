//! A room: what the Blender clients of one session share. A copy of the durable state that follows the tail, the roster,
//! who is giving the session its first content, and the encodings of what is relayed.

use super::objects::Owner;
use super::people::{Notices, Word};
use super::proof::Proofreader;
use super::relay::Encoder;
use super::roster::Roster;
use crate::live::{Following, JoinError, Mode, SessionHandle};
use crate::ops::clock;
use crate::ops::metrics::BlenderMetrics;
use crate::session::{Change, Event, MemberName, NodeId, Session, Timestamp};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

/// How often everybody is sent the list of users, also if nothing has happened.
const LIST_EVERY: Duration = Duration::from_secs(1);

/// How often at most.
const LIST_SPACING: Duration = Duration::from_millis(30);

/// Words of the server that are kept.
const WORDS_MAX: usize = 8;

/// The setting that says that the session has had its first content.
pub(super) const INITIALISED: &str = "multi-user.initialised";

/// The setting that says that somebody has begun to give it that content, and has not ended.
pub(super) const INITIALISING: &str = "multi-user.initialising";

/// What the Blender clients of one session share.
pub(super) struct Room {
    /// The session.
    pub(super) handle: SessionHandle,
    /// Who is here.
    pub(super) roster: Roster,
    /// Reads every change again, off the tasks that must not wait.
    pub(super) proofreader: Proofreader,
    /// Encodes what is relayed, once for all.
    pub(super) encoder: Encoder,
    view: Mutex<View>,
    notices: Mutex<Notices>,
    /// Who is giving the session its first content: a connection.
    opener: Mutex<Option<u64>>,
    health: Mutex<Health>,
}

/// Whether the session can be written, and what the clients have been told of that.
#[derive(Default)]
struct Health {
    mode: Mode,
    words: Vec<Word>,
}

/// The durable state, as far as somebody has looked.
#[derive(Default)]
struct View {
    state: Option<Session>,
    /// Counts how often tasks or chat have changed.
    people: u64,
}

impl Room {
    /// The room of a session.
    pub(super) fn open(handle: SessionHandle, metrics: BlenderMetrics) -> Arc<Self> {
        let (proofreader, checks) = Proofreader::new();
        let room = Arc::new(Self {
            handle,
            proofreader,
            roster: Roster::default(),
            encoder: Encoder::default(),
            view: Mutex::default(),
            notices: Mutex::default(),
            opener: Mutex::default(),
            health: Mutex::default(),
        });
        tokio::spawn(keep_listing(Arc::downgrade(&room)));
        tokio::spawn(checks.run(Arc::downgrade(&room), metrics));
        room
    }

    /// Makes a new list of users, for everybody.
    pub(super) async fn publish(&self) {
        let Ok((state, people)) = self.state_and_people().await else { return };
        let words = self.health.lock().unwrap_or_else(PoisonError::into_inner).words.clone();
        let mut notices = self.notices.lock().unwrap_or_else(PoisonError::into_inner);
        notices.renew(&state, people, &words);
        self.roster.publish(&state, people, &notices);
    }

    /// Tells everybody, once, that the session can or cannot be written.
    pub(super) fn say_health(&self, mode: &Mode) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.mode == *mode {
            return;
        }
        health.mode = mode.clone();
        let text = match mode {
            Mode::Live => "The session can be written again.".to_owned(),
            Mode::ReadOnly(why) => format!(
                "NOTHING CAN BE SAVED ON THE SERVER at the moment: {}. Save your .blend now; in 30 seconds everybody \
                 is disconnected.",
                cause(why)
            ),
        };
        health.words.push(Word { text, at: Timestamp(clock::now_ms()) });
        let excess = health.words.len().saturating_sub(WORDS_MAX);
        health.words.drain(..excess);
        self.roster.news.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The durable state: everything that has been shown, and nothing else.
    pub(super) async fn state(&self) -> Result<Session, JoinError> {
        if let Some(state) = self.peek(Session::clone) {
            return Ok(state);
        }
        let state = self.handle.state().await?;
        let mut view = self.lock();
        view.people += 1;
        view.state = Some(state.clone());
        Ok(state)
    }

    /// Looks at the durable state; `None` if it has to be asked for with [`Room::state`].
    pub(super) fn peek<T>(&self, look: impl FnOnce(&Session) -> T) -> Option<T> {
        let mut view = self.lock();
        view.follow(&self.handle);
        view.state.as_ref().map(look)
    }

    /// The durable state, and a number that changes with tasks and chat.
    pub(super) async fn state_and_people(&self) -> Result<(Session, u64), JoinError> {
        let state = self.state().await?;
        Ok((state, self.lock().people))
    }

    /// Forgets the copy of the state: nobody looks at it any more.
    pub(super) fn forget_state(&self) {
        self.lock().state = None;
    }

    /// Makes this connection the one that gives the session its content, unless another is at it.
    pub(super) fn open_by(&self, peer: u64) -> bool {
        let mut opener = self.opener.lock().unwrap_or_else(PoisonError::into_inner);
        let free = opener.is_none_or(|other| other == peer);
        if free {
            *opener = Some(peer);
        }
        free
    }

    /// This connection has given the session its content, or has gone.
    pub(super) fn opened_by(&self, peer: u64) {
        let mut opener = self.opener.lock().unwrap_or_else(PoisonError::into_inner);
        if *opener == Some(peer) {
            *opener = None;
        }
    }
}

impl View {
    /// Takes in what has become durable meanwhile.
    fn follow(&mut self, handle: &SessionHandle) {
        let Some(state) = &mut self.state else { return };
        loop {
            match handle.shared().tail.after(state.seq()) {
                Following::Nothing => return,
                Following::Gone => break,
                Following::Chunk { chunk, .. } => {
                    let after = state.seq();
                    for event in chunk.events().iter().filter(|event| event.seq > after) {
                        self.people += u64::from(is_about_people(event));
                        state.evolve(event);
                    }
                }
            }
        }
        self.state = None;
    }
}

/// Whether tasks, chat or members change by it.
fn is_about_people(event: &Event) -> bool {
    event.changes.iter().any(|change| match change {
        Change::TaskPut(_) | Change::TaskPatched { .. } | Change::TaskRemoved { .. } => true,
        Change::ChatPosted(_) | Change::Forgotten { .. } | Change::Restored { .. } => true,
        Change::SessionCleared { .. } => true,
        Change::MemberJoined { .. } | Change::MemberLeft { .. } => true,
        // A task shows the name of the node that it is about.
        Change::NodePut(_) | Change::NodePatched { .. } | Change::NodesRemoved { .. } => false,
        Change::NodeLocked { .. } | Change::NodesUnlocked { .. } | Change::MemberSet { .. } => false,
        Change::SettingChanged { .. } => false,
    })
}

/// Whether the session has had its first content: it says so, or it has nodes that nobody is just putting there.
pub(super) fn is_initialised(state: &Session) -> bool {
    let is_true = |key| state.setting(key).is_some_and(|value| **value == *b"true");
    is_true(INITIALISED) || (!is_true(INITIALISING) && state.nodes().any(|node| node.payload.is_blender()))
}

/// What the node depends on, as far as that exists.
pub(super) fn living_dependencies<'a>(
    dependencies: &'a [NodeId],
    state: &Session,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let living: Vec<&str> = dependencies.iter().filter(|id| state.node(id).is_some()).map(NodeId::as_str).collect();
    living.into_iter()
}

/// Why nothing can be written, for everybody: what the server's folders are called is nobody's business.
fn cause(why: &str) -> &str {
    let last = why.rsplit(": ").next().unwrap_or_default();
    if ["No space left", "quota exceeded", "disk full", "disk is full"].iter().any(|full| last.contains(full)) {
        "its disk is full"
    } else if last.is_empty() || last.contains(['/', '\\']) {
        "it cannot write to its disk"
    } else {
        last
    }
}

/// How the protocol writes the owner of a node.
pub(super) fn owner_text(owner: Option<&MemberName>) -> &str {
    owner.map_or(Owner::COMMON, MemberName::as_str)
}

/// Sends the list of users round, for as long as there is a room.
async fn keep_listing(room: Weak<Room>) {
    loop {
        let Some(listing) = room.upgrade() else { return };
        // Whether something has happened or not, it is time.
        _ = tokio::time::timeout(LIST_EVERY, listing.roster.news.notified()).await;
        if !listing.roster.is_empty() {
            listing.publish().await;
        }
        drop(listing);
        tokio::time::sleep(LIST_SPACING).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_told_of_the_servers_folders() {
        for (why, cause_is) in [
            ("cannot prepare /data/journal/spare.next: No space left on device (os error 28)", "its disk is full"),
            ("cannot write /data/a: b/journal/7: Disk quota exceeded (os error 122)", "its disk is full"),
            ("cannot sync /data/a: b/journal/7: Input/output error (os error 5)", "it cannot write to its disk"),
            (
                "cannot write /data/journal/7: Read-only file system (os error 30)",
                "Read-only file system (os error 30)",
            ),
            ("cannot write /data/journal/7", "it cannot write to its disk"),
            ("the journal is closed", "the journal is closed"),
        ] {
            assert_eq!(cause(why), cause_is);
        }
    }
}
