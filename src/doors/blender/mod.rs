//! The Blender door: unmodified Multi-User clients. Below it lie the two transports (`wire`) and what is said on them
//! (`objects`); `import` reads what the old server and the add-on left behind.

#[cfg(test)]
mod fuzz;
pub mod import;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "the flows that use it are still to come"))]
mod objects;
#[cfg(test)]
mod recorded;
#[cfg_attr(not(test), expect(dead_code, unused_imports, reason = "the flows that use it are still to come"))]
mod wire;
