//! What the process needs from its surroundings: clock, randomness, logging, metrics, signals, config watching, systemd.

pub mod clock;
pub mod random;
