//! Messages to clients, as chunks. Payloads are passed on as they came; everything else is pickled here, once for all
//! receivers.

use super::{InitState, Kind};
use crate::formats::pickle::{Value, WriteError, write};

use bytes::Bytes;
use std::sync::Arc;

/// In whose name the server speaks.
const SERVER: &str = "server";

/// What a probe is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::doors::blender) struct ServerInfo<'a> {
    /// Whether one needs a password to log in.
    pub(in crate::doors::blender) private: bool,
    /// The version that the server claims to be.
    pub(in crate::doors::blender) version: &'a str,
}

/// One line of the list of users.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::doors::blender) struct UserRecord<'a> {
    /// The name.
    pub(in crate::doors::blender) name: &'a str,
    /// Whether it is an administrator.
    pub(in crate::doors::blender) admin: bool,
    /// Milliseconds; 999 as long as nothing is known.
    pub(in crate::doors::blender) latency: u32,
    /// The number of its state.
    pub(in crate::doors::blender) status: u8,
    /// Its metadata, all of it.
    pub(in crate::doors::blender) metadata: &'a [(Arc<str>, Value)],
}

/// The answer to a probe.
pub(in crate::doors::blender) fn server_info(info: ServerInfo<'_>) -> Vec<Bytes> {
    let private = (Value::text("private"), Value::Bool(info.private));
    let version = (Value::text("version"), Value::text(info.version));
    from_server(Kind::RequestServerInfo, &dict(vec![private, version]))
}

/// The answer to a login: `LOBBY`, `RUNNING`, or `FAILED: ` and why.
pub(in crate::doors::blender) fn auth_reply(text: &str) -> Vec<Bytes> {
    from_server(Kind::Auth, &Value::text(text))
}

/// The list of users, which replaces the one that the client has. It fails if metadata is nested too deeply.
pub(in crate::doors::blender) fn clients<'a>(
    users: impl IntoIterator<Item = UserRecord<'a>>,
) -> Result<Vec<Bytes>, WriteError> {
    let users = dict(users.into_iter().map(user).collect());
    Ok(message(Kind::UpdateClientsState, SERVER, write(&users)?.into()))
}

fn user(user: UserRecord<'_>) -> (Value, Value) {
    let name = Value::text(user.name);
    let metadata = user.metadata.iter().map(|(key, value)| (Value::Text(Arc::clone(key)), value.clone())).collect();
    let record = dict(vec![
        (Value::text("id"), name.clone()),
        (Value::text("admin"), Value::Bool(user.admin)),
        (Value::text("latency"), Value::Int(user.latency.into())),
        (Value::text("status"), Value::Int(user.status.into())),
        (Value::text("metadata"), dict(metadata)),
    ]);
    (name, record)
}

/// An answer to whoever gives the session its first content.
pub(in crate::doors::blender) fn server_snapshot(state: InitState) -> Vec<Bytes> {
    let state = match state {
        InitState::Accepted => "ACCEPTED",
        InitState::Rejected => "REJECTED",
        InitState::Done => "DONE",
    };
    from_server(Kind::ServerSnapshot, &dict(vec![(Value::text("STATE"), Value::text(state))]))
}

/// The catalogue, with which joining begins. An empty one makes the client leave: name a node then that is not there.
pub(in crate::doors::blender) fn snapshot_init<'a>(catalog: impl IntoIterator<Item = &'a str>) -> Vec<Bytes> {
    snapshot("INIT", Some(("CATALOG", texts(catalog))))
}

/// One node of the catalogue, from the chunks that [`node`] makes.
pub(in crate::doors::blender) fn snapshot_set(node: &[Bytes]) -> Vec<Bytes> {
    let chunks = node.iter().cloned().map(Value::Bytes).collect();
    snapshot("SET", Some(("DATA", Value::List(Arc::new(chunks)))))
}

/// A node of the catalogue is gone.
pub(in crate::doors::blender) fn snapshot_removed() -> Vec<Bytes> {
    snapshot("SET", Some(("DATA", Value::Bytes(Bytes::from_static(b"removed")))))
}

fn snapshot(state: &str, more: Option<(&str, Value)>) -> Vec<Bytes> {
    let state = (Value::text("STATE"), Value::text(state));
    let more = more.map(|(key, value)| (Value::text(key), value));
    from_server(Kind::Snapshot, &dict([state].into_iter().chain(more).collect()))
}

