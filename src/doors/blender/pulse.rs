//! The pulse: pings to a client's helper process, and what its answers say.

use std::time::{Duration, Instant};

/// How long a client may be silent, and how often it is asked. The helper process waits some seconds from the newest ping
/// on: the more often it is asked, the longer a restart may take.
const PING_EVERY: Duration = Duration::from_millis(400);

/// What a client is told before anything is known.
const LATENCY_UNKNOWN: u32 = 999;

/// The signs of life of one client.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    beating: Option<Beating>,
}

#[derive(Debug)]
struct Beating {
    heard: Instant,
    asked: Instant,
    /// It has not been answered.
    waiting: bool,
    latency: u32,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing yet.
    Wait,
    /// Ask.
    Ping,
    /// Nothing was heard for too long.
    Lost,
}

impl Pulse {
    /// The helper process has said its first word, or is known to be there: it is asked at once.
    pub(super) fn begin(&mut self, now: Instant) {
        let latency = self.beating.as_ref().map_or(LATENCY_UNKNOWN, |beating| beating.latency);
        self.beating = Some(Beating { heard: now, asked: now, waiting: true, latency });
    }

    /// A client that has logged in is to have a helper process; so long it may take to come.
    pub(super) fn expect(&mut self, within: Duration, now: Instant) {
        if self.beating.is_none() {
            let heard = now + within;
            self.beating = Some(Beating { heard, asked: now, waiting: true, latency: LATENCY_UNKNOWN });
        }
    }

    /// It has answered.
    pub(super) fn heard(&mut self, now: Instant) {
        let Some(beating) = &mut self.beating else { return };
        beating.heard = now;
        if std::mem::take(&mut beating.waiting) {
            let latency = now.saturating_duration_since(beating.asked).as_millis();
            beating.latency = u32::try_from(latency).unwrap_or(u32::MAX);
        }
    }

    /// How long an answer takes, in milliseconds.
    pub(super) fn latency(&self) -> u32 {
        self.beating.as_ref().map_or(LATENCY_UNKNOWN, |beating| beating.latency)
    }

    /// What to do now.
    pub(super) fn beat(&mut self, timeout: Duration, now: Instant) -> Beat {
        let Some(beating) = &mut self.beating else { return Beat::Wait };
        let (silent, asked) =
            (now.saturating_duration_since(beating.heard), now.saturating_duration_since(beating.asked));
        if beating.waiting && silent > timeout && asked >= timeout.min(PING_EVERY) {
            return Beat::Lost;
        }
        if silent < PING_EVERY || asked < PING_EVERY {
            return Beat::Wait;
        }
        beating.waiting = true;
        beating.asked = now;
        Beat::Ping
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::clock;

    const TIMEOUT: Duration = Duration::from_secs(5);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn it_asks_often_and_measures_the_answer() {
        let (mut pulse, start) = (Pulse::default(), clock::instant());
        assert_eq!(pulse.beat(TIMEOUT, start), Beat::Wait);
        pulse.begin(start);
        pulse.heard(start + ms(30));
        assert_eq!(pulse.latency(), 30);
        assert_eq!(pulse.beat(TIMEOUT, start + ms(390)), Beat::Wait);
        assert_eq!(pulse.beat(TIMEOUT, start + ms(440)), Beat::Ping);
        assert_eq!(pulse.beat(TIMEOUT, start + ms(450)), Beat::Wait);
        pulse.heard(start + ms(500));
        assert_eq!(pulse.latency(), 60);
    }

    #[test]
    fn silence_beyond_the_timeout_is_loss() {
        let (mut pulse, start) = (Pulse::default(), clock::instant());
        assert_eq!(pulse.beat(TIMEOUT, start + ms(60_000)), Beat::Wait);
        pulse.begin(start);
        let beats: Vec<Beat> = (1..=5).map(|second| pulse.beat(TIMEOUT, start + ms(second * 1_000))).collect();
        assert!(beats.iter().all(|beat| *beat == Beat::Ping), "{beats:?}");
        assert_eq!(pulse.beat(TIMEOUT, start + ms(6_001)), Beat::Lost);
    }
}
