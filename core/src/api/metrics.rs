//! `GET /metrics` (wire.md 5): Patroni's names and texts to the character, and what we add.

use super::facts::Facts;
use super::{Reply, time};
use crate::member::{COMPATIBLE_VERSION, HA_EXT_VERSION};
use std::fmt::Write;

/// States by their fixed number (wire.md 6): as they read, and as the metric's comment names them.
const STATES: &[(&str, &str)] = &[
    ("initializing new cluster", "initdb"),
    ("initdb failed", "initdb_failed"),
    ("running custom bootstrap script", "custom_bootstrap"),
    ("custom bootstrap failed", "custom_bootstrap_failed"),
    ("creating replica", "creating_replica"),
    ("running", "running"),
    ("starting", "starting"),
    ("starting after custom bootstrap", "bootstrap_starting"),
    ("start failed", "start_failed"),
    ("restarting", "restarting"),
    ("restart failed", "restart_failed"),
    ("stopping", "stopping"),
    ("stopped", "stopped"),
    ("stop failed", "stop_failed"),
    ("crashed", "crashed"),
];

struct Metrics {
    out: String,
    labels: String,
}

impl Metrics {
    fn metric(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{{}}} {value}", self.labels);
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.metric(name, "gauge", help, value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.metric(name, "counter", help, value);
    }
}

/// `GET /metrics`.
pub(super) fn get(facts: &Facts<'_>) -> Reply {
    let config = &facts.snapshot.config;
    let labels = format!("scope=\"{}\",name=\"{}\"", config.scope, config.name);
    let mut metrics = Metrics { out: String::with_capacity(8192), labels };
    server(facts, &mut metrics);
    cluster(facts, &mut metrics);
    ours(facts, &mut metrics);
    Reply { status: 200, content_type: Some("text/plain".to_owned()), headers: Vec::new(), body: metrics.out }
}

fn server(facts: &Facts<'_>, m: &mut Metrics) {
    let version: Vec<String> = COMPATIBLE_VERSION.split('.').map(|part| format!("{part:0>2}")).collect();
    let (role, version_num) = (facts.role(), facts.snapshot.server.version_num);
    let started = time::epoch(facts.snapshot.server.started_at_unix_us);
    let (primary, standby) = (facts.primary(), facts.standby());
    let replayed_at = standby.and_then(|standby| Some(time::parse(standby.replayed_at.as_deref()?)?.unix_us));
    m.gauge("patroni_version", "Patroni semver without periods.", version.concat());
    m.gauge(
        "patroni_postgres_running",
        "Value is 1 if Postgres is running, 0 otherwise.",
        u8::from(facts.state() == "running"),
    );
    m.gauge("patroni_postmaster_start_time", "Epoch seconds since Postgres started.", started);
    m.gauge("patroni_primary", "Value is 1 if this node is the leader, 0 otherwise.", u8::from(role == "primary"));
    m.counter(
        "patroni_xlog_location",
        "Current location of the Postgres transaction log, 0 if this node is not the leader.",
        primary.map_or(0, |primary| primary.flushed.0),
    );
    m.gauge("patroni_standby_leader", "Value is 1 if this node is the standby_leader, 0 otherwise.", 0);
    m.gauge("patroni_replica", "Value is 1 if this node is a replica, 0 otherwise.", u8::from(role == "replica"));
    m.gauge("patroni_sync_standby", "Value is 1 if this node is a sync standby, 0 otherwise.", 0);
    m.gauge("patroni_quorum_standby", "Value is 1 if this node is a quorum standby, 0 otherwise.", 0);
    m.counter(
        "patroni_xlog_received_location",
        "Current location of the received Postgres transaction log, 0 if this node is not a replica.",
        standby.map_or(0, |standby| standby.received.max(standby.replayed).0),
    );
    m.counter(
        "patroni_xlog_replayed_location",
        "Current location of the replayed Postgres transaction log, 0 if this node is not a replica.",
        standby.map_or(0, |standby| standby.replayed.0),
    );
    m.gauge(
        "patroni_xlog_replayed_timestamp",
        "Current timestamp of the replayed Postgres transaction log, 0 if null.",
        time::epoch(replayed_at),
    );
    m.gauge(
        "patroni_xlog_paused",
        "Value is 1 if the Postgres xlog is paused, 0 otherwise.",
        u8::from(standby.is_some_and(|standby| standby.replay_paused)),
    );
    if version_num > 0 {
        let replication = facts.replication_state();
        m.gauge(
            "patroni_postgres_streaming",
            "Value is 1 if Postgres is streaming, 0 otherwise.",
            u8::from(replication == Some("streaming")),
        );
        m.gauge(
            "patroni_postgres_in_archive_recovery",
            "Value is 1 if Postgres is replicating from archive, 0 otherwise.",
            u8::from(replication == Some("in archive recovery")),
        );
    }
    m.gauge("patroni_postgres_server_version", "Version of Postgres (if running), 0 otherwise.", version_num);
}

