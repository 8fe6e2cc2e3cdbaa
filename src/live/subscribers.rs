//! The connections that follow one session.

use super::subscriber::{Note, Subscriber};
use super::tail::Chunk;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections to which the session task itself writes: a system call each, which would hold up a large session.
const CARRIED_MAX: usize = 64;

/// The connections that follow one session: at most as many members as may be online, and as many guests again.
#[derive(Debug, Default)]
pub struct Subscribers {
    all: Mutex<Vec<Arc<Subscriber>>>,
}

impl Subscribers {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Subscriber>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, subscriber: Arc<Subscriber>) {
        self.lock().push(subscriber);
    }

    pub(super) fn remove(&self, subscriber: &Subscriber) {
        self.lock().retain(|other| other.connection != subscriber.connection);
    }

    /// Takes out those whose connection has ended and who have nothing left to do.
    pub(super) fn remove_gone(&self, has_more: impl Fn(&Subscriber) -> bool) -> Vec<Arc<Subscriber>> {
        self.lock().extract_if(.., |subscriber| subscriber.is_gone() && !has_more(subscriber)).collect()
    }

    /// Wakes every connection: there is something to read.
    pub fn wake_all(&self) {
        for subscriber in self.lock().iter() {
            subscriber.wake();
        }
    }

    /// Brings every connection the newest events. Beyond a few, connections are woken instead: they share the work.
    pub(super) fn bring(&self, chunk: &Chunk) {
        let all = self.lock();
        let (few, others) = all.split_at(all.len().min(CARRIED_MAX));
        for subscriber in others {
            subscriber.wake();
        }
        for subscriber in few {
            subscriber.bring(chunk);
        }
    }

    pub(super) fn tell_all(&self, note: &Note) {
        for subscriber in self.lock().iter() {
            subscriber.leave(note.clone());
            subscriber.wake();
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }
}
