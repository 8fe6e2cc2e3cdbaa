//! Looks at one session of a stopped directory: what the next start would serve, and what the journal still has of its
//! past. Changes nothing.

use crate::session::SessionName;
use crate::storage::journal::{self, Item, Lineage, Request};
use crate::storage::recovery::{OpenError, Plan, lock, look};
use crate::storage::vfs::SharedVfs;
use crate::storage::{Branch, Machine};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// What the next start would serve of a session.
pub enum View<M> {
    /// This state.
    State {
        /// The state.
        machine: M,
        /// What is damaged and therefore not in it.
        damage: Option<String>,
    },
    /// There is no such session.
    Unknown,
    /// Serving anything would be a guess.
    Refused {
        /// What was found.
        reason: String,
        /// The command that repairs it.
        command: String,
    },
}

/// Looks at a session; `past` is given the records of its current branch that the journal still has, in order.
pub fn view<M: Machine>(
    vfs: &SharedVfs,
    session: &SessionName,
    past: &mut dyn FnMut(u64, &[u8]),
) -> Result<View<M>, OpenError> {
    let _lock = lock(&**vfs)?;
    let looked = look::<M>(&**vfs)?;
    let lineage = Lineage(looked.history().lineage());
    let branch = looked.history().past(session).branch;
    let plan = looked.into_plans().into_iter().find(|(survey, _)| survey.files.name == *session);
    let (machine, damage) = match plan {
        None => return Ok(View::Unknown),
        Some((_, Plan::Refuse { reason, command })) => return Ok(View::Refused { reason, command }),
        Some((_, Plan::Fresh)) => (M::empty(), None),
        Some((_, Plan::Restore(restore))) => return Ok(View::State { machine: restore.machine, damage: None }),
        Some((_, Plan::Serve { built, .. })) => (built.machine, None),
        Some((_, Plan::ReadOnly { built, damage, .. })) => (built.machine, Some(damage)),
    };
    if let Some(branch) = branch {
        visit(vfs, lineage, session, branch, machine.seq(), past)?;
    }
    Ok(View::State { machine, damage })
}

fn visit(
    vfs: &SharedVfs,
    lineage: Lineage,
    session: &SessionName,
    branch: Branch,
    through: u64,
    past: &mut dyn FnMut(u64, &[u8]),
) -> Result<(), OpenError> {
    let after = BTreeMap::from([(session.clone(), 0)]);
    let request = Request { lineage: Some(lineage), after, only: Some(session.clone()) };
    journal::scan(&**vfs, &request, &mut |item| {
        if let Item::Record { branch: of, seq, body, .. } = item
            && of == branch
            && seq <= through
        {
            past(seq, body);
        }
        ControlFlow::Continue(())
    })?;
    Ok(())
}
