//! The load generator: many clients on one thread, cheaper per delivery than any server that it measures.
//!
//! Paced, it sends at fixed times and puts the intended time into the message, so that a late generator or server
//! counts as latency. Saturated, each sender keeps a window of messages in flight; one is over when all other members
//! of its room have it.

use super::connection;
use super::frames::{SCRATCH_BYTES, Scanner};
use super::machine::ThreadUse;
use super::messages::{Dialect, Edit, Marker, OperationWriter, Targets};
use super::tally::{Ledger, Reader, Window};
use crate::ops::clock;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use std::io::{self, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How fast messages are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// Messages per second of all senders together, evenly spread.
    PerSecond(f64),
    /// Messages in flight per sender, as fast as they come back.
    InFlight(u32),
}

/// What load to make.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// What the server speaks.
    pub(super) dialect: Dialect,
    /// Where it listens, on 127.0.0.1.
    pub(super) port: u16,
    /// Names of rooms or sessions.
    pub(super) rooms: Vec<String>,
    /// Clients in each.
    pub(super) members: u16,
    /// How many of them send.
    pub(super) senders: u16,
    /// Which operation they send.
    pub(super) edit: Edit,
    /// Size of its payload.
    pub(super) payload_bytes: usize,
    /// Which nodes they go to.
    pub(super) targets: Targets,
    /// How fast.
    pub(super) pace: Pace,
}

const TIMER: u64 = u64::MAX;

struct Member {
    stream: TcpStream,
    scanner: Scanner,
    reader: Reader,
    out: Vec<u8>,
    written: usize,
    waits_to_write: bool,
    open: bool,
}

struct Sender {
    member: usize,
    room: usize,
    index: u16,
    next_number: u32,
    next_op: u64,
}

/// Clients that are connected, and what has been seen so far.
pub(super) struct Generator {
    plan: Plan,
    epoll: OwnedFd,
    timer: OwnedFd,
    members: Vec<Member>,
    senders: Vec<Sender>,
    ledger: Ledger,
    writer: OperationWriter,
    base: Instant,
    next_at: Duration,
    next_sender: usize,
    armed_until: Duration,
    scratch: Vec<u8>,
    events: Vec<Event>,
}

