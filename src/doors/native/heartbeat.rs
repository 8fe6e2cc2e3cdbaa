//! The heartbeat of a connection: pings, and whether it still gets on, in both directions. Nothing here is done more
//! often than every 20 seconds.

use super::CloseReason;
use std::pin::Pin;
use std::task::Context;
use std::time::{Duration, Instant};
use tokio::time::Sleep;

/// Between pings, and between looks at whether the connection still makes progress.
const HEARTBEAT: Duration = Duration::from_secs(20);

/// A reader that takes nothing for this long is closed.
const STALLED: Duration = Duration::from_mins(1);

/// Looks in a row at which a message may have come too slowly: it has about a minute however slow it is.
const SLOW_LOOKS: u32 = 3;

/// As many for somebody who is not read from at the moment, because they read slowly themselves.
const SLOW_LOOKS_HELD_BACK: u32 = 15;

/// Bytes of an unfinished message that come from one look to the next, at least: 0.4 Mbit/s.
const GROWTH: usize = 1 << 20;

/// What is seen when a connection is looked at.
pub(super) struct Look {
    /// Bytes that wait to be written.
    pub(super) waiting: usize,
    /// How often the socket has taken something.
    pub(super) written: u64,
    /// Messages that came in whole.
    pub(super) messages: u64,
    /// Bytes that are charged for a message that has not come in whole.
    pub(super) unfinished: usize,
    /// Nothing is read at the moment.
    pub(super) held_back: bool,
}

/// What is to be done after a look.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Beat {
    /// Send a ping.
    Ping,
    /// Nothing: its answer would not be read.
    Wait,
    /// Close.
    Close(CloseReason),
}

/// When a connection is looked at, and what was seen before.
pub(super) struct Heartbeat {
    timer: Pin<Box<Sleep>>,
    pings_unanswered: u32,
    /// How often the socket had taken something when it was last looked at, and since when it has not.
    written: (u64, Instant),
    /// Messages that had come in, and bytes of the next one.
    incoming: (u64, usize),
    slow_looks: u32,
}

impl Heartbeat {
    pub(super) fn new(now: Instant) -> Self {
        let timer = Box::pin(tokio::time::sleep(HEARTBEAT));
        Self { timer, pings_unanswered: 0, written: (0, now), incoming: (0, 0), slow_looks: 0 }
    }

    /// Whether it is time for a look.
    pub(super) fn poll_due(&mut self, context: &mut Context<'_>) -> bool {
        Future::poll(self.timer.as_mut(), context).is_ready()
    }

    /// The peer is alive.
    pub(super) fn heard(&mut self) {
        self.pings_unanswered = 0;
    }

    /// Judges what is seen.
    pub(super) fn look(&mut self, seen: &Look, now: Instant) -> Beat {
        self.timer.as_mut().reset((now + HEARTBEAT).into());
        if self.pings_unanswered >= 2 && !seen.held_back {
            return Beat::Close(CloseReason::Silent);
        }
        if seen.waiting == 0 || seen.written != self.written.0 {
            self.written = (seen.written, now);
        } else if now.duration_since(self.written.1) >= STALLED {
            return Beat::Close(CloseReason::TooSlow);
        }
        if self.comes_too_slowly(seen) {
            return Beat::Close(CloseReason::Unfinished);
        }
        if seen.held_back {
            self.heard();
            return Beat::Wait;
        }
        self.pings_unanswered += 1;
        Beat::Ping
    }

    /// Whether a message has been coming too slowly for too long: its memory is taken from others.
    fn comes_too_slowly(&mut self, seen: &Look) -> bool {
        let (messages, before) = std::mem::replace(&mut self.incoming, (seen.messages, seen.unfinished));
        let same = before > 0 && seen.unfinished > 0 && seen.messages == messages;
        let slow = same && seen.unfinished < before.saturating_add(GROWTH);
        self.slow_looks = if slow { self.slow_looks + 1 } else { 0 };
        self.slow_looks >= if seen.held_back { SLOW_LOOKS_HELD_BACK } else { SLOW_LOOKS }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::clock;

    const IDLE: Look = Look { waiting: 0, written: 0, messages: 0, unfinished: 0, held_back: false };

    /// What is done at each look until the connection is closed, or after an hour.
    fn beats(mut seen: impl FnMut(usize, &mut Heartbeat) -> Look) -> Vec<Beat> {
        let start = clock::instant();
        let mut heartbeat = Heartbeat::new(start);
        let mut beats = Vec::new();
        for look in 1..=180_u32 {
            let seen = seen(look as usize, &mut heartbeat);
            beats.push(heartbeat.look(&seen, start + HEARTBEAT * look));
            if matches!(beats.last(), Some(Beat::Close(_))) {
                break;
            }
        }
        beats
    }

    #[tokio::test]
    async fn two_pings_without_an_answer_close_the_connection() {
        assert_eq!(beats(|_, _| IDLE), [Beat::Ping, Beat::Ping, Beat::Close(CloseReason::Silent)]);
        let answering = beats(|_, heartbeat| {
            heartbeat.heard();
            IDLE
        });
        assert_eq!(answering.len(), 180);
    }

    #[tokio::test]
    async fn a_reader_who_takes_nothing_is_too_slow_and_one_who_takes_little_may_stay() {
        let full = Look { waiting: 1, held_back: true, ..IDLE };
        let nothing = beats(|_, _| Look { ..full });
        assert_eq!(nothing, [Beat::Wait, Beat::Wait, Beat::Close(CloseReason::TooSlow)]);
        let little = beats(|look, _| Look { written: look as u64, ..full });
        assert!(little.iter().all(|beat| *beat == Beat::Wait) && little.len() == 180, "{little:?}");
    }

    #[tokio::test]
    async fn a_message_that_hardly_grows_is_given_up() {
        let growing = |by: usize| {
            beats(move |look, heartbeat| {
                heartbeat.heard();
                Look { unfinished: 63 + look * by, ..IDLE }
            })
        };
        let held = growing(0);
        assert_eq!(held.last(), Some(&Beat::Close(CloseReason::Unfinished)));
        assert_eq!(held.len(), 4, "it began before the first look, and had a minute from there");
        assert_eq!(growing(GROWTH - 1).len(), 4);
        assert_eq!(growing(GROWTH).len(), 180);
        let held_back = beats(|look, _| Look { unfinished: 63, held_back: true, written: look as u64, ..IDLE });
        assert_eq!(held_back.len(), 16, "reading slowly gives it five minutes");
        let others = beats(|look, heartbeat| {
            heartbeat.heard();
            Look { unfinished: 63, messages: look as u64, ..IDLE }
        });
        assert_eq!(others.len(), 180, "each is another message");
    }
}
