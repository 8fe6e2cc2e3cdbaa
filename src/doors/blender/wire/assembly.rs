//! From bytes to messages, without any I/O.
