//! The `hotset` program: parse, configure, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    hotset::cli::run(std::env::args_os()).into()
}
