//! The ports of the Blender door: which sessions have some of their own, and that no two sets share one.

use super::error::ConfigError;
use super::{Loaded, Network};
use crate::session::SessionName;
use std::fmt;
use std::ops::RangeInclusive;

/// Highest number that the first of three ports may have.
pub(super) const FIRST_PORT_MAX: u16 = 65_533;

/// Most sessions with ports of their own.
const SESSIONS_MAX: usize = 64;

/// A session, and the three ports where Blender clients find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlenderSession {
    /// The session.
    pub name: SessionName,
    /// The first of the three; 0 = any that are free.
    pub port: u16,
}

impl BlenderSession {
    /// The setting that says so.
    pub fn setting(&self) -> &'static str {
        if self.name.is_default() { "PORT" } else { "BLENDER_SESSIONS" }
    }

    /// Its ports; none if any that are free will do.
    pub fn ports(&self) -> Option<RangeInclusive<u16>> {
        (self.port != 0).then(|| self.port..=self.port.saturating_add(2))
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (Some(one), Some(other)) = (self.ports(), other.ports()) else { return false };
        one.start() <= other.end() && other.start() <= one.end()
    }
}

impl fmt::Display for BlenderSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.port.saturating_add(2);
        write!(f, "{} to {last} of session {} ({})", self.port, self.name, self.setting())
    }
}

impl Network {
    /// Every session that Blender clients find at ports, the default one first; none if that door is closed.
    pub fn blender_doors(&self) -> Vec<BlenderSession> {
        if !self.doors.blender {
            return Vec::new();
        }
        let default = BlenderSession { name: SessionName::default_session(), port: self.port };
        std::iter::once(default).chain(self.blender_sessions.iter().cloned()).collect()
    }
}

impl Loaded {
    /// Every port that two of the daemon's listeners would have to share.
    pub(super) fn shared_ports(&self) -> Vec<ConfigError> {
        let network = &self.settings.network;
        let (http, doors) = (network.http_port, network.blender_doors());
        let mut errors = Vec::new();
        for (index, door) in doors.iter().enumerate() {
            if door.ports().is_some_and(|ports| ports.contains(&http)) {
                errors.push(ConfigError::SamePort { http, door: door.clone() });
            }
            let before = doors.iter().take(index).filter(|other| other.overlaps(door));
            errors.extend(before.map(|other| ConfigError::SamePorts { one: other.clone(), other: door.clone() }));
        }
        errors
    }
}

/// Sessions, each with the first of its ports: `film=5570, trailer=5580`. The error says which of them is wrong, and why.
pub(super) fn blender_sessions(text: &str) -> Result<Vec<BlenderSession>, String> {
    let joined = text.split('=').map(str::trim).collect::<Vec<_>>().join("=");
    let mut sessions: Vec<BlenderSession> = Vec::new();
    for word in joined.split([',', ' ']).filter(|word| !word.is_empty()) {
        let session = blender_session(word).map_err(|why| format!("{word:?} is wrong: {why}"))?;
        if sessions.iter().any(|other| other.name == session.name) {
            return Err(format!("{} is there twice", session.name));
        }
        sessions.push(session);
    }
    if sessions.len() > SESSIONS_MAX { Err(format!("more than {SESSIONS_MAX}")) } else { Ok(sessions) }
}

