//! The `hotset` program: parse, configure, run, exit code.

fn main() {}
