//! Tests of the session core from outside: golden scripts, frozen bytes, and properties of random sessions.

mod arbitrary;
mod frozen;
mod parse;
mod properties;
mod scripts;
mod show;
