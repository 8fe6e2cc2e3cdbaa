//! Composition: wires the rooms together, starts them, drains them.
