//! One native connection: reads operations, writes what the session has released, and never holds anyone up.

use super::encode;
use super::frame::Format;
use super::heartbeat::{Beat, Heartbeat, Look};
use super::message::{BadMessage, Incoming};
use super::outbox::Behind;
use super::pace::Pace;
use super::replies::{self, Outgoing};
use super::state_parts::StateParts;
use super::stream::Stream;
use super::translate::{self, ClientMessage};
use super::{CloseReason, NativeSettings, PENDING_MAX, PRESENCE_BYTES_MAX, WRITE_AHEAD};
use crate::formats::json;
use crate::live::{Closing, Edit, JoinError, Membership, Note, WireFormat, Work};
use crate::ops::clock;
use std::io::{self, Read as _};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite;
use tungstenite::Message;
use tungstenite::protocol::WebSocketContext;

/// Times that one turn writes before others get theirs.
const WRITES_PER_TURN: usize = 16;

/// Messages taken in before what they ask for is handed over.
const READ_AHEAD: usize = 64;

/// The WebSocket machinery over a stream.
pub(super) struct Socket {
    pub(super) context: WebSocketContext,
    pub(super) stream: Stream,
    pub(super) format: Format,
    /// The last read found nothing more, neither in its buffer nor in the socket.
    pub(super) drained: bool,
}

/// Why reading stopped.
pub(super) enum ReadEnd {
    /// The peer closed, or the network did.
    Gone,
    /// The peer broke a rule.
    Close(CloseReason),
}

impl Socket {
    /// The next message, if one is there. Control frames are answered and returned too.
    pub(super) fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Result<Message, ReadEnd>> {
        // Most wakes are for writing: then this is all that reading costs.
        if self.drained && self.stream.poll_readable(context).is_pending() {
            return Poll::Pending;
        }
        self.stream.reads_for(context.waker());
        self.drained = false;
        match self.context.read(&mut self.stream) {
            Ok(message) => {
                match &message {
                    Message::Text(_) | Message::Binary(_) => self.stream.settle(),
                    // A control frame may come between the fragments of a message, which stays unfinished.
                    Message::Ping(data) | Message::Pong(data) => self.stream.settle_control(data.len()),
                    Message::Close(_) | Message::Frame(_) => {}
                }
                Poll::Ready(Ok(message))
            }
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.stream.take_starved() {
                    context.waker().wake_by_ref();
                } else {
                    self.drained = true;
                }
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(read_end(error))),
        }
    }

    /// Takes messages of at most so many bytes from now on.
    pub(super) fn take_messages_of(&mut self, bytes: usize) {
        self.context.set_config(|config| {
            config.max_message_size = Some(bytes);
            config.max_frame_size = Some(bytes);
        });
        self.stream.take_messages_of(bytes);
    }

    /// Appends a message of our own.
    pub(super) fn say(&mut self, message: &Outgoing<'_>) {
        encode::small(self.stream.own(), self.format, message);
    }

    /// Writes the rest of a message that has been begun, as far as the socket takes it within a moment: goodbye would be
    /// taken for a part of it.
    async fn end_message(&mut self, mut parts: StateParts) {
        let rest = async {
            while parts.is_within_part() {
                self.stream.push_piece(parts.next_of_part(), parts.is_within_part());
                std::future::poll_fn(|context| self.stream.poll_write_out(context)).await?;
            }
            Ok::<(), io::Error>(())
        };
        // Without it there is no goodbye.
        _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
    }

    /// Says goodbye and writes it out, as far as the socket takes it within a moment.
    pub(super) async fn close(mut self, reason: CloseReason) {
        let frame = tungstenite::protocol::CloseFrame { code: reason.code().into(), reason: reason.text().into() };
        // Already closed is closed.
        _ = self.context.close(&mut self.stream, Some(frame));
        let written = std::future::poll_fn(|context| self.stream.poll_write_out(context));
        if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(1), written).await {
            self.linger().await;
        }
    }

    /// Reads on for a moment, so that the goodbye is not destroyed by a reset over unread input. What comes is thrown
    /// away unparsed: after an error the parser cannot go on.
    async fn linger(&mut self) {
        self.stream.refill();
        self.stream.settle();
        let drained = std::future::poll_fn(|context| {
            let mut unread = [0; 4096];
            self.stream.reads_for(context.waker());
            loop {
                match self.stream.read(&mut unread) {
                    Ok(0) => return Poll::Ready(()),
                    Ok(_) => self.stream.settle(),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Poll::Ready(()),
                    Err(_) if self.stream.take_starved() => {
                        self.stream.refill();
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Err(_) => return Poll::Pending,
                }
            }
        });
        _ = tokio::time::timeout(Duration::from_millis(500), drained).await;
    }
}

