//! Plans what to do about one session. Reads, builds states in memory, and changes nothing.

use super::decide::{Reason, Refusal, Relation, decide};
use super::history::History;
use super::outcome::{OpenError, Outcome, Restored};
use super::survey::{LiveFile, Survey};
use crate::session::{SessionName, Timestamp};
use crate::storage::backups::Identity;
use crate::storage::journal::ScanError;
use crate::storage::snapshot::{self, Header, SnapshotError, SnapshotId};
use crate::storage::vfs::Vfs;
use crate::storage::{Branch, Machine};
use std::path::{Path, PathBuf};

/// Why a state could not be built.
enum BuildError {
    /// The snapshot that it begins with cannot be used.
    Base(SnapshotError),
    /// The journal could not be read at all.
    Journal(ScanError),
}

/// What to do about one session, complete with the state it leads to.
pub(crate) enum Plan<M> {
    /// Begin it.
    Fresh,
    /// Serve what was built.
    Serve {
        /// The state.
        built: Built<M>,
        /// A snapshot in place that is rotten: to be moved to quarantine.
        rotten: Option<PathBuf>,
    },
    /// Serve the snapshot in place on a new branch.
    Restore(Box<Restore<M>>),
    /// Show the intact prefix.
    ReadOnly {
        /// The state before the damage.
        built: Built<M>,
        /// What is missing.
        damage: String,
        /// The command that goes on without it.
        command: String,
    },
    /// Serve nobody.
    Refuse {
        /// Why.
        reason: String,
        /// The command that repairs it.
        command: String,
    },
}

/// A state and what it was built from.
pub(crate) struct Built<M> {
    /// The state.
    pub(crate) machine: M,
    /// The snapshot it began with, and where that lies; `None`: with nothing.
    pub(crate) base: Option<(Header, PathBuf)>,
    /// Events replayed.
    pub(crate) replayed: u64,
    /// What acknowledged events could not be replayed.
    pub(crate) missing: Option<String>,
}

/// A snapshot that somebody put in place.
pub(crate) struct Restore<M> {
    /// Its state, as it is in the file.
    pub(crate) machine: M,
    /// What it says about itself.
    pub(crate) header: Header,
    /// What it is on disk.
    pub(crate) identity: Identity,
    /// Why it is a restore.
    pub(crate) reason: Reason,
    /// The branch that is left.
    pub(crate) parent: Branch,
    /// The highest `seq` that was ever used, as far as is known.
    pub(crate) highest_seq: u64,
    /// What the restore sets aside.
    pub(crate) beyond: Beyond<M>,
}

/// What a restore sets aside.
#[expect(clippy::large_enum_variant, reason = "there is one per restored session, and it moves twice")]
pub(crate) enum Beyond<M> {
    /// Nothing is newer than the restored snapshot.
    Nothing,
    /// This state is kept as a file of its own.
    State(Built<M>),
    /// It is kept already.
    KeptAlready(PathBuf),
    /// It cannot be built, so the journal's files themselves are copied to quarantine.
    Unbuildable(String),
}

/// Plans for one session. `knows_nothing`: neither journal nor `STATE` has a trace of an earlier start.
pub(super) fn plan<M: Machine>(
    vfs: &dyn Vfs,
    survey: &Survey,
    history: &History,
    knows_nothing: bool,
) -> Result<Plan<M>, OpenError> {
    let name = &survey.files.name;
    let past = history.past(name);
    let relation = decide(&survey.live, &past, history.lineage(), survey.is_empty());
    let site = Site { vfs, survey, history, name };
    Ok(match relation {
        Relation::Fresh if knows_nothing || history.has_segments() => Plan::Fresh,
        Relation::Fresh => Plan::Refuse {
            reason: "STATE says that this directory was used, but its journal and snapshots are gone".into(),
            command: format!("rm {}   # only if you want to begin with nothing", vfs.display(Path::new("STATE"))),
        },
        Relation::Continue => site.go_on()?,
        Relation::FromNothing | Relation::Fallback => site.fall_back("the snapshot is missing")?,
        Relation::Restore(reason) => site.restore(reason)?,
        Relation::Refuse(refusal) => site.refuse(refusal),
    })
}

struct Site<'a> {
    vfs: &'a dyn Vfs,
    survey: &'a Survey,
    history: &'a History,
    name: &'a SessionName,
}

