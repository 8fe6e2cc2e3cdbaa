//! Settings: layers, every key documented once.
