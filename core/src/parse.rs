//! Reads what the store holds, liberally: unknown fields are ignored, a field that makes no sense counts as
//! absent, a value that is not JSON counts as empty (wire.md 1 and 12.7).

use crate::cluster::{
    Cluster, Edition, FailoverRequest, HistoryRow, Initialize, LeaderKey, Member, Released, Status, TimelineClaim,
    Versioned,
};
use crate::dcs::{LAST_LEADER_PATH, LEADER_PATH, RELEASED_PATH, RawCluster, RawKey, UNBOUND_PATH};
use crate::ids::{Lsn, NodeName, Revision, SystemId, Timeline};
use crate::tags::Tags;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a refusal is called in the `failover` key.
const REFUSED: &str = "ha_ext_refused";

/// Parses all keys of one cluster.
#[must_use]
pub fn cluster(raw: &RawCluster) -> Cluster {
    let mut out = Cluster { revision: raw.revision, ..Cluster::default() };
    for (path, key) in &raw.keys {
        take(&mut out, path, key);
    }
    out
}

/// Takes one key in, whatever was known of it before.
pub(crate) fn take(out: &mut Cluster, path: &str, key: &RawKey) {
    match path {
        LEADER_PATH => {
            out.leader = leader(key);
            out.unleased_leader = key.lease.is_none().then_some(key.created);
        }
        RELEASED_PATH => {
            out.released = serde_json::from_str::<Released>(&key.value).ok();
            out.released_revision = Some(key.modified);
        }
        LAST_LEADER_PATH => {
            let value = serde_json::from_str(&key.value).ok();
            out.last_leader = value.map(|value| Versioned { value, revision: key.modified });
            out.last_leader_edition = Some(Edition { created: key.created, version: key.version });
        }
        UNBOUND_PATH => {
            // Who it is cannot be told then, but somebody may go on.
            let unreadable = || [(NodeName::new("(unreadable)"), key.modified)].into();
            out.unbound = serde_json::from_str(&key.value).unwrap_or_else(|_| unreadable());
            out.unbound_revision = Some(key.modified);
        }
        "initialize" => {
            out.initialize = initialize(&key.value);
            out.initialize_changed = Some(key.modified);
            out.initialize_lease = key.lease;
        }
        "config" => {
            out.config = object(key);
            out.config_unreadable = out.config.is_none().then_some(key.modified);
        }
        "failover" => {
            out.failover = failover(key);
            out.failover_revision = Some(key.modified);
            out.refused = refused(key);
        }
        "failsafe" => {
            out.failsafe = failsafe(key);
            out.failsafe_revision = Some(key.modified);
        }
        "status" => {
            out.status = status(&key.value);
            out.status_revision = Some(key.modified);
        }
        "history" => out.history = history(&key.value),
        _ => {
            if let Some(name) = path.strip_prefix("members/") {
                out.members.insert(NodeName::new(name), Arc::new(member(key)));
            } else if let Some(timeline) = path.strip_prefix("ha_ext/timeline/")
                && let Ok(timeline) = timeline.parse()
            {
                match serde_json::from_str::<TimelineClaim>(&key.value) {
                    Ok(value) => out.claims.insert(Timeline(timeline), Versioned { value, revision: key.modified }),
                    Err(_) => out.claims.remove(&Timeline(timeline)),
                };
            }
        }
    }
}

fn leader(key: &RawKey) -> Option<LeaderKey> {
    let lease = key.lease?;
    (!key.value.is_empty()).then(|| LeaderKey { name: NodeName::new(key.value.clone()), lease, created: key.created })
}

fn initialize(value: &str) -> Initialize {
    match value.trim().parse() {
        Ok(id) if value.trim().len() >= 10 => Initialize::Done(SystemId(id)),
        _ => Initialize::Running,
    }
}

fn object(key: &RawKey) -> Option<Versioned<Value>> {
    let value: Value = serde_json::from_str(&key.value).ok()?;
    value.is_object().then_some(Versioned { value, revision: key.modified })
}