impl Site<'_> {
    fn go_on<M: Machine>(&self) -> Result<Plan<M>, OpenError> {
        let LiveFile::Whole { header, .. } = &self.survey.live else {
            return self.fall_back("the snapshot is missing");
        };
        let base = Some(self.survey.files.live());
        match self.build::<M>(header.branch, base.as_deref()) {
            Ok(built) if built.missing.is_none() => Ok(Plan::Serve { built, rotten: None }),
            Ok(built) => self.instead_of(built),
            Err(BuildError::Base(SnapshotError::Io(error))) => Err(error.into()),
            Err(BuildError::Journal(error)) => Err(error.into()),
            // Intact and not acceptable, or rotten since the look: as any rotten snapshot.
            Err(BuildError::Base(error)) => self.fall_back(&error.to_string()),
        }
    }

    /// The snapshot in place lacks events of the journal: another one may have them, otherwise it is a prefix.
    fn instead_of<M: Machine>(&self, built: Built<M>) -> Result<Plan<M>, OpenError> {
        match self.newest_state::<M>()? {
            Some(better) if better.missing.is_none() => Ok(Plan::Serve { built: better, rotten: None }),
            Some(better) if better.machine.seq() > built.machine.seq() => Ok(read_only(better)),
            _ => Ok(read_only(built)),
        }
    }

    fn fall_back<M: Machine>(&self, why: &str) -> Result<Plan<M>, OpenError> {
        let rotten = match &self.survey.live {
            LiveFile::Missing => None,
            LiveFile::Whole { .. } | LiveFile::Unusable { .. } => Some(self.survey.files.live()),
        };
        Ok(match self.newest_state::<M>()? {
            Some(built) if built.missing.is_none() => Plan::Serve { built, rotten },
            Some(built) => read_only(built),
            None => Plan::Refuse {
                reason: format!("{why}, and no older snapshot is whole"),
                command: format!(
                    "cp <a backup from elsewhere> {}   # then restart",
                    self.vfs.display(&self.survey.files.live())
                ),
            },
        })
    }

    /// Whether the snapshot in place belongs to somebody else, so that it can be neither read nor replaced by `cp`.
    fn live_is_forbidden(&self) -> bool {
        let LiveFile::Unusable { error: SnapshotError::Io(error), .. } = &self.survey.live else { return false };
        error.kind() == std::io::ErrorKind::PermissionDenied
    }

    fn refuse<M>(&self, refusal: Refusal) -> Plan<M> {
        let live = self.vfs.display(&self.survey.files.live());
        let error = match &self.survey.live {
            LiveFile::Unusable { error, .. } => error.to_string(),
            LiveFile::Missing | LiveFile::Whole { .. } => "missing".into(),
        };
        let command = match self.survey.newest_whole_backup(self.vfs) {
            _ if self.live_is_forbidden() => {
                format!("sudo chown --reference={} {live}   # then restart", self.vfs.display(Path::new("STATE")))
            }
            Some(backup) => format!("cp {} {live}   # then restart", self.vfs.display(&backup)),
            None => format!("cp <a backup from elsewhere> {live}   # then restart"),
        };
        let reason = match refusal {
            Refusal::ChangedAndInvalid => {
                format!(
                    "{live} was changed by hand and cannot be used: {error}. Serving the state before it would undo a restore that somebody began"
                )
            }
            Refusal::OnlyBackups => format!("{live} and the journal are gone; only backups are left"),
            Refusal::Unsupported => format!("{live} was {error}"),
        };
        Plan::Refuse { reason, command }
    }

    fn restore<M: Machine>(&self, reason: Reason) -> Result<Plan<M>, OpenError> {
        let LiveFile::Whole { identity, .. } = &self.survey.live else {
            return Ok(self.refuse(Refusal::ChangedAndInvalid));
        };
        let (machine, verified) = match snapshot::load::<M>(self.vfs, &self.survey.files.live()) {
            Ok(loaded) => loaded,
            Err(SnapshotError::Io(error)) => return Err(error.into()),
            Err(error) => {
                let reason = format!("the snapshot that was put in place cannot be used: {error}");
                let Plan::Refuse { command, .. } = self.refuse::<M>(Refusal::ChangedAndInvalid) else {
                    return Ok(Plan::Refuse { reason, command: String::new() });
                };
                return Ok(Plan::Refuse { reason, command });
            }
        };
        let header = verified.header;
        let past = self.history.past(self.name);
        let highest_seq = header.seq.max(past.last_seq).max(past.published.map_or(0, |published| published.seq));
        let beyond = self.beyond::<M>(&header)?;
        let parent = past.branch_left().unwrap_or(header.branch);
        Ok(Plan::Restore(Box::new(Restore {
            machine,
            header,
            identity: *identity,
            reason,
            parent,
            highest_seq,
            beyond,
        })))
    }

    /// What the journal holds beyond the restored snapshot.
    fn beyond<M: Machine>(&self, restored: &Header) -> Result<Beyond<M>, OpenError> {
        let past = self.history.past(self.name);
        let Some(branch) = past.branch.filter(|_| !past.is_barren()) else { return Ok(Beyond::Nothing) };
        let same_branch = (restored.lineage, restored.branch) == (self.history.lineage(), branch);
        let newest = past.last_seq.max(past.published.map_or(0, |published| published.seq));
        if same_branch && restored.seq >= newest || newest == 0 {
            return Ok(Beyond::Nothing);
        }
        if let Some(kept) = self.survey.kept_at(self.history.lineage(), branch, newest)
            && snapshot::verify(self.vfs, &kept.path).is_ok()
        {
            return Ok(Beyond::KeptAlready(kept.path.clone()));
        }
        Ok(match self.newest_state::<M>()? {
            Some(built) => Beyond::State(built),
            None => Beyond::Unbuildable("no older snapshot of that branch is whole".into()),
        })
    }

    /// The newest state of the current branch that backups and journal give, the complete ones first.
    fn newest_state<M: Machine>(&self) -> Result<Option<Built<M>>, OpenError> {
        let past = self.history.past(self.name);
        let Some(branch) = past.branch else { return Ok(None) };
        let candidates = self.survey.of_branch(self.history.lineage(), branch);
        let mut best: Option<Built<M>> = None;
        let paths = candidates.iter().map(|(backup, _)| Some(backup.path.as_path()));
        let nothing = past.began_with_nothing().then_some(None);
        for path in paths.chain(nothing) {
            match self.build::<M>(branch, path) {
                Ok(built) if built.missing.is_none() => return Ok(Some(built)),
                Ok(built) if best.as_ref().is_none_or(|best| best.machine.seq() < built.machine.seq()) => {
                    best = Some(built);
                }
                Ok(_) => {}
                Err(BuildError::Journal(error)) => return Err(error.into()),
                // One bad backup must not hide the others.
                Err(BuildError::Base(error)) => {
                    tracing::warn!(session = %self.name, %error, "A backup cannot be used");
                }
            }
        }
        Ok(best)
    }

    fn build<M: Machine>(&self, branch: Branch, base: Option<&Path>) -> Result<Built<M>, BuildError> {
        let (mut machine, base) = match base {
            Some(path) => {
                let (machine, verified) = snapshot::load::<M>(self.vfs, path).map_err(BuildError::Base)?;
                (machine, Some((verified.header, path.to_path_buf())))
            }
            None => (M::empty(), None),
        };
        let (replayed, missing) =
            self.history.replay(self.vfs, self.name, branch, &mut machine).map_err(BuildError::Journal)?;
        Ok(Built { machine, base, replayed, missing })
    }
}

