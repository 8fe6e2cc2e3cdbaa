//! What the load generator has counted and checked: deliveries, order, latencies, what got lost.

use super::connection::close_reason;
use super::frames;
use super::histogram::Histogram;
use super::messages::{Dialect, Kind, Marker};

/// Messages of one sender whose deliveries are counted one by one.
const RING: usize = 8_192;

/// Counts of one measurement.
#[derive(Clone)]
pub(super) struct Window {
    /// Messages sent.
    pub(super) sent: u64,
    /// Messages that reached a client other than their sender.
    pub(super) deliveries: u64,
    /// Messages that came back to their sender.
    pub(super) echoes: u64,
    /// Operations acknowledged.
    pub(super) acks: u64,
    /// Calls of `read` that brought something.
    pub(super) reads: u64,
    /// Bytes that they brought.
    pub(super) read_bytes: u64,
    /// How late the generator itself was at most.
    pub(super) late_max_us: u64,
    /// From the intended time to the arrival at another client.
    pub(super) latency: Histogram,
}

impl Window {
    /// Nothing counted yet.
    pub(super) fn new() -> Self {
        Self {
            sent: 0,
            deliveries: 0,
            echoes: 0,
            acks: 0,
            reads: 0,
            read_bytes: 0,
            late_max_us: 0,
            latency: Histogram::new(),
        }
    }
}

/// What one client expects next.
pub(super) struct Reader {
    room: usize,
    index: u16,
    seq: u64,
    expected: Vec<u32>,
    /// A digest of the marked events and the order in which they came.
    pub(super) order: u64,
}

impl Reader {
    /// A client whose state reaches up to `seq`.
    pub(super) fn new(room: usize, index: u16, seq: u64, senders: u16) -> Self {
        Self { room, index, seq, expected: vec![0; usize::from(senders)], order: 0 }
    }
}

/// One sender's messages on their way.
struct Flight {
    arrived: Vec<u16>,
    in_flight: u32,
}

/// Everything counted, over all clients.
pub(super) struct Ledger {
    dialect: Dialect,
    senders: u16,
    others: u16,
    flights: Vec<Flight>,
    sent: u64,
    /// Messages that reached a client other than their sender, since the beginning.
    pub(super) delivered: u64,
    /// Messages that came out of their sender's order, twice or not at all, and events out of the session's order.
    pub(super) disorder: u64,
    /// Operations refused, and errors.
    pub(super) refused: u64,
    /// Connections that ended.
    pub(super) closed: u64,
    /// Saves that the first client was told of.
    pub(super) saves: u64,
    /// The first thing that went wrong, for people.
    pub(super) complaint: Option<String>,
    /// The current measurement.
    pub(super) window: Window,
}

impl Ledger {
    /// For `rooms` rooms with this many members and senders each.
    pub(super) fn new(dialect: Dialect, rooms: usize, members: u16, senders: u16) -> Self {
        let flight = || Flight { arrived: vec![0; RING], in_flight: 0 };
        Self {
            dialect,
            senders,
            others: members.saturating_sub(1),
            flights: (0..rooms * usize::from(senders)).map(|_| flight()).collect(),
            sent: 0,
            delivered: 0,
            disorder: 0,
            refused: 0,
            closed: 0,
            saves: 0,
            complaint: None,
            window: Window::new(),
        }
    }

    /// Counts a message that is being sent.
    pub(super) fn sent(&mut self, room: usize, sender: u16) {
        self.sent += 1;
        self.window.sent += 1;
        let flight = self.flight(room, sender);
        self.flights[flight].in_flight += 1;
    }

    /// Messages of a sender that have not reached everybody else yet.
    pub(super) fn in_flight(&self, room: usize, sender: u16) -> u32 {
        self.flights[self.flight(room, sender)].in_flight
    }

    /// Deliveries that are still to come.
    pub(super) fn outstanding(&self) -> u64 {
        (self.sent * u64::from(self.others)).saturating_sub(self.delivered)
    }

    /// Counts a connection that ended.
    pub(super) fn closed(&mut self, why: &str) {
        self.closed += 1;
        self.complain(|| format!("a connection ended: {why}"));
    }

    fn flight(&self, room: usize, sender: u16) -> usize {
        room * usize::from(self.senders) + usize::from(sender)
    }

    fn complain(&mut self, what: impl FnOnce() -> String) {
        self.complaint.get_or_insert_with(what);
    }

