//! Damaged connections and messages: nothing panics, nothing hangs, memory follows what was received, and whatever is
//! read can be sent on.

use super::objects::{self, Inbound, ServerSnapshot};
use super::recorded::client_messages;
use super::wire::{
    Channel, Link, LinkReader, LinkWriter, Transport, WireError, WireLimits, frame, greet, in_pieces, unframe,
};
use crate::doors::campaign::{Chance, cases};
use crate::formats::pickle::{Policy, Value, read, scan};
use crate::session::NodeId;

use bytes::Bytes;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Messages larger than this take their time and add nothing.
const MESSAGE_BYTES_MAX: usize = 20_000;

/// What breaks readers of frames.
const FRAMES: &[&[u8]] = &[
    b"\0\0\0\0",
    b"\0\0\0\x01",
    b"\0\0\0\x40\0\0\0\0",
    b"\0\0\0\x41",
    b"\xff\xff\xff\xff",
    b"\x01\0",
    b"\0\0",
    b"\x03\0\0\0\0\0\0\0\0",
    b"\x02\0\0\0\0\0\0\x50\0",
    b"\x02\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x04\x0b\x04PING\0\x0aabcd",
    b"\x04\x05\x04PONG",
    b"\x06\0\0\0\0\0\0\0\x06\x05ERROR",
    b"\x04\0",
    b"\x05\0",
    b"READY",
    b"Identity\0\0\0\x10",
    b"\x0bSocket-Type\0\0\0\x06DEALER",
    b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\x01NULL",
];

/// What breaks readers of objects.
const PICKLES: &[&[u8]] = &[
    b"\x80\x04",
    b"N",
    b"K\x07",
    b"]",
    b"}",
    b"h\0",
    b"h\x01",
    b"\x94",
    b"\x85",
    b"(",
    b"u",
    b"s",
    b"e",
    b"\x8f",
    b"\x8c\x04uuid",
    b"\x8c\x05STATE",
    b"\x8c\x04INIT",
    b"\x8c\x02os\x8c\x06system\x93",
    b"cos\nsystem\n",
    b"R",
    b"\x81",
    b"Q",
    b"B\xff\xff\xff\x7f",
    b"\x95\xff\xff\xff\xff\0\0\0\0",
    b"removed",
    b".",
];

fn small_messages() -> Vec<Vec<Bytes>> {
    let mut messages = client_messages();
    messages.retain(|chunks| chunks.iter().map(Bytes::len).sum::<usize>() <= MESSAGE_BYTES_MAX);
    messages.push(vec![]);
    messages.push(vec![Bytes::from_static(b"INIT")]);
    messages.push(vec![Bytes::from(vec![b'x'; 40_000]), Bytes::new()]);
    messages
}

fn narrow(chance: &mut Chance) -> WireLimits {
    let message_bytes = *chance.one_of(&[0, 100, 5_000, 1 << 20]);
    WireLimits { message_bytes, chunks: *chance.one_of(&[1, 3, 64]), ..WireLimits::default() }
}

fn stream(chance: &mut Chance, transport: Transport, messages: &[Vec<Bytes>]) -> Vec<u8> {
    let framed = (0..=chance.below(4)).flat_map(|_| frame(transport, chance.one_of::<Vec<Bytes>>(messages)));
    let mut bytes = framed.collect::<Vec<Bytes>>().concat();
    for _ in 0..chance.below(4) {
        chance.damage(&mut bytes, FRAMES);
    }
    if chance.once_in(4) {
        // A length or a count, most likely.
        let at = chance.below(bytes.len());
        let number = chance.number(bytes.len() as u64).to_be_bytes();
        let len = bytes.len();
        bytes.splice(at..(at + 8).min(len), number);
    }
    bytes
}

fn within(limits: WireLimits, messages: &[Vec<Bytes>]) {
    for chunks in messages {
        assert!(chunks.len() <= limits.chunks);
        assert!(chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>() <= limits.message_bytes);
    }
}

#[test]
fn damaged_streams_give_the_same_messages_in_whatever_pieces_they_come() {
    let messages = small_messages();
    cases("blender frames", |chance| {
        let transport = *chance.one_of(&[Transport::Tcp, Transport::Zmtp]);
        let limits = if chance.once_in(2) { narrow(chance) } else { WireLimits::default() };
        let bytes = stream(chance, transport, &messages);
        let at_once = unframe(transport, limits, &bytes);
        let step = 1 + chance.below(5_000);
        let in_pieces = in_pieces(transport, limits, &bytes, step);
        assert_eq!(format!("{at_once:?}"), format!("{in_pieces:?}"));
        let Ok(read) = at_once else { return false };
        within(limits, &read);
        true
    });
}

fn opening(chance: &mut Chance, transport: Transport) -> Vec<u8> {
    let identity = b"\0abcdefghijklmno";
    let mut bytes = match transport {
        Transport::Tcp => [b"\0\0\0\x10", &identity[..], &[*chance.one_of(b"CDT")]].concat(),
        Transport::Zmtp => {
            let mut greeting = [0; 64];
            greeting[..16].copy_from_slice(b"\xff\0\0\0\0\0\0\0\x11\x7f\x03\x01NULL");
            let ready = b"\x04\x39\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x10";
            [&greeting[..], ready, identity].concat()
        }
    };
    if chance.once_in(2) {
        chance.damage(&mut bytes, FRAMES);
    }
    bytes
}