impl Generator {
    /// Connects all clients; returns when each has its state.
    pub(super) fn connect(plan: Plan) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        let mut generator = Self {
            epoll,
            timer,
            members: Vec::new(),
            senders: Vec::new(),
            ledger: Ledger::new(plan.dialect, plan.rooms.len(), plan.members, plan.senders),
            writer: OperationWriter::new(plan.dialect, plan.edit, plan.payload_bytes, plan.targets),
            base: clock::instant(),
            next_at: Duration::ZERO,
            next_sender: 0,
            armed_until: Duration::ZERO,
            scratch: vec![0; SCRATCH_BYTES],
            events: Vec::with_capacity(256),
            plan,
        };
        for room in 0..generator.plan.rooms.len() {
            for index in 0..generator.plan.members {
                generator.add_member(room, index)?;
            }
        }
        Ok(generator)
    }

    fn add_member(&mut self, room: usize, index: u16) -> io::Result<()> {
        let plan = &self.plan;
        let opened = connection::open(plan.dialect, plan.port, &plan.rooms[room], &format!("client {index}"))?;
        opened.stream.set_nonblocking(true)?;
        let member = self.members.len();
        epoll::add(&self.epoll, &opened.stream, EventData::new_u64(member as u64), EventFlags::IN)?;
        if index < plan.senders {
            self.senders.push(Sender { member, room, index, next_number: 0, next_op: 1 });
        }
        self.members.push(Member {
            stream: opened.stream,
            scanner: Scanner::after(opened.rest),
            reader: Reader::new(room, index, opened.seq, plan.senders),
            out: Vec::new(),
            written: 0,
            waits_to_write: false,
            open: true,
        });
        Ok(())
    }

    /// Begins a measurement: what was counted until now is forgotten, except what proves that nothing got lost.
    pub(super) fn begin_window(&mut self) -> ThreadUse {
        self.ledger.window = Window::new();
        ThreadUse::begin()
    }

    /// What was counted since [`Generator::begin_window`].
    pub(super) fn window(&self) -> &Window {
        &self.ledger.window
    }

    /// Everything since the beginning.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Sends at another pace from now on.
    pub(super) fn set_pace(&mut self, pace: Pace) {
        self.plan.pace = pace;
    }

    /// Sends and receives for this long.
    pub(super) fn run_for(&mut self, time: Duration) -> io::Result<()> {
        let end = self.base.elapsed() + time;
        // Messages that nobody asked for while this was not running are not due.
        self.next_at = self.next_at.max(self.base.elapsed().saturating_sub(Duration::from_millis(1)));
        loop {
            let now = self.base.elapsed();
            if now >= end {
                return Ok(());
            }
            self.send_what_is_due(now)?;
            let wake_at = if matches!(self.plan.pace, Pace::PerSecond(_)) { self.next_at.min(end) } else { end };
            self.wait(wake_at)?;
        }
    }

    /// Only receives, until everything sent has arrived or nothing more arrives for `patience`.
    pub(super) fn drain(&mut self, patience: Duration) -> io::Result<()> {
        let mut last_progress = (self.ledger.delivered, self.base.elapsed());
        while self.ledger.outstanding() > 0 && self.base.elapsed() < last_progress.1 + patience {
            self.wait(self.base.elapsed() + Duration::from_millis(20))?;
            if self.ledger.delivered != last_progress.0 {
                last_progress = (self.ledger.delivered, self.base.elapsed());
            }
        }
        Ok(())
    }

    /// Has the first sender ask for a save.
    pub(super) fn ask_for_save(&mut self) -> io::Result<()> {
        let Some(sender) = self.senders.first_mut() else { return Ok(()) };
        let message = format!(r#"{{"type":"op","op":{},"do":"session.save"}}"#, sender.next_op);
        sender.next_op += 1;
        let member = sender.member;
        connection::push_text(&mut self.members[member].out, self.plan.dialect, &message);
        self.flush(member)
    }

    fn send_what_is_due(&mut self, now: Duration) -> io::Result<()> {
        match self.plan.pace {
            Pace::PerSecond(rate) => {
                let interval = Duration::from_secs_f64(1.0 / rate.max(0.001));
                while self.next_at <= now {
                    let late = now.saturating_sub(self.next_at);
                    self.ledger.window.late_max_us = self.ledger.window.late_max_us.max(micros(late));
                    let sender = self.next_sender;
                    self.next_sender = (self.next_sender + 1) % self.senders.len().max(1);
                    self.queue_message(sender, self.next_at);
                    self.next_at += interval;
                    self.flush(self.senders[sender].member)?;
                }
            }
            Pace::InFlight(window) => {
                for sender in 0..self.senders.len() {
                    let Sender { room, index, member, .. } = self.senders[sender];
                    let free = window.saturating_sub(self.ledger.in_flight(room, index));
                    for _ in 0..free {
                        self.queue_message(sender, now);
                    }
                    if free > 0 {
                        self.flush(member)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn queue_message(&mut self, sender: usize, at: Duration) {
        let sender = &mut self.senders[sender];
        let member = &mut self.members[sender.member];
        if !member.open {
            return;
        }
        let marker = Marker { sender: sender.index, number: sender.next_number, at_us: micros(at) };
        self.writer.push(&mut member.out, sender.next_op, marker);
        self.ledger.sent(sender.room, sender.index);
        sender.next_number += 1;
        sender.next_op += 1;
    }

    fn flush(&mut self, index: usize) -> io::Result<()> {
        let member = &mut self.members[index];
        let mut wait = false;
        while member.open && member.written < member.out.len() {
            match member.stream.write(&member.out[member.written..]) {
                Ok(written) => member.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait = true;
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.ledger.closed(&error.to_string());
                    member.open = false;
                }
            }
        }
        if !wait {
            member.out.clear();
            member.written = 0;
        }
        if member.open && wait != member.waits_to_write {
            member.waits_to_write = wait;
            let flags = if wait { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&self.epoll, &member.stream, EventData::new_u64(index as u64), flags)?;
        }
        Ok(())
    }

    /// Waits for the network, but not beyond `until`, and takes in what has come.
    fn wait(&mut self, until: Duration) -> io::Result<()> {
        if until != self.armed_until {
            self.set_timer(until.saturating_sub(self.base.elapsed()))?;
            self.armed_until = until;
        }
        self.events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut self.events), None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for position in 0..self.events.len() {
            let Event { flags, data } = self.events[position];
            if data.u64() == TIMER {
                let mut expirations = [0; 8];
                // Nothing to read only means that the timer was set anew meanwhile.
                let _ = rustix::io::read(&self.timer, &mut expirations);
                self.armed_until = Duration::ZERO;
                continue;
            }
            let index = usize::try_from(data.u64()).expect("an index of members");
            if flags.contains(EventFlags::OUT) {
                self.flush(index)?;
            }
            if flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
                self.receive(index)?;
            }
        }
        Ok(())
    }

    fn set_timer(&self, after: Duration) -> io::Result<()> {
        let after = after.max(Duration::from_nanos(1));
        let value =
            Timespec { tv_sec: i64::try_from(after.as_secs()).expect("minutes"), tv_nsec: after.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    fn receive(&mut self, index: usize) -> io::Result<()> {
        let Member { stream, scanner, reader, out, open, .. } = &mut self.members[index];
        if !*open {
            return Ok(());
        }
        let now_us = micros(self.base.elapsed());
        let ledger = &mut self.ledger;
        let outcome = scanner.read(stream, &mut self.scratch, &mut |opcode, body| {
            ledger.receive(reader, opcode, body, now_us, out);
        });
        match outcome {
            Ok(0) => ledger.closed("end of stream"),
            Ok(read) => {
                ledger.window.reads += 1;
                ledger.window.read_bytes += read as u64;
                if out.is_empty() {
                    return Ok(());
                }
                return self.flush(index);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || error.kind() == io::ErrorKind::Interrupted => {
                return Ok(());
            }
            Err(error) => ledger.closed(&error.to_string()),
        }
        *open = false;
        epoll::delete(&self.epoll, &self.members[index].stream)?;
        Ok(())
    }

    /// Rooms whose members did not all see the same events in the same order.
    pub(super) fn rooms_that_disagree(&self) -> usize {
        let disagree = |room: &[Member]| room.windows(2).any(|pair| pair[0].reader.order != pair[1].reader.order);
        let members = usize::from(self.plan.members).max(1);
        self.members.chunks(members).filter(|room| room.iter().all(|m| m.open) && disagree(room)).count()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("fewer than 500,000 years")
}
