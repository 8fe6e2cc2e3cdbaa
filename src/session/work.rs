//! Work: about how much an edit takes to decide and to apply, told before it is begun, so that time can be shared.

use super::{OpKey, Operation, Payload, PayloadChange, Session};

/// What looking below a node counts for, as long as nobody has looked.
const BELOW: u64 = 16 << 10;

/// What one more operation of a batch counts for.
const OPERATION: u64 = 256;

impl Session {
    /// About how many bytes are read to decide and apply these operations; 0 if that is hardly anything, or if they
    /// were applied already. Unlike what `decide` counts, it looks at sizes only.
    pub fn work_of(&self, key: Option<OpKey>, operations: &[Operation]) -> u64 {
        let batch = OPERATION * (operations.len() as u64).saturating_sub(1);
        let work = operations.iter().map(|operation| self.work_of_one(operation)).fold(batch, u64::saturating_add);
        let applied = |key| matches!(self.applied.find(key), Ok(Some(_)));
        if work > 0 && key.is_some_and(applied) { 0 } else { work }
    }

    fn work_of_one(&self, operation: &Operation) -> u64 {
        match operation {
            Operation::NodePut(put) => json_bytes(&put.payload),
            Operation::NodePatch { id, patch, .. } => {
                let below = if patch.parent.is_some() { BELOW } else { 0 };
                below
                    + match &patch.payload {
                        None => 0,
                        Some(PayloadChange::Append(_) | PayloadChange::Fold { .. }) => 0,
                        Some(PayloadChange::Replace(payload)) => json_bytes(payload),
                        Some(PayloadChange::Merge(change) | PayloadChange::Patch(change)) => {
                            let target = self.node(id).map_or(0, |node| json_bytes(&node.payload));
                            target + change.len() as u64
                        }
                    }
            }
            Operation::NodeRemove { recursive: true, .. } => BELOW,
            Operation::MemberSet { metadata } => metadata.len() as u64,
            Operation::SettingSet { value, .. } => value.as_ref().map_or(0, |value| value.len() as u64),
            Operation::NodeRemove { .. }
            | Operation::NodeLock { .. }
            | Operation::NodeUnlock { .. }
            | Operation::TaskPut(_)
            | Operation::TaskPatch { .. }
            | Operation::TaskRemove { .. }
            | Operation::ChatPost(_)
            | Operation::SessionClear { .. } => 0,
        }
    }
}

/// Other bytes are shared and never looked into.
fn json_bytes(payload: &Payload) -> u64 {
    match payload {
        Payload::Json(text) => text.len() as u64,
        Payload::Bytes { .. } | Payload::Layered { .. } => 0,
    }
}
