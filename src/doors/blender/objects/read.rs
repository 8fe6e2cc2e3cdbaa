//! Reads messages from clients. Every pickle is scanned before it is believed, and every value must have the one shape
//! that the protocol gives it. What is passed on as it came is scanned and not built.

use super::values::{FieldsOf, LIST, SMALL, SNAPSHOT, entries, id, ids, owner, pickle};
use super::{Auth, Commit, Fault, Inbound, Kind, Metadata, NodeObject, ObjectError, Right, ServerSnapshot, Snapshot};
use crate::doors::blender::wire::Channel;
use crate::formats::pickle::{Policy, Value, scan, texts_of};
use crate::session::NodeId;

use bytes::Bytes;
use std::sync::Arc;

/// Most bytes of a datablock's class name.
const TYPE_ID_BYTES_MAX: usize = 128;

/// Most bytes of a text that stands in a chunk of its own.
const TEXT_BYTES_MAX: usize = 256;

/// Reads a message that came on a channel.
pub(in crate::doors::blender) fn read(channel: Channel, chunks: &[Bytes]) -> Result<Inbound, ObjectError> {
    match channel {
        Channel::Ttl => sign_of_life(chunks),
        Channel::Data => read_data(chunks),
        Channel::Command => read_command(chunks),
    }
}

/// A fault and the chunk that it is in.
struct At {
    chunk: usize,
    inner: Option<usize>,
    fault: Fault,
}

impl At {
    fn of(self, kind: Option<Kind>) -> ObjectError {
        ObjectError { kind, chunk: self.chunk, inner: self.inner, fault: self.fault }
    }
}

fn at(chunk: usize) -> impl FnOnce(Fault) -> At {
    move |fault| At { chunk, inner: None, fault }
}

fn refuse<T>(chunk: usize, why: &'static str) -> Result<T, At> {
    Err(at(chunk)(Fault::Shape(why)))
}

fn sign_of_life(chunks: &[Bytes]) -> Result<Inbound, ObjectError> {
    match chunks {
        [only] if only == "INIT" => Ok(Inbound::TtlInit),
        [only] if only == "PONG" => Ok(Inbound::Pong),
        _ => Err(at(0)(Fault::Shape("neither INIT nor PONG")).of(None)),
    }
}

fn kind_of(chunks: &[Bytes]) -> Result<Kind, ObjectError> {
    let fault = match chunks.first() {
        None => Fault::Shape("the message is empty"),
        Some(chunk) => match Kind::of_chunk(chunk) {
            Some(kind) => return Ok(kind),
            // If it is a pickle that asks for something, that is what the log should say.
            None => match pickle(chunk, &SMALL) {
                Err(fault @ Fault::Pickle(_)) => fault,
                Ok(_) | Err(_) => Fault::Shape("not the number of an object"),
            },
        },
    };
    Err(at(0)(fault).of(None))
}

fn read_data(chunks: &[Bytes]) -> Result<Inbound, ObjectError> {
    let kind = kind_of(chunks)?;
    let read = if kind == Kind::Node {
        node(chunks).map(Inbound::Node)
    } else if kind == Kind::Commit {
        commit(chunks).map(Inbound::Commit)
    } else {
        refuse(0, "not an object of the data channel")
    };
    read.map_err(|at| at.of(Some(kind)))
}

fn node(chunks: &[Bytes]) -> Result<NodeObject, At> {
    let [_, uuid, owned_by, dependencies, data] = chunks else { return refuse(0, "a node has five chunks") };
    let id = chunk_id(1, uuid)?;
    let owner = chunk_text(2, owned_by).and_then(|name| owner(name).map_err(at(2)))?;
    let dependencies = list(3, dependencies)?;
    let keys = ["type_id", "uuid", "name"];
    let [type_id, uuid, name] = texts_of(data, &Policy::MESSAGE, keys).map_err(|violation| at(4)(violation.into()))?;
    if uuid != Some(id.as_str()) {
        return refuse(4, "the uuid is not the node's");
    }
    let type_id = type_id.filter(|type_id| (1..=TYPE_ID_BYTES_MAX).contains(&type_id.len()));
    let Some(type_id) = type_id else { return refuse(4, "there is no type_id") };
    let (type_id, name) = (type_id.into(), name.map(Arc::from));
    Ok(NodeObject { id, owner, dependencies, data: data.clone(), type_id, name })
}

fn commit(chunks: &[Bytes]) -> Result<Commit, At> {
    let [_, uuid, dependencies, delta] = chunks else { return refuse(0, "a commit has four chunks") };
    let (id, dependencies) = (chunk_id(1, uuid)?, list(2, dependencies)?);
    scan(delta, &Policy::MESSAGE_DELTA).map_err(|violation| at(3)(violation.into()))?;
    Ok(Commit { id, dependencies, delta: delta.clone() })
}

fn read_command(chunks: &[Bytes]) -> Result<Inbound, ObjectError> {
    let kind = kind_of(chunks)?;
    let read = match chunks {
        [_, owner, data] => chunk_text(1, owner).and_then(|owner| command(kind, owner, data)),
        _ => refuse(0, "an object of the command channel has three chunks"),
    };
    read.map_err(|at| at.of(Some(kind)))
}

