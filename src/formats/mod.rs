//! File and wire formats that others defined, as pure functions over bytes: JSON patches and pickles.

pub mod json;
pub mod pickle;
