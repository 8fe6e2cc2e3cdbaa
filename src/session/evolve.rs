//! Evolving: applies what was decided. It cannot fail, needs no settings, and is all that recovery runs.

use super::scene::Scene;
use super::settings::Settings;
use super::tasks::Stamp;
use super::{Change, Event, Session};

impl Session {
    /// Applies an event. An event that does not fit the state, which only a foreign log can hold, changes what it can.
    pub fn evolve(&mut self, event: &Event) {
        let stamp = Stamp { seq: event.seq, at: event.at, author: &event.author };
        for change in &event.changes {
            self.apply(change, stamp);
        }
        if let Some(key) = event.op {
            self.applied.record(key, event.seq);
        }
        self.seq = event.seq;
    }

    pub(super) fn apply(&mut self, change: &Change, stamp: Stamp<'_>) {
        match change {
            Change::NodePut(put) => self.scene.put(put, stamp.seq),
            Change::NodePatched { id, patch } => self.scene.patched(id, patch, stamp.seq),
            Change::NodesRemoved { ids } => self.scene.removed(ids),
            Change::NodeLocked { id, owner } => self.scene.locked(id, owner),
            Change::NodesUnlocked { ids } => ids.iter().for_each(|id| self.scene.unlocked(id)),
            Change::TaskPut(put) => self.tasks.put(put, stamp),
            Change::TaskPatched { id, patch } => self.tasks.patched(id, patch, stamp),
            Change::TaskRemoved { id } => self.tasks.removed(id, stamp.seq),
            Change::ChatPosted(draft) => self.chat.posted(draft, stamp),
            Change::MemberJoined { client, role } => self.members.joined(*client, *role, stamp),
            Change::MemberLeft { name } => self.members.left(name, stamp.at, stamp.seq),
            Change::MemberSet { metadata } => self.members.set(stamp.author, metadata),
            Change::Restored { .. } => {
                self.scene.unlock_all();
                self.members.all_left(stamp.at, stamp.seq);
            }
            Change::Forgotten { messages, members, clients } => {
                self.chat.forget(*messages);
                for name in members {
                    self.members.forget(name);
                }
                for id in clients {
                    self.applied.forget(*id);
                }
            }
            Change::SettingChanged { key, value } => self.settings.set(key, value.as_ref()),
            Change::SessionCleared { .. } => {
                self.scene = Scene::default();
                self.tasks.all_removed(stamp.seq);
                self.chat.forget_all();
                self.settings = Settings::default();
            }
        }
    }
}
