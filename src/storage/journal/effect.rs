//! Effects: what one batch changes in what the journal knows about its sessions.

use super::control::Control;
use super::frame::Kind;
use super::records::{Group, Span, decode_batch, decode_chunk};
use super::segment::Position;

/// What a batch changes, without the bodies.
#[derive(Debug, Clone)]
pub(super) enum Effect {
    Spans(Vec<Span>),
    BlobBegun(u64),
    Nothing,
    Control(Control),
}

impl Effect {
    /// The effect of a batch; `None` if its payload makes no sense.
    pub(super) fn of(kind: Kind, batch_no: u64, payload: &[u8]) -> Option<Self> {
        match kind {
            Kind::Batch => Some(Self::Spans(decode_batch(payload)?.iter().filter_map(Group::span).collect())),
            Kind::Chunk => {
                let (blob, _, _) = decode_chunk(payload)?;
                Some(if blob == batch_no { Self::BlobBegun(blob) } else { Self::Nothing })
            }
            Kind::Control => Control::decode(payload).map(Self::Control),
            Kind::Position | Kind::Seal | Kind::Close | Kind::Continued => None,
        }
    }

    pub(super) fn apply(&self, to: &mut Position, segment: u64) {
        match self {
            Self::Spans(spans) => {
                for span in spans {
                    to.positions.apply_span(span);
                    for blob in &span.blobs {
                        to.open_blobs.remove(blob);
                    }
                }
            }
            Self::BlobBegun(blob) => drop(to.open_blobs.insert(*blob, segment)),
            Self::Control(control) => to.positions.apply_control(control),
            Self::Nothing => {}
        }
    }
}
