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

/// `PATCH /config`: merged, checked as a whole, written only if it differs and nobody else wrote meanwhile. What somebody left there that is no
/// JSON object is replaced by what is in force, with the patch.
pub(super) fn patch(cluster: &Cluster, patch: &Value, last_good: Option<&Value>) -> Answer {
    let (current, expect) = match (&cluster.config, cluster.config_unreadable, last_good) {
        (Some(config), ..) => (&config.value, Expect::Unchanged(config.revision)),
        (None, Some(revision), Some(last_good)) => (last_good, Expect::Unchanged(revision)),
        (None, Some(_), None) => {
            let text = "the config key holds no JSON object, and what was there before is not known: replace it with PUT /config";
            return Answer::Now(Reply::text(409, text));
        }
        (None, None, _) => return Answer::Now(Reply::page(503)),
    };
    match Config::patched_dynamic(current, patch) {
        Err(error) => Answer::Now(Reply::text(400, &format!("nothing was changed\n{error}\n"))),
        Ok(next) if cluster.config.as_ref().is_some_and(|config| config.value == next) => {
            Answer::Now(Reply::json(200, json::dump(&next)))
        }
        Ok(next) => write(&next, expect),
    }
}

/// `PUT /config`: replaced, checked as a whole.
pub(super) fn put(cluster: &Cluster, next: &Value) -> Answer {
    let (current, expect) = match (&cluster.config, cluster.config_unreadable) {
        (Some(config), _) => (config.value.clone(), Expect::Unchanged(config.revision)),
        (None, Some(revision)) => (Value::Null, Expect::Unchanged(revision)),
        (None, None) => (Value::Null, Expect::Absent),
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
