//! Messages as real clients sent them, read and made again; and what must not be read.
