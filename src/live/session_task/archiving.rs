//! The end of a project: the whole session is kept as a backup, and then begins anew. What the backup holds is exactly
//! what is cleared: edits that come between the two wait, and are refused when it is done.

use super::SessionTask;
use crate::live::machine::SessionMachine;
use crate::live::pending::PendingAnswer;
use crate::live::request::{ArchiveError, Archived};
use crate::live::subscriber::{Closing, Note, Refusal, Subscriber};
use crate::session::{Author, Command, Operation, Timestamp};
use crate::storage::{SaveJob, SaveOutcome, Saved};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Why nothing is changed at the moment.
const UNDER_WAY: &str = "the session is being archived: try again in a moment";

/// Why what was asked for meanwhile is not done.
const BEGUN_ANEW: &str = "the session has been archived, and is empty now";

type Reply = oneshot::Sender<Result<Archived, ArchiveError>>;

impl SessionTask {
    /// Begins: hands the state, as it is, to the saver.
    pub(super) fn archive(&mut self, reply: Reply, at: Timestamp) {
        let refused = if self.archiving.is_some() {
            Some(ArchiveError::Busy)
        } else if self.draining {
            Some(ArchiveError::Stopping)
        } else if let Some(why) = self.refuses_writes() {
            Some(ArchiveError::Failed(why.to_string()))
        } else {
            self.state.totals().is_empty().then_some(ArchiveError::Empty)
        };
        if let Some(why) = refused {
            // Whoever asked may have gone.
            _ = reply.send(Err(why));
            return;
        }
        let ear = Arc::clone(&self.ear);
        self.archiving = Some(reply);
        self.store.archive(SaveJob {
            session: self.name.clone(),
            state: Box::new(SessionMachine::from(self.state.clone())),
            reasons: vec!["archive".into()],
            at,
            also_backup: false,
            done: Box::new(move |outcome| ear.archive_ended(outcome)),
        });
    }

    /// Why an edit by the daemon is refused at the moment.
    pub(super) fn refuses_daemon(&self, by: Option<&Subscriber>) -> Option<Arc<str>> {
        if by.is_some_and(Subscriber::is_retired) {
            return Some(BEGUN_ANEW.into());
        }
        self.refuses_writes().or_else(|| self.archiving.is_some().then(|| UNDER_WAY.into()))
    }

    /// Ends: what the saver has kept is cleared.
    pub(super) fn hear_archived(&mut self, at: Timestamp) {
        let Some(outcome) = self.ear.take_archived() else { return };
        let Some(reply) = self.archiving.take() else { return };
        match self.clear(outcome, at) {
            Ok((kept, cleared)) => self.tell_when_durable(kept, cleared, reply),
            Err(why) => {
                tracing::error!(session = %self.name, "{why}");
                _ = reply.send(Err(why));
            }
        }
    }

    fn clear(&mut self, outcome: SaveOutcome, at: Timestamp) -> Result<(Saved, u64), ArchiveError> {
        let kept = outcome.map_err(ArchiveError::Failed)?;
        let not_cleared = |why: String| ArchiveError::NotCleared { file: kept.file.clone(), why };
        if let Some(why) = self.refuses_writes() {
            return Err(not_cleared(why.to_string()));
        }
        let author = Author::daemon();
        let operations = vec![Operation::SessionClear { archive: kept.file.as_str().into() }];
        let cleared = self.decide(&Command::Edit { op: None, operations }, &author, at);
        let cleared = cleared.map_err(|rejection| not_cleared(rejection.to_string()))?;
        self.backlog.unpark(true);
        while let Some((subscriber, queued)) = self.backlog.next() {
            Self::refuse_retired(&subscriber, queued.edit.op);
        }
        for member in self.holders.values().filter(|member| member.retire()) {
            self.pending.note(cleared, member, Note::Closing(Closing::Archived));
        }
        Ok((kept, cleared))
    }

    fn tell_when_durable(&mut self, kept: Saved, cleared: u64, reply: Reply) {
        tracing::info!(session = %self.name, "Session begins anew; all that was there is in {}", kept.file);
        let (tell, told) = oneshot::channel();
        self.pending.answer(cleared, PendingAnswer { reply: tell, decided: Ok(cleared) });
        tokio::spawn(async move {
            let durable = told.await.is_ok();
            let archived = Archived { file: kept.file, bytes: kept.bytes, seq: kept.seq, cleared };
            reply.send(if durable { Ok(archived) } else { Err(ArchiveError::Stopping) })
        });
    }

    /// What was asked for before the session began anew is not done.
    pub(super) fn refuse_retired(subscriber: &Subscriber, op: u64) {
        subscriber.leave(Note::Reject { op, why: Refusal::ReadOnly(BEGUN_ANEW.into()) });
        subscriber.wake();
    }
}
