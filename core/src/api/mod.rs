//! The REST API, pure: a request and a snapshot in, an answer out (wire.md 3, 5 and 6).
//!
//! What needs the store comes back as an [`Answer`] that names the question; the server asks it and goes on with
//! [`after_fresh`] or [`after_write`].

mod auth;
mod cluster_view;
mod dynamic;
mod facts;
mod failsafe;
mod health;
mod json;
mod metrics;
mod query;
mod reply;
mod snapshot;
mod status;
mod switchover;
pub mod time;

#[cfg(test)]
mod tests;

pub use failsafe::{Asking, PROMISE_HEADER, after_promise};
pub use reply::{Reply, reason};
pub use snapshot::{LiveNow, ServerFacts, Snapshot};
pub use switchover::{Action, SwitchoverWait, edit as failover_edit};

use crate::cluster::Cluster;
use crate::config::Config;
use crate::dcs::{DcsReply, KeyEdit};
use crate::ids::Revision;
use facts::Facts;
use serde_json::{Map, Value};

/// A request, as the server read it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// `GET`, `HEAD`, ...
    pub method: &'a str,
    /// The path without the query.
    pub path: &'a str,
    /// The query without the question mark, empty if there is none.
    pub query: &'a str,
    /// The `Authorization` header.
    pub authorization: Option<&'a str>,
    /// The body; `None` when the request says nothing of its length.
    pub body: Option<&'a [u8]>,
}

/// What to do about a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Send this.
    Now(Reply),
    /// Read the cluster from the store, then call [`after_fresh`].
    Fresh(Question),
    /// Write this, then call [`after_write`].
    Write {
        /// What to write.
        edit: KeyEdit,
        /// What it is for.
        then: Written,
    },
    /// Have the driver decide about this, then call [`after_promise`].
    Promise(Asking),
    /// Watch the cluster until [`SwitchoverWait::result`] has one.
    AwaitSwitchover(SwitchoverWait),
}

/// What a fresh view of the cluster is wanted for.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// `GET /cluster`
    Cluster,
    /// `GET /history`
    History,
    /// `GET /config`
    Config,
    /// `PATCH /config`
    PatchConfig {
        /// A JSON merge patch.
        patch: Value,
        /// End maintenance mode whoever may still acknowledge without a lease.
        forced: bool,
    },
    /// `PUT /config`
    PutConfig {
        /// The new configuration.
        next: Value,
        /// As for a patch.
        forced: bool,
    },
    /// `POST /switchover`, `POST /failover`
    Switchover {
        /// Which of the two.
        action: Action,
        /// What was asked for.
        body: Map<String, Value>,
        /// When, in milliseconds since 1970.
        asked_unix_ms: i64,
    },
    /// `DELETE /switchover`
    DeleteSwitchover,
}

/// What a write was for.
#[derive(Clone, Debug, PartialEq)]
pub enum Written {
    /// Answer with this once it is in.
    Config(Reply),
    /// The configuration of a maintenance mode that was ended by force: this comes next.
    Resumed(KeyEdit, Reply),
    /// Then wait for the change of leader.
    Switchover(SwitchoverWait),
}

/// Decides about a request. Without a snapshot (the driver has not ticked yet) there is nothing to say.
#[must_use]
pub fn route(request: &Request<'_>, snapshot: Option<&Snapshot>, live: LiveNow) -> Answer {
    let Some(snapshot) = snapshot else { return Answer::Now(Reply::text(503, "not ready yet")) };
    let facts = Facts { snapshot, live };
    let segment = request.path.trim_start_matches('/').split('/').next().unwrap_or_default();
    let now = Answer::Now;
    match (request.method, segment) {
        ("HEAD" | "OPTIONS", _) => now(health::bare(&facts, request.path, request.query)),
        ("GET", "liveness") => now(health::liveness(&facts)),
        ("GET", "readiness") => now(health::readiness(&facts, request.query)),
        ("GET", "patroni") => now(status::reply(200, &facts)),
        ("GET", "metrics") => now(metrics::get(&facts)),
        ("GET", "cluster") => Answer::Fresh(Question::Cluster),
        ("GET", "history") => from_view(&facts, cluster_view::history, Question::History),
        ("GET", "config") => from_view(&facts, dynamic::get, Question::Config),
        ("GET", "failsafe") => now(failsafe::get(&facts)),
        ("GET", _) => now(health::get(&facts, request.path, request.query)),
        ("PATCH" | "PUT", "config") | ("POST", "switchover" | "failover" | "failsafe") | ("DELETE", "switchover") => {
            let wanted = snapshot.config.restapi.authentication.as_ref();
            match auth::refusal(wanted, request.authorization) {
                Some(refusal) => now(refusal),
                None => change(request, segment, &snapshot.config, live),
            }
        }
        ("POST", action) => now(reply::not_built(action)),
        _ => now(Reply::page(501)),
    }
}

