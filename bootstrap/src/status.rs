//! `ha_bootstrap status`: this node as it is on this machine, as its REST API tells it, and as the store shows it.

use crate::checks;
use crate::control_data;
use crate::error::{Error, Result};
use crate::load::Loaded;
use crate::pgdata;
use crate::postmaster::{PidFile, Postmaster};
use crate::rest_client;
use crate::site::Site;
use crate::steps::parameters;
use ha_core::api::time;
use ha_core::cluster::Cluster;
use ha_core::config::host_port;
use ha_core::effect::Effect;
use ha_core::local::{DataDir, LocalView};
use ha_core::memory::Memory;
use ha_core::outcome::Outcome;
use ha_core::pgconf::{self, Refusal, Refusals};
use ha_core::rule::Rule;
use ha_core::view::Seat;
use ha_node::clock;
use ha_node::driver::{Driver, Options, Port};
use ha_node::net::{Hooks, StoreHealth};
use serde_json::{Value, json};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long the store may take.
const STORE_MAX: Duration = Duration::from_secs(5);

/// Sees the store, and does nothing.
struct StoreOnly;

impl Port for StoreOnly {
    fn seat(&self) -> Option<Seat> {
        None
    }

    fn observe(&mut self) -> LocalView {
        unreachable!("a driver without the seat observes nothing")
    }

    fn execute(&mut self, effect: &Effect, _memory: &Memory) -> std::result::Result<(), String> {
        Err(format!("nothing is done here: {effect}"))
    }

    fn take_outcomes(&mut self) -> Vec<Outcome> {
        Vec::new()
    }
}

/// Collects everything.
pub fn collect(loaded: Loaded, site: &Site) -> Result<Value> {
    let config = &site.config;
    let data = match pgdata::observe(site) {
        DataDir::Empty => json!({"state": "empty"}),
        DataDir::Damaged { reason, half_copied, ours } => {
            json!({"state": "damaged", "reason": reason, "half_copied": half_copied, "ours": ours})
        }
        DataDir::Present(_) => control(site)?,
    };
    let server = Postmaster::adopt(site.data_dir()).map(|postmaster| {
        let says = PidFile::read(site.data_dir()).map(|file| file.status).unwrap_or_default();
        json!({"pid": postmaster.pid(), "status": says})
    });
    let marker = ha_node::marker::read(&site.paths.marker());
    let rest = rest_client::get(&host_port(&config.restapi.connect_address), "/patroni", Duration::from_secs(2));
    Ok(json!({
        "name": config.name,
        "scope": config.scope,
        "data_dir": site.data_dir(),
        "supervisor_runs": checks::supervisor_runs(site),
        "server": server,
        "data": data,
        "refused_parameters": refused(site),
        "marker": marker.map_or_else(|error| json!({"error": error.to_string()}), |marker| json!(marker)),
        "rest": rest.map_or_else(
            |error| json!({"error": error.to_string()}),
            |(_, body)| serde_json::from_str(&body).unwrap_or(Value::String(body)),
        ),
        "store": store(loaded)?,
    }))
}

/// Parameters that the server would not start with, and what it has instead.
fn refused(site: &Site) -> Value {
    let refused = parameters::refused(site).into_iter();
    let row = |(name, refusal): (String, Refusal)| {
        let asked = pgconf::value_of(&site.config, &Refusals::new(), &name);
        (name, json!({"refused": asked, "instead": refusal.instead}))
    };
    Value::Object(refused.map(row).collect())
}

fn control(site: &Site) -> Result<Value> {
    let file = control_data::read(site.data_dir())?;
    let control = &file.control;
    Ok(json!({
        "state": "present",
        "system_identifier": control.system_id.to_string(),
        "cluster_state": control.state,
        "timeline": control.timeline,
        "checkpoint": control.checkpoint.to_string(),
        "min_recovery_point": control.min_recovery_point.to_string(),
        "can_be_rewound": control.can_be_rewound,
        "backup_label": control.backup_label,
    }))
}

