//! What `/metrics` shows: typed handles to every number, and their text form.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// A number with a fraction that goes up and down.
pub type Fraction = Gauge<f64, AtomicU64>;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why a command was refused.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RejectionLabels {
    code: &'static str,
}

/// How a save ended.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SaveLabels {
    outcome: &'static str,
}

/// The program's version.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// What was wrong with a message.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RefusalLabels {
    reason: &'static str,
}

/// The numbers of the Blender door. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct BlenderMetrics {
    /// Clients, also of those who have not logged in.
    pub peers: Gauge,
    /// Nodes of which a change did not apply.
    pub suspect_nodes: Gauge,
    refused: Family<RefusalLabels, Counter>,
}

impl BlenderMetrics {
    /// Counts a refused message: by the pickle firewall, or because it was not as it should be. Takes a lock.
    pub fn refused(&self, by_firewall: bool) {
        let reason = if by_firewall { "pickle" } else { "shape" };
        self.refused.get_or_create(&RefusalLabels { reason }).inc();
    }
}

/// Every number of the daemon. Cloning shares them; counting is one atomic operation unless said otherwise.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Members online, in all sessions.
    pub connected_users: Gauge,
    /// Open connections, also of those who have not said who they are.
    pub connections: Gauge,
    /// Sessions in memory.
    pub sessions: Gauge,
    /// Nodes of all sessions.
    pub scene_nodes: Gauge,
    /// Accepted commands.
    pub events: Counter,
    rejections: Family<RejectionLabels, Counter>,
    /// The moment of the newest save that succeeded, in seconds since 1970; 0 = none since the start.
    pub last_save_timestamp: Fraction,
    /// 0 if the newest save of any session failed.
    pub last_save_success: Gauge,
    saves: Family<SaveLabels, Counter>,
    /// Syncs of the journal.
    pub journal_syncs: Counter,
    /// Bytes written to the journal.
    pub journal_bytes: Counter,
    /// Events in memory that are not yet on disk, hence not yet visible.
    pub journal_durable_lag_events: Gauge,
    /// 1 while nothing can be written.
    pub read_only: Gauge,
    /// Wrong passwords and tokens.
    pub auth_failures: Counter,
    /// The Blender door.
    pub blender: BlenderMetrics,
}

impl Metrics {
    /// All numbers at zero.
    pub fn new() -> Self {
        let mut all = Registry::with_prefix("hotset");
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        all.register("build_info", "The program's version", build);
        let mut metrics = Self {
            connected_users: add(&mut all, "connected_users", "Members online"),
            connections: add(&mut all, "connections", "Open connections"),
            sessions: add(&mut all, "sessions", "Sessions in memory"),
            scene_nodes: add(&mut all, "scene_nodes", "Nodes of all sessions"),
            events: add(&mut all, "events", "Accepted commands"),
            rejections: add(&mut all, "rejections", "Refused commands, by reason"),
            last_save_timestamp: add(&mut all, "last_save_timestamp_seconds", "The moment of the newest save"),
            last_save_success: add(&mut all, "last_save_success", "0 if the newest save of any session failed"),
            saves: add(&mut all, "saves", "Saves, by how they ended"),
            journal_syncs: add(&mut all, "journal_syncs", "Syncs of the journal"),
            journal_bytes: add(&mut all, "journal_bytes", "Bytes written to the journal"),
            journal_durable_lag_events: add(&mut all, "journal_durable_lag_events", "Events not yet on disk"),
            read_only: add(&mut all, "read_only", "1 while nothing can be written"),
            auth_failures: add(&mut all, "auth_failures", "Wrong passwords and tokens"),
            blender: BlenderMetrics {
                peers: add(&mut all, "blender_clients", "Blender clients, also of those who have not logged in"),
                suspect_nodes: add(&mut all, "blender_suspect_nodes", "Nodes of which a change did not apply"),
                refused: add(&mut all, "blender_messages_refused", "Refused messages of Blender clients, by reason"),
            },
            registry: Arc::default(),
        };
        metrics.last_save_success.set(1);
        metrics.registry = Arc::new(all);
        metrics
    }

    /// Counts refused commands. `code` is the rejection's stable name. Takes a lock.
    pub fn rejected(&self, code: &'static str, more: u64) {
        self.rejections.get_or_create(&RejectionLabels { code }).inc_by(more);
    }

    /// Counts saves that succeeded, and saves that failed. Takes a lock.
    pub fn saved(&self, more: u64, failed: u64) {
        self.saves.get_or_create(&SaveLabels { outcome: "saved" }).inc_by(more);
        self.saves.get_or_create(&SaveLabels { outcome: "failed" }).inc_by(failed);
    }

    /// Shows the moment of the newest save (milliseconds since 1970), and whether the newest one of every session
    /// succeeded.
    pub fn newest_save(&self, at_ms: Option<i64>, succeeded: bool) {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit for 285,000 years")]
        self.last_save_timestamp.set(at_ms.unwrap_or(0) as f64 / 1_000.0);
        self.last_save_success.set(i64::from(succeeded));
    }

    /// The text that Prometheus reads ([`CONTENT_TYPE`]).
    pub fn render(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string cannot fail");
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn add<M: Metric + Default + Clone>(all: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    all.register(name, help, metric.clone());
    metric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_shown_under_its_documented_name() {
        let metrics = Metrics::new();
        metrics.events.inc();
        metrics.rejected("locked", 2);
        metrics.saved(3, 1);
        metrics.newest_save(Some(1_700_000_000_500), false);
        let text = metrics.render();
        for line in [
            "hotset_connected_users 0",
            "hotset_connections 0",
            "hotset_sessions 0",
            "hotset_scene_nodes 0",
            "hotset_events_total 1",
            "hotset_rejections_total{code=\"locked\"} 2",
            "hotset_last_save_timestamp_seconds 1700000000.5",
            "hotset_last_save_success 0",
            "hotset_saves_total{outcome=\"saved\"} 3",
            "hotset_saves_total{outcome=\"failed\"} 1",
            "hotset_journal_syncs_total 0",
            "hotset_journal_bytes_total 0",
            "hotset_journal_durable_lag_events 0",
            "hotset_read_only 0",
            "hotset_auth_failures_total 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
        let page = include_str!("../../docs/operations.md");
        for shown in text.lines().filter(|line| !line.starts_with('#')) {
            let name = shown.split(['{', ' ']).next().unwrap_or_default();
            assert!(page.contains(&format!("`{name}")), "{name} is missing in docs/operations.md");
        }
    }
}
