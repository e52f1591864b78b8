//! `/failsafe`: who is asked while the store cannot be reached, and the question itself (wire.md 3.2 and 4).

use super::facts::Facts;
use super::{Answer, Reply, Snapshot};
use crate::config::Config;
use crate::failsafe;
use crate::ids::{NodeName, Revision};
use crate::parse;
use serde_json::{Map, Value, json};

/// For how long, in milliseconds, a member of our kind stays away from the leader key. Without it an answer is no promise.
pub const PROMISE_HEADER: &str = "ha-ext-promise-ms";

/// A leader asks this node for its promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asking {
    /// Who asks.
    pub from: NodeName,
    /// The create revision of the leader key that it leads by, if it says so.
    pub created: Option<Revision>,
}

pub(super) fn get(facts: &Facts<'_>) -> Reply {
    if !facts.snapshot.settings.failsafe_mode {
        return Reply::page(502);
    }
    let map = facts.snapshot.memory.failsafe.map.as_ref();
    Reply::json(200, map.map_or_else(|| json!({}), |map| json!(map.value)).to_string())
}

/// A leader of our kind says whom it means: an address may have been given to another member since.
pub(super) fn post(body: &Map<String, Value>, config: &Config) -> Answer {
    let Some(name) = body.get("name").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
        return Answer::Now(Reply::page(400));
    };
    let ours = body.get("ha_ext");
    let means = |field: &str, own: &str| ours.and_then(|ours| ours.get(field)).is_none_or(|meant| meant == own);
    if !means("scope", &config.scope) || !means("to", config.name.as_str()) {
        return Answer::Now(Reply::text(503, &format!("this is {} of {}", config.name, config.scope)));
    }
    let created = ours.and_then(|ours| parse::integer(ours.get("created")?));
    let created = created.and_then(|created| i64::try_from(created).ok()).map(Revision);
    Answer::Promise(Asking { from: NodeName::new(name), created })
}

/// What a leader is told; `None` if nobody decided in time.
#[must_use]
pub fn after_promise(reply: Option<&failsafe::Reply>, snapshot: &Snapshot) -> Reply {
    match reply {
        Some(failsafe::Reply::Accepted(lasts)) => {
            let mut reply = Reply::text(200, "Accepted");
            reply.headers.push((PROMISE_HEADER.to_owned(), lasts.0.to_string()));
            if let crate::local::Server::Standby(standby) = &snapshot.local.server {
                let lsn = standby.received.max(standby.replayed);
                reply.headers.push(("lsn".to_owned(), lsn.0.to_string()));
            }
            reply
        }
        Some(failsafe::Reply::Off) => Reply::page(502),
        Some(failsafe::Reply::Leads) => Reply::text(500, "Running as a leader"),
        Some(failsafe::Reply::Refused(why)) => Reply::text(503, why),
        None => Reply::text(503, "not decided in time"),
    }
}