fn cluster(facts: &Facts<'_>, m: &mut Metrics) {
    let unlocked = facts.current_cluster().is_none_or(|cluster| cluster.leader.is_none());
    let timeline = facts.primary().map(|primary| primary.timeline).or_else(|| facts.standby().map(|s| s.timeline));
    m.gauge("patroni_cluster_unlocked", "Value is 1 if the cluster is unlocked, 0 if locked.", u8::from(unlocked));
    m.gauge(
        "patroni_failsafe_mode_is_active",
        "Value is 1 if failsafe mode is active, 0 if inactive.",
        u8::from(facts.failsafe_is_active()),
    );
    m.gauge(
        "patroni_postgres_timeline",
        "Postgres timeline of this node (if running), 0 otherwise.",
        timeline.map_or(0, |timeline| timeline.0),
    );
    m.gauge(
        "patroni_dcs_last_seen",
        "Epoch timestamp when DCS was last contacted successfully by Patroni.",
        facts.snapshot.dcs_last_seen_unix_s,
    );
    let pending = u8::from(!facts.snapshot.local.pending_restart.is_empty());
    m.gauge("patroni_pending_restart", "Value is 1 if the node needs a restart, 0 otherwise.", pending);
    m.gauge(
        "patroni_is_paused",
        "Value is 1 if auto failover is disabled, 0 otherwise.",
        u8::from(facts.snapshot.settings.pause),
    );
    let values: Vec<String> = STATES.iter().enumerate().map(|(at, (_, word))| format!("{at}={word}")).collect();
    let number = STATES.iter().zip(0i64..).find(|((text, _), _)| *text == facts.state()).map_or(-1, |(_, at)| at);
    let _ = writeln!(
        m.out,
        "# HELP patroni_postgres_state Numeric representation of Postgres state.\n# Values: {}\n\
         # TYPE patroni_postgres_state gauge\npatroni_postgres_state{{{}}} {number}",
        values.join(", "),
        m.labels
    );
}

fn ours(facts: &Facts<'_>, m: &mut Metrics) {
    let labels = m.labels.clone();
    let live = facts.live;
    m.labels = format!("{labels},version=\"{HA_EXT_VERSION}\"");
    m.gauge("ha_ext_info", "Version of ha_ext.", 1);
    m.labels = format!("{labels},rule=\"{}\"", facts.snapshot.rule.code());
    m.gauge("ha_ext_rule", "The rule behind the last decision.", 1);
    m.labels = labels;
    let remaining_ms = live.lease_deadline.since(live.now).0;
    m.gauge(
        "ha_ext_lease_remaining_seconds",
        "Seconds until commits are no longer acknowledged, 0 if they are not.",
        format!("{}.{:03}", remaining_ms / 1000, remaining_ms % 1000),
    );
    let age_ms = live.now.since(facts.snapshot.ticked_at).0;
    m.gauge(
        "ha_ext_last_tick_age_seconds",
        "Seconds since the last decision began.",
        format!("{}.{:03}", age_ms / 1000, age_ms % 1000),
    );
    m.counter(
        "ha_ext_clock_jumps_total",
        "How often a clock of this machine was seen to jump.",
        facts.snapshot.memory.clock_jumps,
    );
}