/// Reads to the end; whether there was a message.
async fn drain(mut reader: LinkReader, mut writer: LinkWriter, limits: WireLimits) -> bool {
    let mut messages = 0;
    while let Ok(Some(chunks)) = reader.next().await {
        within(limits, &[chunks]);
        writer.try_write(&frame(Transport::Tcp, &[Bytes::from_static(b"PING")])).ok();
        messages += 1;
    }
    messages > 0
}

/// A connection of which the client says all that it says, closes, and takes what it gets.
async fn connection(bytes: Vec<u8>, limits: WireLimits) -> Result<bool, WireError> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let mut client = TcpStream::connect(listener.local_addr()?).await?;
    let (server, from) = listener.accept().await?;
    let client = tokio::spawn(async move {
        client.write_all(&bytes).await?;
        client.shutdown().await?;
        client.read_to_end(&mut Vec::new()).await
    });
    let link: Result<Link, WireError> = greet(server, Channel::Data, limits).await;
    let drained = match link {
        Err(error) => Err(error),
        Ok(link) => {
            assert_eq!(link.address(), from);
            let (reader, writer) = link.split();
            Ok(drain(reader, writer, limits).await)
        }
    };
    // Closing early may have cut it off.
    drop(client.await);
    drained
}

#[test]
fn damaged_connections_end() {
    let messages = small_messages();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    cases("blender connections", |chance| {
        let transport = *chance.one_of(&[Transport::Tcp, Transport::Zmtp]);
        let limits = if chance.once_in(2) { narrow(chance) } else { WireLimits::default() };
        let bytes = [opening(chance, transport), stream(chance, transport, &messages)].concat();
        let ended = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(20), connection(bytes, limits)).await.expect("it ends")
        });
        assert!(!matches!(ended, Err(WireError::GreetingTimeout)), "who closes need not be waited for");
        ended.unwrap_or(false)
    });
}

/// What was read says what its pickles say, and others could read it.
fn can_be_sent_on(message: Inbound) {
    match message {
        Inbound::Node(object) | Inbound::ServerSnapshot(ServerSnapshot::Set(object)) => {
            let data = read(&object.data, &Policy::MESSAGE).unwrap();
            assert_eq!(data.get("type_id").and_then(Value::as_text), Some(&*object.type_id));
            assert_eq!(data.get("uuid").and_then(Value::as_text), Some(object.id.as_str()));
            assert_eq!(data.get("name").and_then(Value::as_text), object.name.as_deref());
            let dependencies = object.dependencies.iter().map(NodeId::as_str);
            let sent = objects::node(object.id.as_str(), object.owner.as_str(), dependencies, object.data.clone());
            assert_eq!(objects::read(Channel::Data, &sent), Ok(Inbound::Node(object)));
        }
        Inbound::Commit(commit) => {
            scan(&commit.delta, &Policy::MESSAGE_DELTA).unwrap();
        }
        Inbound::Metadata(metadata) => {
            let user = objects::UserRecord {
                name: &metadata.user,
                admin: false,
                latency: 0,
                status: 2,
                metadata: &metadata.entries,
            };
            let list = objects::clients([user]).expect("metadata can be listed");
            scan(&list[2], &Policy::MESSAGE).unwrap();
            scan(&metadata.data, &Policy::MESSAGE).unwrap();
        }
        Inbound::ServerSnapshot(_)
        | Inbound::RequestServerInfo
        | Inbound::Auth(_)
        | Inbound::Snapshot(_)
        | Inbound::Delete(_)
        | Inbound::Right(_)
        | Inbound::Kick(_)
        | Inbound::TtlInit
        | Inbound::Pong => {}
    }
}

#[test]
fn damaged_messages_are_refused_or_can_be_sent_on() {
    let messages = small_messages();
    let nested: Vec<Bytes> = messages.iter().flatten().cloned().collect();
    cases("blender objects", |chance| {
        let mut chunks = chance.one_of(&messages).clone();
        for _ in 0..chance.below(4) {
            let at = chance.below(chunks.len());
            let Some(chunk) = chunks.get_mut(at) else { continue };
            if chance.once_in(8) {
                *chunk = chance.one_of(&nested).clone();
                continue;
            }
            let mut bytes = chunk.to_vec();
            // Frames would hide everything behind one refusal.
            if bytes.get(2) == Some(&0x95) && chance.once_in(2) {
                bytes.drain(2..11.min(bytes.len()));
            }
            chance.damage(&mut bytes, PICKLES);
            *chunk = bytes.into();
        }
        let mut read = false;
        for channel in [Channel::Command, Channel::Data, Channel::Ttl] {
            match objects::read(channel, &chunks) {
                Ok(message) => {
                    can_be_sent_on(message);
                    read = true;
                }
                Err(error) => assert!(error.to_string().len() < 2_000, "{error}"),
            }
        }
        read
    });
}