fn failover(key: &RawKey) -> Option<Versioned<FailoverRequest>> {
    let name = |value: Option<&Value>| {
        let text = value?.as_str()?.trim();
        (!text.is_empty()).then(|| NodeName::new(text))
    };
    // What cannot be read is kept, and refused at last: it asks for another time than now.
    let time = |value: Option<&Value>| match value? {
        Value::Null => None,
        Value::String(text) => Some(text.trim().to_owned()).filter(|text| !text.is_empty()),
        other => Some(other.to_string()),
    };
    let request = match serde_json::from_str::<Value>(&key.value) {
        Ok(Value::Object(map)) => FailoverRequest {
            leader: name(map.get("leader")),
            member: name(map.get("member")),
            scheduled_at: time(map.get("scheduled_at")),
            due: time(map.get("ha_ext_due")),
        },
        Ok(_) => FailoverRequest::default(),
        // The form of releases before JSON: `leader:candidate`.
        Err(_) => {
            let (leader, member) = key.value.split_once(':')?;
            FailoverRequest {
                leader: name(Some(&Value::from(leader))),
                member: name(Some(&Value::from(member))),
                ..FailoverRequest::default()
            }
        }
    };
    let asks = request.leader.is_some() || request.member.is_some();
    asks.then_some(Versioned { value: request, revision: key.modified })
}

/// What the `failover` key is emptied to: like `{}` it asks for nothing, of Patroni neither, but whoever asked finds the reason.
#[must_use]
pub fn refusal_json(refused: Option<&(Revision, String)>) -> Value {
    match refused {
        None => json!({}),
        Some((request, reason)) => json!({ REFUSED: {"request": request, "reason": reason} }),
    }
}

fn refused(key: &RawKey) -> Option<(Revision, String)> {
    let value: Value = serde_json::from_str(&key.value).ok()?;
    let refused = value.get(REFUSED)?;
    let request = serde_json::from_value(refused.get("request")?.clone()).ok()?;
    Some((request, refused.get("reason")?.as_str()?.to_owned()))
}

fn failsafe(key: &RawKey) -> Option<Arc<Versioned<BTreeMap<NodeName, String>>>> {
    let Ok(Value::Object(map)) = serde_json::from_str(&key.value) else { return None };
    // A member without an address can be asked nothing, and is one of them all the same.
    let url = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let value: BTreeMap<NodeName, String> =
        map.iter().map(|(name, at)| (NodeName::new(name.as_str()), url(at))).collect();
    (!value.is_empty()).then(|| Arc::new(Versioned { value, revision: key.modified }))
}

/// Whether a dynamic configuration turns failsafe mode on.
#[must_use]
pub fn failsafe_mode(config: &Value) -> bool {
    config.get("failsafe_mode").and_then(boolean) == Some(true)
}

fn status(text: &str) -> Status {
    let Ok(value) = serde_json::from_str::<Value>(text) else { return Status::default() };
    if let Some(optime) = integer(&value) {
        return Status { optime: Some(Lsn(optime)), ..Status::default() };
    }
    let unpacked = |field: &str| match value.get(field) {
        Some(Value::String(packed)) => serde_json::from_str(packed).unwrap_or(Value::Null),
        Some(other) => other.clone(),
        None => Value::Null,
    };
    Status {
        optime: value.get("optime").and_then(integer).map(Lsn),
        slots: match unpacked("slots") {
            Value::Object(map) => map.iter().filter_map(|(k, v)| Some((k.clone(), Lsn(integer(v)?)))).collect(),
            _ => std::collections::BTreeMap::new(),
        },
        retain_slots: match unpacked("retain_slots") {
            Value::Array(items) => items.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        },
    }
}

