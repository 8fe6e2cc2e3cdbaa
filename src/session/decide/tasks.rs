//! Decides what is asked of tasks.

use super::{Deciding, expect_revision, text, within};
use crate::session::{Change, Rejection, TaskId, TaskPatch, TaskPut};
use std::sync::Arc;

/// Most bytes of a title.
const TITLE_BYTES: usize = 256;
/// Most bytes of a description.
const DESCRIPTION_BYTES: usize = 16 << 10;
/// Most bytes of an assignee.
const ASSIGNEE_BYTES: usize = 64;

impl Deciding<'_> {
    pub(super) fn task_put(&self, put: &TaskPut) -> Result<Change, Rejection> {
        let current = self.session.task(&put.id).map_or(0, |task| task.revision);
        expect_revision(put.if_revision, current)?;
        check_texts(Some(&put.title), Some(&put.description), Some(&put.assignee))?;
        if current == 0 {
            within("tasks", self.session.tasks.by_id.len() as u64 + 1, self.limits.tasks)?;
        }
        Ok(Change::TaskPut(put.clone()))
    }

    pub(super) fn task_patch(
        &self,
        id: &TaskId,
        patch: &TaskPatch,
        if_revision: Option<u64>,
    ) -> Result<Change, Rejection> {
        self.existing_task(id, if_revision)?;
        check_texts(patch.title.as_ref(), patch.description.as_ref(), patch.assignee.as_ref())?;
        Ok(Change::TaskPatched { id: id.clone(), patch: patch.clone() })
    }

    pub(super) fn task_remove(&self, id: &TaskId, if_revision: Option<u64>) -> Result<Change, Rejection> {
        self.existing_task(id, if_revision)?;
        Ok(Change::TaskRemoved { id: id.clone() })
    }

    fn existing_task(&self, id: &TaskId, if_revision: Option<u64>) -> Result<(), Rejection> {
        let task = self.session.task(id).ok_or_else(|| Rejection::NoSuchTask(id.clone()))?;
        expect_revision(if_revision, task.revision)
    }
}

fn check_texts(
    title: Option<&Arc<str>>,
    description: Option<&Arc<str>>,
    assignee: Option<&Arc<str>>,
) -> Result<(), Rejection> {
    title.map_or(Ok(()), |title| text("title", title, 1, TITLE_BYTES))?;
    description.map_or(Ok(()), |description| text("description", description, 0, DESCRIPTION_BYTES))?;
    assignee.map_or(Ok(()), |assignee| text("assignee", assignee, 0, ASSIGNEE_BYTES))
}
