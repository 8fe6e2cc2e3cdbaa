//! What `/metrics` shows: typed handles to every number, and their text form.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// A number with a fraction that goes up and down.
pub type Fraction = Gauge<f64, AtomicU64>;

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why a command was refused.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct RejectionLabels {
    code: &'static str,
}

/// What made a save happen.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SaveLabels {
    reason_kind: &'static str,
}

/// The program's version.
#[derive(Debug, Clone, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
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
    /// Events written to a client.
    pub deliveries: Counter,
    rejections: Family<RejectionLabels, Counter>,
    save_duration: Histogram,
    /// When the newest save ended, in seconds since 1970; 0 = none since the start.
    pub last_save_timestamp: Fraction,
    /// 1 if the newest save succeeded or none has been tried, 0 if it failed.
    pub last_save_success: Gauge,
    saves: Family<SaveLabels, Counter>,
    /// Backups in the data directory.
    pub backups: Gauge,
    /// Syncs of the journal.
    pub journal_syncs: Counter,
    /// Bytes written to the journal.
    pub journal_bytes: Counter,
    /// Events in memory that are not yet on disk, hence not yet visible.
    pub journal_durable_lag_events: Gauge,
    /// 1 while nothing can be written.
    pub read_only: Gauge,
    /// Clients closed because they stopped reading.
    pub dropped_slow_clients: Counter,
    /// Wrong passwords and tokens.
    pub auth_failures: Counter,
    /// Bytes received from clients.
    pub bytes_in: Counter,
    /// Bytes sent to clients.
    pub bytes_out: Counter,
}

impl Metrics {
    /// All numbers at zero.
    pub fn new() -> Self {
        let mut all = Registry::with_prefix("hotset");
        let build = Family::<BuildLabels, Gauge>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        all.register("build_info", "The program's version", build);
        let save_duration = Histogram::new(exponential_buckets(0.001, 2.0, 18));
        all.register("save_duration_seconds", "How long saves took", save_duration.clone());
        let mut metrics = Self {
            connected_users: add(&mut all, "connected_users", "Members online"),
            connections: add(&mut all, "connections", "Open connections"),
            sessions: add(&mut all, "sessions", "Sessions in memory"),
            scene_nodes: add(&mut all, "scene_nodes", "Nodes of all sessions"),
            events: add(&mut all, "events", "Accepted commands"),
            deliveries: add(&mut all, "deliveries", "Events written to a client"),
            rejections: add(&mut all, "rejections", "Refused commands, by reason"),
            save_duration,
            last_save_timestamp: add(&mut all, "last_save_timestamp_seconds", "When the newest save ended"),
            last_save_success: add(&mut all, "last_save_success", "Whether the newest save succeeded"),
            saves: add(&mut all, "saves", "Saves published, by what made them happen"),
            backups: add(&mut all, "backups", "Backups in the data directory"),
            journal_syncs: add(&mut all, "journal_syncs", "Syncs of the journal"),
            journal_bytes: add(&mut all, "journal_bytes", "Bytes written to the journal"),
            journal_durable_lag_events: add(&mut all, "journal_durable_lag_events", "Events not yet on disk"),
            read_only: add(&mut all, "read_only", "1 while nothing can be written"),
            dropped_slow_clients: add(&mut all, "dropped_slow_clients", "Clients closed because they stopped reading"),
            auth_failures: add(&mut all, "auth_failures", "Wrong passwords and tokens"),
            bytes_in: add(&mut all, "bytes_in", "Bytes received from clients"),
            bytes_out: add(&mut all, "bytes_out", "Bytes sent to clients"),
            registry: Arc::default(),
        };
        metrics.last_save_success.set(1);
        metrics.registry = Arc::new(all);
        metrics
    }

    /// Counts a refused command. `code` is the rejection's stable name. Takes a lock.
    pub fn rejected(&self, code: &'static str) {
        self.rejections.get_or_create(&RejectionLabels { code }).inc();
    }

    /// Counts a save that was published: what made it happen, how long it took, when it ended (milliseconds since 1970).
    pub fn saved(&self, reason: &str, took: Duration, at_ms: i64) {
        self.saves.get_or_create(&SaveLabels { reason_kind: reason_kind(reason) }).inc();
        self.save_duration.observe(took.as_secs_f64());
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 fit for 285,000 years")]
        self.last_save_timestamp.set(at_ms as f64 / 1_000.0);
        self.last_save_success.set(1);
    }

    /// Notes that a save failed.
    pub fn save_failed(&self) {
        self.last_save_success.set(0);
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

/// Reasons carry names of members (`user_disconnect:Alice`), which must not become labels.
fn reason_kind(reason: &str) -> &'static str {
    const KINDS: &[&str] =
        &["auto-save", "user_disconnect", "shutdown", "signal", "request", "backup", "restore", "import"];
    let kind = reason.split(':').next().unwrap_or_default();
    KINDS.iter().find(|known| **known == kind).copied().unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_shown_under_its_documented_name() {
        let metrics = Metrics::new();
        metrics.events.inc();
        metrics.rejected("locked");
        metrics.saved("user_disconnect:Alice", Duration::from_millis(5), 1_700_000_000_500);
        metrics.save_failed();
        let text = metrics.render();
        for line in [
            "hotset_connected_users 0",
            "hotset_events_total 1",
            "hotset_deliveries_total 0",
            "hotset_rejections_total{code=\"locked\"} 1",
            "hotset_save_duration_seconds_count 1",
            "hotset_last_save_timestamp_seconds 1700000000.5",
            "hotset_last_save_success 0",
            "hotset_saves_total{reason_kind=\"user_disconnect\"} 1",
            "hotset_journal_durable_lag_events 0",
            "hotset_dropped_slow_clients_total 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn names_of_members_do_not_become_labels() {
        assert_eq!(reason_kind("user_disconnect:Bob"), "user_disconnect");
        assert_eq!(reason_kind("because"), "other");
    }
}
