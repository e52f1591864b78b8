//! The body of `/patroni` and of the health checks (wire.md 3.1).

use super::facts::Facts;
use super::json::Object;
use super::{Reply, time};
use crate::cluster::Cluster;
use crate::ids::{NodeName, Timeline};
use crate::local::PrimaryView;
use crate::member::{COMPATIBLE_VERSION, HA_EXT_VERSION, recovers};
use serde_json::{Value, json};

/// The body, with this status.
pub(super) fn reply(status: u16, facts: &Facts<'_>) -> Reply {
    Reply::json(status, body(facts).dump())
}

fn body(facts: &Facts<'_>) -> Object {
    let mut out = Object::default();
    let snapshot = facts.snapshot;
    let server = &snapshot.server;
    out.put("state", facts.state());
    if let Some(started) = server.started_at_unix_us {
        out.put("postmaster_start_time", time::text(started));
    }
    out.put("role", facts.role());
    if server.version_num > 0 {
        out.put("server_version", server.version_num);
    }
    server_position(facts, &mut out);
    if let Some(state) = facts.replication_state() {
        out.put("replication_state", state);
    }
    if let Some(primary) = facts.primary()
        && !primary.standbys.is_empty()
    {
        out.put_list("replication", replication(facts, primary));
    }
    if snapshot.settings.pause {
        out.put("pause", true);
    }
    if facts.failsafe_is_active() {
        out.put("failsafe_mode_is_active", true);
    }
    if facts.current_cluster().is_none_or(|cluster| cluster.leader.is_none()) {
        out.put("cluster_unlocked", true);
    }
    out.put("dcs_last_seen", snapshot.dcs_last_seen_unix_s);
    if !snapshot.settings.tags.all.is_empty() {
        out.put("tags", Value::Object(snapshot.settings.tags.all.clone()));
    }
    if let Some(id) = facts.system_id() {
        out.put("database_system_identifier", id.to_string());
    }
    let pending = &snapshot.local.pending_restart;
    if !pending.is_empty() {
        out.put("pending_restart", true).put("pending_restart_reason", json!(pending));
    }
    if snapshot.memory.watchdog_failed {
        out.put("watchdog_failed", true);
    }
    if snapshot.local.cannot_write.is_some() {
        out.put("cannot_write", true);
    }
    let mut patroni = Object::default();
    patroni.put("version", COMPATIBLE_VERSION);
    patroni.put("scope", snapshot.config.scope.as_str()).put("name", snapshot.config.name.as_str());
    out.put_object("patroni", patroni);
    out.put_object("ha_ext", ours(facts));
    out
}

/// `xlog` and `timeline`. A server that may not acknowledge any more shows neither: with a location, peers would
/// take it for a primary.
fn server_position(facts: &Facts<'_>, out: &mut Object) {
    let mut xlog = Object::default();
    let timeline = if let Some(primary) = facts.primary() {
        xlog.put("location", primary.flushed.0);
        primary.timeline
    } else if let Some(standby) = facts.standby() {
        xlog.put("received_location", standby.received.max(standby.replayed).0);
        xlog.put("replayed_location", standby.replayed.0);
        xlog.put("replayed_timestamp", standby.replayed_at.clone());
        xlog.put("paused", standby.replay_paused);
        standby.timeline
    } else {
        return;
    };
    out.put_object("xlog", xlog);
    if timeline > Timeline(0) {
        out.put("timeline", timeline.0);
    }
}

fn replication(facts: &Facts<'_>, primary: &PrimaryView) -> Vec<Object> {
    let row = |standby: &crate::local::StandbyConnection| {
        let mut row = Object::default();
        row.put("usename", facts.snapshot.config.postgresql.replication.username.as_str());
        row.put("application_name", application_name(facts.cluster(), &standby.slot));
        // The address of a walsender's client is not in shared memory.
        row.put("client_addr", Value::Null);
        row.put("state", if standby.streaming { "streaming" } else { "catchup" });
        row.put("sync_state", "async").put("sync_priority", 0);
        row
    };
    primary.standbys.iter().map(row).collect()
}

/// Members connect with their name; the slot is made from it.
fn application_name(cluster: Option<&Cluster>, slot: &str) -> String {
    let member = cluster.and_then(|cluster| cluster.members.keys().find(|name| name.slot_name() == slot));
    member.map_or_else(|| slot.to_owned(), |name: &NodeName| name.as_str().to_owned())
}

/// What Patroni does not have.
fn ours(facts: &Facts<'_>) -> Object {
    let mut out = Object::default();
    let rule = facts.snapshot.rule;
    out.put("version", HA_EXT_VERSION).put("rule", rule.code()).put("reason", rule.sentence());
    out.put("lease_remaining_ms", facts.live.lease_deadline.since(facts.live.now).0);
    if facts.holds_lease() && !facts.leads() {
        // It may open its fence in the next moment: nobody must take it for one that has resigned.
        out.put("holds_lease", true);
    }
    if facts.state() != "running" && recovers(&facts.snapshot.local) {
        // Who waits for the lease of whoever led last need not wait for a standby that is not ready.
        out.put("in_recovery", true);
    }
    if let Some(error) = &facts.snapshot.memory.step_error {
        out.put("last_error", error.as_str());
    }
    out
}
