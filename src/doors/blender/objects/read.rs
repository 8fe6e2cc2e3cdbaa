//! Reads messages from clients. Every pickle is scanned before it is believed, and every value must have the one shape
//! that the protocol gives it.

use super::{Fault, Inbound, Kind, ObjectError};
use crate::doors::blender::wire::Channel;

use bytes::Bytes;

/// Reads a message that came on a channel.
pub(in crate::doors::blender) fn read(channel: Channel, chunks: &[Bytes]) -> Result<Inbound, ObjectError> {
    let kind = chunks.first().and_then(|chunk| Kind::of_chunk(chunk));
    match (channel, chunks) {
        (Channel::Ttl, [only]) if only == "INIT" => Ok(Inbound::TtlInit),
        (Channel::Ttl, [only]) if only == "PONG" => Ok(Inbound::Pong),
        _ => Err(ObjectError { kind, chunk: 0, fault: Fault::Shape("not known") }),
    }
}
