//! Dialects: deepdiff 5 and 8 write deltas that the other refuses. Clients are told of a change in words that they
//! understand; where there are none, they are sent the whole node.

use crate::formats::delta::{Delta, Dialect};
use bytes::Bytes;

/// Which deepdiff a client has, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ear {
    /// deepdiff 5.
    Five,
    /// deepdiff 8.
    Eight,
    /// Either. It shows with the client's first change.
    Unknown,
}

impl Ear {
    /// What a client has that writes so.
    pub(super) fn of(dialect: Dialect) -> Self {
        match dialect {
            Dialect::OrderedDictPlus => Self::Five,
            Dialect::Opcodes | Dialect::Plain => Self::Eight,
        }
    }
}

/// One change, framed in every way in which it can be said.
pub(super) struct Speech {
    dialect: Dialect,
    /// deepdiff 5 finds what it is about.
    simple: bool,
    framed: Vec<Bytes>,
    plain: Option<Vec<Bytes>>,
}

impl Speech {
    /// The change that a delta makes. What cannot be read is passed on to nobody.
    pub(super) fn new(delta: &Bytes, frame: impl Fn(Bytes) -> Vec<Bytes>) -> Self {
        let read = Delta::read(delta).ok();
        let dialect = read.as_ref().map_or(Dialect::Opcodes, Delta::dialect);
        let simple = dialect == Dialect::OrderedDictPlus || read.as_ref().is_some_and(Delta::has_simple_paths);
        let plain = match dialect {
            Dialect::Plain | Dialect::Opcodes => None,
            Dialect::OrderedDictPlus => read.and_then(|delta| delta.plain()),
        };
        Self { dialect, simple, framed: frame(delta.clone()), plain: plain.map(frame) }
    }

    /// As this client understands it; `None` if it does not.
    pub(super) fn to(&self, ear: Ear) -> Option<&[Bytes]> {
        match (self.dialect, ear) {
            (_, Ear::Five | Ear::Unknown) if !self.simple => None,
            (Dialect::Plain, _) | (Dialect::Opcodes, Ear::Eight) | (Dialect::OrderedDictPlus, Ear::Five) => {
                Some(&self.framed)
            }
            (Dialect::OrderedDictPlus, Ear::Eight | Ear::Unknown) => self.plain.as_deref(),
            (Dialect::Opcodes, Ear::Five | Ear::Unknown) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_hears_only_what_they_understand() {
        let framed = |text: &'static str| vec![Bytes::from_static(text.as_bytes())];
        let said = |dialect, plain: bool| Speech {
            dialect,
            simple: true,
            framed: framed("own"),
            plain: plain.then(|| framed("plain")),
        };
        let heard = |speech: &Speech, ear| speech.to(ear).map(<[Bytes]>::concat);
        let (own, plain) = (Some(b"own".to_vec()), Some(b"plain".to_vec()));
        let ears = [Ear::Five, Ear::Eight, Ear::Unknown];
        assert_eq!(ears.map(|ear| heard(&said(Dialect::Plain, false), ear)), [own.clone(), own.clone(), own.clone()]);
        assert_eq!(ears.map(|ear| heard(&said(Dialect::Opcodes, false), ear)), [None, own.clone(), None]);
        assert_eq!(ears.map(|ear| heard(&said(Dialect::OrderedDictPlus, true), ear)), [own, plain.clone(), plain]);
    }

    #[test]
    fn deepdiff_5_is_not_told_of_keys_that_it_cannot_find() {
        let said = |delta: &'static [u8]| Speech::new(&Bytes::from_static(delta), |delta| vec![delta]);
        let simple = said(b"\x80\x04}\x8c\x0evalues_changed}\x8c\x09root['a']}\x8c\x09new_valueK\x01sss.");
        let quoted = said(b"\x80\x04}\x8c\x0evalues_changed}\x8c\x0aroot[\"'a\"]}\x8c\x09new_valueK\x01sss.");
        let heard = |speech: &Speech| [Ear::Five, Ear::Eight, Ear::Unknown].map(|ear| speech.to(ear).is_some());
        assert_eq!((heard(&simple), heard(&quoted)), ([true; 3], [false, true, false]));
    }
}
