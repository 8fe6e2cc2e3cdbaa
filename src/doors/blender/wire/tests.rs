//! Connections as real clients opened them, and as nobody should.

use super::assembly::{Assembly, Item};
use super::{Channel, Link, PeerId, Transport, WireError, WireLimits, frame, greet, zmtp};
use crate::doors::blender::recorded::{from_server, heard};

use bytes::Bytes;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// All messages in these bytes.
pub(in crate::doors::blender) fn unframe(
    transport: Transport,
    limits: WireLimits,
    mut bytes: &[u8],
) -> Result<Vec<Vec<Bytes>>, WireError> {
    let mut assembly = Assembly::new(transport, limits);
    let mut messages = Vec::new();
    while let Some(item) = assembly.take(&mut bytes)? {
        if let Item::Message(chunks) = item {
            messages.push(chunks);
        }
    }
    assert!(bytes.len() < 9, "only the beginning of a frame is left");
    if assembly.is_idle() && bytes.is_empty() { Ok(messages) } else { Err(WireError::Cut) }
}

/// As [`unframe`], of bytes that arrive in pieces, the large chunks in the place where they belong.
pub(in crate::doors::blender) fn in_pieces(
    transport: Transport,
    limits: WireLimits,
    bytes: &[u8],
    step: usize,
) -> Result<Vec<Vec<Bytes>>, WireError> {
    let mut assembly = Assembly::new(transport, limits);
    let mut messages = Vec::new();
    let (mut waiting, mut rest) = (Vec::new(), bytes);
    loop {
        let mut input = &waiting[..];
        let item = assembly.take(&mut input)?;
        waiting = input.to_vec();
        match item {
            Some(Item::Message(chunks)) => messages.push(chunks),
            Some(Item::Command(_)) => {}
            None if rest.is_empty() => break,
            None => {
                let (piece, after) = rest.split_at(step.min(rest.len()));
                if let Some((room, most)) = assembly.direct() {
                    assert!(waiting.is_empty());
                    let (here, beyond) = piece.split_at(most.min(piece.len()));
                    room.extend_from_slice(here);
                    assembly.put_directly(here.len());
                    waiting = beyond.to_vec();
                } else {
                    waiting.extend_from_slice(piece);
                }
                rest = after;
            }
        }
    }
    if assembly.is_idle() && waiting.is_empty() { Ok(messages) } else { Err(WireError::Cut) }
}

fn limits() -> WireLimits {
    WireLimits { greeted_within: Duration::from_secs(20), ..WireLimits::default() }
}

async fn connect() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    (client, server)
}

/// What becomes of a connection that begins so.
async fn opened(bytes: &[u8], limits: WireLimits) -> (TcpStream, Result<Link, WireError>) {
    let (mut client, server) = connect().await;
    client.write_all(bytes).await.unwrap();
    (client, greet(server, Channel::Data, limits).await)
}

async fn refusal(bytes: &[u8]) -> String {
    opened(bytes, limits()).await.1.expect_err("refused").to_string()
}

const IDENTITY: &[u8; 16] = b"\0abcdefghijklmno";

fn dealer() -> Vec<u8> {
    let ready = [b"\x04\x39\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x10".as_slice(), IDENTITY];
    [&zmtp::greeting()[..], &ready.concat()].concat()
}

fn tcp_client(role: u8) -> Vec<u8> {
    [b"\0\0\0\x10", &IDENTITY[..], &[role]].concat()
}

