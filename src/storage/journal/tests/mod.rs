//! The journal against everything that can happen to it.

mod crashes;
mod damage;
mod disk_errors;
mod harness;
mod order;
mod writing;
