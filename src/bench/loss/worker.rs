//! The client process: one thread keeps connected and reads, one sends, and the main thread obeys the test's driver.

use super::operations::operation;
use super::replica::Replica;
use super::wire::{Incoming, encode};
use crate::bench::chance::Chance;
use crate::bench::connection::{close_reason, send_text, upgrade};
use crate::bench::frames::{self, Inbox};
use crate::bench::messages::Dialect;
use crate::ops::clock;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// A server that says nothing for this long is taken for dead.
const SILENCE: Duration = Duration::from_mins(1);
/// Unanswered operations beyond this many pause the sender (the protocol allows 512).
const PENDING_MAX: usize = 400;

/// What the driver asks for, as JSON in the only argument.
#[derive(Debug, Clone, Deserialize)]
struct Ask {
    url: String,
    name: String,
    /// `json` or `binary`.
    format: String,
    /// Where the log goes; appended to.
    log: String,
    seed: u64,
    /// Operations per second.
    rate: f64,
    /// Nodes that everybody edits: `n0` and on.
    nodes: u64,
    /// Seconds between large operations.
    large_every: f64,
}

#[derive(Default)]
struct State {
    replica: Replica,
    /// Unanswered operations, framed.
    pending: BTreeMap<u64, Vec<u8>>,
    last_op: u64,
    /// For the next `hello`: client id, and branch and run of the last `welcome`.
    client: Option<String>,
    branch_and_run: Option<(String, String)>,
    must_reach: u64,
    /// Counts connections whose replica became whole; the current one can be written to.
    connections: u64,
    writer: Option<Arc<TcpStream>>,
    stopping: bool,
    fault: Option<String>,
}

struct Worker {
    ask: Ask,
    dialect: Dialect,
    log: Mutex<File>,
    state: Mutex<State>,
    moved: Condvar,
}

/// Runs one client until standard input ends or says something unknown. `ask` is a JSON object.
pub(in crate::bench) fn run(ask: &str) -> io::Result<()> {
    let ask: Ask = serde_json::from_str(ask)?;
    let dialect = if ask.format == "binary" { Dialect::NativeBinary } else { Dialect::NativeJson };
    let log = Mutex::new(OpenOptions::new().append(true).create(true).open(&ask.log)?);
    let worker = Arc::new(Worker { ask, dialect, log, state: Mutex::default(), moved: Condvar::new() });
    let (keeper, sender) = (Arc::clone(&worker), Arc::clone(&worker));
    thread::spawn(move || keeper.stay_connected());
    thread::spawn(move || sender.send());
    worker.obey()
}

impl Worker {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one line to the log, at once.
    fn note(&self, line: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = log.write_all(format!("{line}\n").as_bytes()) {
            self.state().fault.get_or_insert(format!("the log cannot be written: {error}"));
        }
    }

    fn stay_connected(&self) {
        let mut chance = Chance::new(self.ask.seed ^ 0x5eed);
        loop {
            let outcome = self.connect_and_read();
            let mut state = self.state();
            state.writer = None;
            let broken = state.fault.is_some();
            drop(state);
            self.moved.notify_all();
            if let Err(error) = outcome {
                self.note(&format!("X {error}").replace('\n', " "));
            }
            if broken {
                return;
            }
            thread::sleep(Duration::from_millis(20 + chance.below(50)));
        }
    }

    fn connect_and_read(&self) -> io::Result<()> {
        let address = self.ask.url.strip_prefix("ws://").and_then(|rest| rest.split_once('/'));
        let (host, path) = address.ok_or_else(|| io::Error::other("the address is not ws://HOST:PORT/PATH"))?;
        let port = host.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(80);
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        let rest = upgrade(&mut stream, port, &format!("/{path}"), self.dialect.subprotocol())?;
        send_text(&mut stream, self.dialect, &self.hello())?;
        let mut inbox = Inbox::after(rest);
        loop {
            let message = inbox.next(&mut stream)?;
            match message.opcode {
                frames::PING => {
                    let mut pong = Vec::new();
                    frames::push_client_frame(&mut pong, frames::PONG, &message.body);
                    (&stream).write_all(&pong)?;
                }
                frames::CLOSE => return Err(io::Error::other(format!("closed: {}", close_reason(&message.body)))),
                frames::TEXT | frames::BINARY => {
                    if let Err(error) = self.take(&message.body, &stream) {
                        self.note(&format!("! {error}"));
                        self.state().fault.get_or_insert(error.to_string());
                        return Err(error);
                    }
                }
                _ => {}
            }
        }
    }

    fn hello(&self) -> Value {
        let state = self.state();
        let mut hello = json!({"type": "hello", "name": self.ask.name});
        if let Some(client) = &state.client {
            hello["client"] = client.as_str().into();
        }
        if let Some((branch, run)) = state.branch_and_run.as_ref().filter(|_| state.replica.seq > 0) {
            hello["resume"] = json!({"branch": branch, "run": run, "seq": state.replica.seq, "op": state.last_op});
        }
        hello
    }

