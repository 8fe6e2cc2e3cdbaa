//! The HTTP listener: accepts connections within limits and hands requests to the routes.

use crate::doors::native::Peer;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower_service::Service as _;

/// How long a client may take to send the head of a request.
const HEAD_WITHIN: Duration = Duration::from_secs(5);

/// Bytes of the head of a request.
const HEAD_BYTES: usize = 16 << 10;

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionLimits {
    pub(super) all: u64,
    pub(super) per_ip: u64,
}

/// Open connections, by address.
#[derive(Debug, Default)]
pub(super) struct Connections {
    by_ip: Mutex<(u64, BTreeMap<IpAddr, u64>)>,
}

impl Connections {
    fn enter(self: &Arc<Self>, ip: IpAddr, limits: ConnectionLimits) -> Option<Place> {
        let mut counts = self.by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_ip) = &mut *counts;
        let of_ip = by_ip.get(&ip).copied().unwrap_or(0);
        if *all >= limits.all || of_ip >= limits.per_ip {
            return None;
        }
        *all += 1;
        by_ip.insert(ip, of_ip + 1);
        Some(Place { connections: Arc::clone(self), ip })
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.by_ip.lock().unwrap_or_else(PoisonError::into_inner).0
    }
}

/// One connection's place; dropping it makes room.
struct Place {
    connections: Arc<Connections>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.connections.by_ip.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, by_ip) = &mut *counts;
        *all -= 1;
        if let Some(of_ip) = by_ip.get_mut(&self.ip) {
            *of_ip -= 1;
            if *of_ip == 0 {
                by_ip.remove(&self.ip);
            }
        }
    }
}

/// The listener and what it hands requests to.
pub(super) struct Listener {
    pub(super) tcp: TcpListener,
    pub(super) routes: Router,
    pub(super) limits: watch::Receiver<ConnectionLimits>,
    pub(super) connections: Arc<Connections>,
}

impl Listener {
    /// Accepts until the task is ended.
    pub(super) async fn run(self) {
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => self.accept(stream, peer),
                Err(error) => {
                    // Out of files, most likely: others have to close first.
                    tracing::warn!("Cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn accept(&self, stream: TcpStream, peer: SocketAddr) {
        let limits = *self.limits.borrow();
        let Some(place) = self.connections.enter(peer.ip(), limits) else {
            tracing::debug!("Too many connections: {peer} is turned away");
            return;
        };
        let routes = self.routes.clone();
        tokio::spawn(async move {
            // The place is kept by the connection, also after an upgrade.
            if let Err(error) = serve(stream, peer, routes, Arc::new(place)).await {
                tracing::debug!("{peer}: {error}");
            }
        });
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, routes: Router, place: Arc<Place>) -> Result<(), hyper::Error> {
    // Without it, small frames wait for acknowledgements of earlier ones.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("{peer}: {error}");
    }
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request: Request = request.map(Body::new);
        request.extensions_mut().insert(Peer { address: peer, place: Arc::<Place>::clone(&place) });
        let mut routes = routes.clone();
        async move { Ok::<_, Infallible>(routes.call(request).await.unwrap_or_else(|never| match never {})) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades()
        .await
}

/// Listens; an error comes with the address that it is about.
pub(super) async fn bind(address: SocketAddr) -> Result<TcpListener, (SocketAddr, io::Error)> {
    TcpListener::bind(address).await.map_err(|error| (address, error))
}
