//! When a session is saved: at intervals, when somebody leaves, on request, and never when nothing has changed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Between saves because somebody left, after the first.
const DISCONNECT_SPACING: Duration = Duration::from_secs(5);

/// Between saves because somebody asked, after the first.
const REQUEST_SPACING: Duration = Duration::from_secs(1);

/// Most reasons of either kind that wait for the next save; more merge without a line of their own.
const REASONS_MAX: usize = 256;

/// Decides when to save, and why. Knows times and numbers only.
#[derive(Debug)]
pub(super) struct SavePlan {
    interval: Duration,
    next_auto: Instant,
    last_disconnect: Option<Instant>,
    last_request: Option<Instant>,
    /// Why somebody asked for a save, and the newest event it should hold.
    reasons: BTreeMap<String, u64>,
    /// Who left, in order, and with which event.
    disconnects: Vec<(String, u64)>,
    saved: u64,
    in_progress: bool,
}

impl SavePlan {
    pub(super) fn new(interval: Duration, saved: u64, now: Instant) -> Self {
        Self {
            interval,
            next_auto: now + interval,
            last_disconnect: None,
            last_request: None,
            reasons: BTreeMap::new(),
            disconnects: Vec::new(),
            saved,
            in_progress: false,
        }
    }

    /// Takes a changed setting over.
    pub(super) fn set_interval(&mut self, interval: Duration, now: Instant) {
        if interval != self.interval {
            self.interval = interval;
            self.next_auto = now + interval;
        }
    }

    /// A member has left, with the event `head`.
    pub(super) fn left(&mut self, name: &str, head: u64) {
        let reason = format!("user_disconnect:{name}");
        if let Some(known) = self.disconnects.iter_mut().find(|(known, _)| *known == reason) {
            known.1 = head;
        } else if self.disconnects.len() < REASONS_MAX {
            self.disconnects.push((reason, head));
        }
    }

