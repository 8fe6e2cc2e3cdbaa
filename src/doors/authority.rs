//! Who may come in: what every door asks before it lets anyone into a session.

use crate::session::Role;
use std::net::IpAddr;
use std::time::Duration;

/// What somebody shows at the door.
#[derive(Clone, Copy)]
pub enum Credentials<'a> {
    /// Nothing.
    None,
    /// The server password.
    Password(&'a str),
    /// The password of the administrators of Blender Multi-User. The role that it gives is theirs at that door only.
    AdminPassword(&'a str),
    /// A token, for example the admin token.
    Token(&'a str),
}

/// Why somebody is not let in. Deliberately says little.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Password, token or session are wrong; which of them is not said.
    #[error("the password, the token or the session name is wrong")]
    Wrong,
    /// Too many wrong attempts from this address, or of all strangers together; the next one is allowed after this time.
    #[error("too many wrong passwords: try again in {} s", .0.as_secs_f32().ceil())]
    TooManyAttempts(Duration),
}

/// Decides what somebody may do. Implemented where the secrets are.
pub trait Authority: Send + Sync {
    /// The role that these credentials give to a peer.
    fn admit(&self, peer: IpAddr, credentials: Credentials<'_>) -> Result<Role, Denied>;

    /// Whether nobody needs a password, so that there is no secret to keep from who comes.
    fn is_open(&self) -> bool;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_to_wait_is_told_in_whole_seconds_and_is_never_too_short() {
        for (wait, told) in [(12_000, "12 s"), (11_001, "12 s"), (500, "1 s")] {
            let message = Denied::TooManyAttempts(Duration::from_millis(wait)).to_string();
            assert!(message.ends_with(&format!("try again in {told}")), "{message}");
        }
    }
}
