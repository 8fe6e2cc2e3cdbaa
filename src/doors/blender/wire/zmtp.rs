//! The opening of a ZMTP 3.x connection, on the side of a ROUTER with mechanism NULL.
