//! The signals that the operator and systemd send, as one stream.

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;

/// What is asked of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// TERM or INT: save, close, exit. A second one, at any time after, ends the process at once from the signal
    /// handler itself (exit code 128 + signal): what was promised is in the journal already.
    Stop,
    /// HUP: read the settings again.
    Reload,
    /// USR1: save now.
    Save,
    /// QUIT: write down what is going on, and go on.
    Dump,
}

/// Signals that may wait; more of the same kind at once mean nothing more.
const WAITING_MAX: usize = 16;

/// Catches the signals from now on. Call it once, before the first thread that should not be killed by one.
pub fn listen() -> io::Result<mpsc::Receiver<Signal>> {
    let stopping = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stopping))?;
    }
    for signal in [SIGTERM, SIGINT] {
        flag::register(signal, Arc::clone(&stopping))?;
    }
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGQUIT])?;
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for number in signals.forever() {
            if sender.blocking_send(meaning(number)).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn meaning(number: i32) -> Signal {
    match number {
        SIGHUP => Signal::Reload,
        SIGUSR1 => Signal::Save,
        SIGQUIT => Signal::Dump,
        _ => Signal::Stop,
    }
}
