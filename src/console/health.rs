//! Health: alive = the loops turn; ready = serving, writable, and saved recently enough.

use super::routes::Console;
use crate::live::Mode;
use crate::ops::clock;
use serde::Serialize;

/// What to know, and to do, when somebody has put another snapshot in place.
pub(super) const RESTORE_PENDING: &str = "restore pending: the snapshot was changed by hand, so it is left alone. Restart \
                                          to restore, or delete the changed file to go on";

/// Whether the daemon does its work, and what keeps it from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether it does.
    pub ready: bool,
    /// What keeps it from it, for people: each says what to do where that is known.
    pub reasons: Vec<String>,
    /// What does not keep it from anything, but should be known.
    pub notes: Vec<String>,
}

impl Readiness {
    /// Looks at everything that readiness depends on.
    pub(super) fn of(console: &Console) -> Self {
        let mut reasons = console.directory.refusals();
        let mut notes = Vec::new();
        let overdue = console.keeper.save_interval() * 3;
        for session in console.directory.all() {
            let name = session.name();
            if let Mode::ReadOnly(why) = session.shared().mode() {
                reasons.push(format!("session {name} is read-only: {why}"));
            }
            if session.shared().is_restore_pending() {
                notes.push(format!("session {name}: {RESTORE_PENDING}"));
            }
            if let Some(since) = session.shared().unsaved_since() {
                let age = clock::instant().saturating_duration_since(since);
                if age > overdue {
                    let failed = session.shared().last_save().failed.unwrap_or_default();
                    reasons.push(format!("session {name} has not been saved for {} s {failed}", age.as_secs()));
                }
            }
        }
        Self { ready: reasons.is_empty(), reasons, notes }
    }
}