fn chunks(chunks: &[&'static [u8]]) -> Vec<Bytes> {
    chunks.iter().copied().map(Bytes::from_static).collect()
}

#[tokio::test]
async fn the_recorded_connections_of_0_9_10_are_greeted_and_read() {
    let lines = heard("wire_0.9.10.txt");
    for (port, channel) in [(8400, Channel::Command), (8401, Channel::Data), (8402, Channel::Ttl)] {
        let (mut client, server) = connect().await;
        for line in lines.iter().filter(|line| line.port == port && line.from_client) {
            // The login is recorded but for its last byte; the one longer message follows later.
            let last: &[u8] = if line.whole { b"" } else { b"." };
            if line.whole || line.bytes.starts_with(b"\x04\x39") {
                client.write_all(&[&line.bytes, last].concat()).await.unwrap();
            }
        }
        client.shutdown().await.unwrap();
        let link = greet(server, channel, limits()).await.unwrap();
        assert_eq!((link.transport(), link.channel()), (Transport::Zmtp, channel));
        assert_eq!(format!("{:032x}", link.peer().client().0), "12f030bf96b34f7084fd2d4abf26ece6");
        let (mut reader, _writer) = link.split();
        let mut messages = Vec::new();
        while let Some(message) = reader.next().await.unwrap() {
            messages.push(message);
        }
        match channel {
            Channel::Command => {
                let first: Vec<&[u8]> = messages.iter().map(|message| &message[0][..]).collect();
                assert_eq!(first, [b"\x80\x04K\x09.", b"\x80\x04K\x08.", b"\x80\x04K\x08."]);
                assert!(messages.iter().all(|message| message.len() == 3));
            }
            Channel::Data => assert!(messages.is_empty()),
            Channel::Ttl => assert_eq!(messages, [chunks(&[b"INIT"]), chunks(&[b"PONG"]), chunks(&[b"PONG"])]),
        }
    }
}

#[tokio::test]
async fn the_recorded_connections_of_0_10_3_are_greeted_and_read() {
    let lines = heard("wire_0.10.3.txt");
    let roles = [(0x43, Channel::Command, 3), (0x44, Channel::Data, 0), (0x54, Channel::Ttl, 1)];
    for (role, channel, count) in roles {
        let (mut client, server) = connect().await;
        let first = lines.iter().find(|line| line.from_client && line.bytes.starts_with(&[0, 0, 0, 16]));
        assert!(first.is_some());
        for line in lines.iter().filter(|line| line.from_client && line.whole) {
            let begins = line.bytes.starts_with(&[0, 0, 0, 16]);
            let command = line.bytes.get(8..12) == Some(b"\x80\x04K\x08");
            if (begins && line.bytes[20] == role) || (command && channel == Channel::Command) {
                client.write_all(&line.bytes).await.unwrap();
            }
        }
        client.shutdown().await.unwrap();
        // Whatever ZMTP port it is: the client says what it wants.
        let link = greet(server, Channel::Command, limits()).await.unwrap();
        assert_eq!((link.transport(), link.channel()), (Transport::Tcp, channel));
        let (mut reader, _writer) = link.split();
        let mut messages = 0;
        while reader.next().await.unwrap().is_some() {
            messages += 1;
        }
        assert_eq!(messages, count, "{channel:?}");
    }
}

#[test]
fn what_the_old_servers_sent_is_framed_byte_for_byte_as_they_did() {
    // Of ZMTP after the greeting of 64 bytes and READY.
    for (name, port, skip, count) in
        [("wire_0.9.10.txt", 8400, 64 + 57, 6), ("wire_0.9.10.txt", 8402, 64 + 43, 2), ("wire_0.10.3.txt", 8420, 0, 9)]
    {
        let lines = heard(name);
        let sent = lines.iter().filter(|line| line.port == port && !line.from_client);
        let sent: Vec<u8> = sent.flat_map(|line| line.bytes.clone()).skip(skip).collect();
        let messages = from_server(name, port, skip);
        assert_eq!(messages.len(), count, "{name} {port}");
        let transport = if skip > 0 { Transport::Zmtp } else { Transport::Tcp };
        let framed: Vec<Bytes> = messages.iter().flat_map(|message| frame(transport, message)).collect();
        assert_eq!(framed.concat(), sent);
    }
}

#[tokio::test]
async fn a_zmtp_client_is_told_the_version_before_it_has_sent_more_than_its_signature() {
    let (mut client, server) = connect().await;
    let greeted = tokio::spawn(greet(server, Channel::Ttl, limits()));
    let all = dealer();
    let mut heard = [0; 64];
    client.write_all(&all[..10]).await.unwrap();
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, zmtp::greeting());
    client.write_all(&all[10..64]).await.unwrap();
    let mut ready = [0; 43];
    client.read_exact(&mut ready).await.unwrap();
    assert_eq!(ready, zmtp::READY);
    // READY and the first message in one piece, in which the length of the message is cut.
    client.write_all(&[&all[64..], b"\0"].concat()).await.unwrap();
    client.write_all(b"\x04INIT").await.unwrap();
    let link = greeted.await.unwrap().unwrap();
    assert_eq!((link.peer(), link.channel()), (PeerId::new(IDENTITY).unwrap(), Channel::Ttl));
    let (mut reader, mut writer) = link.split();
    assert_eq!(reader.next().await.unwrap().unwrap(), ["INIT"]);
    writer.write(&frame(Transport::Zmtp, &chunks(&[b"PING"]))).await.unwrap();
    let mut heard = [0; 6];
    client.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"\0\x04PING");
}

