//! Doors: one folder per client protocol. No door knows another door.

pub mod blender;
pub mod native;
