//! `PATRONI_*` variables (wire.md 9).

use super::Origin;
use super::keys::{self, Kind};
use super::layers::{Merged, Reading, connection_option};
use super::value;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const PREFIX: &str = "PATRONI_";

/// Names after `PATRONI_` that belong to sections we have not built, or to other programs.
const NOT_OURS: &[&str] = &[
    "CONFIGURATION",
    "CONFIG_FILE",
    "CTL_",
    "LOG_",
    "LOGLEVEL",
    "LOGFORMAT",
    "CONSUL_",
    "ETCD_",
    "ZOOKEEPER_",
    "EXHIBITOR_",
    "KUBERNETES_",
    "RAFT_",
    "CITUS_",
];

/// Reads the environment over what is there.
pub(super) fn read(merged: &mut Merged, environment: &BTreeMap<String, String>) {
    let reading = Reading { origin: Origin::Environment, prefix: "", strict: true, methods: &[] };
    for (variable, text) in environment {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        let Some(path) = path_of(name) else {
            if not_built(name) {
                merged.warn(variable.clone(), "is known, but not built yet, and is ignored");
            } else if !NOT_OURS.iter().any(|prefix| name.starts_with(prefix)) {
                // Kubernetes makes such variables for a service called "patroni", so this cannot be an error.
                merged.warn(variable.clone(), "is unknown and is ignored");
            } else if !matches!(name, "CONFIGURATION" | "CONFIG_FILE") && !name.starts_with("CTL_") {
                merged.warn(variable.clone(), "is known, but not built yet, and is ignored");
            }
            continue;
        };
        let known = merged.problems.len();
        merged.read(reading, &nested(&path, from_text(&path, text)));
        // The variable is what the operator has to correct.
        for problem in &mut merged.problems[known..] {
            problem.path.clone_from(variable);
        }
    }
}

/// The key that a variable sets.
fn path_of(name: &str) -> Option<String> {
    if name == "LOGLEVEL" {
        return Some("log.level".to_owned());
    }
    if let Some(key) = keys::KEYS.iter().find(|key| key.env == name && !name.is_empty()) {
        return Some(key.path.to_owned());
    }
    let (role, option) = name.split_once('_')?;
    let path = format!("postgresql.authentication.{}.{}", role.to_ascii_lowercase(), option.to_ascii_lowercase());
    connection_option(&path).is_some().then_some(path)
}

/// Whether a variable sets a key that is known, but not built: `RESTAPI_CERTFILE` is `restapi.certfile`.
fn not_built(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    let path = |section: &str| Some(format!("{section}.{}", lower.strip_prefix(section)?.strip_prefix('_')?));
    keys::find_not_built(&lower).is_some()
        || ["restapi", "postgresql", "etcd3"]
            .iter()
            .filter_map(|section| path(section))
            .any(|path| keys::find_not_built(&path).is_some() || path.starts_with("postgresql.bin_"))
}

/// The text of a variable as the value its key wants.
fn from_text(path: &str, text: &str) -> Value {
    match keys::find(path).map(|key| key.kind) {
        Some(Kind::Lines | Kind::Addresses(_)) => match value::list(text) {
            Some(items) => Value::from(items),
            None => Value::from(text),
        },
        Some(Kind::Map) => match value::mapping(text) {
            Some(items) => Value::Object(items.into_iter().map(|(k, v)| (k, Value::from(v))).collect()),
            None => Value::from(text),
        },
        _ => Value::from(text),
    }
}

/// `{"a": {"b": value}}` for the path `a.b`.
fn nested(path: &str, value: Value) -> Map<String, Value> {
    let mut out = value;
    for name in path.rsplit('.') {
        out = Value::Object(Map::from_iter([(name.to_owned(), out)]));
    }
    match out {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
