//! File and wire formats that others defined, as pure functions over bytes: JSON patches, pickles,
//! and deltas of the Multi-User add-on.

pub mod delta;
pub mod json;
pub mod pickle;