fn read_end(error: tungstenite::Error) -> ReadEnd {
    match error {
        tungstenite::Error::Capacity(_) => ReadEnd::Close(CloseReason::TooLarge),
        tungstenite::Error::Utf8(_) => ReadEnd::Close(CloseReason::NotUtf8),
        tungstenite::Error::Protocol(tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => ReadEnd::Gone,
        tungstenite::Error::Protocol(_) => ReadEnd::Close(CloseReason::NotWebSocket),
        tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::OutOfMemory => {
            ReadEnd::Close(CloseReason::Busy)
        }
        tungstenite::Error::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            ReadEnd::Close(CloseReason::TooLarge)
        }
        tungstenite::Error::ConnectionClosed
        | tungstenite::Error::AlreadyClosed
        | tungstenite::Error::Io(_)
        | tungstenite::Error::Tls(_)
        | tungstenite::Error::WriteBufferFull(_)
        | tungstenite::Error::AttackAttempt
        | tungstenite::Error::Url(_)
        | tungstenite::Error::Http(_)
        | tungstenite::Error::HttpFormat(_) => ReadEnd::Gone,
    }
}

/// A connection that has been welcomed.
pub(super) struct Connection {
    socket: Socket,
    membership: Membership,
    pace: Pace,
    settings: watch::Receiver<NativeSettings>,
    /// A state that is being sent; events wait until it is through.
    parts: Option<StateParts>,
    presence_seen: u64,
    last_op: u64,
    inbound: Vec<Message>,
    heartbeat: Heartbeat,
    /// So much waits to be written that nothing more is read: answers would only add to it.
    held_back: bool,
}

/// What a turn at the socket led to.
enum Turn {
    /// Messages were taken in.
    Inbound,
    /// The reader has fallen off the tail.
    Behind,
    /// It is over, and why (`None`: the peer has gone).
    Over(Option<CloseReason>),
}

impl Connection {
    pub(super) fn new(
        socket: Socket,
        membership: Membership,
        pace: Pace,
        settings: watch::Receiver<NativeSettings>,
    ) -> Self {
        Self {
            socket,
            membership,
            pace,
            settings,
            parts: None,
            presence_seen: 0,
            last_op: 0,
            inbound: Vec::new(),
            heartbeat: Heartbeat::new(clock::instant()),
            held_back: false,
        }
    }

    /// Continues after this event.
    pub(super) fn resume_after(&mut self, seq: u64) {
        self.socket.stream.outbox().begin_after(seq);
    }

    /// Begins with this state.
    pub(super) fn begin_with(&mut self, parts: StateParts) {
        self.socket.stream.outbox().begin_after(parts.seq());
        self.parts = Some(parts);
    }

