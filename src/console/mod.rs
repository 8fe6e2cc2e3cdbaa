//! The HTTP side for people and monitoring: health, metrics, and the REST routes that the command line uses.

mod health;
mod routes;
mod status;

pub use health::Readiness;
pub use routes::{Admins, Console, Keeper, Unusable, Wanted, router};
pub use status::JournalStatus;
