//! The door itself: links come in, and each becomes a line of its peer.

use super::lines::Arrival;
use super::peer::Peer;
use super::room::Room;
use super::wire::{self, PeerId, WireLimits};
use crate::doors::Authority;
use crate::live::Directory;
use crate::ops::clock;
use crate::ops::metrics::BlenderMetrics;
use crate::session::SessionName;
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

pub use super::wire::Channel;

/// Links of one client that may wait to be taken in.
const ARRIVALS: usize = 4;

/// Bytes of one message of somebody who has not logged in.
const STRANGER_BYTES: u64 = 64 << 10;

/// Settings that the door follows while it runs.
#[derive(Debug, Clone, Copy)]
pub struct BlenderSettings {
    /// How long a client may be silent, or take to log in.
    pub timeout: Duration,
    /// Bytes of one message of a client that has logged in.
    pub message_bytes: u64,
}

/// Settings, and what follows from them.
pub(super) struct InForce {
    pub(super) timeout: Duration,
    pub(super) message_bytes: u64,
    pub(super) stranger_bytes: u64,
}

type Peers = BTreeMap<PeerId, mpsc::Sender<Arrival>>;

/// The Blender door.
pub struct BlenderDoor {
    /// The sessions.
    pub directory: Arc<Directory>,
    /// Who may come in.
    pub authority: Arc<dyn Authority>,
    /// What it follows.
    pub settings: watch::Receiver<BlenderSettings>,
    /// What it counts.
    pub metrics: BlenderMetrics,
    /// The session that it leads to.
    pub session: SessionName,
    /// Since when the session is what it is: since the start, or since the newest restore.
    since: Mutex<Instant>,
    peers: Mutex<Peers>,
    room: Mutex<Option<Arc<Room>>>,
}

impl BlenderDoor {
    /// A door to a session.
    pub fn new(
        directory: Arc<Directory>,
        authority: Arc<dyn Authority>,
        settings: watch::Receiver<BlenderSettings>,
        metrics: BlenderMetrics,
        session: SessionName,
    ) -> Arc<Self> {
        let (peers, room) = (Mutex::default(), Mutex::default());
        let since = Mutex::new(clock::instant());
        Arc::new(Self { directory, authority, settings, metrics, session, since, peers, room })
    }

    pub(super) fn settings(&self) -> InForce {
        let BlenderSettings { timeout, message_bytes } = *self.settings.borrow();
        InForce { timeout, message_bytes, stranger_bytes: STRANGER_BYTES }
    }

    /// Takes a connection in. `port` says which of the three ports it came on; `place` is kept for as long as it lives.
    pub async fn receive(self: Arc<Self>, stream: TcpStream, port: Channel, place: Arc<dyn Any + Send + Sync>) {
        let limits = WireLimits { message_bytes: STRANGER_BYTES, ..WireLimits::default() };
        match wire::greet(stream, port, limits).await {
            Ok(link) => self.introduce(Arrival { link, place }),
            Err(error) => tracing::debug!("Turned away: {error}"),
        }
    }

    fn peers(&self) -> MutexGuard<'_, Peers> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the link to the task of its peer, or starts one.
    fn introduce(self: &Arc<Self>, arrival: Arrival) {
        let id = arrival.link.peer();
        let mut peers = self.peers();
        let arrival = match peers.get(&id) {
            None => arrival,
            Some(known) => match known.try_send(arrival) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(_)) => return tracing::debug!("One client connects too often"),
                Err(mpsc::error::TrySendError::Closed(arrival)) => arrival,
            },
        };
        self.begin(id, arrival, &mut peers);
    }

    fn begin(self: &Arc<Self>, id: PeerId, arrival: Arrival, peers: &mut Peers) {
        let (sender, arrivals) = mpsc::channel(ARRIVALS);
        // There is room: nobody else has the sender yet.
        _ = sender.try_send(arrival);
        peers.insert(id, sender);
        self.metrics.peers.set(i64::try_from(peers.len()).unwrap_or(i64::MAX));
        tokio::spawn(Peer::new(id, Arc::clone(self), arrivals).run());
    }

    /// A peer has gone. Its lines may have come back meanwhile, to a new one.
    pub(super) fn forget(&self, id: PeerId, mut arrivals: mpsc::Receiver<Arrival>) {
        arrivals.close();
        let mut peers = self.peers();
        if peers.get(&id).is_some_and(mpsc::Sender::is_closed) {
            peers.remove(&id);
        }
        self.metrics.peers.set(i64::try_from(peers.len()).unwrap_or(i64::MAX));
    }

    /// Since when clients may come that knew the session as it was before.
    pub(super) fn since(&self) -> Instant {
        if self.room.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            // Whoever looks first after a restore notices it.
            _ = self.room();
        }
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room of the session, or why there is none.
    pub(super) fn room(&self) -> Result<Arc<Room>, String> {
        let Some(handle) = self.directory.get(&self.session) else {
            return Err(self.directory.refusal(&self.session).unwrap_or_else(|| "there is no session".to_owned()));
        };
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = &*room
            && Arc::ptr_eq(room.handle.shared(), handle.shared())
        {
            return Ok(Arc::clone(room));
        }
        if room.is_some() {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = clock::instant();
        }
        let new = Room::open(handle, self.metrics.clone());
        *room = Some(Arc::clone(&new));
        Ok(new)
    }
}