fn history(text: &str) -> Vec<HistoryRow> {
    let Ok(Value::Array(rows)) = serde_json::from_str::<Value>(text) else { return Vec::new() };
    rows.iter()
        .filter_map(|row| {
            let row = row.as_array()?;
            let text = |at: usize| row.get(at).and_then(Value::as_str).map(str::to_owned);
            Some(HistoryRow {
                timeline: Timeline(u32::try_from(integer(row.first()?)?).ok()?),
                switch_lsn: Lsn(integer(row.get(1)?)?),
                reason: text(2).unwrap_or_default(),
                at: text(3),
                new_leader: text(4).map(NodeName::new),
            })
        })
        .collect()
}

/// The `history` key's value for `rows` (wire.md 1.8).
#[must_use]
pub fn history_json(rows: &[HistoryRow]) -> Value {
    let row = |row: &HistoryRow| {
        let mut out = vec![row.timeline.0.into(), row.switch_lsn.0.into(), Value::from(row.reason.clone())];
        if let Some(at) = &row.at {
            out.push(at.clone().into());
            if let Some(leader) = &row.new_leader {
                out.push(leader.as_str().into());
            }
        }
        Value::Array(out)
    };
    Value::Array(rows.iter().map(row).collect())
}

fn member(key: &RawKey) -> Member {
    let json: Value = if key.value.starts_with("postgres") {
        legacy_member(&key.value)
    } else {
        serde_json::from_str(&key.value).unwrap_or(Value::Null)
    };
    let text = |field: &str| json.get(field).and_then(Value::as_str).map(str::to_owned);
    let number = |field: &str| json.get(field).and_then(integer);
    let role = text("role").unwrap_or_default();
    Member {
        lease: key.lease,
        conn_url: text("conn_url").or_else(|| conn_url_of(json.get("conn_kwargs")?)),
        api_url: text("api_url"),
        state: text("state").unwrap_or_default(),
        role: if role == "master" { "primary".to_owned() } else { role },
        timeline: number("timeline").and_then(|t| u32::try_from(t).ok()).map(Timeline),
        xlog_location: number("xlog_location").map(Lsn),
        checkpoint_pending: json.get("checkpoint_after_promote").and_then(boolean) == Some(false),
        tags: Tags::from_json(json.get("tags")),
        version: text("version"),
        ha_ext_version: text("ha_ext_version"),
        json,
    }
}

/// `conn_url?application_name=<api_url>`, the form before 0.90.
fn legacy_member(value: &str) -> Value {
    let (conn_url, rest) = value.split_once('?').unwrap_or((value, ""));
    let api_url = rest.strip_prefix("application_name=");
    serde_json::json!({"conn_url": conn_url, "api_url": api_url})
}

fn conn_url_of(kwargs: &Value) -> Option<String> {
    let host = kwargs.get("host")?.as_str()?;
    let port = kwargs.get("port").and_then(integer).unwrap_or(5432);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    Some(format!("postgres://{host}:{port}/{}", kwargs.get("dbname").and_then(Value::as_str).unwrap_or("postgres")))
}

