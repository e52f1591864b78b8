//! `/config` (wire.md 3.2, 3.3): the dynamic configuration.

use super::{Answer, Reply, Written, json};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::dcs::{Expect, Key, KeyEdit};
use serde_json::Value;

/// `GET /config`.
pub(super) fn get(cluster: &Cluster) -> Reply {
    match &cluster.config {
        Some(config) => Reply::json(200, json::dump(&config.value)),
        None => Reply::page(502),
    }
}

/// `PATCH /config`: merged, checked as a whole, written only if it differs and nobody else wrote meanwhile.
pub(super) fn patch(cluster: &Cluster, patch: &Value) -> Answer {
    let Some(current) = &cluster.config else { return Answer::Now(Reply::page(503)) };
    match Config::patched_dynamic(&current.value, patch) {
        Err(error) => Answer::Now(Reply::text(400, &format!("nothing was changed\n{error}\n"))),
        Ok(next) if next == current.value => Answer::Now(Reply::json(200, json::dump(&next))),
        Ok(next) => write(&next, Expect::Unchanged(current.revision)),
    }
}

/// `PUT /config`: replaced, checked as a whole.
pub(super) fn put(cluster: &Cluster, next: &Value) -> Answer {
    let (current, expect) = match &cluster.config {
        Some(config) => (config.value.clone(), Expect::Unchanged(config.revision)),
        None => (Value::Null, Expect::Absent),
    };
    match Config::checked_dynamic(&current, next) {
        Err(error) => Answer::Now(Reply::text(400, &format!("nothing was changed\n{error}\n"))),
        Ok(()) if *next == current => Answer::Now(Reply::json(200, json::dump(next))),
        Ok(()) => write(next, expect),
    }
}

fn write(next: &Value, expect: Expect) -> Answer {
    Answer::Write {
        edit: KeyEdit { key: Key::Config, value: Some(next.to_string()), expect, leased: false },
        then: Written::Config(Reply::json(200, json::dump(next))),
    }
}
