//! `/config` (wire.md 3.2, 3.3): the dynamic configuration.

use super::{Answer, Reply, Written, json};
use crate::cluster::Cluster;
use crate::config::Config;
use crate::dcs::{Expect, Key, KeyEdit};
use crate::ids::NodeName;
use crate::parse;
use serde_json::Value;
use std::collections::BTreeMap;

/// `GET /config`.
pub(super) fn get(cluster: &Cluster) -> Reply {
    match &cluster.config {
        Some(config) => Reply::json(200, json::dump(&config.value)),
        None => Reply::page(502),
    }
}

/// `PATCH /config`: merged, checked as a whole, written only if it differs and nobody else wrote meanwhile. What somebody left there that is no
/// JSON object is replaced by what is in force, with the patch.
pub(super) fn patch(cluster: &Cluster, patch: &Value, last_good: Option<&Value>, forced: bool) -> Answer {
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
        Ok(next) => write(cluster, current, &next, expect, forced),
    }
}

/// `PUT /config`: replaced, checked as a whole.
pub(super) fn put(cluster: &Cluster, next: &Value, forced: bool) -> Answer {
    let (current, expect) = match (&cluster.config, cluster.config_unreadable) {
        (Some(config), _) => (config.value.clone(), Expect::Unchanged(config.revision)),
        (None, Some(revision)) => (Value::Null, Expect::Unchanged(revision)),
        (None, None) => (Value::Null, Expect::Absent),
    };
    match Config::checked_dynamic(&current, next) {
        Err(error) => Answer::Now(Reply::text(400, &format!("nothing was changed\n{error}\n"))),
        Ok(()) => write(cluster, &current, next, expect, forced),
    }
}

fn write(cluster: &Cluster, current: &Value, next: &Value, expect: Expect, forced: bool) -> Answer {
    let paused = |config: &Value| config.get("pause").and_then(parse::boolean) == Some(true);
    let unbound =
        if forced && !paused(next) || paused(current) && !paused(next) { unbound(cluster) } else { Vec::new() };
    if let (false, Some(refusal)) = (forced, refusal(&unbound)) {
        return Answer::Now(refusal);
    }
    let reply = Reply::json(200, json::dump(next));
    let edit = KeyEdit { key: Key::Config, value: Some(next.to_string()), expect, leased: false };
    // Maintenance mode ends first: in it they would say so again.
    let told = cluster.unbound_revision.filter(|_| !unbound.is_empty()).map(|revision| {
        // The leader's own name stays: it takes that back itself.
        let rest: BTreeMap<_, _> =
            cluster.unbound.iter().filter(|(name, _)| !unbound.contains(&name.as_str())).collect();
        let value = (!rest.is_empty()).then(|| serde_json::json!(rest).to_string());
        KeyEdit { key: Key::Unbound, value, expect: Expect::Unchanged(revision), leased: false }
    });
    match (cluster.config.is_some() && next == current, told) {
        (true, None) => Answer::Now(reply),
        (true, Some(told)) => Answer::Write { edit: told, then: Written::Config(reply) },
        (false, None) => Answer::Write { edit, then: Written::Config(reply) },
        (false, Some(told)) => Answer::Write { edit, then: Written::Resumed(told, reply) },
    }
}

/// Who may acknowledge without a lease, other than the leader, who gets the end of maintenance mode together with everybody else.
fn unbound(cluster: &Cluster) -> Vec<&str> {
    let leader = cluster.leader.as_ref().map(|leader| &leader.name);
    cluster.unbound_fences().filter(|name| Some(*name) != leader).map(NodeName::as_str).collect()
}

fn refusal(unbound: &[&str]) -> Option<Reply> {
    let (first, rest) = unbound.split_first()?;
    let names = rest.iter().fold((*first).to_owned(), |names, name| format!("{names}, {name}"));
    let text = format!(
        "nothing was changed: maintenance mode cannot end yet\nin it {names} may acknowledge commits without a lease, and has not \
         said that it stopped\nbring it back, or make sure that its server does not run and use ha_resume(force => true) or \
         PATCH /config?force=true\n"
    );
    Some(Reply::text(412, &text))
}
