//! The entrance of the native door: the HTTP upgrade, `hello`, and the welcome.

use super::connection::{Connection, ReadEnd, Socket};
use super::frame::Format;
use super::message::{Hello, Incoming, hex_id};
use super::outbox::Outbox;
use super::pace::Pace;
use super::replies::{Outgoing, Welcome, mode_words};
use super::state_parts::StateParts;
use super::stream::{InFlight, Stream};
use super::{CloseReason, HELLO_BYTES_MAX, PENDING_MAX, WRITE_AHEAD};
use crate::doors::{Authority, Credentials, Denied};
use crate::live::{Directory, JoinError, Joined, OpenRefused, ResumeToken, SessionHandle, Start, Subscriber};
use crate::ops::seldom::Seldom;
use crate::ops::{clock, random};
use crate::session::{ClientId, MemberName, Rejection, Role, SessionName};
use axum::body::Body;
use axum::http::header::{
    CONNECTION, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustix::net::sockopt::set_tcp_user_timeout;
use std::any::Any;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite;
use tungstenite::Message;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::{Role as WebSocketRole, WebSocketConfig, WebSocketContext};

/// Read buffer of a connection: tungstenite's own default costs 128 KiB each.
const READ_BUFFER: usize = 2 << 10;

/// Web pages are told about once in a while: any page that somebody visits may try as often as it likes.
static REFUSED_ORIGINS: Seldom = Seldom::new(Duration::from_secs(10));
/// The same for sessions that do not exist.
static MISSING_SESSIONS: Seldom = Seldom::new(Duration::from_secs(10));

/// Settings that the door follows while it runs.
#[derive(Debug, Clone)]
pub struct NativeSettings {
    /// How long a connection may take to say `hello`.
    pub hello_within: Duration,
    /// Largest message, in bytes.
    pub message_bytes: usize,
    /// Operations per second and client; 0 = no limit.
    pub ops_per_second: u32,
    /// Operations at once, before the rate counts.
    pub ops_burst: u32,
    /// Sessions there may be if joining makes them; `None` = it does not.
    pub create_sessions: Option<usize>,
    /// Web pages from these origins may connect; `*` = all. A page from the very address that it connects to always may.
    pub allowed_origins: Vec<String>,
}

/// The native door.
pub struct NativeDoor {
    /// The sessions.
    pub directory: Arc<Directory>,
    /// Who may come in.
    pub authority: Arc<dyn Authority>,
    /// What it follows.
    pub settings: watch::Receiver<NativeSettings>,
    /// Bytes of unfinished messages, over all connections.
    pub in_flight: Arc<InFlight>,
}

/// The other end of an HTTP connection; the listener puts it into every request.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// Kept for as long as the connection lives, also after an upgrade: the listener counts by it.
    pub place: Arc<dyn Any + Send + Sync>,
}

fn refuse(status: StatusCode, why: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(format!("{why}\n")));
    *response.status_mut() = status;
    response
}

fn has_token(headers: &HeaderMap, name: &axum::http::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
}

/// The first offered subprotocol that is ours; JSON if none is offered.
fn negotiate(headers: &HeaderMap) -> Option<(Format, Option<&'static str>)> {
    let mut offered = false;
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for name in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            offered = true;
            match name {
                "hotset.v1.json" => return Some((Format::Json, Some("hotset.v1.json"))),
                "hotset.v1.binary" => return Some((Format::Binary, Some("hotset.v1.binary"))),
                _ => {}
            }
        }
    }
    (!offered).then_some((Format::Json, None))
}

/// Whether a page of this origin may connect: programs send none; pages may if listed, or if they come from the address
/// that they connect to. A name does not prove that: whoever owns it can let it point here.
fn origin_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let own = headers.get("host").and_then(|host| host.to_str().ok()).is_some_and(|host| {
        origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")).is_some_and(|rest| rest == host)
            && is_address(host)
    });
    own || allowed.iter().any(|entry| entry == "*" || entry == origin)
}

/// Whether a `Host` is no name that others could own: an IP address or `localhost`, with or without a port.
fn is_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
        Some(_) | None => host,
    };
    let v6 = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<Ipv4Addr>().is_ok()
        || v6.is_some_and(|v6| v6.parse::<Ipv6Addr>().is_ok())
}

