//! What the process needs from its surroundings: clock, randomness, logging, metrics, signals, config watching, systemd.

pub mod attempts;
pub mod background;
pub mod clock;
pub mod logging;
pub mod metrics;
pub mod random;
pub mod secret;
pub mod seldom;
pub mod signals;
pub mod supervisor;
pub mod watch;