fn command(kind: Kind, owner: &str, data: &Bytes) -> Result<Inbound, At> {
    let read = match kind {
        Kind::RequestServerInfo => pickle(data, &SMALL).and_then(|value| probe(&value)),
        Kind::Auth => pickle(data, &SMALL).and_then(|value| auth(&value)).map(Inbound::Auth),
        Kind::Delete => pickle(data, &SMALL).and_then(|value| id(&value)).map(Inbound::Delete),
        Kind::Kick => pickle(data, &SMALL).and_then(|value| kick(&value)),
        Kind::Snapshot => pickle(data, &SMALL).and_then(|value| snapshot(&value)).map(Inbound::Snapshot),
        Kind::Right => pickle(data, &LIST).and_then(|value| right(&value)).map(Inbound::Right),
        Kind::UpdateUserMetadata => metadata(owner, data).map(Inbound::Metadata),
        Kind::ServerSnapshot => return server_snapshot(data).map(Inbound::ServerSnapshot),
        Kind::Commit | Kind::Node => Err(Fault::Shape("not an object of the command channel")),
        Kind::Disconnect | Kind::UpdateClientsState => Err(Fault::Shape("only servers send it")),
    };
    read.map_err(at(2))
}

fn probe(value: &Value) -> Result<Inbound, Fault> {
    if value.as_text() == Some("RQ_INFO") { Ok(Inbound::RequestServerInfo) } else { Err(Fault::Shape("not RQ_INFO")) }
}

fn auth(value: &Value) -> Result<Auth, Fault> {
    let fields = FieldsOf(value);
    let admin = match &*fields.text("AUTH_TYPE")? {
        "ADMIN" => true,
        "CLIENT" => false,
        _ => return Err(Fault::Shape("AUTH_TYPE is neither ADMIN nor CLIENT")),
    };
    Ok(Auth {
        admin,
        name: fields.text("AUTH_ID")?,
        server_password: fields.text_or_none("S_PWD")?,
        admin_password: fields.text_or_none("A_PWD")?,
        version: fields.text("VERSION")?,
    })
}

fn kick(value: &Value) -> Result<Inbound, Fault> {
    FieldsOf(value).text("user").map(Inbound::Kick)
}

fn right(value: &Value) -> Result<Right, Fault> {
    let fields = FieldsOf(value);
    Ok(Right { nodes: ids(fields.get("uuid")?)?, owner: owner(&fields.text("owner")?)? })
}

fn snapshot(value: &Value) -> Result<Snapshot, Fault> {
    let fields = FieldsOf(value);
    match &*fields.text("STATE")? {
        "REQUEST_INIT" => Ok(Snapshot::RequestInit),
        "GET" => id(fields.get("ID")?).map(Snapshot::Get),
        "DONE" => Ok(Snapshot::Done),
        _ => Err(Fault::Shape("STATE is none of REQUEST_INIT, GET and DONE")),
    }
}

fn metadata(user: &str, data: &Bytes) -> Result<Metadata, Fault> {
    Ok(Metadata { user: user.into(), entries: entries(data)?, data: data.clone() })
}

fn server_snapshot(data: &Bytes) -> Result<ServerSnapshot, At> {
    let value = pickle(data, &SNAPSHOT).map_err(at(2))?;
    let fields = FieldsOf(&value);
    let state = fields.text("STATE").map_err(at(2))?;
    match &*state {
        "INIT" => {
            let nodes = fields.get("NODES").and_then(ids).map_err(at(2))?;
            let size = fields.get("SIZE").map_err(at(2))?;
            if *size != Value::Int(i64::try_from(nodes.len()).unwrap_or(i64::MAX)) {
                return refuse(2, "SIZE is not the number of NODES");
            }
            Ok(ServerSnapshot::Init { nodes })
        }
        "SET" => fields.get("DATA").map_err(at(2)).and_then(nested_node).map(ServerSnapshot::Set),
        "END" => Ok(ServerSnapshot::End),
        _ => refuse(2, "STATE is none of INIT, SET and END"),
    }
}

/// A node as a list of its chunks.
fn nested_node(value: &Value) -> Result<NodeObject, At> {
    let Value::List(items) = value else { return refuse(2, "DATA is not a list of chunks") };
    let chunks: Option<Vec<Bytes>> = items.iter().map(|item| item.as_bytes().cloned()).collect();
    let Some(chunks) = chunks else { return refuse(2, "DATA is not a list of chunks") };
    if chunks.first().and_then(|chunk| Kind::of_chunk(chunk)) != Some(Kind::Node) {
        return refuse(2, "DATA is not a node");
    }
    node(&chunks).map_err(|nested| At { chunk: 2, inner: Some(nested.chunk), fault: nested.fault })
}

fn chunk_text(chunk: usize, bytes: &[u8]) -> Result<&str, At> {
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(at(chunk)(Fault::TooMuch { what: "bytes of text", max: TEXT_BYTES_MAX as u64 }));
    }
    str::from_utf8(bytes).map_err(|_| at(chunk)(Fault::Shape("the text is not valid UTF-8")))
}

fn chunk_id(chunk: usize, bytes: &[u8]) -> Result<NodeId, At> {
    let id = NodeId::new(chunk_text(chunk, bytes)?);
    id.map_err(|_| at(chunk)(Fault::Shape("this cannot be a node's id")))
}

fn list(chunk: usize, data: &Bytes) -> Result<Vec<NodeId>, At> {
    pickle(data, &LIST).and_then(|value| ids(&value)).map_err(at(chunk))
}
