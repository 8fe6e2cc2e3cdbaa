//! The ports of the Blender door: commands (and everything of newer clients), data, signs of life, for each session that
//! has some.

use super::listener::{ConnectionLimits, Connections, accept, bind};
use crate::config::BlenderSession;
use crate::doors::blender::{BlenderDoor, Channel};
use crate::session::SessionName;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What each port is for, in the order of their numbers.
const CHANNELS: [Channel; 3] = [Channel::Command, Channel::Data, Channel::Ttl];

/// The ports of one session, bound.
pub(super) struct BlenderPorts {
    session: SessionName,
    listeners: Vec<(Channel, TcpListener)>,
}

impl BlenderPorts {
    /// Binds the session's port and the two after it; for 0, any three that are free.
    pub(super) async fn bind(ip: IpAddr, of: &BlenderSession) -> Result<Self, (SocketAddr, io::Error)> {
        let mut listeners = Vec::new();
        for (offset, channel) in (0..).zip(CHANNELS) {
            let port = if of.port == 0 { 0 } else { of.port.saturating_add(offset) };
            listeners.push((channel, bind(SocketAddr::new(ip, port)).await?));
        }
        Ok(Self { session: of.name.clone(), listeners })
    }

    /// The session that they lead to.
    pub(super) fn session(&self) -> &SessionName {
        &self.session
    }

    /// The addresses, in the order of [`CHANNELS`].
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|(_, listener)| listener.local_addr().ok()).collect()
    }

    /// Accepts on all of them until the tasks are ended.
    pub(super) fn accept(
        self,
        door: &Arc<BlenderDoor>,
        limits: &watch::Receiver<ConnectionLimits>,
        connections: &Arc<Connections>,
    ) -> Vec<JoinHandle<()>> {
        let accept = |(channel, tcp)| {
            let (door, limits, connections) = (Arc::clone(door), limits.clone(), Arc::clone(connections));
            tokio::spawn(accept_on(tcp, channel, door, limits, connections))
        };
        self.listeners.into_iter().map(accept).collect()
    }
}

async fn accept_on(
    tcp: TcpListener,
    channel: Channel,
    door: Arc<BlenderDoor>,
    limits: watch::Receiver<ConnectionLimits>,
    connections: Arc<Connections>,
) {
    loop {
        let (stream, _, place) = accept(&tcp, &connections, &limits).await;
        tokio::spawn(Arc::clone(&door).receive(stream, channel, Arc::new(place)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn at(port: u16) -> BlenderSession {
        BlenderSession { name: SessionName::default_session(), port }
    }

    #[tokio::test]
    async fn three_free_ports_are_found_and_named() {
        let ports = BlenderPorts::bind(LOOPBACK, &at(0)).await.unwrap();
        let addresses = ports.addresses();
        assert_eq!(addresses.len(), 3);
        assert!(addresses.iter().all(|address| address.port() > 0));
    }

    #[tokio::test]
    async fn a_port_in_use_is_named() {
        let taken = bind(SocketAddr::new(LOOPBACK, 0)).await.unwrap().local_addr().unwrap();
        let held = bind(taken).await.unwrap();
        let refused = BlenderPorts::bind(LOOPBACK, &at(taken.port())).await.err().unwrap();
        assert_eq!((refused.0, refused.1.kind()), (taken, io::ErrorKind::AddrInUse));
        drop(held);
    }
}