impl NativeDoor {
    /// Answers the request to open a WebSocket on a session.
    pub fn upgrade(self: &Arc<Self>, session: &str, mut request: Request<Body>) -> Response<Body> {
        let headers = request.headers();
        if !has_token(headers, &CONNECTION, "upgrade") || !has_token(headers, &UPGRADE, "websocket") {
            return refuse(StatusCode::UPGRADE_REQUIRED, "this address speaks WebSocket (docs/native-protocol.md)");
        }
        if headers.get("sec-websocket-version").is_none_or(|version| version != "13") {
            return refuse(StatusCode::BAD_REQUEST, "only version 13 of WebSocket is spoken here");
        }
        let Some(key) = headers.get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes())) else {
            return refuse(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing");
        };
        let Some((format, protocol)) = negotiate(headers) else {
            return refuse(StatusCode::BAD_REQUEST, "offer hotset.v1.json or hotset.v1.binary");
        };
        if !origin_allowed(headers, &self.settings.borrow().allowed_origins) {
            if REFUSED_ORIGINS.is_due() {
                tracing::warn!("Refused: pages of {:?} may not connect (ALLOWED_ORIGINS)", headers.get(ORIGIN));
            }
            return refuse(StatusCode::FORBIDDEN, "pages of this origin may not connect (ALLOWED_ORIGINS)");
        }
        let Some(peer) = request.extensions().get::<Peer>().cloned() else {
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the listener did not say who connects");
        };
        let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
            return refuse(StatusCode::BAD_REQUEST, "this connection cannot be upgraded");
        };
        let door = Arc::clone(self);
        let session = session.to_owned();
        tokio::spawn(async move { door.receive(upgrade, session, format, peer).await });
        switching_protocols(&key, protocol)
    }

    async fn receive(self: Arc<Self>, upgrade: OnUpgrade, session: String, format: Format, peer: Peer) {
        let Ok(upgraded) = upgrade.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
        let tcp = parts.io.into_inner();
        // From here on the door itself sees to it that what it writes is taken.
        if let Err(error) = set_tcp_user_timeout(&tcp, 0) {
            tracing::debug!("{}: {error}", peer.address);
        }
        // A copy, because even an empty rest would keep the HTTP server's read buffer.
        let leftover = Bytes::copy_from_slice(&parts.read_buf);
        let mut stream = Stream::new(tcp, format, leftover, Arc::clone(&self.in_flight));
        stream.take_messages_of(HELLO_BYTES_MAX);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(0)
            .max_message_size(Some(HELLO_BYTES_MAX))
            .max_frame_size(Some(HELLO_BYTES_MAX));
        let context = WebSocketContext::new(WebSocketRole::Server, Some(config));
        let socket = Socket { context, stream, format, drained: false };
        if let Some(connection) = self.welcome(socket, &session, peer.address).await {
            // A task of its own: what saying hello took is given back.
            tokio::spawn(async move {
                connection.run().await;
                drop(peer);
            });
        }
    }

    async fn welcome(&self, mut socket: Socket, session: &str, peer: SocketAddr) -> Option<Connection> {
        match self.join(&mut socket, session, peer).await {
            Ok(connection) => {
                let (membership, joined) = connection;
                Some(self.connection(socket, membership, joined))
            }
            Err(end) => {
                if let Some((reason, code, message)) = end {
                    socket.say(&Outgoing::Error { code, message: &message });
                    socket.close(reason).await;
                }
                None
            }
        }
    }

    fn connection(&self, mut socket: Socket, membership: crate::live::Membership, joined: Joined) -> Connection {
        let mut follows = self.settings.clone();
        let settings = follows.borrow_and_update().clone();
        socket.take_messages_of(settings.message_bytes);
        let subscriber = membership.subscriber();
        let (mode, message) = mode_words(&joined.mode);
        let welcome = Welcome {
            session: membership.session().name().as_str(),
            name: subscriber.name.as_str(),
            role: subscriber.role.as_str(),
            client: format!("{:032x}", subscriber.client.0),
            branch: format!("{:032x}", joined.resume.branch.0),
            run: format!("{:032x}", joined.resume.run.0),
            seq: joined.head,
            resumed: matches!(joined.start, Start::Resumed(_)),
            mode,
            message,
            pending_max: PENDING_MAX,
            message_bytes_max: settings.message_bytes,
        };
        socket.say(&Outgoing::Welcome(&welcome));
        let pace = Pace::new(settings.ops_per_second, settings.ops_burst, clock::instant());
        subscriber.set_courier(Arc::<Outbox>::clone(socket.stream.outbox()));
        let mut connection = Connection::new(socket, membership, pace, follows);
        match joined.start {
            Start::Resumed(seq) => connection.resume_after(seq),
            Start::State(state) => connection.begin_with(StateParts::new(state)),
        }
        connection
    }

    async fn join(
        &self,
        socket: &mut Socket,
        session: &str,
        peer: SocketAddr,
    ) -> Result<(crate::live::Membership, Joined), Option<Refused>> {
        let patience = self.settings.borrow().hello_within;
        let hello = match tokio::time::timeout(patience, hello(socket)).await {
            Ok(hello) => hello?,
            Err(_) => return Err(refused(CloseReason::NoHello, "no_hello", "no hello in time")),
        };
        let role = self.admit(&hello, peer)?;
        let handle = self.open(session, peer).await?;
        let name = MemberName::new(&hello.name)
            .map_err(|error| refused(CloseReason::NotWelcome, "invalid", format!("name {error}")))?;
        // The session lets the daemon itself in under its reserved name; nobody comes in from outside as the daemon.
        if name.is_reserved() {
            let taken = Rejection::NameReserved;
            return Err(refused(CloseReason::NotWelcome, taken.code(), taken.to_string()));
        }
        let client = hello.client.as_deref().and_then(hex_id).unwrap_or_else(new_client_id);
        let subscriber = Subscriber::new(name, role, ClientId(client));
        let token = hello.resume.as_ref().and_then(resume_token);
        let (joined, membership) = handle.join(subscriber, token).await.map_err(|error| {
            let (reason, code) = match &error {
                JoinError::Rejected(rejection) => (CloseReason::NotWelcome, rejection.code()),
                JoinError::Replaced => (CloseReason::Replaced, "replaced"),
                JoinError::Stopping => (CloseReason::Stopping, "stopping"),
                JoinError::Restoring => (CloseReason::Restored, "restoring"),
            };
            refused(reason, code, error.to_string())
        })?;
        Ok((membership, joined))
    }

    fn admit(&self, hello: &Hello, peer: SocketAddr) -> Result<Role, Option<Refused>> {
        let credentials = match (&hello.token, &hello.password) {
            (Some(token), _) => Credentials::Token(token),
            (None, Some(password)) => Credentials::Password(password),
            (None, None) => Credentials::None,
        };
        let role = self.authority.admit(peer.ip(), credentials).map_err(|denied| {
            let code = match denied {
                Denied::Wrong => "denied",
                Denied::TooManyAttempts(_) => "too_many_attempts",
            };
            refused(CloseReason::Denied, code, denied.to_string())
        })?;
        match hello.role.as_deref() {
            None => Ok(role),
            Some("viewer") => Ok(Role::Viewer),
            Some("member") => Ok(role.min(Role::Member)),
            Some("admin") if role == Role::Admin => Ok(role),
            Some(_) => Err(refused(CloseReason::Denied, "denied", Denied::Wrong.to_string())),
        }
    }

    async fn open(&self, session: &str, peer: SocketAddr) -> Result<SessionHandle, Option<Refused>> {
        let unknown = |why: String| refused(CloseReason::Denied, "denied", why);
        let missing = || self.missing(session, peer);
        let name = SessionName::new(session).map_err(|_| missing())?;
        let create = self.settings.borrow().create_sessions;
        self.directory.open(&name, create).await.map_err(|error| match error {
            OpenRefused::NoSuchSession => missing(),
            OpenRefused::NotServed(why) => refused(CloseReason::NotWelcome, "not_served", why),
            OpenRefused::TooMany(_) | OpenRefused::Failed(_) => unknown(error.to_string()),
        })
    }

    /// Where a password is needed, the names of sessions are part of the secret.
    fn missing(&self, session: &str, peer: SocketAddr) -> Option<Refused> {
        if !self.authority.is_open() {
            return refused(CloseReason::Denied, "denied", Denied::Wrong.to_string());
        }
        let error = OpenRefused::NoSuchSession;
        if MISSING_SESSIONS.is_due() {
            let ip = peer.ip();
            tracing::info!("Refused {ip}: no session {session:?}; with CREATE_SESSIONS=true, joining makes sessions");
        }
        refused(CloseReason::Denied, "no_such_session", error.to_string())
    }
}