/// A whole node.
pub(in crate::doors::blender) fn node<'a>(
    id: &str,
    owner: &str,
    dependencies: impl IntoIterator<Item = &'a str>,
    data: Bytes,
) -> Vec<Bytes> {
    vec![Kind::Node.chunk(), text(id), text(owner), pickled(&texts(dependencies)), data]
}

/// A change of a node.
pub(in crate::doors::blender) fn commit<'a>(
    id: &str,
    dependencies: impl IntoIterator<Item = &'a str>,
    delta: Bytes,
) -> Vec<Bytes> {
    vec![Kind::Commit.chunk(), text(id), pickled(&texts(dependencies)), delta]
}

/// A node is gone.
pub(in crate::doors::blender) fn delete(id: &str) -> Vec<Bytes> {
    from_server(Kind::Delete, &Value::text(id))
}

/// Nodes change hands.
pub(in crate::doors::blender) fn right<'a>(nodes: impl IntoIterator<Item = &'a str>, owner: &str) -> Vec<Bytes> {
    let nodes = (Value::text("uuid"), texts(nodes));
    from_server(Kind::Right, &dict(vec![nodes, (Value::text("owner"), Value::text(owner))]))
}

/// Some of a user's metadata, as it came. Only for clients whose list has that user.
pub(in crate::doors::blender) fn metadata(user: &str, data: Bytes) -> Vec<Bytes> {
    message(Kind::UpdateUserMetadata, user, data)
}

/// The client shall leave, and show its user why.
pub(in crate::doors::blender) fn disconnect(reason: &str) -> Vec<Bytes> {
    from_server(Kind::Disconnect, &dict(vec![(Value::text("reason"), Value::text(reason))]))
}

/// What the helper process answers, and waits for.
pub(in crate::doors::blender) fn ping() -> Vec<Bytes> {
    vec![Bytes::from_static(b"PING")]
}

fn from_server(kind: Kind, value: &Value) -> Vec<Bytes> {
    message(kind, SERVER, pickled(value))
}

fn message(kind: Kind, owner: &str, data: Bytes) -> Vec<Bytes> {
    vec![kind.chunk(), text(owner), data]
}

fn text(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn dict(pairs: Vec<(Value, Value)>) -> Value {
    Value::Dict(Arc::new(pairs))
}

fn texts<'a>(texts: impl IntoIterator<Item = &'a str>) -> Value {
    Value::List(Arc::new(texts.into_iter().map(Value::text).collect()))
}

/// The values made here are plain data and not deep, so that writing them cannot fail.
fn pickled(value: &Value) -> Bytes {
    write(value).map(Bytes::from).unwrap_or_default()
}

impl Kind {
    /// The first chunk of its messages: the pickle of its number.
    fn chunk(self) -> Bytes {
        let chunk: &'static [u8] = match self {
            Self::Commit => b"\x80\x04K\x01.",
            Self::Node => b"\x80\x04K\x02.",
            Self::Delete => b"\x80\x04K\x04.",
            Self::Right => b"\x80\x04K\x05.",
            Self::Snapshot => b"\x80\x04K\x07.",
            Self::ServerSnapshot => b"\x80\x04K\x08.",
            Self::Auth => b"\x80\x04K\x09.",
            Self::Disconnect => b"\x80\x04K\x0a.",
            Self::Kick => b"\x80\x04K\x0b.",
            Self::UpdateClientsState => b"\x80\x04K\x0c.",
            Self::UpdateUserMetadata => b"\x80\x04K\x0d.",
            Self::RequestServerInfo => b"\x80\x04K\x0e.",
        };
        Bytes::from_static(chunk)
    }

    /// What a first chunk says. Clients of all versions write it in exactly these five bytes.
    pub(super) fn of_chunk(chunk: &[u8]) -> Option<Self> {
        let [0x80, 4, b'K', number, b'.'] = chunk else { return None };
        Some(match number {
            1 => Self::Commit,
            2 => Self::Node,
            4 => Self::Delete,
            5 => Self::Right,
            7 => Self::Snapshot,
            8 => Self::ServerSnapshot,
            9 => Self::Auth,
            10 => Self::Disconnect,
            11 => Self::Kick,
            12 => Self::UpdateClientsState,
            13 => Self::UpdateUserMetadata,
            14 => Self::RequestServerInfo,
            _ => return None,
        })
    }
}
