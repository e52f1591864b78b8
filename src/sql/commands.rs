//! Commands: posted to the loop worker, which treats them as it treats requests of the REST API.

use crate::mailbox::{self, Answer, Command, Failed};
use crate::pg::{latch, report, wal};
use crate::shmem::{Shared, shared};
use pgrx::JsonB;
use pgrx::prelude::*;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Longest wait for a change of leader.
const WAIT_FOR_LEADER: Duration = Duration::from_mins(2);
/// Longest wait for anything else.
const WAIT_FOR_ANSWER: Duration = Duration::from_secs(30);

/// Hands the lead over to `candidate`, or to the best member.
#[pg_extern(volatile, parallel_unsafe)]
fn ha_switchover(candidate: default!(Option<&str>, "NULL"), leader: default!(Option<&str>, "NULL")) -> String {
    let shared = active();
    let leader = leader.map(str::to_owned).or_else(|| known_leader(shared));
    let mut body = Map::new();
    if let Some(leader) = leader {
        body.insert("leader".into(), json!(leader));
    }
    if let Some(candidate) = candidate {
        body.insert("candidate".into(), json!(candidate));
    }
    change_leader(shared, "/switchover", body)
}

/// Makes `candidate` the leader although there may be no healthy one now.
#[pg_extern(volatile, parallel_unsafe)]
fn ha_failover(candidate: Option<&str>) -> String {
    let shared = active();
    let Some(candidate) = candidate else {
        report::error(
            PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
            "a failover needs a candidate",
            "",
            "The view ha_members shows who could lead. A healthy leader is replaced with ha_switchover().",
        );
        unreachable!("an error ends the statement")
    };
    let mut body = Map::new();
    body.insert("candidate".into(), json!(candidate));
    change_leader(shared, "/failover", body)
}

/// The dynamic configuration of the cluster.
#[pg_extern(volatile, parallel_unsafe)]
fn ha_config() -> Option<JsonB> {
    let page: Value = serde_json::from_str(&active().page.read()?).ok()?;
    page.get("config").filter(|config| !config.is_null()).cloned().map(JsonB)
}

/// Changes the dynamic configuration (JSON merge patch: null removes a key) and returns the new one.
#[pg_extern(volatile, parallel_unsafe)]
fn ha_patch_config(patch: Option<JsonB>) -> Option<JsonB> {
    let shared = active();
    let command = Command {
        method: "PATCH".to_owned(),
        path: "/config".to_owned(),
        body: patch?.0.to_string(),
        no_wait: false,
    };
    let reply = ask(shared, &command, WAIT_FOR_ANSWER, "could not change the configuration");
    serde_json::from_str(&reply.body).ok().map(JsonB)
}

fn active() -> &'static Shared {
    match shared() {
        Some(shared) => shared,
        None => super::views::not_active(),
    }
}

fn known_leader(shared: &Shared) -> Option<String> {
    let page: Value = serde_json::from_str(&shared.page.read()?).ok()?;
    page.get("leader")?.as_str().map(str::to_owned)
}

fn change_leader(shared: &Shared, path: &str, body: Map<String, Value>) -> String {
    // On the leader this session is about to end with its server: it gets its answer while there is time.
    let no_wait = wal::phase() == wal::Phase::Primary;
    let command = Command {
        method: "POST".to_owned(),
        path: path.to_owned(),
        body: Value::Object(body).to_string(),
        no_wait,
    };
    ask(shared, &command, WAIT_FOR_LEADER, "could not change the leader").body
}

fn ask(shared: &Shared, command: &Command, limit: Duration, failure: &str) -> Answer {
    let wait = |limit| {
        latch::wait(None, limit);
        latch::reset();
        latch::check_for_interrupts();
    };
    match mailbox::ask(shared, command, limit, wait) {
        Ok(reply) if reply.status < 300 => reply,
        Ok(reply) => refused(&reply, failure),
        Err(failed) => unanswered(failed, failure),
    }
}

fn refused(reply: &Answer, failure: &str) -> ! {
    let (code, hint) = match reply.status {
        400 => (PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "The view ha_members shows who could lead."),
        503 => (PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE, "The view ha_lease shows whether the store is reachable."),
        504 => (
            PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
            "The request may still be carried out; the view ha_events shows what happens.",
        ),
        _ => (
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "The views ha_members and ha_events show the state of the cluster.",
        ),
    };
    report::error(code, failure, &reply.body, hint);
    unreachable!("an error ends the statement")
}

fn unanswered(failed: Failed, failure: &str) -> ! {
    let (code, detail) = match failed {
        Failed::NoWorker => {
            (PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, "The loop worker is not running.")
        }
        Failed::Busy => (PgSqlErrorCode::ERRCODE_TOO_MANY_CONNECTIONS, "Too many commands are under way."),
        Failed::TooLong => (PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED, "The command is too long."),
        Failed::NoAnswer => {
            (PgSqlErrorCode::ERRCODE_QUERY_CANCELED, "The loop worker did not answer: the outcome is not known.")
        }
    };
    report::error(code, failure, detail, "The server's log says more.");
    unreachable!("an error ends the statement")
}
