//! Reads what the old server and the add-on left behind: `session_snapshot.pkl` and the repository files (`.db`).
//!
//! All or nothing: whatever is invalid is an error that names the node and the byte, and nothing is imported. What is
//! only untidy (a name that is too long, two versions of a task) is put right, with a warning.

mod container;
mod nodes;
mod people;

use crate::formats::pickle::{Policy, Violation, WriteError, read};
use crate::session::{ChatDraft, Command, Limits, MemberName, NodePut, Operation, TaskPut, Timestamp};

use bytes::Bytes;
use std::sync::Arc;

/// The media type of a node that holds the pickle of a datablock's `data`.
pub const DATABLOCK_MEDIA_TYPE: &str = "application/vnd.multi-user.datablock+pickle";

/// The kind of a node whose data does not say what it is.
pub const UNKNOWN_KIND: &str = "unknown";

/// What a file held, in the session's words. The locks of the old session are not taken over: their owners are gone.
#[derive(Debug, Clone, PartialEq)]
pub struct Import {
    /// Which sort of file it was.
    pub source: Source,
    /// When it was saved, if it says so.
    pub saved_at: Option<Timestamp>,
    /// The nodes, in the file's order.
    pub nodes: Vec<NodePut>,
    /// The tasks of all users, oldest first.
    pub tasks: Vec<ImportedTask>,
    /// The chat messages of all users, oldest first.
    pub chat: Vec<ImportedChat>,
    /// What was put right on the way, for people.
    pub warnings: Vec<String>,
}

/// Which sort of file was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `session_snapshot.pkl`, written by the old server.
    Snapshot,
    /// A repository file (`.db`), written by the add-on.
    Repository,
}

/// A task and who wrote it when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedTask {
    /// The task itself.
    pub task: TaskPut,
    /// Who created it, as the file says; may be empty.
    pub created_by: Arc<str>,
    /// When, if the file says so.
    pub created_at: Option<Timestamp>,
}

/// A chat message and who wrote it when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedChat {
    /// The message itself; its id is always set.
    pub message: ChatDraft,
    /// Who wrote it, as the file says; may be empty.
    pub author: Arc<str>,
    /// When, if the file says so.
    pub at: Option<Timestamp>,
}

/// One command of an import, and in whose name and at what time it should be decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The original author, or the daemon where the file names none that could be a member.
    pub author: MemberName,
    /// The original time; `None` = now.
    pub at: Option<Timestamp>,
    /// An edit without an idempotency key.
    pub command: Command,
}