#[tokio::test]
async fn version_3_0_and_properties_that_are_not_known_are_accepted() {
    let mut greeting = zmtp::greeting();
    greeting[11] = 0;
    let body =
        [b"\x05READY\x08identity\0\0\0\x10", &IDENTITY[..], b"\x06X-More\0\0\0\x01?\x0bsocket-type\0\0\0\x06DEALER"];
    let body = body.concat();
    let ready = [&[0x04, u8::try_from(body.len()).unwrap()][..], &body].concat();
    let (_client, link) = opened(&[&greeting[..], &ready].concat(), limits()).await;
    assert_eq!(link.unwrap().peer(), PeerId::new(IDENTITY).unwrap());
}

#[tokio::test]
async fn whoever_is_no_client_is_refused_with_a_reason() {
    let changed = |at: usize, byte: u8| {
        let mut bytes = dealer();
        bytes[at] = byte;
        bytes
    };
    assert!(refusal(b"GET / HTTP/1.1\r\n").await.contains("0x47"));
    assert!(refusal(&changed(9, 0x7e)).await.contains("signature"));
    assert!(refusal(&changed(10, 2)).await.contains("before 3.0"));
    assert!(refusal(&changed(12, b'P')).await.contains("NULL"));
    assert!(refusal(&changed(20, b'X')).await.contains("NULL"));
    assert!(refusal(&changed(64, 0)).await.contains("0 bytes"), "a message instead of READY");
    assert!(refusal(&changed(66, 4)).await.contains("READY"));
    assert!(refusal(&changed(89, b'X')).await.contains("DEALER"));
    let short = [&dealer()[..64], b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER"].concat();
    assert!(refusal(&short).await.contains("16 bytes"));
    assert!(refusal(b"\0\0\0\x0f0123456789abcde0C").await.contains("16 bytes"));
    assert!(refusal(&tcp_client(b'X')).await.contains("role"));
    let (mut client, server) = connect().await;
    client.write_all(&tcp_client(b'C')[..20]).await.unwrap();
    client.shutdown().await.unwrap();
    assert!(matches!(greet(server, Channel::Data, limits()).await, Err(WireError::Cut)));
}

#[tokio::test]
async fn whoever_does_not_say_who_it_is_in_time_is_left() {
    let soon = WireLimits { greeted_within: Duration::from_millis(50), ..WireLimits::default() };
    for bytes in [&b""[..], &dealer()[..30], &dealer()[..64], &tcp_client(b'C')[..20]] {
        let (_client, link) = opened(bytes, soon).await;
        assert!(matches!(link, Err(WireError::GreetingTimeout)), "{bytes:?}");
    }
}

#[tokio::test]
async fn a_ping_between_messages_is_answered_and_an_error_ends() {
    let all = [
        &dealer()[..],
        b"\x04\x0b\x04PING\0\x0aabcd\x04\x09\x07UNKNOWN?\x01\x03one",
        b"\x04\x07\x04PING\0\x0a\0\x03two\x04\x06\x05ERROR\0\x05after",
    ];
    let (mut client, link) = opened(&all.concat(), limits()).await;
    let (mut reader, writer) = link.unwrap().split();
    assert_eq!(reader.next().await.unwrap().unwrap(), ["one", "two"]);
    assert_eq!(reader.next().await.unwrap(), None);
    writer.close();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).await.unwrap();
    assert_eq!(&heard[64 + 43..], b"\x04\x09\x04PONGabcd\x04\x05\x04PONG");
}

