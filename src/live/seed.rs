//! Filling a session that has no task yet: what an import does, at the first start or on a stopped directory.

use super::machine::EventRecord;
use crate::session::{Author, Command, Decision, Limits, MemberName, Rejection, Session, SessionName, Timestamp};
use crate::storage::{Durable, Record, Store, Trouble};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// One command of an import, and in whose name and at what time it should stand in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct SeedStep {
    /// The author in the log; need not be a member.
    pub author: MemberName,
    /// The time in the log.
    pub at: Timestamp,
    /// An edit.
    pub command: Command,
}

/// Why a session could not be filled. Nothing of it was written, unless it says so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeedError {
    /// A step is not acceptable.
    #[error("step {step}: {why}")]
    Refused {
        /// Which, from 1.
        step: usize,
        /// Why.
        why: Rejection,
    },
    /// The disk did not take it.
    #[error("not written: {0}")]
    Disk(String),
}

/// Decides all steps, then writes them; returns when they are durable. All or none is accepted.
pub fn seed(
    store: &dyn Store,
    name: &SessionName,
    session: &Session,
    steps: Vec<SeedStep>,
    limits: &Limits,
) -> Result<Session, SeedError> {
    let daemon = Author::daemon();
    let mut filled = session.clone();
    let mut records = Vec::new();
    for (index, step) in steps.into_iter().enumerate() {
        let decision = filled.decide(&step.command, &daemon, step.at, limits);
        match decision.map_err(|why| SeedError::Refused { step: index + 1, why })? {
            Decision::Repeat { .. } => {}
            Decision::New(mut event) => {
                event.author = step.author;
                let event = Arc::new(event);
                filled.evolve(&event);
                records.push(Record::new(event.seq, Arc::new(EventRecord(event))));
            }
        }
    }
    if !records.is_empty() {
        let waiter = Arc::new(Waiter::default());
        store.listen(name, Arc::<Waiter>::clone(&waiter));
        store.append(name, records);
        waiter.wait_for(filled.seq()).map_err(SeedError::Disk)?;
    }
    Ok(filled)
}

/// Waits for the journal on an ordinary thread.
#[derive(Default)]
struct Waiter {
    news: Mutex<(u64, Option<String>)>,
    changed: Condvar,
}

impl Waiter {
    fn wait_for(&self, seq: u64) -> Result<(), String> {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if news.0 >= seq {
                return Ok(());
            }
            if let Some(trouble) = news.1.take() {
                return Err(trouble);
            }
            news = self.changed.wait(news).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Durable for Waiter {
    fn durable(&self, seq: u64) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).0 = seq;
        self.changed.notify_all();
    }

    fn trouble(&self, trouble: Option<Trouble>) {
        self.news.lock().unwrap_or_else(PoisonError::into_inner).1 = trouble.map(|trouble| trouble.message);
        self.changed.notify_all();
    }
}
