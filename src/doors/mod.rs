//! Doors: one folder per client protocol. No door knows another door.

mod authority;
pub mod blender;
pub mod native;

pub use authority::{Authority, Credentials, Denied};
