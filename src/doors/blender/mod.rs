//! The Blender door. So far: reading what the old server and the add-on left behind (`import`).

pub mod import;