    /// Takes in one message. An error means that the server broke the protocol.
    fn take(&self, body: &[u8], stream: &TcpStream) -> io::Result<()> {
        let message = Incoming::decode(self.dialect, body)?;
        let kind = message.text("type").to_owned();
        match kind.as_str() {
            "event" => {
                let (seq, op, author) =
                    (message.number("seq"), message.number("op"), message.text("author").to_owned());
                let outlines = self.state().replica.apply(message)?;
                self.note(&format!("E {seq} {author} {op} {}", json!(outlines)));
            }
            "ack" => {
                self.note(&format!("A {} {}", message.number("op"), message.number("seq")));
                self.state().pending.remove(&message.number("op"));
            }
            "reject" => {
                self.note(&format!("R {} {}", message.number("op"), message.text("code")));
                self.state().pending.remove(&message.number("op"));
            }
            "welcome" => self.welcomed(&message),
            "state" => self.state().replica.load(message)?,
            "error" => self.note(&format!("X error {}", message.text("message"))),
            "presence" | "saved" | "health" | "pong" | "closing" => {}
            unknown => return Err(io::Error::other(format!("unknown message {unknown}"))),
        }
        self.settle(stream)?;
        self.moved.notify_all();
        Ok(())
    }

    fn welcomed(&self, welcome: &Incoming) {
        let mut state = self.state();
        state.client = Some(welcome.text("client").to_owned());
        state.branch_and_run = Some((welcome.text("branch").to_owned(), welcome.text("run").to_owned()));
        state.must_reach = welcome.number("seq").max(1);
        if !welcome.flag("resumed") {
            state.replica = Replica::default();
        }
        drop(state);
        self.note(&format!("W {} {}", u8::from(welcome.flag("resumed")), welcome.number("seq")));
    }

    /// Lets the sender go on as soon as the replica is whole.
    fn settle(&self, stream: &TcpStream) -> io::Result<()> {
        let mut state = self.state();
        if state.writer.is_none() && state.must_reach > 0 && state.replica.seq >= state.must_reach {
            state.writer = Some(Arc::new(stream.try_clone()?));
            state.connections += 1;
            state.must_reach = 0;
        }
        Ok(())
    }

    fn send(&self) {
        let mut chance = Chance::new(self.ask.seed);
        let (mut begin, mut sent, mut connection) = (clock::instant(), 0_u64, 0);
        let large_every = Duration::from_secs_f64(self.ask.large_every);
        let mut next_large = begin + large_every.mul_f64(chance.share());
        loop {
            thread::sleep(Duration::from_millis(10));
            let state = self.state();
            let Some(writer) = state.writer.clone() else {
                (begin, sent) = (clock::instant(), 0);
                continue;
            };
            let mut out = Vec::new();
            if state.connections != connection {
                connection = state.connections;
                state.pending.values().for_each(|frame| out.extend_from_slice(frame));
            }
            if state.stopping || state.pending.len() > PENDING_MAX {
                (begin, sent) = (clock::instant(), 0);
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few operations")]
            let due = (begin.elapsed().as_secs_f64() * self.ask.rate) as u64;
            drop(state);
            for _ in 0..due.saturating_sub(sent).min(50) {
                let large = clock::instant() >= next_large;
                if large {
                    next_large = clock::instant() + large_every;
                }
                self.begin_operation(&mut chance, large, &mut out);
                sent += 1;
            }
            // A lost connection is the reader's to notice; what was not sent stays pending.
            let _ = (&*writer).write_all(&out);
        }
    }

    /// Makes up one operation; it is pending from now on, also if it cannot be sent.
    fn begin_operation(&self, chance: &mut Chance, large: bool, out: &mut Vec<u8>) {
        let op = self.state().last_op + 1;
        let operations = operation(chance, self.dialect, self.ask.nodes, &format!("{}:{op}", self.ask.name), large);
        let frame = encode(self.dialect, op, operations);
        self.note(&format!("S {op}"));
        out.extend_from_slice(&frame);
        let mut state = self.state();
        state.pending.insert(op, frame);
        state.last_op = op;
    }

    /// Answers the driver's commands, one JSON line each.
    fn obey(&self) -> io::Result<()> {
        for line in io::stdin().lock().lines() {
            let line = line?;
            let mut words = line.split_whitespace();
            let answer = match (words.next(), words.next().and_then(|word| word.parse().ok())) {
                (Some("stop"), _) => {
                    self.state().stopping = true;
                    let state = self.wait(|state| state.pending.is_empty() && state.writer.is_some(), Duration::MAX)?;
                    state.replica.seq.into()
                }
                (Some("reach"), Some(seq)) => {
                    self.wait(|state| state.replica.seq >= seq, Duration::from_mins(1))?.replica.seq.into()
                }
                (Some("dump"), _) => self.state().replica.dump(),
                _ => break,
            };
            let mut out = io::stdout().lock();
            writeln!(out, "{answer}")?;
            out.flush()?;
        }
        Ok(())
    }

    fn wait(&self, until: impl Fn(&State) -> bool, patience: Duration) -> io::Result<MutexGuard<'_, State>> {
        let since = clock::instant();
        let mut state = self.state();
        loop {
            if let Some(fault) = &state.fault {
                return Err(io::Error::other(fault.clone()));
            }
            if until(&state) {
                return Ok(state);
            }
            if since.elapsed() > patience {
                return Err(io::Error::other(format!("still at {} after {patience:?}", state.replica.seq)));
            }
            let waited = self.moved.wait_timeout(state, Duration::from_millis(100));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
