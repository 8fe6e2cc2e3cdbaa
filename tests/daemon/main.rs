//! The real program from outside: exit codes, settings, health, and the files it is shipped with.

mod command_line;
mod program;
mod shipped;
