//! What a node carries: JSON text or opaque bytes, shared and never copied, and what was appended to the latter.

use bytes::Bytes;
use imbl::Vector;
use std::sync::Arc;

/// The media types that begin so are those of Blender's Multi-User add-on. Such a payload is put as a whole or grows by
/// deltas; nobody patches it.
const BLENDER_MEDIA_TYPES: &str = "application/vnd.multi-user.";

/// The content of a node. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// JSON text (RFC 8259), valid and within the depth limit. Kept as it was sent, until a patch changes it.
    Json(Bytes),
    /// Bytes that the session never looks into, with their media type (1 to 128 bytes, ASCII).
    Bytes {
        /// Says how a client should read `data`, for example `model/gltf-binary`.
        media_type: Arc<str>,
        /// The content itself.
        data: Bytes,
    },
    /// As `Bytes`, and what was appended since they were put: the session never looks into that either. It is never put
    /// so, it becomes so; without deltas it is `Bytes`.
    Layered {
        /// Says how a client should read `base` and the deltas.
        media_type: Arc<str>,
        /// What was put, or what the first deltas were folded into.
        base: Bytes,
        /// What was appended, oldest first; at least one.
        deltas: Deltas,
    },
}

impl Payload {
    /// The payload of a node that was put without one: JSON `null`.
    pub fn null() -> Self {
        Self::Json(Bytes::from_static(b"null"))
    }

    /// How many bytes of content it holds.
    pub fn len(&self) -> usize {
        match self {
            Self::Json(text) => text.len(),
            Self::Bytes { data, .. } => data.len(),
            Self::Layered { base, deltas, .. } => base.len() + deltas.bytes(),
        }
    }

    /// Whether it has no content at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The media type, if it is not JSON.
    pub fn media_type(&self) -> Option<&Arc<str>> {
        match self {
            Self::Json(_) => None,
            Self::Bytes { media_type, .. } | Self::Layered { media_type, .. } => Some(media_type),
        }
    }

    /// What was appended to it.
    pub fn deltas(&self) -> Option<&Deltas> {
        match self {
            Self::Json(_) | Self::Bytes { .. } => None,
            Self::Layered { deltas, .. } => Some(deltas),
        }
    }

    /// Whether it is in a format of Blender's Multi-User add-on, into which only that door's clients may write.
    pub fn is_blender(&self) -> bool {
        self.media_type().is_some_and(|media_type| is_blender_media_type(media_type))
    }

    /// Bytes with what was appended to them, if anything was.
    pub(super) fn layered(media_type: Arc<str>, base: Bytes, deltas: impl Iterator<Item = Delta>) -> Self {
        let mut list = Deltas::default();
        deltas.for_each(|delta| list.push(delta));
        Self::on_base(media_type, base, list)
    }

    fn on_base(media_type: Arc<str>, base: Bytes, deltas: Deltas) -> Self {
        if deltas.is_empty() {
            Self::Bytes { media_type, data: base }
        } else {
            Self::Layered { media_type, base, deltas }
        }
    }

    /// With one more delta, of the event `revision`. `None` for JSON.
    pub(super) fn appended(&self, delta: &Bytes, revision: u64) -> Option<Self> {
        let (media_type, base, mut deltas) = match self {
            Self::Json(_) => return None,
            Self::Bytes { media_type, data } => (media_type, data, Deltas::default()),
            Self::Layered { media_type, base, deltas } => (media_type, base, deltas.clone()),
        };
        deltas.push(Delta { revision, data: delta.clone() });
        Some(Self::Layered { media_type: Arc::clone(media_type), base: base.clone(), deltas })
    }

    /// With a new base instead of the old one and its first `count` deltas. `None` if it has not so many.
    pub(super) fn folded(&self, count: usize, new_base: &Bytes) -> Option<Self> {
        let Self::Layered { media_type, deltas, .. } = self else { return None };
        Some(Self::on_base(Arc::clone(media_type), new_base.clone(), deltas.without_first(count)?))
    }
}

