//! Nodes that have gone astray: one client's copies of them are wrong, or may be, and it must be told the truth. Not while
//! it works on them: the truth and a change that cross each other on their way leave it wrong again, and who goes on
//! editing would hear all his own edits as whole nodes.

use super::settling::{SETTLED_AFTER, Settling};
use crate::session::NodeId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long after it was told the truth about a node a client may change it without knowing.
const TOLD_FOR: Duration = Duration::from_millis(300);

/// The same for a client that has come back. It reads one message at a time, and a hundred nodes and what others did
/// meanwhile may lie before it.
const TOLD_FOR_AFTER_RETURN: Duration = Duration::from_secs(10);

/// How long a client that has come back may be behind with reading.
const CAREFUL_FOR: Duration = Duration::from_mins(1);

/// How often the wait is doubled at most.
const DOUBLED_MAX: u32 = 4;

/// The nodes that are astray for one client.
#[derive(Debug)]
pub(super) struct Astray {
    nodes: BTreeMap<NodeId, Stray>,
    /// What the client has changed a moment ago.
    changed: Settling,
    /// What it was told the truth about a moment ago.
    told: BTreeMap<NodeId, Told>,
    /// When the client came back, if it has been away.
    returned: Option<Instant>,
}

#[derive(Debug, Default)]
struct Stray {
    /// How often changes have crossed the truth, one time after the other. Each makes the next wait twice as long: who
    /// changes a node in just the rhythm of the waits is not told of it for ever.
    crossed: u32,
    /// When the client changed it last.
    changed: Option<Instant>,
}

#[derive(Debug)]
struct Told {
    at: Instant,
    crossed: u32,
}

impl Default for Astray {
    fn default() -> Self {
        Self { nodes: BTreeMap::new(), changed: Settling::new(SETTLED_AFTER), told: BTreeMap::new(), returned: None }
    }
}

impl Astray {
    /// The client has come back, and may read for a while what lies before it.
    pub(super) fn returns(&mut self, now: Instant) {
        self.returned = Some(now);
    }

    fn told_for(&self, now: Instant) -> Duration {
        let careful = self.returned.is_some_and(|at| now.saturating_duration_since(at) < CAREFUL_FOR);
        if careful { TOLD_FOR_AFTER_RETURN } else { TOLD_FOR }
    }

    /// The client must be told the truth about this node, and nothing else of it until then.
    pub(super) fn add(&mut self, id: NodeId) {
        let changed = self.changed.last(&id);
        self.nodes.entry(id).or_insert(Stray { crossed: 0, changed });
    }

    /// Whether it must be told.
    pub(super) fn contains(&self, id: &NodeId) -> bool {
        self.nodes.contains_key(id)
    }

    /// There is nothing to tell any more.
    pub(super) fn remove(&mut self, id: &NodeId) {
        self.nodes.remove(id);
        self.told.remove(id);
    }

    /// A change of the node has come from the client, or has been answered.
    pub(super) fn changes(&mut self, id: &NodeId, now: Instant) {
        let told_for = self.told_for(now);
        self.changed.sent(id, now);
        if let Some(stray) = self.nodes.get_mut(id) {
            stray.changed = Some(now);
        } else if let Some(told) = self.told.remove(id)
            && now.saturating_duration_since(told.at) < told_for
        {
            // It crossed the truth on its way: it is in the session, but not in the client's copy any more.
            self.nodes.insert(id.clone(), Stray { crossed: told.crossed + 1, changed: Some(now) });
        }
    }

    /// Whether there is a node about which the client should be told what is true now.
    pub(super) fn is_due(&self, under_way: impl Fn(&NodeId) -> bool, now: Instant) -> bool {
        self.nodes.iter().any(|(id, stray)| stray.is_quiet(now, now) && !under_way(id))
    }

    /// Those about which it may be told, now, what was true at that time. Then they have been.
    pub(super) fn take_due(
        &mut self,
        under_way: impl Fn(&NodeId) -> bool,
        true_at: Instant,
        now: Instant,
    ) -> Vec<NodeId> {
        let due = self.nodes.extract_if(.., |id, stray| stray.is_quiet(true_at, now) && !under_way(id));
        due.map(|(id, stray)| {
            self.told.insert(id.clone(), Told { at: now, crossed: stray.crossed });
            id
        })
        .collect()
    }

    /// Telling it of these took until now; what it says was not listened to meanwhile.
    pub(super) fn told(&mut self, ids: &[NodeId], now: Instant) {
        for id in ids {
            if let Some(told) = self.told.get_mut(id) {
                told.at = now;
            }
        }
    }

    /// Time has passed. Unless everything is written, and what the client says is listened to, it has not been told yet.
    pub(super) fn time_passes(&mut self, in_touch: bool, now: Instant) {
        if !in_touch {
            self.told.values_mut().for_each(|told| told.at = now);
        }
        let told_for = self.told_for(now);
        self.told.retain(|_, told| now.saturating_duration_since(told.at) < told_for);
    }
}

impl Extend<NodeId> for Astray {
    fn extend<T: IntoIterator<Item = NodeId>>(&mut self, ids: T) {
        ids.into_iter().for_each(|id| self.add(id));
    }
}