    /// Runs until the connection ends; the member leaves then.
    pub(super) async fn run(mut self) {
        let reason = loop {
            let turn = std::future::poll_fn(|context| self.poll_turn(context)).await;
            match turn {
                Turn::Over(reason) => break reason,
                Turn::Inbound => {
                    if let Some(reason) = self.take_inbound().await {
                        break Some(reason);
                    }
                }
                Turn::Behind => match self.membership.session().state().await {
                    Ok(state) => self.begin_with(StateParts::new(Box::new(state))),
                    Err(error) => break Some(lost(&error)),
                },
            }
        };
        let Self { mut socket, membership, parts, .. } = self;
        socket.stream.outbox().retire();
        drop(membership);
        if let Some(reason) = reason {
            if let Some(parts) = parts {
                socket.end_message(parts).await;
            }
            socket.close(reason).await;
        }
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<Turn> {
        self.socket.stream.refill();
        let read = self.poll_read(context);
        if self.heartbeat.poll_due(context)
            && let Some(reason) = self.heartbeat()
        {
            return Poll::Ready(Turn::Over(Some(reason)));
        }
        // Registers for the next wake before looking at what there is to write.
        _ = self.membership.subscriber().poll_woken(context);
        let written = self.poll_write(context);
        match (read, written) {
            (Poll::Ready(turn @ Turn::Over(_)), _) | (_, Poll::Ready(turn)) => Poll::Ready(turn),
            (Poll::Ready(turn), Poll::Pending) => Poll::Ready(turn),
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<Turn> {
        self.follow_settings();
        if self.held_back {
            // The socket wakes when it takes more; then writing says whether to go on.
            return Poll::Pending;
        }
        while self.inbound.len() < READ_AHEAD {
            match self.socket.poll_message(context) {
                Poll::Ready(Ok(message)) => match message {
                    Message::Text(_) | Message::Binary(_) => self.inbound.push(message),
                    Message::Pong(_) => self.heartbeat.heard(),
                    Message::Ping(_) | Message::Frame(_) => {
                        if !self.pace.control_frame(clock::instant()) {
                            return Poll::Ready(Turn::Over(Some(CloseReason::Flooding)));
                        }
                    }
                    Message::Close(_) => return Poll::Ready(Turn::Over(None)),
                },
                Poll::Ready(Err(ReadEnd::Gone)) => return Poll::Ready(Turn::Over(None)),
                Poll::Ready(Err(ReadEnd::Close(reason))) => return Poll::Ready(Turn::Over(Some(reason))),
                Poll::Pending => break,
            }
        }
        if self.inbound.is_empty() { Poll::Pending } else { Poll::Ready(Turn::Inbound) }
    }

    /// Takes changed settings over. Looking whether there are any costs one atomic read.
    fn follow_settings(&mut self) {
        if !matches!(self.settings.has_changed(), Ok(true)) {
            return;
        }
        let settings = self.settings.borrow_and_update();
        self.socket.take_messages_of(settings.message_bytes);
        self.pace.change(settings.ops_per_second, settings.ops_burst, clock::instant());
    }

    /// Writes until there is nothing more to write, or the socket takes no more.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Turn> {
        let held_back = std::mem::take(&mut self.held_back);
        for _ in 0..WRITES_PER_TURN {
            let more = match self.fill() {
                Ok(more) => more,
                Err(turn) => return Poll::Ready(turn),
            };
            match self.socket.stream.poll_write_out(context) {
                Poll::Ready(Ok(())) if more => continue,
                Poll::Ready(Ok(())) => {}
                Poll::Pending => self.held_back = self.socket.stream.waiting() >= WRITE_AHEAD,
                Poll::Ready(Err(_)) => return Poll::Ready(Turn::Over(None)),
            }
            if held_back && !self.held_back {
                // What has come in the meantime is read now.
                context.waker().wake_by_ref();
            }
            return Poll::Pending;
        }
        // There is more: after the others have had their turn.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Queues what there is to write, up to the write-ahead. Says whether there may be more.
    fn fill(&mut self) -> Result<bool, Turn> {
        for note in self.membership.subscriber().take_notes() {
            self.answer(note)?;
        }
        if self.socket.stream.writable() >= WRITE_AHEAD {
            return Ok(true);
        }
        if let Some(parts) = &mut self.parts {
            match parts.next(self.socket.format) {
                Some(piece) => self.socket.stream.push_piece(piece, parts.is_within_part()),
                None => self.parts = None,
            }
            return Ok(true);
        }
        self.socket.stream.close_own();
        let tail = &self.membership.shared().tail;
        let more = self.socket.stream.outbox().follow(tail, WRITE_AHEAD).map_err(|Behind| Turn::Behind)?;
        self.fill_presence();
        Ok(more)
    }

    fn fill_presence(&mut self) {
        let (version, signals) = self.membership.shared().presence.since(self.presence_seen);
        self.presence_seen = version;
        let own = &self.membership.subscriber().name;
        let (slot, encode): (_, fn(&_) -> _) = match self.socket.format {
            Format::Json => (WireFormat::NATIVE_JSON, encode::signal_json),
            Format::Binary => (WireFormat::NATIVE_BINARY, encode::signal_binary),
        };
        let frames = signals.iter().filter(|signal| signal.name != *own).map(|signal| signal.frame(slot, encode));
        self.socket.stream.push(frames);
    }

    fn answer(&mut self, note: Note) -> Result<(), Turn> {
        match note {
            Note::Ack { op, seq } => {
                self.socket.stream.outbox().answered(1);
                self.socket.say(&Outgoing::Ack { op, seq });
            }
            Note::Reject { op, why } => {
                self.socket.stream.outbox().answered(1);
                let (code, message) = replies::refusal(&why);
                self.socket.say(&Outgoing::Reject { op: Some(op), code, message: &message });
            }
            Note::Saved(saved) => {
                for reason in &saved.reasons {
                    self.socket.say(&Outgoing::Saved { seq: saved.seq, at: saved.at.0, reason });
                }
            }
            Note::Health(mode) => self.socket.say(&replies::health(&mode)),
            Note::Closing(why) => {
                let reason = match &why {
                    Closing::Stopping => CloseReason::Stopping,
                    // Clients of this door are never sent away by that: they are told as an event.
                    Closing::Replaced | Closing::Archived => CloseReason::Replaced,
                    Closing::Restored(_) => CloseReason::Restored,
                };
                let retry_in_ms = reason.retry_in_ms();
                if let Closing::Restored(what) = why {
                    let reason = format!("the session was restored to {what}: connect again");
                    self.socket.say(&Outgoing::Closing { reason: &reason, retry_in_ms });
                } else {
                    self.socket.say(&Outgoing::Closing { reason: reason.text(), retry_in_ms });
                }
                return Err(Turn::Over(Some(reason)));
            }
        }
        Ok(())
    }

    fn heartbeat(&mut self) -> Option<CloseReason> {
        let (waiting, written) = self.socket.stream.outbox().progress();
        let (messages, unfinished) = self.socket.stream.incoming();
        let held_back = self.held_back;
        match self.heartbeat.look(&Look { waiting, written, messages, unfinished, held_back }, clock::instant()) {
            Beat::Close(reason) => return Some(reason),
            Beat::Wait => {}
            Beat::Ping => {
                // A socket that cannot be written to will show when it is written to.
                _ = self.socket.context.write(&mut self.socket.stream, Message::Ping(Vec::new().into()));
                _ = self.socket.context.flush(&mut self.socket.stream);
            }
        }
        None
    }

    /// Hands over what was taken in. `Some` = the connection is to be closed.
    async fn take_inbound(&mut self) -> Option<CloseReason> {
        self.heartbeat.heard();
        let mut edits = Vec::new();
        for message in std::mem::take(&mut self.inbound) {
            let parsed = Incoming::from_message(self.socket.format, message)
                .and_then(|mut incoming| translate::client_message(&mut incoming));
            match parsed {
                Ok(ClientMessage::Edit(edit)) => edits.extend(self.admit(edit)),
                Ok(ClientMessage::Presence(data)) => self.signal(data),
                Ok(ClientMessage::Ping(id)) => self.socket.say(&replies::pong(&id)),
                Err(bad) => {
                    if !self.bad_message(&bad) {
                        return Some(CloseReason::BadMessages);
                    }
                }
            }
        }
        if edits.is_empty() {
            return None;
        }
        self.membership.edit(edits).await.err().map(|error| lost(&error))
    }

    /// Lets an edit through, or refuses it here.
    fn admit(&mut self, edit: Edit) -> Option<Edit> {
        let reserved = translate::reserved(&edit.work);
        let reserved = reserved.map(|why| (why.code(), why.to_string()));
        let (code, message) = if edit.op <= self.last_op {
            ("op_out_of_order", "op must be larger than every one sent before on this connection")
        } else if self.socket.stream.outbox().unanswered() >= PENDING_MAX {
            ("too_many_pending", "too many operations are unanswered: wait for their acks")
        } else if !self.pace.operations(weight(&edit.work), clock::instant()) {
            ("rate_limited", "too many operations per second: slow down")
        } else if let Some((code, why)) = &reserved {
            (*code, why.as_str())
        } else {
            self.last_op = edit.op;
            self.socket.stream.outbox().taken();
            return Some(edit);
        };
        self.socket.say(&Outgoing::Reject { op: Some(edit.op), code, message });
        None
    }

    fn signal(&mut self, data: bytes::Bytes) {
        let fault = if data.len() > PRESENCE_BYTES_MAX {
            Some(format!("presence data may have {PRESENCE_BYTES_MAX} bytes"))
        } else {
            json::valid(&data, 64).err().map(|error| error.to_string())
        };
        match fault {
            None => self.membership.signal(data),
            Some(message) => self.socket.say(&Outgoing::Error { code: "bad_message", message: &message }),
        }
    }

    /// Answers a bad message; `false` = there have been too many.
    fn bad_message(&mut self, bad: &BadMessage) -> bool {
        match bad.op {
            Some(op) => self.socket.say(&Outgoing::Reject { op: Some(op), code: "bad_message", message: &bad.why }),
            None => self.socket.say(&Outgoing::Error { code: "bad_message", message: &bad.why }),
        }
        self.pace.bad_message(clock::instant())
    }
}

/// What it means to a connection that its session does not answer.
fn lost(error: &JoinError) -> CloseReason {
    if *error == JoinError::Restoring { CloseReason::Restored } else { CloseReason::Stopping }
}

fn weight(work: &Work) -> u32 {
    match work {
        Work::Operations(operations) => u32::try_from(operations.len()).unwrap_or(u32::MAX),
        Work::Save => 10,
    }
}