#[tokio::test]
async fn a_cancelled_reader_or_writer_goes_on_where_it_was() {
    const LEN: usize = 3 << 20;
    let (mut client, server) = connect().await;
    client.write_all(&tcp_client(b'D')).await.unwrap();
    let (mut reader, mut writer) = greet(server, Channel::Command, limits()).await.unwrap().split();
    let large: Vec<u8> = (0..LEN).map(|at| (at / 7).to_le_bytes()[0]).collect();
    let message = [Bytes::from_static(b"head"), Bytes::from(large), Bytes::new()];
    let framed = frame(Transport::Tcp, &message);
    assert!(framed.iter().any(|piece| piece.as_ptr() == message[1].as_ptr()), "the large chunk is not copied");

    // Nobody reads: a part is written, then it is cancelled.
    let cut = tokio::time::timeout(Duration::from_millis(30), async {
        for _ in 0..8 {
            writer.write(&framed).await.unwrap();
        }
    });
    cut.await.expect_err("more than sockets hold");
    assert!(writer.queued_bytes() > 0);
    assert!(!writer.try_write(&frame(Transport::Tcp, &chunks(&[b"end"]))).unwrap());

    // The client sends back what it gets, in pieces, while the reader is cancelled again and again.
    let client = tokio::spawn(async move {
        let (mut from, mut to) = client.split();
        tokio::io::copy(&mut from, &mut to).await.unwrap();
    });
    let writing = tokio::spawn(async move {
        writer.flush().await.unwrap();
        assert_eq!(writer.queued_bytes(), 0);
        writer.close();
    });
    let mut received = Vec::new();
    let mut cancelled = 0;
    loop {
        match tokio::time::timeout(Duration::from_micros(200), reader.next()).await {
            Err(_) => cancelled += 1,
            Ok(Ok(Some(message))) => received.push(message),
            Ok(Ok(None)) => break,
            Ok(Err(error)) => panic!("{error}"),
        }
        assert!(cancelled < 100_000, "it never ends");
        if received.last().is_some_and(|last| last[..] == ["end"]) {
            break;
        }
    }
    let (end, rest) = received.split_last().unwrap();
    assert_eq!(end[..], ["end"]);
    assert!(!rest.is_empty() && rest.iter().all(|one| one[..] == message));
    writing.await.unwrap();
    client.abort();
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_before_it_has_come() {
    let small = WireLimits { message_bytes: 1_000, chunks: 4, ..limits() };
    let cases: [(&[u8], &str); 6] = [
        (b"\0\0\0\x01\0\0\x03\xe9", "1000 bytes"),
        (b"\0\0\0\x02\0\0\0\x01x\0\0\x03\xe8", "1000 bytes"),
        (b"\0\0\0\x05", "4 chunks"),
        (b"\x02\xff\xff\xff\xff\xff\xff\xff\xff", "1000 bytes"),
        (b"\x01\0\x01\0\x01\0\x01\0\0\0", "4 chunks"),
        (b"\x06\0\0\0\0\0\0\x10\x01", "bytes in a command"),
    ];
    for (index, (bytes, expected)) in cases.into_iter().enumerate() {
        let opening = if index < 3 { tcp_client(b'C') } else { dealer() };
        let (_client, link) = opened(&[&opening, bytes].concat(), small).await;
        let (mut reader, _writer) = link.unwrap().split();
        let error = reader.next().await.unwrap_err().to_string();
        assert!(error.contains(expected), "{index}: {error}");
    }
    for flags in [b"\x05\0", b"\x08\0", b"\x80\0"] {
        let (_client, link) = opened(&[&dealer()[..], flags].concat(), small).await;
        assert!(matches!(link.unwrap().split().0.next().await, Err(WireError::Malformed(_))), "{flags:?}");
    }
}

#[tokio::test]
async fn a_client_that_closes_between_messages_has_just_gone() {
    let cases: [(&[u8], bool); 4] =
        [(b"\0\0\0\0", true), (b"\0\0\0\x01", false), (b"\0\0", false), (b"\0\0\0\x01\0\0\0\x05abc", false)];
    for (bytes, whole) in cases {
        let (mut client, link) = opened(&[&tcp_client(b'C'), bytes].concat(), limits()).await;
        let (mut reader, _writer) = link.unwrap().split();
        client.shutdown().await.unwrap();
        if whole {
            assert_eq!(reader.next().await.unwrap(), Some(vec![]), "an empty message");
            assert_eq!(reader.next().await.unwrap(), None);
        } else {
            assert!(matches!(reader.next().await, Err(WireError::Cut)), "{bytes:?}");
        }
    }
}

#[test]
fn memory_follows_what_was_received_and_not_what_was_announced() {
    for head in [&b"\0\0\0\x01\x0f\xff\xff\xff"[..], b"\x02\0\0\0\0\x0f\xff\xff\xff"] {
        let transport = if head[0] == 0 { Transport::Tcp } else { Transport::Zmtp };
        let mut assembly = Assembly::new(transport, WireLimits::default());
        assert_eq!(assembly.take(&mut &head[..]).unwrap(), None);
        let mut received = 0;
        for _ in 0..200 {
            assert_eq!(assembly.take(&mut &[7; 1_000][..]).unwrap(), None);
            received += 1_000;
            let (bytes, _) = assembly.direct().unwrap();
            assert_eq!(bytes.len(), received);
            assert!(bytes.capacity() <= 2 * received + (64 << 10), "{} for {received}", bytes.capacity());
        }
    }
}

#[test]
fn chunks_of_every_size_survive_in_pieces_of_every_size() {
    let sizes = [0, 1, 255, 256, 16 << 10, (16 << 10) + 1, 70_000];
    let message: Vec<Bytes> = sizes.iter().map(|size| Bytes::from(vec![0xa5; *size])).collect();
    for transport in [Transport::Tcp, Transport::Zmtp] {
        let bytes = frame(transport, &message).concat();
        for step in [1, 2, 3, 8, 9, 1_000, 40_000, bytes.len()] {
            let mut assembly = Assembly::new(transport, WireLimits::default());
            let (mut begin, mut end) = (0, 0);
            let item = loop {
                end = (end + step).min(bytes.len());
                let mut input = &bytes[begin..end];
                let item = assembly.take(&mut input).unwrap();
                begin = end - input.len();
                if let Some(item) = item {
                    break item;
                }
                assert!(end < bytes.len());
            };
            assert_eq!((item, begin), (Item::Message(message.clone()), bytes.len()), "{transport:?}, {step}");
        }
    }
}

/// A DEALER that sends small and large messages, takes them back, and is silent long enough to send a PING.
const DEALER: &str = "
import sys, time, zmq
socket = zmq.Context().socket(zmq.DEALER)
socket.setsockopt(zmq.IDENTITY, b'\\0abcdefghijklmno')
socket.setsockopt(zmq.HEARTBEAT_IVL, 100)
socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 500)
socket.setsockopt(zmq.RCVTIMEO, 20000)
socket.connect('tcp://127.0.0.1:' + sys.argv[1])
large = [b'head', bytes(5_000_000), b'', b'x' * 300]
for message in [[b'one'], large, [b'two', b'']]:
    socket.send_multipart(message)
    assert socket.recv_multipart() == message
time.sleep(1.5)
socket.send_multipart([b'end'])
assert socket.recv_multipart() == [b'end']
socket.close()
";

#[tokio::test]
#[ignore = "needs pyzmq: HOTSET_PYZMQ names a Python that has it"]
async fn the_real_libzmq_stays_connected() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut python = std::process::Command::new(std::env::var("HOTSET_PYZMQ").expect("HOTSET_PYZMQ is set"));
    let mut child = python.args(["-c", DEALER, &port]).spawn().unwrap();
    // One connection must do: without a PONG libzmq would open another.
    let (server, _) = listener.accept().await.unwrap();
    let link = greet(server, Channel::Data, limits()).await.unwrap();
    assert_eq!(link.peer(), PeerId::new(IDENTITY).unwrap());
    let (mut reader, mut writer) = link.split();
    let mut messages = 0;
    while let Some(message) = reader.next().await.unwrap() {
        writer.write(&frame(Transport::Zmtp, &message)).await.unwrap();
        messages += 1;
    }
    assert_eq!(messages, 4);
    assert!(child.wait().unwrap().success());
}
