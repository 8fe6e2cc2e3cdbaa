//! The Blender door: unmodified Multi-User clients. At the bottom lie the two transports (`wire`) and what is said on them
//! (`objects`). A `peer` is one client on its lines; a `visit` is one that has logged in; the `room` is what all visitors
//! of a session share. `import` reads what the old server and the add-on left behind.

mod astray;
mod desk;
mod dialect;
mod door;
mod edits;
mod farewell;
#[cfg(test)]
mod fuzz;
pub mod import;
mod joining;
mod lines;
mod login;
mod objects;
mod opening;
mod peer;
mod people;
mod proof;
mod pulse;
#[cfg(test)]
mod recorded;
mod relay;
mod returning;
mod room;
mod roster;
mod said;
mod settling;
mod truth;
mod visit;
mod wire;

pub use door::{BlenderDoor, BlenderSettings, Channel};
