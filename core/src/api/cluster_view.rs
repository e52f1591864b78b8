//! `GET /cluster`, `GET /history` (wire.md 3.2).

use super::Reply;
use super::json::{self, Object};
use crate::cluster::{Cluster, Member};
use crate::ids::{Lsn, NodeName};
use crate::parse;
use serde_json::Value;

/// `GET /cluster`.
pub(super) fn cluster(cluster: &Cluster, scope: &str) -> Reply {
    let mut out = Object::default();
    out.put_list("members", cluster.members.iter().map(|(name, m)| member(cluster, name, m)).collect());
    let dynamic = cluster.config.as_ref().map(|config| &config.value);
    if dynamic.and_then(|config| parse::boolean(config.get("pause")?)) == Some(true) {
        out.put("pause", true);
    }
    if let Some(request) = cluster.failover.as_ref().map(|request| &request.value)
        && let Some(at) = &request.scheduled_at
    {
        let mut scheduled = Object::default();
        scheduled.put("at", at.as_str());
        if let Some(leader) = &request.leader {
            scheduled.put("from", leader.as_str());
        }
        if let Some(member) = &request.member {
            scheduled.put("to", member.as_str());
        }
        out.put_object("scheduled_switchover", scheduled);
    }
    out.put("scope", scope);
    Reply::json(200, out.dump())
}

fn member(cluster: &Cluster, name: &NodeName, member: &Member) -> Object {
    let leads = cluster.leads(name, member);
    let field = |field: &str| member.json.get(field).filter(|value| !value.is_null());
    let replication_state =
        field("replication_state").and_then(Value::as_str).filter(|state| !leads && !state.is_empty());
    let mut out = Object::default();
    out.put("name", name.as_str());
    out.put("role", if leads { "leader" } else { "replica" });
    out.put("state", replication_state.unwrap_or(&member.state));
    out.put("api_url", member.api_url.clone());
    if let Some(address) = member.postgres_address() {
        out.put("host", address.host).put("port", address.port);
    }
    for optional in ["timeline", "pending_restart", "pending_restart_reason", "scheduled_restart", "tags"] {
        if let Some(value) = field(optional) {
            out.put(optional, value.clone());
        }
    }
    if !leads {
        let end = cluster.status.optime.unwrap_or_default();
        let position = |name: &str| field(name).and_then(parse::integer).map(Lsn);
        position_and_lag(&mut out, "receive_", position("receive_lsn"), end);
        position_and_lag(&mut out, "replay_", position("replay_lsn"), end);
        position_and_lag(&mut out, "", member.xlog_location, end);
    }
    out
}

fn position_and_lag(out: &mut Object, prefix: &str, position: Option<Lsn>, end: Lsn) {
    let (lsn_name, lag_name) = (format!("{prefix}lsn"), format!("{prefix}lag"));
    match position.filter(|lsn| lsn.0 > 0) {
        Some(lsn) => out.put(&lsn_name, lsn.to_string()).put(&lag_name, end.ahead_of(lsn)),
        None => out.put(&lsn_name, "unknown").put(&lag_name, "unknown"),
    };
}

/// `GET /history`.
pub(super) fn history(cluster: &Cluster) -> Reply {
    Reply::json(200, json::dump(&parse::history_json(&cluster.history)))
}
