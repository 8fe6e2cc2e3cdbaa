//! One task per session: commands in, events out; the directory of sessions and the connections that follow them.

pub mod machine;
