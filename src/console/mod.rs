//! The HTTP side for people and monitoring: health, metrics, and the REST routes that the command line uses.