    /// Takes in one frame; answers that it needs are appended to `out`.
    pub(super) fn receive(&mut self, reader: &mut Reader, opcode: u8, body: &[u8], now_us: u64, out: &mut Vec<u8>) {
        match opcode {
            frames::TEXT | frames::BINARY if self.dialect.is_native() => self.receive_native(reader, body, now_us),
            frames::TEXT | frames::BINARY => match Marker::find(body) {
                Some(marker) => self.arrive(reader, marker, now_us),
                None => self.disorder += 1,
            },
            frames::PING => frames::push_client_frame(out, frames::PONG, body),
            frames::CLOSE => self.complain(|| format!("closed by the server: {}", close_reason(body))),
            _ => {}
        }
    }

    fn receive_native(&mut self, reader: &mut Reader, body: &[u8], now_us: u64) {
        match Kind::of(self.dialect, body) {
            Kind::Event(seq) => {
                if seq != reader.seq + 1 {
                    self.disorder += 1;
                    let expected = reader.seq + 1;
                    self.complain(|| format!("event {seq} came where {expected} was due"));
                }
                reader.seq = seq;
                if let Some(marker) = Marker::find(body) {
                    let what = seq << 24 ^ u64::from(marker.sender) << 16 ^ u64::from(marker.number);
                    reader.order = (reader.order ^ what).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
                    self.arrive(reader, marker, now_us);
                }
            }
            Kind::Ack => self.window.acks += 1,
            Kind::Saved => self.saves += u64::from(reader.room == 0 && reader.index == 0),
            Kind::Reject | Kind::Error => {
                self.refused += 1;
                self.complain(|| String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned());
            }
            Kind::Other => {}
        }
    }

    fn arrive(&mut self, reader: &mut Reader, marker: Marker, now_us: u64) {
        let Some(expected) = reader.expected.get_mut(usize::from(marker.sender)) else {
            self.disorder += 1;
            return;
        };
        if *expected != marker.number {
            let due = *expected;
            self.disorder += 1;
            self.complain(|| format!("message {} came where {due} was due", marker.number));
        }
        *expected = marker.number + 1;
        if marker.sender == reader.index {
            self.window.echoes += 1;
            return;
        }
        self.delivered += 1;
        self.window.deliveries += 1;
        self.window.latency.add(now_us.saturating_sub(marker.at_us));
        let flight = self.flight(reader.room, marker.sender);
        let flight = &mut self.flights[flight];
        let arrived = &mut flight.arrived[marker.number as usize % RING];
        *arrived += 1;
        if *arrived >= self.others {
            *arrived = 0;
            flight.in_flight = flight.in_flight.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(seq: u64, number: u32) -> Vec<u8> {
        format!(r#"{{"type":"event","seq":{seq},"payload":{{"mark":"~0000{number:08x}{:012x}"}}}}"#, 100).into_bytes()
    }

    fn ledger() -> (Ledger, Reader, Reader) {
        let ledger = Ledger::new(Dialect::NativeJson, 1, 3, 1);
        (ledger, Reader::new(0, 1, 4, 1), Reader::new(0, 2, 4, 1))
    }

    #[test]
    fn a_message_is_over_when_all_others_have_it() {
        let (mut ledger, mut second, mut third) = ledger();
        ledger.sent(0, 0);
        ledger.receive(&mut second, frames::TEXT, &event(5, 0), 150, &mut Vec::new());
        assert_eq!((ledger.in_flight(0, 0), ledger.outstanding()), (1, 1));
        ledger.receive(&mut third, frames::TEXT, &event(5, 0), 170, &mut Vec::new());
        assert_eq!((ledger.in_flight(0, 0), ledger.outstanding(), ledger.disorder), (0, 0, 0));
        assert_eq!(second.order, third.order);
        assert_eq!(ledger.window.latency.max(), 70);
    }

    #[test]
    fn gaps_and_repetitions_are_noticed() {
        let (mut ledger, mut second, mut third) = ledger();
        ledger.receive(&mut second, frames::TEXT, &event(6, 0), 0, &mut Vec::new());
        assert_eq!(ledger.disorder, 1, "event 5 is missing");
        ledger.receive(&mut third, frames::TEXT, &event(5, 0), 0, &mut Vec::new());
        ledger.receive(&mut third, frames::TEXT, &event(6, 0), 0, &mut Vec::new());
        assert_eq!(ledger.disorder, 2, "message 0 came twice");
        assert_ne!(second.order, third.order);
    }

    #[test]
    fn a_ping_is_answered() {
        let (mut ledger, mut second, _) = ledger();
        let mut out = Vec::new();
        ledger.receive(&mut second, frames::PING, b"id", 0, &mut out);
        assert_eq!(out[0], 0x80 | frames::PONG);
        assert!(out.ends_with(b"id"));
    }
}
