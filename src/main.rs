//! The `hotset` program: parse, configure, run, exit code.

use std::process::ExitCode;

/// Takes and gives back many small blocks on several threads; the C library's allocator spends several times as long.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    hotset::cli::run(std::env::args_os()).into()
}
