//! One client of the loss test: edits at a steady rate, reconnects for ever, and logs what it was promised and what it saw.
//!
//! It is asked and answers as `tests/clients/python/loss_worker.py`, and knows the protocol only from its description.

mod fingerprint;
mod operations;
mod replica;
mod wire;
mod worker;

pub(super) use worker::run;