/// Why a file cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Neither a pickle nor a gzip file.
    #[error("this is neither a session_snapshot.pkl nor a repository (.db) file")]
    UnknownFormat,
    /// The compressed file is damaged, or larger than allowed when unpacked.
    #[error("the file cannot be unpacked: {0}")]
    Unpack(String),
    /// The file's own pickle is not allowed.
    #[error("the file is refused: {0}")]
    Pickle(#[from] Violation),
    /// A pickle inside the file is not allowed.
    #[error("node {node}, {part}: refused: {violation}")]
    NestedPickle {
        /// The node's id, or its place in the file.
        node: String,
        /// Which part of the node.
        part: &'static str,
        /// What is wrong, with the offset in that part.
        violation: Violation,
    },
    /// The file does not have the expected structure.
    #[error("the file is not what it seems: {0}")]
    Structure(String),
    /// A node does not have the expected structure, or breaks a rule of the session.
    #[error("node {node}: {why}")]
    Node {
        /// The node's id, or its place in the file.
        node: String,
        /// What is wrong with it.
        why: String,
    },
    /// A node's data cannot be written again.
    #[error("node {node}: {source}")]
    Write {
        /// The node's id.
        node: String,
        /// Why.
        source: WriteError,
    },
    /// There is more than a session may hold.
    #[error("{what} would exceed the limit of {limit}")]
    LimitExceeded {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
}

/// Bytes of payload in one batch, if it has more than one node: a batch is one record of the journal.
const BATCH_BYTES: usize = 8 << 20;

/// Most warnings that are kept; beyond them they are counted.
const WARNINGS_MAX: usize = 1_000;

/// What was put right, bounded.
#[derive(Default)]
struct Warnings {
    kept: Vec<String>,
    others: u64,
}

impl Warnings {
    fn push(&mut self, warning: String) {
        if self.kept.len() < WARNINGS_MAX {
            self.kept.push(warning);
        } else {
            self.others += 1;
        }
    }

    fn into_texts(mut self) -> Vec<String> {
        if self.others > 0 {
            self.kept.push(format!("and {} more of this sort", self.others));
        }
        self.kept
    }
}

/// Reads a file, whichever of the two it is, and checks all of it against the limits of the session it is for.
pub fn import_file(bytes: &Bytes, limits: &Limits) -> Result<Import, ImportError> {
    let mut warnings = Warnings::default();
    let mut import = match bytes.first_chunk() {
        Some([0x1f, 0x8b]) => repository(bytes, limits, &mut warnings)?,
        Some([0x80, _]) => snapshot(bytes, limits, &mut warnings)?,
        _ => return Err(ImportError::UnknownFormat),
    };
    check_totals(&import, limits)?;
    people::forget_oldest(&mut import.chat, limits, &mut warnings);
    import.warnings = warnings.into_texts();
    Ok(import)
}

fn snapshot(bytes: &Bytes, limits: &Limits, warnings: &mut Warnings) -> Result<Import, ImportError> {
    let file = read(bytes, &Policy::LEGACY_SNAPSHOT)?;
    let nodes = nodes::of_snapshot(&file, limits, warnings)?;
    let saved_at = file.get("timestamp").and_then(people::timestamp);
    Ok(Import { source: Source::Snapshot, saved_at, nodes, tasks: Vec::new(), chat: Vec::new(), warnings: Vec::new() })
}

fn repository(bytes: &Bytes, limits: &Limits, warnings: &mut Warnings) -> Result<Import, ImportError> {
    let file = read(&container::inflate(bytes)?, &Policy::DATA_FILE)?;
    let nodes = nodes::of_repository(&file, limits, warnings)?;
    let (tasks, chat) = people::tasks_and_chat(&file, &nodes, warnings)?;
    Ok(Import { source: Source::Repository, saved_at: None, nodes, tasks, chat, warnings: Vec::new() })
}

fn check_totals(import: &Import, limits: &Limits) -> Result<(), ImportError> {
    let payloads: u64 = import.nodes.iter().map(|node| node.payload.len() as u64).sum();
    let totals = [
        ("nodes", import.nodes.len() as u64, limits.nodes),
        ("the bytes of all payloads", payloads, limits.payload_bytes_total),
        ("tasks", import.tasks.len() as u64, limits.tasks),
    ];
    for (what, count, limit) in totals {
        if count > limit {
            return Err(ImportError::LimitExceeded { what, limit });
        }
    }
    Ok(())
}

impl Import {
    /// The import as commands, in order: nodes in batches that the limits and the journal allow, then each task and
    /// message in its author's name and time.
    pub fn into_steps(self, limits: &Limits) -> Vec<Step> {
        let batches = in_batches(self.nodes, usize::try_from(limits.batch_operations).unwrap_or(usize::MAX));
        let mut steps: Vec<Step> = batches.into_iter().map(|nodes| step(MemberName::daemon(), None, nodes)).collect();
        steps.extend(self.tasks.into_iter().map(|imported| {
            step(member(&imported.created_by), imported.created_at, vec![Operation::TaskPut(imported.task)])
        }));
        steps.extend(
            self.chat.into_iter().map(|imported| {
                step(member(&imported.author), imported.at, vec![Operation::ChatPost(imported.message)])
            }),
        );
        steps
    }
}

/// Cuts the nodes into batches of at most so many, and of few bytes unless one node alone has more.
fn in_batches(nodes: Vec<NodePut>, most: usize) -> Vec<Vec<Operation>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut bytes = 0;
    for node in nodes {
        if !batch.is_empty() && (batch.len() >= most || bytes + node.payload.len() > BATCH_BYTES) {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
        bytes += node.payload.len();
        batch.push(Operation::NodePut(node));
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

fn step(author: MemberName, at: Option<Timestamp>, operations: Vec<Operation>) -> Step {
    Step { author, at, command: Command::Edit { op: None, operations } }
}

/// The member of that name; names beginning with `~` are the server's, so nobody can have had one.
fn member(name: &str) -> MemberName {
    let name = MemberName::new(name).ok().filter(|name| !name.as_str().starts_with('~'));
    name.unwrap_or_else(MemberName::daemon)
}