fn from_view(facts: &Facts<'_>, answer: fn(&Cluster) -> Reply, question: Question) -> Answer {
    match facts.current_cluster() {
        Some(cluster) => Answer::Now(answer(cluster)),
        None => Answer::Fresh(question),
    }
}

/// Requests that change something; who asks was checked.
fn change(request: &Request<'_>, segment: &str, config: &Config, live: LiveNow) -> Answer {
    if request.method == "DELETE" {
        return Answer::Fresh(Question::DeleteSwitchover);
    }
    let Some(body) = request.body else { return Answer::Now(Reply::page(411)) };
    let forced = query::value(request.query, "force").as_ref().is_some_and(|text| text == "true");
    let body = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(map)) if !map.is_empty() => map,
        _ => return Answer::Now(Reply::page(400)),
    };
    if segment == "failsafe" {
        return failsafe::post(&body, config);
    }
    let asked_unix_ms = i64::try_from(live.unix_ms).unwrap_or(i64::MAX);
    let change_leader = |action, body| Question::Switchover { action, body, asked_unix_ms };
    Answer::Fresh(match (request.method, segment) {
        ("PATCH", _) => Question::PatchConfig { patch: Value::Object(body), forced },
        ("PUT", _) => Question::PutConfig { next: Value::Object(body), forced },
        (_, "failover") => change_leader(Action::Failover, body),
        _ => change_leader(Action::Switchover, body),
    })
}

/// Goes on after the cluster was read; `Err` when the store could not be read.
#[must_use]
pub fn after_fresh(question: &Question, cluster: Result<&Cluster, &str>, snapshot: &Snapshot) -> Answer {
    let cluster = match cluster {
        Ok(cluster) => cluster,
        Err(error) => return Answer::Now(Reply::text(503, &format!("the store cannot be read: {error}"))),
    };
    match question {
        Question::Cluster => Answer::Now(cluster_view::cluster(cluster, &snapshot.config.scope)),
        Question::History => Answer::Now(cluster_view::history(cluster)),
        Question::Config => Answer::Now(dynamic::get(cluster)),
        Question::PatchConfig { patch, forced } => {
            dynamic::patch(cluster, patch, snapshot.last_good_dynamic.as_ref(), *forced)
        }
        Question::PutConfig { next, forced } => dynamic::put(cluster, next, *forced),
        Question::Switchover { action, body, asked_unix_ms } => {
            switchover::post(*action, body, cluster, &snapshot.settings, *asked_unix_ms)
        }
        Question::DeleteSwitchover => switchover::delete(cluster),
    }
}

/// Goes on after a write.
#[must_use]
pub fn after_write(then: Written, reply: &DcsReply) -> Answer {
    match (reply, then) {
        (DcsReply::Written(_), Written::Config(reply)) => Answer::Now(reply),
        (DcsReply::Written(_), Written::Resumed(edit, reply)) => Answer::Write { edit, then: Written::Config(reply) },
        (DcsReply::Written(revision), Written::Switchover(wait)) => {
            Answer::AwaitSwitchover(SwitchoverWait { requested_at: Revision(revision.0), ..wait })
        }
        (DcsReply::Conflict, Written::Config(_) | Written::Resumed(..)) => Answer::Now(Reply::page(409)),
        (_, Written::Switchover(_)) => Answer::Now(Reply::text(503, "failed to write failover key into DCS")),
        (DcsReply::Unknown(error), Written::Config(_) | Written::Resumed(..)) => {
            Answer::Now(Reply::text(502, &format!("it is not known whether the store has it: {error}")))
        }
        (DcsReply::Denied(error), Written::Config(_) | Written::Resumed(..)) => {
            Answer::Now(Reply::text(502, &format!("the store refused: {error}")))
        }
        (_, Written::Config(_) | Written::Resumed(..)) => Answer::Now(Reply::page(502)),
    }
}
