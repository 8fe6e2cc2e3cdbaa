//! When a session is saved: at intervals, when somebody leaves, on request, and never when nothing has changed.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Between saves because somebody left, after the first.
const DISCONNECT_SPACING: Duration = Duration::from_secs(5);

/// Decides when to save, and why. Knows times and numbers only.
#[derive(Debug)]
pub(super) struct SavePlan {
    interval: Duration,
    next_auto: Instant,
    last_disconnect: Option<Instant>,
    reasons: BTreeSet<String>,
    disconnects: Vec<String>,
    saved: u64,
    in_progress: bool,
}

impl SavePlan {
    pub(super) fn new(interval: Duration, saved: u64, now: Instant) -> Self {
        Self {
            interval,
            next_auto: now + interval,
            last_disconnect: None,
            reasons: BTreeSet::new(),
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

    /// A member has left.
    pub(super) fn left(&mut self, name: &str) {
        let reason = format!("user_disconnect:{name}");
        if !self.disconnects.contains(&reason) && self.disconnects.len() < 256 {
            self.disconnects.push(reason);
        }
    }

    /// Somebody asked for a save.
    pub(super) fn requested(&mut self, reason: String) {
        self.reasons.insert(reason);
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
            self.disconnects.clear();
            return Vec::new();
        }
        let mut reasons: Vec<String> = std::mem::take(&mut self.reasons).into_iter().collect();
        if self.last_disconnect.is_none_or(|last| now >= last + DISCONNECT_SPACING) && !self.disconnects.is_empty() {
            self.last_disconnect = Some(now);
            reasons.append(&mut self.disconnects);
        }
        if auto && reasons.is_empty() {
            reasons.push("auto-save".to_owned());
        }
        reasons
    }

    /// Whether asking again later could give a reason, and when.
    pub(super) fn wake_at(&self) -> Instant {
        let disconnect = self.last_disconnect.map(|last| last + DISCONNECT_SPACING);
        match disconnect {
            Some(at) if !self.disconnects.is_empty() => at.min(self.next_auto),
            _ => self.next_auto,
        }
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
        }
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
        plan.left("alice");
        plan.requested("signal".to_owned());
        assert!(plan.due(0, now + Duration::from_secs(121)).is_empty());
    }

    #[test]
    fn the_first_disconnect_saves_at_once_and_the_next_ones_together_after_five_seconds() {
        let (mut plan, now) = plan();
        plan.left("alice");
        assert_eq!(plan.due(1, now), ["user_disconnect:alice"]);
        plan.left("bob");
        plan.left("carol");
        assert!(plan.due(2, now + Duration::from_secs(4)).is_empty());
        assert_eq!(plan.wake_at(), now + Duration::from_secs(5));
        assert_eq!(plan.due(2, plan.wake_at()), ["user_disconnect:bob", "user_disconnect:carol"]);
    }

    #[test]
    fn requests_during_a_save_merge_into_the_next_one() {
        let (mut plan, now) = plan();
        plan.requested("signal".to_owned());
        assert_eq!(plan.due(5, now), ["signal"]);
        plan.started();
        plan.left("alice");
        plan.requested("request:bob".to_owned());
        assert!(plan.due(6, now).is_empty());
        plan.ended(Some(5));
        assert_eq!(plan.due(6, now), ["request:bob", "user_disconnect:alice"]);
        plan.ended(Some(6));
        assert!(plan.is_clean(6));
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
