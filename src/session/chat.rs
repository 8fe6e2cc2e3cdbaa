//! Chat: what was said, in the order it was said; the live state holds the newest messages only.

use super::tasks::Stamp;
use super::{ChatDraft, ChatId, ChatKind, MemberName, Timestamp};
use imbl::OrdMap;
use std::sync::Arc;

/// A chat message, as the session keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Its identity.
    pub id: ChatId,
    /// What sort of message it is.
    pub kind: ChatKind,
    /// What was said.
    pub text: Arc<str>,
    /// Who said it.
    pub author: MemberName,
    /// When it was said.
    pub at: Timestamp,
    /// The `seq` of the event that brought it.
    pub seq: u64,
}

/// The messages of the live state, by position: how many were posted before them in the session's whole life.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Chat {
    pub(super) messages: OrdMap<u64, Arc<ChatMessage>>,
    pub(super) ids: OrdMap<ChatId, u64>,
    pub(super) bytes: u64,
    pub(super) forgotten: u64,
}

impl Chat {
    pub(super) fn len(&self) -> u64 {
        self.messages.len() as u64
    }

    pub(super) fn posted(&mut self, draft: &ChatDraft, stamp: Stamp<'_>) {
        // The decision always sets the id: a draft without one was never accepted.
        let Some(id) = draft.id.clone() else { return };
        self.push(Arc::new(ChatMessage {
            id,
            kind: draft.kind,
            text: Arc::clone(&draft.text),
            author: stamp.author.clone(),
            at: stamp.at,
            seq: stamp.seq,
        }));
    }

    pub(super) fn push(&mut self, message: Arc<ChatMessage>) {
        let position = self.forgotten + self.len();
        self.bytes += message.text.len() as u64;
        self.ids.insert(message.id.clone(), position);
        self.messages.insert(position, message);
    }

    pub(super) fn forget(&mut self, count: u64) {
        for _ in 0..count {
            let Some((position, message)) = self.messages.get_min().cloned() else { return };
            self.messages.remove(&position);
            self.ids.remove(&message.id);
            self.bytes -= message.text.len() as u64;
            self.forgotten += 1;
        }
    }

    /// Forgets every message; those that come are counted on.
    pub(super) fn forget_all(&mut self) {
        *self = Self { forgotten: self.forgotten + self.len(), ..Self::default() };
    }

    /// How many of the oldest messages must go when `more` messages of `more_bytes` together are added. The newest
    /// stays, however large it is.
    pub(super) fn excess(&self, more: u64, more_bytes: u64, max: u64, max_bytes: u64) -> u64 {
        let (mut count, mut bytes) = (self.len() + more, self.bytes + more_bytes);
        let mut forgotten = 0;
        for message in self.messages.values() {
            if count <= 1 || (count <= max && bytes <= max_bytes) {
                break;
            }
            count -= 1;
            bytes -= message.text.len() as u64;
            forgotten += 1;
        }
        forgotten
    }
}
