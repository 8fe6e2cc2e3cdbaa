//! The HTTP listener: accepts connections within limits and hands requests to the routes.

use crate::doors::native::Peer;
use crate::ops::attempts::network_of;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt::set_tcp_user_timeout;
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

/// How long an answer may wait for a client that takes nothing of it.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of the head of a request.
const HEAD_BYTES: usize = 16 << 10;

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionLimits {
    pub(super) all: u64,
    pub(super) per_ip: u64,
}

/// Open connections, by address; a /64 of IPv6 is one.
#[derive(Debug, Default)]
pub(super) struct Connections {
    by_ip: Mutex<(u64, BTreeMap<IpAddr, u64>)>,
}

impl Connections {
    fn enter(self: &Arc<Self>, ip: IpAddr, limits: ConnectionLimits) -> Option<Place> {
        let ip = network_of(ip);
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
pub(super) struct Place {
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
            let (stream, peer, place) = accept(&self.tcp, &self.connections, &self.limits).await;
            let routes = self.routes.clone();
            tokio::spawn(async move {
                // The place is kept by the connection, also after an upgrade.
                if let Err(error) = serve(stream, peer, routes, Arc::new(place), TAKEN_WITHIN).await {
                    tracing::debug!("{peer}: {error}");
                }
            });
        }
    }
}

/// The next connection that there is a place for.
pub(super) async fn accept(
    tcp: &TcpListener,
    connections: &Arc<Connections>,
    limits: &watch::Receiver<ConnectionLimits>,
) -> (TcpStream, SocketAddr, Place) {
    loop {
        match tcp.accept().await {
            Ok((stream, peer)) => {
                let limits = *limits.borrow();
                if let Some(place) = connections.enter(peer.ip(), limits) {
                    return (stream, peer, place);
                }
                tracing::debug!("Too many connections: {peer} is turned away");
            }
            Err(error) => {
                // Out of files, most likely: others have to close first.
                tracing::warn!("Cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    routes: Router,
    place: Arc<Place>,
    taken_within: Duration,
) -> Result<(), hyper::Error> {
    // Without it, small frames wait for acknowledgements of earlier ones.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("{peer}: {error}");
    }
    // The kernel sees what hyper does not: that nothing of what was written is taken.
    if let Err(error) = set_tcp_user_timeout(&stream, u32::try_from(taken_within.as_millis()).unwrap_or(0)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    fn place(connections: &Arc<Connections>, ip: &str) -> Option<Place> {
        connections.enter(ip.parse().unwrap(), ConnectionLimits { all: 10, per_ip: 2 })
    }

    #[test]
    fn neighbours_in_ipv6_share_the_places_of_one_address() {
        let connections = Arc::<Connections>::default();
        let first = place(&connections, "2001:db8::1").unwrap();
        let _second = place(&connections, "2001:db8::ffff:2").unwrap();
        assert!(place(&connections, "2001:db8::3").is_none());
        let _other = place(&connections, "2001:db8:0:1::1").unwrap();
        drop(first);
        assert!(place(&connections, "2001:db8::3").is_some());
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_ends_its_connection() {
        let tcp = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let mut client = TcpStream::connect(tcp.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = tcp.accept().await.unwrap();
        let routes = Router::new().route("/", axum::routing::get(|| async { vec![b'x'; 64 << 20] }));
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let place = place(&Arc::default(), "127.0.0.1").unwrap();
        let served = serve(stream, peer, routes, Arc::new(place), Duration::from_secs(1));
        let ended = tokio::time::timeout(Duration::from_secs(30), served).await;
        assert!(ended.expect("it is given up").is_err());
    }
}
