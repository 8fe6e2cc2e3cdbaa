//! Farewells: why the server parts with a Blender client, and what its user is told.

use std::fmt;

/// Why it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Farewell {
    /// The client has closed, or was never more than a visitor at the door.
    Closed,
    /// Nothing was heard of it for too long.
    Lost,
    /// Its user is told this, in the words of the protocol's `Disconnect`.
    Told(String),
    /// The daemon stops: clients that can come back by themselves shall not notice.
    Stopping,
}

impl Farewell {
    /// Its user is told this.
    pub(super) fn because(why: impl Into<String>) -> Self {
        Self::Told(why.into())
    }
}

impl fmt::Display for Farewell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("connection closed"),
            Self::Lost => f.write_str("connection lost"),
            Self::Told(why) => f.write_str(why),
            Self::Stopping => f.write_str("the server is stopping"),
        }
    }
}