/// Whether only the door for Blender puts payloads of this media type.
pub fn is_blender_media_type(media_type: &str) -> bool {
    let start = media_type.as_bytes().get(..BLENDER_MEDIA_TYPES.len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(BLENDER_MEDIA_TYPES.as_bytes()))
}

/// One thing that was appended to a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delta {
    /// The `seq` of the event that appended it.
    pub revision: u64,
    /// The content.
    pub data: Bytes,
}

/// What was appended to a payload, oldest first. Cloning shares all of it, and appending to a clone copies none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deltas {
    // Behind a pointer: most nodes have none, and the vector itself is large.
    list: Arc<Vector<Delta>>,
    bytes: usize,
}

impl Deltas {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many bytes they have together; it is not counted anew.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Their contents, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Bytes> + ExactSizeIterator {
        self.list.iter().map(|delta| &delta.data)
    }

    /// One of them.
    pub fn get(&self, index: usize) -> Option<&Delta> {
        self.list.get(index)
    }

    /// The newest.
    pub fn last(&self) -> Option<&Delta> {
        self.list.last()
    }

    pub(super) fn push(&mut self, delta: Delta) {
        self.bytes += delta.data.len();
        Arc::make_mut(&mut self.list).push_back(delta);
    }

    pub(super) fn with_revisions(&self) -> impl Iterator<Item = &Delta> {
        self.list.iter()
    }

    fn without_first(&self, count: usize) -> Option<Self> {
        if count > self.len() {
            return None;
        }
        let gone: usize = self.iter().take(count).map(Bytes::len).sum();
        Some(Self { list: Arc::new(self.list.skip(count)), bytes: self.bytes - gone })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grown(deltas: usize) -> Payload {
        let base = Bytes::from(vec![7; 1 << 20]);
        let bytes = Payload::Bytes { media_type: "x/y".into(), data: base };
        (0..deltas).fold(bytes, |payload, n| {
            let delta = Bytes::from(vec![1; 1 << 10]);
            payload.appended(&delta, n as u64 + 1).expect("it is not JSON")
        })
    }

    fn contents(payload: &Payload) -> Vec<*const u8> {
        let Payload::Layered { base, deltas, .. } = payload else { panic!("it has deltas") };
        std::iter::once(base).chain(deltas.iter()).map(|bytes| bytes.as_ptr()).collect()
    }

    #[test]
    fn appending_copies_neither_the_base_nor_other_deltas() {
        let before = grown(500);
        let delta = Bytes::from_static(b"one more");
        let after = before.appended(&delta, 501).expect("it is not JSON");
        assert_eq!(contents(&after)[..501], contents(&before)[..]);
        assert_eq!(contents(&after)[501], delta.as_ptr());
        assert_eq!((before.len(), after.len()), ((1 << 20) + (500 << 10), (1 << 20) + (500 << 10) + 8));
        assert_eq!(before, grown(500), "who still holds the earlier state does not see it");
    }

    #[test]
    fn folding_counts_what_remains() {
        let payload = grown(10);
        let base = Bytes::from_static(b"folded");
        let rest = payload.folded(7, &base).expect("there are so many");
        assert_eq!(contents(&rest)[1..], contents(&payload)[8..]);
        assert_eq!(rest.len(), 6 + (3 << 10));
        let whole = Payload::Bytes { media_type: "x/y".into(), data: base.clone() };
        assert_eq!(payload.folded(10, &base), Some(whole), "without deltas it is as if it had been put so");
        assert_eq!(payload.folded(11, &base), None);
        assert_eq!(Payload::null().folded(1, &base), None);
    }

    #[test]
    fn nodes_without_deltas_pay_little_for_those_that_have_some() {
        assert!(size_of::<Payload>() <= 72, "{} bytes", size_of::<Payload>());
    }

    #[test]
    fn the_media_types_of_blender_are_known_however_they_are_written() {
        assert!(is_blender_media_type("application/vnd.multi-user.node+pickle"));
        assert!(is_blender_media_type("Application/VND.Multi-User.datablock+pickle"));
        assert!(!is_blender_media_type("application/vnd.multi-user"));
        assert!(!is_blender_media_type("application/vnd.multi-usér.node"));
    }
}