fn read_only<M>(built: Built<M>) -> Plan<M> {
    let damage = built.missing.clone().unwrap_or_default();
    let command = "hotset recover".to_owned();
    Plan::ReadOnly { built, damage, command }
}

/// The id of a state's base, for the journal.
pub(super) fn base_id<M>(built: &Built<M>) -> SnapshotId {
    built.base.as_ref().map_or(SnapshotId::NONE, |(header, _)| header.id)
}

impl<M: Machine> Plan<M> {
    /// Whether the session can be served if nothing else is in the way.
    pub(super) fn can_serve(&self) -> bool {
        matches!(self, Self::Fresh | Self::Serve { .. } | Self::Restore(_))
    }

    /// Whether damage of the journal would cost this session something if the journal were given up.
    pub(super) fn needs_the_journal(&self) -> bool {
        matches!(self, Self::Serve { .. } | Self::ReadOnly { .. } | Self::Refuse { .. })
    }

    /// The outcome when nothing may be written.
    pub(super) fn watched(self, discarded_bytes: u64, now: Timestamp) -> Outcome<M> {
        let waiting = "another session of this directory needs repair first";
        match self {
            Self::Refuse { reason, command } => Outcome::Refused { reason, command },
            Self::ReadOnly { built, damage, command } => Outcome::ReadOnly {
                restored: built.restored(discarded_bytes, now),
                machine: built.machine,
                damage,
                command,
            },
            Self::Serve { built, .. } => Outcome::ReadOnly {
                restored: built.restored(discarded_bytes, now),
                machine: built.machine,
                damage: waiting.into(),
                command: String::new(),
            },
            Self::Restore(_) | Self::Fresh => Outcome::Refused { reason: waiting.into(), command: String::new() },
        }
    }
}

impl<M: Machine> Built<M> {
    /// What the state was restored from, for the log.
    pub(super) fn restored(&self, discarded_bytes: u64, now: Timestamp) -> Restored {
        Restored {
            at: self.base.as_ref().map_or(now, |(header, _)| header.at),
            seq: self.machine.seq(),
            saved: self.base.as_ref().map_or(0, |(header, _)| header.seq),
            summary: self.machine.summary(),
            replayed: self.replayed,
            discarded_bytes,
            pre_restore: None,
        }
    }
}
