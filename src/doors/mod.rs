//! Doors: one folder per client protocol. No door knows another door.

mod authority;
pub mod blender;
#[cfg(test)]
#[path = "../../tests/fuzz/campaign.rs"]
mod campaign;
pub mod native;

pub use authority::{Authority, Credentials, Denied};
