//! The bare room: relays WebSocket messages between the clients of a path and keeps nothing. The floor that the daemon
//! is compared with.
//!
//! It is what a careful user of tokio-tungstenite writes: small read buffers, message bytes that are shared and not
//! copied, and one flush for everything that waits for a connection.

use futures_util::{SinkExt, StreamExt};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

/// Bytes that each connection reads at once; also what an idle one costs.
const READ_BUFFER_BYTES: usize = 4 << 10;
/// Messages that may wait for one member; one that falls further behind is dropped from the room.
const QUEUE_MESSAGES: usize = 4_096;

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
struct Rooms(Mutex<BTreeMap<String, Arc<Room>>>);

#[derive(Default)]
struct Room(Mutex<Vec<Member>>);

struct Member {
    id: u128,
    echo: bool,
    queue: mpsc::Sender<Message>,
}

impl Rooms {
    fn room(&self, path: &str) -> Arc<Room> {
        Arc::clone(locked(&self.0).entry(path.to_owned()).or_default())
    }
}

impl Room {
    fn relay(&self, from: u128, message: &Message) {
        locked(&self.0).retain(|member| {
            (member.id == from && !member.echo) || member.queue.try_send(message.clone()).is_ok()
        });
    }

    fn leave(&self, id: u128) {
        locked(&self.0).retain(|member| member.id != id);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve_member(stream: TcpStream, rooms: &Rooms) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
    let mut address = (String::new(), false);
    let accept = |request: &Request, response: Response| {
        address = (request.uri().path().to_owned(), request.uri().query() == Some("echo"));
        with_subprotocol(request, response)
    };
    let mut socket = accept_hdr_async_with_config(stream, accept, Some(config)).await?;
    let (path, echo) = address;
    let room = rooms.room(&path);
    let id = crate::ops::random::u128();
    let (queue, mut waiting) = mpsc::channel(QUEUE_MESSAGES);
    locked(&room.0).push(Member { id, echo, queue });
    let outcome = relay_messages(&mut socket, &room, id, &mut waiting).await;
    room.leave(id);
    outcome
}

/// Takes the subprotocol that the client offers, as the daemon does.
#[expect(clippy::result_large_err, reason = "the error type is tungstenite's")]
#[expect(clippy::unnecessary_wraps, reason = "the signature is tungstenite's")]
fn with_subprotocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    const NAME: &str = "Sec-WebSocket-Protocol";
    if let Some(offered) = request.headers().get(NAME).map(HeaderValue::clone) {
        response.headers_mut().insert(NAME, offered);
    }
    Ok(response)
}

async fn relay_messages(
    socket: &mut WebSocketStream<TcpStream>,
    room: &Room,
    id: u128,
    waiting: &mut mpsc::Receiver<Message>,
) -> Result<(), Error> {
    loop {
        tokio::select! {
            received = socket.next() => match received {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => room.relay(id, &message),
                Some(Ok(Message::Close(_))) | None => return Ok(()),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(error),
            },
            message = waiting.recv() => {
                let Some(message) = message else { return Ok(()) };
                socket.feed(message).await?;
                while let Ok(message) = waiting.try_recv() {
                    socket.feed(message).await?;
                }
                socket.flush().await?;
            }
        }
    }
}