type Refused = (CloseReason, &'static str, String);

#[expect(clippy::unnecessary_wraps, reason = "the error type is an option: `None` = the peer has gone")]
fn refused(reason: CloseReason, code: &'static str, message: impl Into<String>) -> Option<Refused> {
    Some((reason, code, message.into()))
}

fn resume_token(resume: &super::message::Resume) -> Option<ResumeToken> {
    let (branch, run) = (hex_id(&resume.branch)?, hex_id(&resume.run)?);
    Some(ResumeToken { branch, run, seq: resume.seq, op: resume.op })
}

async fn hello(socket: &mut Socket) -> Result<Hello, Option<Refused>> {
    let mut pace = Pace::new(0, 0, clock::instant());
    let message = loop {
        socket.stream.refill();
        let message = std::future::poll_fn(|context| {
            // Pongs, if any; a socket that cannot take them will time out.
            _ = socket.stream.poll_write_out(context);
            socket.poll_message(context)
        });
        match message.await {
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => break message,
            Ok(Message::Close(_)) | Err(ReadEnd::Gone) => return Err(None),
            Ok(_) => {
                if !pace.control_frame(clock::instant()) || socket.stream.waiting() >= WRITE_AHEAD {
                    let reason = CloseReason::Flooding;
                    return Err(refused(reason, "bad_message", reason.text()));
                }
            }
            Err(ReadEnd::Close(reason)) => return Err(refused(reason, "bad_message", reason.text())),
        }
    };
    let bad = |why: String| refused(CloseReason::BadMessages, "bad_message", why);
    let incoming = Incoming::from_message(socket.format, message).map_err(|error| bad(error.to_string()))?;
    let header = incoming.header();
    let text = super::message::text(&header).map_err(|error| bad(error.to_string()))?;
    let kind: super::message::Kind<'_> = serde_json::from_str(text).map_err(|error| bad(error.to_string()))?;
    if kind.kind != "hello" {
        return Err(bad(format!("the first message must be hello, not {:?}", kind.kind)));
    }
    serde_json::from_str(text).map_err(|error| bad(error.to_string()))
}

fn switching_protocols(key: &str, protocol: Option<&'static str>) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(key) = HeaderValue::from_str(key) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, key);
    }
    if let Some(protocol) = protocol {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

/// An id for a client program. It has no version that a UUID has: an add-on's identity is a UUID of version 4, and nobody
/// is to pass at the Blender door for a client of this one.
fn new_client_id() -> u128 {
    random::u128() & !(0xf << 76)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(host: &'static str, origin: &'static str, listed: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static(host));
        headers.insert(ORIGIN, HeaderValue::from_static(origin));
        let listed: Vec<String> = listed.iter().map(|&origin| origin.to_owned()).collect();
        origin_allowed(&headers, &listed)
    }

    #[test]
    fn a_page_is_the_servers_own_only_under_an_address_that_nobody_else_can_own() {
        for host in ["127.0.0.1:8000", "127.0.0.1", "[::1]:8000", "[::1]", "localhost:8000", "LocalHost"] {
            let origin: &'static str = format!("http://{host}").leak();
            assert!(allowed(host, origin, &[]), "{host}");
            assert!(!allowed(host, "http://evil.example:8000", &[]), "{host}");
        }
        for host in ["evil.example:8000", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "::1"]
        {
            let origin: &'static str = format!("http://{host}").leak();
            assert!(!allowed(host, origin, &[]), "{host}: a name may point to this machine, whoever owns it");
            assert!(allowed(host, origin, &[origin]), "{host} is listed");
        }
        assert!(!allowed("127.0.0.1:8000", "http://127.0.0.1:9000", &[]), "another port is another server");
        assert!(origin_allowed(&HeaderMap::new(), &[]), "programs send none");
    }
}
