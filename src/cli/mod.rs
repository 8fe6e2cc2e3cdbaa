//! The command line: parse, run, exit codes.