fn blender_session(word: &str) -> Result<BlenderSession, String> {
    let (name, port) = word.split_once('=').ok_or("it has no port, as in NAME=PORT")?;
    let invalid = |_| "a session's name is 1 to 64 of a-z, 0-9, - and _".to_owned();
    let name = SessionName::new(name).map_err(invalid)?;
    if name.is_default() {
        return Err("the ports of the session default are those of PORT".to_owned());
    }
    let port = port.parse().ok().filter(|port| *port <= FIRST_PORT_MAX);
    let port = port.ok_or_else(|| format!("the first of three ports is a number from 0 to {FIRST_PORT_MAX}"))?;
    Ok(BlenderSession { name, port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    fn sessions(text: &str) -> Vec<(String, u16)> {
        let sessions = blender_sessions(text).unwrap();
        sessions.into_iter().map(|session| (session.name.to_string(), session.port)).collect()
    }

    #[test]
    fn sessions_are_read_as_people_write_them() {
        let both = [("film".to_owned(), 5570), ("trailer_2".to_owned(), 5580)];
        for text in ["film=5570, trailer_2=5580", "film=5570,trailer_2=5580,", " film = 5570  trailer_2= 5580 "] {
            assert_eq!(sessions(text), both, "{text}");
        }
        assert_eq!(sessions(""), []);
        assert_eq!(sessions("a=0, b=65533"), [("a".to_owned(), 0), ("b".to_owned(), 65_533)]);
    }

    #[test]
    fn of_what_is_no_list_of_sessions_the_wrong_one_is_named() {
        for (text, why) in [
            ("film", "\"film\" is wrong: it has no port, as in NAME=PORT"),
            ("a=5570, film:5580", "\"film:5580\" is wrong: it has no port, as in NAME=PORT"),
            ("Film=5570", "\"Film=5570\" is wrong: a session's name is 1 to 64 of a-z, 0-9, - and _"),
            ("=5570", "\"=5570\" is wrong: a session's name is 1 to 64 of a-z, 0-9, - and _"),
            ("../x=5570", "\"../x=5570\" is wrong: a session's name is 1 to 64 of a-z, 0-9, - and _"),
            ("default=5570", "\"default=5570\" is wrong: the ports of the session default are those of PORT"),
            ("film=65534", "\"film=65534\" is wrong: the first of three ports is a number from 0 to 65533"),
            ("film=", "\"film=\" is wrong: the first of three ports is a number from 0 to 65533"),
            ("film=5570-5572", "\"film=5570-5572\" is wrong: the first of three ports is a number from 0 to 65533"),
            ("film=5570=1", "\"film=5570=1\" is wrong: the first of three ports is a number from 0 to 65533"),
            ("film=5570, film=5580", "film is there twice"),
        ] {
            assert_eq!(blender_sessions(text).unwrap_err(), why, "{text}");
        }
        let many = (0..=SESSIONS_MAX).map(|number| format!("s{number}=0")).collect::<Vec<_>>();
        assert_eq!(blender_sessions(&many.join(",")).unwrap_err(), "more than 64");
        assert_eq!(sessions(&many[1..].join(",")).len(), SESSIONS_MAX);
    }

    /// What is said of these flags' ports.
    fn faults(flags: &[(&'static str, &str)]) -> Vec<String> {
        let flags = flags.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let loaded = Sources { flags, directory: "/nowhere".into(), ..Sources::default() }.load().unwrap();
        loaded.shared_ports().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ports_that_two_would_share_are_named_with_both() {
        let film = |port| faults(&[("blender_sessions", port)]);
        assert_eq!(
            film("film=5557"),
            ["the Blender ports 5555 to 5557 of session default (PORT) and 5557 to 5559 of session film \
                 (BLENDER_SESSIONS) overlap: move one of them"]
        );
        assert_eq!(
            film("film=8078"),
            ["HTTP_PORT 8080 is one of the three Blender ports 8078 to 8080 of session film (BLENDER_SESSIONS): \
              change one of them"]
        );
        assert_eq!(film("a=5570, b=5572, c=5571").len(), 3);
        assert_eq!(film("a=5558, b=5552, c=5561, d=8081, e=8077"), <[String; 0]>::default());
    }

    #[test]
    fn ports_that_are_not_chosen_yet_or_not_used_overlap_with_none() {
        assert_eq!(faults(&[("blender_sessions", "a=0, b=0"), ("port", "0"), ("http_port", "0")]).len(), 0);
        assert_eq!(faults(&[("blender_sessions", "a=5555"), ("doors", "native")]).len(), 0);
    }
}
