//! Health: alive = the loops turn; ready = serving, writable, and saved recently enough.

use super::routes::Console;
use crate::live::Mode;
use crate::ops::clock;
use serde::Serialize;

/// Whether the daemon does its work, and what keeps it from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether it does.
    pub ready: bool,
    /// What keeps it from it, for people: each says what to do where that is known.
    pub reasons: Vec<String>,
}

impl Readiness {
    /// Looks at everything that readiness depends on.
    pub(super) fn of(console: &Console) -> Self {
        let mut reasons = console.directory.refusals();
        let overdue = console.keeper.save_interval() * 3;
        for session in console.directory.all() {
            let name = session.name();
            if let Mode::ReadOnly(why) = session.shared().mode() {
                reasons.push(format!("session {name} is read-only: {why}"));
            }
            if let Some(since) = session.shared().unsaved_since() {
                let age = clock::instant().saturating_duration_since(since);
                if age > overdue {
                    let failed = session.shared().last_save().failed.unwrap_or_default();
                    reasons.push(format!("session {name} has not been saved for {} s {failed}", age.as_secs()));
                }
            }
        }
        Self { ready: reasons.is_empty(), reasons }
    }
}
