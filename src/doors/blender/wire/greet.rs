//! Who has connected: ZMTP or TCP, which client, which channel.

use super::assembly::{Assembly, Item};
use super::framing::{PREAMBLE, preamble};
use super::link::{Inlet, Link, LinkReader};
use super::{Channel, PeerId, Transport, WireError, WireLimits, zmtp};

use bytes::Bytes;
use rustix::net::sockopt::set_tcp_user_timeout;
use tokio::net::TcpStream;

/// Learns who has connected, and prepares the connection. `port` is the channel of the ZMTP port on which it came;
/// clients of the TCP transport name theirs.
pub(in crate::doors::blender) async fn greet(
    stream: TcpStream,
    port: Channel,
    limits: WireLimits,
) -> Result<Link, WireError> {
    prepare(&stream, limits);
    let greeted = tokio::time::timeout(limits.greeted_within, introduce(stream, port, limits));
    greeted.await.unwrap_or(Err(WireError::GreetingTimeout))
}

fn prepare(stream: &TcpStream, limits: WireLimits) {
    // Without it, small messages wait for acknowledgements of earlier ones.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!("A connection keeps small messages back: {error}");
    }
    // The kernel sees what we do not: that nothing of what was written is taken.
    let taken_within = u32::try_from(limits.taken_within.as_millis()).unwrap_or(u32::MAX);
    if let Err(error) = set_tcp_user_timeout(stream, taken_within) {
        tracing::debug!("A connection may hang for long: {error}");
    }
}

async fn introduce(stream: TcpStream, port: Channel, limits: WireLimits) -> Result<Link, WireError> {
    let address = stream.peer_addr()?;
    let mut inlet = Inlet::new(stream);
    let (transport, peer, channel, reader) = match have(&mut inlet, 1).await?.first() {
        Some(0xff) => {
            let (peer, reader) = zmtp_opening(inlet, limits).await?;
            (Transport::Zmtp, peer, port, reader)
        }
        Some(0) => {
            let bytes = have(&mut inlet, PREAMBLE).await?.first_chunk().ok_or(WireError::Cut)?;
            let (peer, channel) = preamble(bytes)?;
            inlet.consume(PREAMBLE);
            let assembly = Assembly::new(Transport::Tcp, limits);
            (Transport::Tcp, peer, channel, LinkReader { inlet, assembly })
        }
        first => return Err(first.map_or(WireError::Cut, |byte| WireError::NotMultiUser(*byte))),
    };
    Ok(Link { peer, channel, transport, address, reader })
}

/// Waits until so many bytes are there.
async fn have(inlet: &mut Inlet, count: usize) -> Result<&[u8], WireError> {
    while inlet.rest().len() < count {
        if !inlet.receive().await? {
            return Err(WireError::Cut);
        }
    }
    Ok(inlet.rest())
}

async fn zmtp_opening(mut inlet: Inlet, limits: WireLimits) -> Result<(PeerId, LinkReader), WireError> {
    // At once: the peer waits for the version before it sends the rest.
    inlet.pipe().write(Bytes::copy_from_slice(&zmtp::greeting())).await?;
    loop {
        zmtp::check_greeting(inlet.rest().get(..zmtp::GREETING).unwrap_or(inlet.rest()))?;
        if inlet.rest().len() >= zmtp::GREETING {
            break;
        }
        let more = inlet.rest().len() + 1;
        have(&mut inlet, more).await?;
    }
    inlet.consume(zmtp::GREETING);
    inlet.pipe().write(Bytes::from_static(zmtp::READY)).await?;
    // Until it has said who it is, it may send commands only.
    let assembly = Assembly::new(Transport::Zmtp, WireLimits { message_bytes: 0, ..limits });
    let mut reader = LinkReader { inlet, assembly };
    match reader.next_item().await? {
        Some(Item::Command(body)) => {
            reader.set_message_bytes(limits.message_bytes);
            Ok((zmtp::ready(&body)?, reader))
        }
        Some(Item::Message(_)) => Err(WireError::Malformed("a message before READY")),
        None => Err(WireError::Cut),
    }
}
