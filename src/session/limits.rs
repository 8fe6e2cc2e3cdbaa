//! Limits: how much one session may hold. Every one has a documented default and a setting.

/// How much one session may hold. Exceeding one is a `limit_exceeded` rejection (or quiet forgetting, where it says so).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Nodes in the scene.
    pub nodes: u64,
    /// Bytes of all payloads together, and of the ids that nodes depend on.
    pub payload_bytes_total: u64,
    /// Bytes of one payload; never more than about 64 MiB. A JSON payload that is patched may have 16 MiB, above that it
    /// can only be replaced.
    pub payload_bytes: u64,
    /// Deltas of one node; the Blender door folds them long before.
    pub deltas: u64,
    /// Dependencies of one node.
    pub dependencies: u64,
    /// Nodes above a node.
    pub depth: u64,
    /// Nesting of one JSON payload; never more than 120.
    pub json_depth: u64,
    /// Operations in one batch.
    pub batch_operations: u64,
    /// Tasks.
    pub tasks: u64,
    /// Chat messages in the live state; the oldest are forgotten there and stay in the journal.
    pub chat_messages: u64,
    /// Bytes of chat text in the live state; likewise.
    pub chat_bytes: u64,
    /// Members online at once.
    pub members_online: u64,
    /// Members remembered; those longest offline are forgotten.
    pub members_remembered: u64,
    /// Bytes of one member's metadata.
    pub metadata_bytes: u64,
    /// Client programs whose applied operations are remembered; those longest silent are forgotten.
    pub clients_remembered: u64,
    /// Settings of the session.
    pub settings: u64,
    /// Bytes of one of these settings.
    pub setting_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            nodes: 2_000_000,
            payload_bytes_total: 8 << 30,
            payload_bytes: 64 << 20,
            deltas: 1_024,
            dependencies: 4_096,
            depth: 256,
            json_depth: 64,
            batch_operations: 4_096,
            tasks: 100_000,
            chat_messages: 10_000,
            chat_bytes: 16 << 20,
            members_online: 256,
            members_remembered: 10_000,
            metadata_bytes: 64 << 10,
            clients_remembered: 4_096,
            settings: 64,
            setting_bytes: 64 << 10,
        }
    }
}

/// Operations remembered per client program for idempotency; half as many may be unanswered.
pub(super) const OPS_REMEMBERED: usize = 1_024;

/// Removed tasks that are remembered, so that nobody brings them back unawares.
pub(super) const REMOVED_TASKS_REMEMBERED: usize = 1_024;

/// Nodes that one member may have locked at once: keeps the event that releases them all within what can be stored.
pub(super) const LOCKS_PER_MEMBER: usize = 262_144;

/// Bytes that one node may take in a snapshot, whatever `Limits::payload_bytes` says: a section holds 64 MiB.
pub(super) const STORED_NODE_BYTES: usize = (64 << 20) - (4 << 10);

/// Bytes that one event may take in the journal: the codec refuses more than 80 MiB.
pub(super) const STORED_EVENT_BYTES: usize = 72 << 20;

/// Work that one edit may cause: bytes of JSON that its patches read, and [`NODE_WORK`] for each node looked at below
/// one that moves or goes. It bounds how long a single edit can stop everybody, to about a second.
pub(super) const EDIT_WORK: u64 = 64 << 20;

/// What looking at one node counts for in [`EDIT_WORK`].
pub(super) const NODE_WORK: u64 = 16;
