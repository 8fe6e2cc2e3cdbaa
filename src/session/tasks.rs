//! Tasks: what is to be done, by whom, and how far it is.

use super::limits::REMOVED_TASKS_REMEMBERED;
use super::{MemberName, NodeId, TaskId, TaskPatch, TaskPut, Timestamp};
use imbl::{OrdMap, OrdSet};
use std::sync::Arc;

/// How far a task is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskStatus {
    /// Not begun.
    Todo,
    /// Being worked on.
    InProgress,
    /// Finished.
    Done,
}

impl TaskStatus {
    /// Its stable name, as it appears in the protocol and in exports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Todo => "todo",
            Self::InProgress => "in_progress",
            Self::Done => "done",
        }
    }

    /// The status of that name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Todo, Self::InProgress, Self::Done].into_iter().find(|status| status.as_str() == name)
    }
}

/// A task, as the session keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its identity.
    pub id: TaskId,
    /// What is to be done, in short.
    pub title: Arc<str>,
    /// What is to be done, in full.
    pub description: Arc<str>,
    /// Whom it is for; empty for nobody.
    pub assignee: Arc<str>,
    /// How far it is.
    pub status: TaskStatus,
    /// The node it is about; need not exist.
    pub node: Option<NodeId>,
    /// Who created it.
    pub author: MemberName,
    /// When it was created.
    pub created: Timestamp,
    /// When it last changed.
    pub changed: Timestamp,
    /// The `seq` of the event that last changed it.
    pub revision: u64,
}

/// All tasks of a session, by id.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tasks {
    pub(super) by_id: OrdMap<TaskId, Arc<Task>>,
    /// Tasks that were removed last and not put again, and the `seq` of the event that removed them: a client that was
    /// not told is not to bring them back.
    pub(super) removed: OrdMap<TaskId, u64>,
    /// The same, longest gone first.
    pub(super) removals: OrdSet<(u64, TaskId)>,
}

/// What an event says about every change in it.
#[derive(Clone, Copy)]
pub(super) struct Stamp<'a> {
    pub(super) seq: u64,
    pub(super) at: Timestamp,
    pub(super) author: &'a MemberName,
}

impl Tasks {
    pub(super) fn put(&mut self, put: &TaskPut, stamp: Stamp<'_>) {
        let old = self.by_id.get(&put.id);
        let task = Task {
            id: put.id.clone(),
            title: Arc::clone(&put.title),
            description: Arc::clone(&put.description),
            assignee: Arc::clone(&put.assignee),
            status: put.status,
            node: put.node.clone(),
            author: old.map_or(stamp.author, |task| &task.author).clone(),
            created: old.map_or(stamp.at, |task| task.created),
            changed: stamp.at,
            revision: stamp.seq,
        };
        self.by_id.insert(put.id.clone(), Arc::new(task));
        if let Some(seq) = self.removed.remove(&put.id) {
            self.removals.remove(&(seq, put.id.clone()));
        }
    }

    pub(super) fn patched(&mut self, id: &TaskId, patch: &TaskPatch, stamp: Stamp<'_>) {
        let Some(task) = self.by_id.get_mut(id) else { return };
        let task = Arc::make_mut(task);
        if let Some(title) = &patch.title {
            task.title = Arc::clone(title);
        }
        if let Some(description) = &patch.description {
            task.description = Arc::clone(description);
        }
        if let Some(assignee) = &patch.assignee {
            task.assignee = Arc::clone(assignee);
        }
        if let Some(node) = &patch.node {
            task.node.clone_from(node);
        }
        task.status = patch.status.unwrap_or(task.status);
        task.changed = stamp.at;
        task.revision = stamp.seq;
    }

    pub(super) fn removed(&mut self, id: &TaskId, seq: u64) {
        if self.by_id.remove(id).is_some() {
            self.remember_removal(id.clone(), seq);
        }
    }

    /// Removes all tasks. As many as are remembered were removed: a client that has not noticed must not bring them back.
    pub(super) fn all_removed(&mut self, seq: u64) {
        let tasks = std::mem::take(&mut self.by_id);
        let unremembered = tasks.len().saturating_sub(REMOVED_TASKS_REMEMBERED);
        for id in tasks.keys().skip(unremembered) {
            self.remember_removal(id.clone(), seq);
        }
    }

    /// Remembers that a task, which is not there, was removed, and forgets what was removed long before.
    pub(super) fn remember_removal(&mut self, id: TaskId, seq: u64) {
        self.removed.insert(id.clone(), seq);
        self.removals.insert((seq, id));
        if self.removals.len() > REMOVED_TASKS_REMEMBERED
            && let Some(oldest) = self.removals.get_min().cloned()
        {
            self.removals.remove(&oldest);
            self.removed.remove(&oldest.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> TaskId {
        TaskId::new(format!("t{n}")).expect("an id")
    }

    #[test]
    fn only_so_many_removed_tasks_are_remembered_the_newest_ones() {
        let mut tasks = Tasks::default();
        let most = REMOVED_TASKS_REMEMBERED as u64;
        for seq in 1..=most + 3 {
            tasks.remember_removal(id(seq), seq);
        }
        assert_eq!((tasks.removed.len() as u64, tasks.removals.len() as u64), (most, most));
        assert!(!tasks.removed.contains_key(&id(3)));
        assert!(tasks.removed.contains_key(&id(4)) && tasks.removed.contains_key(&id(most + 3)));
    }

    #[test]
    fn what_was_never_there_is_not_remembered_as_removed() {
        let mut tasks = Tasks::default();
        tasks.removed(&id(1), 5);
        assert!(tasks.removed.is_empty());
    }
}
