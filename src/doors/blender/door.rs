//! The door itself: links come in, and each becomes a line of its peer.

use super::lines::Arrival;
use super::peer::Peer;
use super::room::Room;
use super::wire::{self, PeerId, WireLimits};
use crate::doors::Authority;
use crate::live::{Directory, OpenRefused, SessionHandle};
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
    /// How many sessions there may be, if the door's own has to be made.
    pub max_sessions: usize,
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
        let BlenderSettings { timeout, message_bytes, .. } = *self.settings.borrow();
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
        if peers.insert(id, sender).is_none() {
            self.metrics.peers.inc();
        }
        tokio::spawn(Peer::new(id, Arc::clone(self), arrivals).run());
    }

    /// A peer has gone. Its lines may have come back meanwhile, to a new one.
    pub(super) fn forget(&self, id: PeerId, mut arrivals: mpsc::Receiver<Arrival>) {
        arrivals.close();
        let mut peers = self.peers();
        if peers.get(&id).is_some_and(mpsc::Sender::is_closed) {
            peers.remove(&id);
            self.metrics.peers.dec();
        }
    }

    /// Since when clients may come that knew the session as it was before.
    pub(super) fn since(&self) -> Instant {
        if self.room.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            // Whoever looks first after a restore notices it.
            _ = self.room();
        }
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The room of the session, if that has been made; or why it is not served.
    pub(super) fn room(&self) -> Result<Option<Arc<Room>>, String> {
        match self.directory.get(&self.session) {
            Some(handle) => Ok(Some(self.room_of(handle))),
            None => self.directory.refusal(&self.session).map_or(Ok(None), Err),
        }
    }

    /// The room of the session, which is made if it does not exist.
    pub(super) async fn open_room(&self) -> Result<Arc<Room>, String> {
        let most = self.settings.borrow().max_sessions;
        match self.directory.open(&self.session, Some(most)).await {
            Ok(handle) => Ok(self.room_of(handle)),
            Err(OpenRefused::Failed(why)) => {
                tracing::error!("Session {} cannot be made: {why}", self.session);
                // What the server's folders are called is nobody's business.
                Err("the session cannot be made at the moment".to_owned())
            }
            Err(refused) => Err(refused.to_string()),
        }
    }

    fn room_of(&self, handle: SessionHandle) -> Arc<Room> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        // Another task may go on with the session since somebody looked.
        let handle = self.directory.get(&self.session).unwrap_or(handle);
        if let Some(room) = &*room
            && Arc::ptr_eq(room.handle.shared(), handle.shared())
        {
            return Arc::clone(room);
        }
        if room.is_some() {
            *self.since.lock().unwrap_or_else(PoisonError::into_inner) = clock::instant();
        }
        let new = Room::open(handle, self.metrics.clone());
        *room = Some(Arc::clone(&new));
        new
    }
}