impl Stray {
    /// Whether the client leaves it alone, and has not touched it since that time.
    fn is_quiet(&self, since: Instant, now: Instant) -> bool {
        let wait = SETTLED_AFTER * (1 << self.crossed.min(DOUBLED_MAX));
        self.changed.is_none_or(|at| at <= since && now.saturating_duration_since(at) >= wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::clock;

    fn id() -> NodeId {
        NodeId::new("n").unwrap()
    }

    /// Lives through so many milliseconds: the client changes the node at these times, and each change is answered after
    /// `answered_after`; says when it was told the truth.
    fn told_at(astray: &mut Astray, changes: &[u64], answered_after: u64, until: u64) -> Vec<u64> {
        let start = clock::instant();
        let mut told = Vec::new();
        for ms in 0..until {
            let now = start + Duration::from_millis(ms);
            let is_answered = ms.checked_sub(answered_after).is_some_and(|at| changes.binary_search(&at).is_ok());
            if is_answered || changes.binary_search(&ms).is_ok() {
                astray.changes(&id(), now);
            }
            let newest = changes[..changes.partition_point(|at| *at <= ms)].last();
            let under_way = |_: &NodeId| newest.is_some_and(|at| ms < at + answered_after);
            // Peers look at their clocks so often.
            if ms % 100 == 0 {
                astray.time_passes(true, now);
                if astray.is_due(under_way, now) {
                    told.extend(astray.take_due(under_way, now, now).iter().map(|_| ms));
                }
            }
        }
        told
    }

    fn every(ms: u64, until: u64) -> Vec<u64> {
        (1..until).filter(|at| at % ms == 0).collect()
    }

    #[test]
    fn who_does_not_work_on_a_node_is_told_at_once_and_once() {
        let mut astray = Astray::default();
        assert_eq!(told_at(&mut astray, &[], 1, 1_000), [0; 0]);
        astray.add(id());
        assert!(astray.contains(&id()));
        assert_eq!(told_at(&mut astray, &[], 1, 5_000), [0]);
        assert!(!astray.contains(&id()));
    }

    #[test]
    fn who_goes_on_editing_is_told_once_when_he_rests() {
        for rhythm in [10, 50, 100, 150, 190] {
            let mut astray = Astray::default();
            astray.changes(&id(), clock::instant());
            astray.add(id());
            let told = told_at(&mut astray, &every(rhythm, 4_000), 5, 10_000);
            assert!(matches!(told[..], [4_000..4_500]), "every {rhythm} ms: {told:?}");
        }
    }

    #[test]
    fn no_rhythm_of_editing_makes_edits_come_back_for_ever() {
        for rhythm in (30..4_000).step_by(70) {
            let mut astray = Astray::default();
            astray.add(id());
            let told = told_at(&mut astray, &every(rhythm, 30_000), 5, 40_000);
            assert!(told.len() <= 4, "every {rhythm} ms: {told:?}");
        }
    }

    #[test]
    fn after_the_last_change_that_crossed_it_the_truth_is_told_again() {
        for first in [1, 50, 299] {
            let mut astray = Astray::default();
            astray.add(id());
            let told = told_at(&mut astray, &[first], 5, 10_000);
            assert!(matches!(told[..], [0, again] if again > first), "a change after {first} ms: {told:?}");
        }
        let mut astray = Astray::default();
        astray.add(id());
        assert_eq!(told_at(&mut astray, &every(350, 10_000), 5, 20_000), [0], "these were made knowing it");
    }

    #[test]
    fn while_a_change_is_under_way_nothing_is_told() {
        let mut astray = Astray::default();
        astray.changes(&id(), clock::instant());
        astray.add(id());
        let told = told_at(&mut astray, &[0], 3_000, 10_000);
        assert!(matches!(told[..], [3_200..3_400]), "{told:?}");
    }

    #[test]
    fn a_truth_from_before_a_change_is_not_told() {
        let (mut astray, start) = (Astray::default(), clock::instant());
        astray.add(id());
        assert!(astray.is_due(|_| false, start));
        astray.changes(&id(), start + Duration::from_millis(1));
        let late = start + 10 * SETTLED_AFTER;
        assert!(astray.take_due(|_| false, start, late).is_empty() && astray.contains(&id()));
        assert_eq!(astray.take_due(|_| false, late, late), [id()]);
    }

    #[test]
    fn what_is_not_written_yet_is_crossed_however_late() {
        for (in_touch, is_crossed) in [(true, false), (false, true)] {
            let (mut astray, mut now) = (Astray::default(), clock::instant());
            astray.add(id());
            assert_eq!(astray.take_due(|_| false, now, now), [id()]);
            for _ in 0..50 {
                now += Duration::from_millis(100);
                astray.time_passes(in_touch, now);
            }
            astray.changes(&id(), now);
            assert_eq!(astray.contains(&id()), is_crossed);
        }
    }

    #[test]
    fn what_is_said_while_others_are_told_has_crossed() {
        let (mut astray, start) = (Astray::default(), clock::instant());
        astray.add(id());
        let due = astray.take_due(|_| false, start, start);
        let end = start + 10 * TOLD_FOR;
        astray.told(&due, end);
        astray.changes(&id(), end);
        assert!(astray.contains(&id()));
    }

    #[test]
    fn what_is_gone_is_not_told() {
        let (mut astray, now) = (Astray::default(), clock::instant());
        astray.add(id());
        astray.remove(&id());
        assert!(!astray.is_due(|_| false, now));
    }

    #[test]
    fn who_has_come_back_reads_late_and_is_told_again_of_what_it_changes_meanwhile() {
        let start = clock::instant();
        for (returned, told_again) in [(false, false), (true, true)] {
            let mut astray = Astray::default();
            if returned {
                astray.returns(start);
            }
            astray.add(id());
            assert_eq!(astray.take_due(|_| false, start, start), [id()]);
            let later = start + 10 * TOLD_FOR;
            astray.time_passes(true, later);
            astray.changes(&id(), later);
            assert_eq!(astray.contains(&id()), told_again);
        }
    }
}