/// An integer, quoted or not.
#[must_use]
pub fn integer(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// A boolean the way YAML 1.1 and Patroni read one: `on`, `yes`, `true`, quoted or not.
#[must_use]
pub fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(b) => Some(*b),
        Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
            "on" | "yes" | "true" | "1" => Some(true),
            "off" | "no" | "false" | "0" => Some(false),
            _ => None,
        },
        Value::Number(n) => match n.as_i64() {
            Some(0) => Some(false),
            Some(1) => Some(true),
            _ => None,
        },
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaseId, Revision};

    fn raw(keys: &[(&str, &str)]) -> RawCluster {
        let key = |value: &str| RawKey {
            version: 1,
            value: value.to_owned(),
            created: Revision(3),
            modified: Revision(5),
            lease: Some(LeaseId(9)),
        };
        RawCluster {
            revision: Revision(7),
            keys: keys.iter().map(|(path, value)| ((*path).to_owned(), key(value))).collect(),
        }
    }

    #[test]
    fn reads_a_patroni_cluster() {
        let cluster = cluster(&raw(&[
            ("leader", "pg1"),
            ("initialize", "7312345678901234567"),
            (
                "members/pg1",
                r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","state":"running","role":"master","version":"4.1.4","xlog_location":"67395656","timeline":3}"#,
            ),
            ("members/old", "postgres://10.0.0.2:5432/postgres?application_name=http://10.0.0.2:8008/patroni"),
            ("status", r#"{"optime":67395656,"slots":"{\"pg2\":1}","retain_slots":["pg2"]}"#),
            (
                "history",
                r#"[[1,25165984,"no recovery target specified"],[2,67109024,"x","2026-01-01T00:00:00+00:00","pg1"]]"#,
            ),
            ("failover", "{}"),
        ]));
        assert_eq!(cluster.leader.as_ref().map(|l| l.created), Some(Revision(3)));
        assert_eq!(cluster.initialize, Initialize::Done(SystemId(7_312_345_678_901_234_567)));
        let pg1 = &cluster.members[&NodeName::new("pg1")];
        assert_eq!((pg1.role.as_str(), pg1.xlog_location), ("primary", Some(Lsn(67_395_656))));
        assert_eq!(cluster.members[&NodeName::new("old")].api_url.as_deref(), Some("http://10.0.0.2:8008/patroni"));
        assert_eq!(cluster.status.slots["pg2"], Lsn(1));
        assert_eq!(cluster.history_timeline(), Some(Timeline(3)));
        assert_eq!(cluster.failover, None);
    }

    #[test]
    fn nonsense_is_absent_and_never_fatal() {
        let cluster = cluster(&raw(&[
            ("members/a", "{not json"),
            ("members/b", r#"{"timeline":"x","tags":[1],"state":5}"#),
            ("status", "}"),
            ("history", r#"{"a":1}"#),
            ("config", "[]"),
            ("failover", "pg1:pg2"),
            ("initialize", ""),
            ("ha_ext/timeline/x", "{}"),
        ]));
        assert_eq!(cluster.members.len(), 2);
        assert_eq!(cluster.status, Status::default());
        assert_eq!(cluster.config, None);
        assert_eq!(cluster.initialize, Initialize::Running);
        let request = cluster.failover.map(|f| f.value).unwrap_or_default();
        assert_eq!((request.leader, request.member), (Some(NodeName::new("pg1")), Some(NodeName::new("pg2"))));
    }

    #[test]
    fn a_time_that_cannot_be_read_is_not_now() {
        for (at, read) in [("null", None), (r#"" ""#, None), ("17", Some("17")), (r#""soon""#, Some("soon"))] {
            let value = format!(r#"{{"leader":"pg1","scheduled_at":{at}}}"#);
            let request = cluster(&raw(&[("failover", &value)])).failover.map(|f| f.value).unwrap_or_default();
            assert_eq!(request.scheduled_at.as_deref(), read, "{at}");
        }
    }

    #[test]
    fn a_refusal_asks_for_nothing_and_says_why() {
        let refused = (Revision(7), "pg2 is in state \"stopped\"".to_owned());
        let cluster = cluster(&raw(&[("failover", &refusal_json(Some(&refused)).to_string())]));
        assert_eq!((cluster.failover, cluster.refused), (None, Some(refused)));
        assert_eq!(refusal_json(None).to_string(), "{}");
    }

    #[test]
    fn a_leader_key_without_a_lease_makes_no_leader() {
        let mut raw = raw(&[("leader", "pg1")]);
        raw.keys.get_mut("leader").expect("there").lease = None;
        let cluster = cluster(&raw);
        assert_eq!((cluster.leader, cluster.unleased_leader), (None, Some(Revision(3))));
    }

    #[test]
    fn history_round_trips() {
        let text = r#"[[1,25165984,"a"],[2,67109024,"x","2026-01-01T00:00:00+00:00","pg1"]]"#;
        assert_eq!(history_json(&history(text)).to_string(), text);
    }
}