/// What the store shows.
fn store(loaded: Loaded) -> Result<Value> {
    let (sender, news) = channel();
    let hooks = Hooks {
        confirmed: Arc::new(|_| {}),
        leader_lost: Arc::new(|| {}),
        lease_deadline: Arc::new(|| ha_core::clock::Tick(0)),
        wake: Arc::new(move || {
            let _ = sender.send(());
        }),
        died: Arc::new(|_, _| {}),
    };
    let options = Options { layers: loaded.layers, hooks };
    let mut driver = Driver::new(options).map_err(|error| Error::Refused(error.to_string()))?;
    let end = Instant::now() + STORE_MAX;
    loop {
        driver.tick(&mut StoreOnly);
        if let Some(cluster) = driver.cluster() {
            return Ok(shown(cluster));
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || news.recv_timeout(left).is_err() {
            let why = match driver.store() {
                StoreHealth::Unreachable { why, .. } => format!(": {why}"),
                StoreHealth::Fresh => String::new(),
            };
            return Ok(json!({"error": format!("not reached within {} s{why}", STORE_MAX.as_secs())}));
        }
    }
}

fn shown(cluster: &Cluster) -> Value {
    let members: Vec<Value> = cluster
        .members
        .iter()
        .map(|(name, member)| {
            json!({"name": name, "role": member.role, "state": member.state, "timeline": member.timeline})
        })
        .collect();
    json!({"leader": cluster.leader.as_ref().map(|leader| &leader.name), "members": members, "at": clock::wall_ms()})
}

/// One value for people: what is nested becomes lines of its own, a rule is told in words, times are times.
fn field(out: &mut String, name: &str, value: &Value) {
    let title = name.replace('_', " ");
    match (name.rsplit(' ').next().unwrap_or(name), value) {
        (_, Value::Object(fields)) if name == "ha_ext" => {
            fields.iter().for_each(|(name, value)| field(out, name, value));
        }
        (_, Value::Object(fields)) if !fields.is_empty() => {
            fields.iter().for_each(|(inner, value)| field(out, &format!("{name} {inner}"), value));
        }
        (_, Value::Array(rows)) if !rows.is_empty() && rows.iter().all(Value::is_object) => {
            for row in rows.iter().filter_map(Value::as_object) {
                let row: Vec<String> = row.iter().map(|(name, value)| format!("{name} {}", plain(value))).collect();
                let _ = writeln!(out, "  {title:<20} {}", row.join(", "));
            }
        }
        ("rule", Value::String(code)) => {
            let _ = writeln!(out, "  {title:<20} {code}");
            if let Some(rule) = Rule::from_code(code) {
                let _ = writeln!(out, "  {:<20} {}", "", rule.sentence());
            }
        }
        // As etcdctl shows and takes it.
        ("lease", Value::Number(id)) => {
            let shown = id.as_i64().map_or_else(|| id.to_string(), |id| format!("{id:x}"));
            let _ = writeln!(out, "  {title:<20} {shown}");
        }
        ("at", Value::Number(ms)) => {
            let shown = ms.as_i64().map_or_else(|| ms.to_string(), |ms| time::text(ms * 1000));
            let _ = writeln!(out, "  {title:<20} {shown}");
        }
        ("dcs_last_seen", Value::Number(seconds)) => {
            let shown = match seconds.as_i64() {
                Some(seconds) if seconds > 0 => time::text(seconds * 1_000_000),
                _ => "never".to_owned(),
            };
            let _ = writeln!(out, "  {title:<20} {shown}");
        }
        _ => {
            let _ = writeln!(out, "  {title:<20} {}", plain(value));
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

/// The same for people.
#[must_use]
pub fn text(status: &Value) -> String {
    let mut out = String::new();
    for section in ["name", "scope", "data_dir", "supervisor_runs"] {
        let _ = writeln!(out, "{:<16} {}", section.replace('_', " "), plain(&status[section]));
    }
    for section in ["server", "data", "refused_parameters", "marker", "rest", "store"] {
        match &status[section] {
            Value::Object(fields) if fields.is_empty() => {}
            Value::Object(fields) => {
                let _ = writeln!(out, "{section}");
                for (name, value) in fields {
                    match value.as_array().filter(|_| name == "members") {
                        Some(members) => members.iter().for_each(|member| {
                            let _ = writeln!(
                                out,
                                "  member {}: {}, {}, timeline {}",
                                plain(&member["name"]),
                                plain(&member["role"]),
                                plain(&member["state"]),
                                plain(&member["timeline"])
                            );
                        }),
                        None => {
                            field(&mut out, name, value);
                        }
                    }
                }
            }
            other => {
                let _ = writeln!(out, "{section:<16} {}", plain(other));
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_get_lines() {
        let status = json!({"name": "pg1", "scope": "s", "data_dir": "/d", "supervisor_runs": true, "server": null,
            "data": {"state": "empty"}, "marker": {"scope": "s", "lease": 255},
            "rest": {"ha_ext": {"rule": "leader.leading", "seat": "inside"}, "replication": [{"usename": "r", "state": "streaming"}],
                "xlog": {"location": 5}, "dcs_last_seen": 0},
            "store": {"leader": "pg1", "at": 0, "members": [{"name": "pg1", "role": "primary", "state": "running", "timeline": 2}]}});
        let text = text(&status);
        assert!(text.contains("supervisor runs  true\n"), "{text}");
        assert!(text.contains("server           none\n"), "{text}");
        assert!(text.contains("  member pg1: primary, running, timeline 2\n"), "{text}");
        let line =
            |name: &str, value: &str| assert!(text.contains(&format!("  {name:<20} {value}\n")), "{name}: {text}");
        line("rule", "leader.leading");
        line("", "This node holds the lease and leads.");
        line("replication", "state streaming, usename r");
        line("xlog location", "5");
        line("dcs last seen", "never");
        line("lease", "ff");
        line("at", "1970-01-01 00:00:00+00:00");
        assert!(!text.contains('{'), "{text}");
    }
}
