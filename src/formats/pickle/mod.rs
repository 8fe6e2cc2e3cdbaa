//! Python pickles without Python: a scanner that decides what may pass, a reader and a writer of plain data.
//!
//! A pickle is a program for a stack machine, and some of its opcodes call whatever they name. Nothing here ever
//! calls or constructs anything. [`scan()`] follows the program with tags instead of values and refuses whatever the
//! [`Policy`] does not list; [`read()`] scans first and then builds a [`Value`]; [`write()`] makes a pickle of plain data.
//! All are linear in the input, need no recursion that the input could deepen, and take memory only for bytes received.

mod json;
mod opcodes;
mod policy;
mod read;
mod scan;
mod stack;
mod value;
mod violation;
mod write;

pub use json::to_json;
pub use policy::{AllowedClass, Limits, Pickler, Policy, StateShape, Use};
pub use read::read;
pub use scan::{Scan, scan, texts_of};
pub use value::{Class, Object, Value};
pub use violation::{Reason, Violation};
pub use write::{WriteError, write, write_listed};
