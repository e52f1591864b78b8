//! Health checks (wire.md 3.1). Paths are matched by what they contain, as Patroni matches them.

use super::facts::Facts;
use super::{Reply, query, status};
use crate::clock::Millis;
use crate::config::units;
use crate::local::Server;

/// `GET` of any path that is nothing else: the verdict as status, and what is known as body.
pub(super) fn get(facts: &Facts<'_>, path: &str, query: &str) -> Reply {
    status::reply(verdict(facts, path, query), facts)
}

/// `HEAD` and `OPTIONS` of any path: the verdict alone.
pub(super) fn bare(facts: &Facts<'_>, path: &str, query: &str) -> Reply {
    Reply::bare(verdict(facts, path, query))
}

fn verdict(facts: &Facts<'_>, path: &str, query: &str) -> u16 {
    let primary = facts.leads();
    let replica = replica(facts, query);
    let has = |part: &str| path.contains(part);
    let (good, tags_count) = if has("standby_leader") || has("standby-leader") {
        // There are no standby clusters yet.
        (false, false)
    } else if has("leader") || path == "/" || has("master") || has("primary") || has("read-write") {
        (primary, false)
    } else if has("replica") {
        (replica, true)
    } else if has("read-only") && !has("sync") && !has("quorum") {
        (primary || replica, true)
    } else if has("health") {
        (facts.state() == "running", true)
    } else if facts.current_cluster().is_some() {
        // Replication is asynchronous, so no standby is synchronous or part of a quorum.
        match path {
            "/async" | "/asynchronous" => (replica, true),
            "/read-only-sync" | "/read-only-synchronous" | "/read-only-quorum" => (primary, true),
            _ => (false, true),
        }
    } else {
        (false, true)
    };
    if good && (!tags_count || tags_match(facts, query)) { 200 } else { 503 }
}

fn replica(facts: &Facts<'_>, query: &str) -> bool {
    let Some(standby) = facts.standby() else { return false };
    let lag_max = query::value(query, "lag").and_then(|text| units::bytes(&text));
    let lag = facts.leader_position().ahead_of(standby.replayed);
    let wanted_state = query::value(query, "replication_state");
    facts.state() == "running"
        && facts.role() == "replica"
        && facts.readable()
        && !facts.snapshot.settings.tags.noloadbalance()
        && lag_max.is_none_or(|max| lag <= max)
        && wanted_state.is_none_or(|wanted| facts.replication_state() == Some(wanted.as_str()))
}

/// `?tag_K=V`: every one must be there with that value, written in lower case.
fn tags_match(facts: &Facts<'_>, query: &str) -> bool {
    query::pairs(query).all(|(name, wanted)| {
        let Some(tag) = name.strip_prefix("tag_") else { return true };
        match facts.snapshot.settings.tags.all.get(tag) {
            None => false,
            Some(serde_json::Value::String(text)) => *text == wanted,
            Some(other) => other.to_string().to_lowercase() == wanted,
        }
    })
}

/// `GET /liveness`: the loop runs.
pub(super) fn liveness(facts: &Facts<'_>) -> Reply {
    let ttl = facts.snapshot.settings.ttl_ms;
    let is_primary = matches!(facts.snapshot.local.server, Server::Primary(_));
    let patience = if is_primary { ttl } else { Millis(ttl.0.saturating_mul(2)) };
    let alive = facts.snapshot.settings.pause || facts.snapshot.next_tick_by + patience > facts.live.now;
    Reply::bare(if alive { 200 } else { 503 })
}

/// `GET /readiness`: the leader, or a standby that streams and keeps up.
pub(super) fn readiness(facts: &Facts<'_>, query: &str) -> Reply {
    Reply::bare(if facts.leads() || ready_standby(facts, query) { 200 } else { 503 })
}

fn ready_standby(facts: &Facts<'_>, query: &str) -> bool {
    let Some(standby) = facts.standby() else { return false };
    let streams = facts.state() == "running" && facts.replication_state() == Some("streaming");
    if !streams || standby.reads_withheld || facts.current_cluster().is_none() {
        return false;
    }
    let write = query::value(query, "mode").as_deref() == Some("write");
    let position = if write { standby.received.max(standby.replayed) } else { standby.replayed };
    let lag_max = query::value(query, "lag").and_then(|text| units::bytes(&text));
    let lag_max = lag_max.unwrap_or(facts.snapshot.settings.maximum_lag_on_failover_bytes);
    facts.leader_position().ahead_of(position) <= lag_max
}
