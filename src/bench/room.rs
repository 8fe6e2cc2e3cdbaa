//! The bare room: relays WebSocket messages between the clients of a path and keeps nothing. The floor that the daemon
//! is compared with.
//!
//! It is what a careful user of tokio-tungstenite writes: small read buffers, message bytes that are shared and not
//! copied, and one flush for everything that waits for a connection.

use futures_util::{SinkExt, StreamExt};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

/// Bytes that each connection reads at once; also what an idle one costs.
const READ_BUFFER_BYTES: usize = 4 << 10;
/// Messages that a member may be behind; one that falls further behind is dropped.
const ROOM_MESSAGES: usize = 1_024;

/// Serves rooms on 127.0.0.1 until the process is ended. The path names the room; with `?echo` a member also gets its
/// own messages.
pub(super) fn serve(port: u16) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let rooms = Arc::new(Rooms::default());
        loop {
            let (stream, _) = listener.accept().await?;
            let rooms = Arc::clone(&rooms);
            tokio::spawn(async move {
                // A member that breaks the protocol or goes away only ends its own task.
                drop(serve_member(stream, &rooms).await);
            });
        }
    })
}

/// The rooms by path. A room stays when its last member has left.
#[derive(Default)]
struct Rooms(Mutex<BTreeMap<String, Room>>);

/// A message and who sent it.
type Relayed = (u128, Message);

/// Of the channels that tokio offers, this one was the cheapest here: one slot per message, not one per receiver.
type Room = broadcast::Sender<Relayed>;

impl Rooms {
    fn room(&self, path: &str) -> Room {
        let mut rooms = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        rooms.entry(path.to_owned()).or_insert_with(|| broadcast::channel(ROOM_MESSAGES).0).clone()
    }
}

async fn serve_member(stream: TcpStream, rooms: &Rooms) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
    let mut address = (String::new(), false);
    #[expect(clippy::result_large_err, reason = "the error type is tungstenite's")]
    let accept = |request: &Request, response: Response| {
        address = (request.uri().path().to_owned(), request.uri().query() == Some("echo"));
        with_subprotocol(request, response)
    };
    let mut socket = accept_hdr_async_with_config(stream, accept, Some(config)).await?;
    let (path, echo) = address;
    let room = rooms.room(&path);
    relay_messages(&mut socket, &room, echo).await
}

/// Takes the subprotocol that the client offers, as the daemon does.
#[expect(clippy::result_large_err, reason = "the error type is tungstenite's")]
#[expect(clippy::unnecessary_wraps, reason = "the signature is tungstenite's")]
fn with_subprotocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    const NAME: &str = "Sec-WebSocket-Protocol";
    if let Some(offered) = request.headers().get(NAME).cloned() {
        response.headers_mut().insert(NAME, offered);
    }
    Ok(response)
}

async fn relay_messages(socket: &mut WebSocketStream<TcpStream>, room: &Room, echo: bool) -> Result<(), Error> {
    let me = crate::ops::random::u128();
    let mut waiting = room.subscribe();
    loop {
        tokio::select! {
            received = socket.next() => match received {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    room.send((me, message)).map_err(|_| Error::ConnectionClosed)?;
                }
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(error),
            },
            first = waiting.recv() => {
                let mut next = first.ok();
                if next.is_none() {
                    return Ok(());
                }
                while let Some((from, message)) = next {
                    if from != me || echo {
                        socket.feed(message).await?;
                    }
                    next = waiting.try_recv().ok();
                }
                socket.flush().await?;
            }
        }
    }
}
