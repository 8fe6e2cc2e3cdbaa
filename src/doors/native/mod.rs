//! The native door: WebSocket for our own clients, in JSON text or in binary frames (`docs/native-protocol.md`).

mod connection;
mod encode;
mod entrance;
mod frame;
#[cfg(test)]
mod fuzz;
mod heartbeat;
mod message;
mod outbox;
mod pace;
mod replies;
#[cfg(test)]
mod schema;
mod state_parts;
mod stream;
mod translate;

pub use encode::{events_binary, events_json};
pub use entrance::{NativeDoor, NativeSettings, Peer};
pub use stream::InFlight;

/// Operations of one client that may be unanswered.
const PENDING_MAX: usize = 512;

/// Bytes of one member's presence.
const PRESENCE_BYTES_MAX: usize = 16 << 10;

/// Bytes of the id of a `ping`.
const PING_ID_BYTES_MAX: usize = 256;

/// Bytes taken from the tail at once: what one slow connection can hold on to. While as much waits, nothing is read.
const WRITE_AHEAD: usize = 256 << 10;

/// Bytes of the first message.
const HELLO_BYTES_MAX: usize = 64 << 10;

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CloseReason {
    Stopping,
    Replaced,
    Restored,
    NotWebSocket,
    NotUtf8,
    TooLarge,
    BadMessages,
    Flooding,
    TooSlow,
    Silent,
    Unfinished,
    Busy,
    Denied,
    NoHello,
    NotWelcome,
}

impl CloseReason {
    fn code(self) -> u16 {
        match self {
            Self::Stopping => 1001,
            Self::NotWebSocket => 1002,
            Self::NotUtf8 => 1007,
            Self::BadMessages | Self::Flooding => 1008,
            Self::TooLarge => 1009,
            Self::TooSlow | Self::Silent | Self::Unfinished | Self::Busy => 1013,
            Self::Denied => 4401,
            Self::NoHello => 4408,
            Self::Replaced | Self::NotWelcome => 4409,
            Self::Restored => 4410,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Stopping => "the server is stopping",
            Self::Replaced => "this client has connected again elsewhere, or its name is taken",
            Self::Restored => "the session was restored to a backup: connect again",
            Self::NotWebSocket => "not WebSocket",
            Self::NotUtf8 => "text that is not UTF-8",
            Self::TooLarge => "message too large",
            Self::BadMessages => "too many bad messages",
            Self::Flooding => "too many control frames",
            Self::TooSlow => "nothing was read for 60 seconds",
            Self::Silent => "two pings without an answer",
            Self::Unfinished => "a message came too slowly",
            Self::Busy => "the server has too much to do",
            Self::Denied => "not let in",
            Self::NoHello => "no hello in time",
            Self::NotWelcome => "the session did not take you in",
        }
    }

    fn retry_in_ms(self) -> u64 {
        if matches!(self, Self::Stopping | Self::Restored) { 1_000 } else { 0 }
    }
}
