//! Decides what is asked of the chat.

use super::{Deciding, invalid, text};
use crate::session::{Change, ChatDraft, ChatId, ChatKind, Rejection};
use std::sync::Arc;

/// Most bytes of one message.
const TEXT_BYTES: usize = 16 << 10;

impl Deciding<'_> {
    pub(super) fn chat_post(&self, draft: &ChatDraft) -> Result<Change, Rejection> {
        text("text", &draft.text, 1, TEXT_BYTES)?;
        if draft.kind == ChatKind::Link && !is_link(&draft.text) {
            return Err(invalid("text", "must be an http or https address"));
        }
        let id = match &draft.id {
            Some(id) if self.session.message(id).is_some() => return Err(Rejection::Exists(format!("message {id:?}"))),
            Some(id) => id.clone(),
            None => self.free_id(),
        };
        Ok(Change::ChatPosted(ChatDraft { id: Some(id), kind: draft.kind, text: Arc::clone(&draft.text) }))
    }

    /// An id for a message that came without one. Clients may have taken the first choices.
    fn free_id(&self) -> ChatId {
        let first = match self.place {
            None => format!("m{}", self.seq),
            Some(place) => format!("m{}.{}", self.seq, place + 1),
        };
        let further = (1u64..).map(|n| format!("{first}+{n}"));
        std::iter::once(first.clone())
            .chain(further)
            .filter_map(|text| ChatId::new(text).ok())
            .find(|id| self.session.message(id).is_none())
            .expect("there are more numbers than messages")
    }

    /// How many of the oldest messages must go when some are added.
    pub(super) fn messages_over(&self, more: u64, more_bytes: u64) -> u64 {
        self.session.chat.excess(more, more_bytes, self.limits.chat_messages, self.limits.chat_bytes)
    }
}

fn is_link(text: &str) -> bool {
    let scheme = |scheme: &str| text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    (scheme("http://") || scheme("https://")) && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}