    /// Somebody asked for a save that holds `head`.
    pub(super) fn requested(&mut self, reason: String, head: u64) {
        if self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&reason) {
            self.reasons.insert(reason, head);
        }
    }

    /// The next save waits for nothing but the one under way.
    pub(super) fn hurry(&mut self) {
        (self.last_disconnect, self.last_request) = (None, None);
    }

    /// Whoever asked for a save has been told that there will be none.
    pub(super) fn refused(&mut self) {
        self.reasons.clear();
    }

    /// The reasons to save now; empty = do not. `head` is the newest event.
    pub(super) fn due(&mut self, head: u64, now: Instant) -> Vec<String> {
        if self.in_progress {
            return Vec::new();
        }
        let auto = now >= self.next_auto;
        if auto {
            self.next_auto = now + self.interval;
        }
        if head == self.saved {
            return Vec::new();
        }
        let mut reasons = Vec::new();
        if self.last_request.is_none_or(|last| now >= last + REQUEST_SPACING) && !self.reasons.is_empty() {
            self.last_request = Some(now);
            reasons.extend(std::mem::take(&mut self.reasons).into_keys());
        }
        if self.last_disconnect.is_none_or(|last| now >= last + DISCONNECT_SPACING) && !self.disconnects.is_empty() {
            self.last_disconnect = Some(now);
            reasons.extend(self.disconnects.drain(..).map(|(reason, _)| reason));
        }
        if auto && reasons.is_empty() {
            reasons.push("auto-save".to_owned());
        }
        reasons
    }

    /// Whether asking again later could give a reason, and when.
    pub(super) fn wake_at(&self) -> Instant {
        let disconnect = self.last_disconnect.filter(|_| !self.disconnects.is_empty());
        let request = self.last_request.filter(|_| !self.reasons.is_empty());
        let spaced = [disconnect.map(|last| last + DISCONNECT_SPACING), request.map(|last| last + REQUEST_SPACING)];
        spaced.into_iter().flatten().fold(self.next_auto, Instant::min)
    }

    /// A save has been handed over.
    pub(super) fn started(&mut self) {
        self.in_progress = true;
    }

    /// A save has ended; `Some` = it is on disk up to this `seq`.
    pub(super) fn ended(&mut self, saved: Option<u64>) {
        self.in_progress = false;
        if let Some(seq) = saved {
            self.saved = self.saved.max(seq);
            // What it holds needs no other save; a reason that was left behind would be given for somebody else's.
            self.reasons.retain(|_, head| *head > seq);
            self.disconnects.retain(|(_, head)| *head > seq);
        }
    }

    /// Whether a save has been handed over and has not ended.
    pub(super) fn is_saving(&self) -> bool {
        self.in_progress
    }

    /// Whether everything is in a snapshot file.
    pub(super) fn is_clean(&self, head: u64) -> bool {
        head == self.saved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::clock;

    fn plan() -> (SavePlan, Instant) {
        let now = clock::instant();
        (SavePlan::new(Duration::from_mins(2), 0, now), now)
    }

    #[test]
    fn nothing_changed_nothing_saved() {
        let (mut plan, now) = plan();
        plan.left("alice", 0);
        plan.requested("signal".to_owned(), 0);
        assert!(plan.due(0, now + Duration::from_secs(121)).is_empty());
    }

    #[test]
    fn the_first_disconnect_saves_at_once_and_the_next_ones_together_after_five_seconds() {
        let (mut plan, now) = plan();
        plan.left("alice", 1);
        assert_eq!(plan.due(1, now), ["user_disconnect:alice"]);
        plan.left("bob", 2);
        plan.left("carol", 2);
        assert!(plan.due(2, now + Duration::from_secs(4)).is_empty());
        assert_eq!(plan.wake_at(), now + Duration::from_secs(5));
        assert_eq!(plan.due(2, plan.wake_at()), ["user_disconnect:bob", "user_disconnect:carol"]);
    }

    #[test]
    fn requests_during_a_save_merge_into_the_next_one() {
        let (mut plan, now) = plan();
        plan.requested("signal".to_owned(), 5);
        assert_eq!(plan.due(5, now), ["signal"]);
        plan.started();
        plan.left("alice", 6);
        plan.requested("request:bob".to_owned(), 6);
        assert!(plan.due(6, now).is_empty());
        plan.ended(Some(5));
        assert_eq!(plan.due(6, now + REQUEST_SPACING), ["request:bob", "user_disconnect:alice"]);
        plan.ended(Some(6));
        assert!(plan.is_clean(6));
    }

    #[test]
    fn a_reason_that_a_save_has_covered_is_not_given_for_a_later_one() {
        let (mut plan, now) = plan();
        plan.requested("signal".to_owned(), 5);
        assert_eq!(plan.due(5, now), ["signal"]);
        plan.started();
        plan.requested("request:bob".to_owned(), 5);
        plan.left("alice", 5);
        plan.requested("request:carol".to_owned(), 6);
        plan.left("dave", 6);
        plan.ended(Some(5));
        let later = now + REQUEST_SPACING;
        assert_eq!(plan.due(6, later), ["request:carol", "user_disconnect:dave"]);
        plan.ended(Some(6));
        assert!(plan.due(7, later).is_empty());
    }

    #[test]
    fn saves_that_are_asked_for_again_and_again_come_once_a_second_and_are_shared() {
        let (mut plan, now) = plan();
        plan.requested("request:alice".to_owned(), 1);
        assert_eq!(plan.due(1, now), ["request:alice"]);
        plan.ended(Some(1));
        plan.requested("request:alice".to_owned(), 2);
        plan.requested("request:bob".to_owned(), 3);
        assert!(plan.due(3, now + Duration::from_millis(999)).is_empty());
        assert_eq!(plan.wake_at(), now + REQUEST_SPACING);
        assert_eq!(plan.due(3, plan.wake_at()), ["request:alice", "request:bob"]);
        plan.ended(Some(3));
        plan.requested("shutdown".to_owned(), 4);
        plan.hurry();
        assert_eq!(plan.due(4, now + REQUEST_SPACING), ["shutdown"], "a stop does not wait");
    }

    #[test]
    fn the_interval_saves_only_what_changed() {
        let (mut plan, now) = plan();
        assert!(plan.due(1, now + Duration::from_secs(119)).is_empty());
        assert_eq!(plan.due(1, now + Duration::from_mins(2)), ["auto-save"]);
        plan.ended(Some(1));
        assert!(plan.due(1, now + Duration::from_mins(4)).is_empty());
    }
}
