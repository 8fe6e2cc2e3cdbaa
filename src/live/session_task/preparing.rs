//! Large edits: what they carry is on disk before they are decided, so that nobody's small edit waits for more than a piece
//! of it. Until then they wait, and with them whatever the same connection asks for after them.

use super::SessionTask;
use crate::live::backlog::{Budget, Queued, is_durable};
use crate::live::request::{Edit, EditError, Work};
use crate::live::subscriber::{Note, Refusal, Subscriber};
use crate::session::{Author, Command, Decision, OpKey, Operation, Payload, PayloadChange, Role, Timestamp};
use crate::storage::Early;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Bytes from which it is worth a sync of its own.
const LARGE: usize = 256 << 10;

/// Bytes that may be written in vain between saves, and wait. Only a save lets the journal go of anything, and edits that
/// are refused cause none: beyond this they are written once they are decided.
const UNUSED_MAX: usize = 512 << 20;

/// An edit by the daemon that waits: for the disk, because it is large, or for the end of a restore.
pub(super) struct DaemonEdit {
    pub(super) operations: Vec<Operation>,
    pub(super) by: Option<Arc<Subscriber>>,
    pub(super) reply: oneshot::Sender<Result<u64, EditError>>,
    pub(super) early: Vec<Arc<Early>>,
}

impl SessionTask {
    /// Edits are made at once as long as nobody waits, there is time, and they are small.
    pub(super) fn take_edits(
        &mut self,
        subscriber: &Arc<Subscriber>,
        edits: Vec<Edit>,
        budget: &mut Budget,
        at: Timestamp,
    ) {
        for edit in edits {
            let (edit, early) = self.prepare_edit(subscriber, edit, at);
            let queued = Queued { edit, work: 0, early };
            let at_once = !budget.is_spent() && !self.holds_edits() && queued.early.is_empty();
            if at_once && !self.backlog.has_next() && !self.backlog.is_parked(subscriber) {
                self.edit(subscriber, queued, budget, at);
                continue;
            }
            let work = match &queued.edit.work {
                Work::Operations(operations) => {
                    self.state.work_of(Some(OpKey { client: subscriber.client, op: queued.edit.op }), operations)
                }
                Work::Save => 0,
            };
            if let Err(op) = self.backlog.push(subscriber, Queued { work, ..queued }) {
                subscriber.leave(Note::Reject { op, why: Refusal::TooMuchWork });
                subscriber.wake();
            }
        }
    }

    /// Begins to write what the edit carries, if that is much and the edit has a chance.
    fn prepare_edit(&mut self, subscriber: &Subscriber, edit: Edit, at: Timestamp) -> (Edit, Vec<Arc<Early>>) {
        let Edit { op, work: Work::Operations(operations) } = edit else { return (edit, Vec::new()) };
        let large = large_parts(&operations);
        let may = || {
            let is_member = subscriber.role != Role::Viewer && self.holds_name(subscriber);
            is_member && !subscriber.is_retired() && self.refuses_writes().is_none()
        };
        if large.is_empty() || !may() {
            return (Edit { op, work: Work::Operations(operations) }, Vec::new());
        }
        let key = OpKey { client: subscriber.client, op };
        // Bytes that nobody looks into are decided upon in no time.
        let is_cheap = self.state.work_of(Some(key), &operations) == 0;
        let decide = || {
            let command = Command::Edit { op: Some(key), operations: operations.clone() };
            let author = Author { name: subscriber.name.clone(), role: subscriber.role };
            self.state.decide(&command, &author, at, &self.settings.borrow().limits)
        };
        // What the same connection has asked for before, and waits, may give it one.
        let has_a_chance = !is_cheap || self.backlog.holds(subscriber) || matches!(decide(), Ok(Decision::New(_)));
        let early = if has_a_chance { self.begin_early(large) } else { Vec::new() };
        (Edit { op, work: Work::Operations(operations) }, early)
    }

    fn begin_early(&mut self, parts: Vec<Bytes>) -> Vec<Arc<Early>> {
        if self.unused >= UNUSED_MAX {
            return Vec::new();
        }
        self.unused += parts.iter().map(Bytes::len).sum::<usize>();
        let early: Vec<_> = parts.into_iter().map(|bytes| Arc::new(Early::new(bytes))).collect();
        self.store.prepare(&self.name, &early);
        early
    }

    /// The daemon's own edits do not wait for their turn: they are few, and what is large about them is written before.
    pub(super) fn take_daemon_edit(
        &mut self,
        operations: Vec<Operation>,
        by: Option<Arc<Subscriber>>,
        reply: oneshot::Sender<Result<u64, EditError>>,
    ) -> Option<DaemonEdit> {
        if let Some(why) = self.refuses_daemon(by.as_deref()) {
            // Whoever asked may have gone.
            _ = reply.send(Err(EditError::ReadOnly(why)));
            return None;
        }
        let early = self.begin_early(large_parts(&operations));
        let edit = DaemonEdit { operations, by, reply, early };
        if edit.early.is_empty() && !self.is_restoring() {
            return Some(edit);
        }
        self.daemon_edits.push(edit);
        None
    }

    /// Goes on with large edits that are on disk now, or that are to be refused.
    pub(super) fn go_on_with_large_edits(&mut self, budget: &mut Budget, at: Timestamp) {
        let refused = self.refuses_writes().is_some();
        self.backlog.unpark(refused);
        let held = self.is_restoring();
        let ready = |edit: &mut DaemonEdit| refused || (!held && is_durable(&edit.early));
        let ready: Vec<_> = self.daemon_edits.extract_if(.., ready).collect();
        for edit in ready {
            match self.refuses_daemon(edit.by.as_deref()) {
                Some(why) => _ = edit.reply.send(Err(EditError::ReadOnly(why))),
                None => self.daemon_edit(edit, budget, at),
            }
        }
    }
}

/// The large byte strings that the events of these operations will hold, as they are.
fn large_parts(operations: &[Operation]) -> Vec<Bytes> {
    operations.iter().filter_map(carried).filter(|bytes| bytes.len() >= LARGE).cloned().collect()
}

fn carried(operation: &Operation) -> Option<&Bytes> {
    match operation {
        Operation::NodePut(put) => content(&put.payload),
        Operation::NodePatch { patch, .. } => match patch.payload.as_ref()? {
            PayloadChange::Replace(payload) => content(payload),
            PayloadChange::Append(bytes) | PayloadChange::Fold { base: bytes, .. } => Some(bytes),
            // They are not what takes long about it.
            PayloadChange::Merge(_) | PayloadChange::Patch(_) => None,
        },
        Operation::NodeRemove { .. }
        | Operation::NodeLock { .. }
        | Operation::NodeUnlock { .. }
        | Operation::TaskPut(_)
        | Operation::TaskPatch { .. }
        | Operation::TaskRemove { .. }
        | Operation::ChatPost(_)
        | Operation::MemberSet { .. }
        | Operation::SettingSet { .. }
        | Operation::SessionClear { .. } => None,
    }
}

fn content(payload: &Payload) -> Option<&Bytes> {
    match payload {
        Payload::Json(data) | Payload::Bytes { data, .. } => Some(data),
        Payload::Layered { .. } => None,
    }
}
