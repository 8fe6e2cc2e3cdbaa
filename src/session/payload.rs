//! What a node carries: JSON text or opaque bytes, shared and never copied.

use bytes::Bytes;
use std::sync::Arc;

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
        }
    }

    /// Whether it has no content at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
