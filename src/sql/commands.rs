//! Commands: posted to the loop worker, which treats them as it treats requests of the REST API.

use crate::mailbox::{self, Answer, Command, Failed};
use crate::pg::{latch, report};
use crate::shmem::{Shared, shared};
use ha_core::api::time;
use pgrx::JsonB;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Longest wait for a change of leader.
const WAIT_FOR_LEADER: Duration = Duration::from_mins(2);
/// Longest wait for anything else.
const WAIT_FOR_ANSWER: Duration = Duration::from_secs(30);

/// 2000-01-01 and 10000-01-01, in microseconds since 1970.
const Y2000_UNIX_US: i64 = 946_684_800_000_000;
const Y10000_UNIX_US: i64 = 253_402_300_800_000_000;

/// Hands the lead over to `candidate`, or to the best member, now or at a time to come.
#[pg_extern(volatile, parallel_unsafe)]
fn ha_switchover(
    candidate: default!(Option<&str>, "NULL"),
    leader: default!(Option<&str>, "NULL"),
    scheduled_at: default!(Option<TimestampWithTimeZone>, "NULL"),
) -> String {
    let shared = active();
    let scheduled_at = scheduled_at.map(moment);
    if candidate.is_some_and(|name| name.trim().is_empty()) {
        let hint =
            "Without a candidate, or with NULL, the best member takes over. ha_who_would_win() shows who that is.";
        wrong(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, "The candidate is an empty name.", hint);
    }
    let Some(leader) = leader.map(str::to_owned).or_else(|| known_leader(shared)) else { no_leader(shared) };
    let mut body = Map::new();
    body.insert("leader".into(), json!(leader));
    if let Some(candidate) = candidate {
        body.insert("candidate".into(), json!(candidate));
    }
    let Some(at) = scheduled_at else { return change_leader(shared, "/switchover", body) };
    body.insert("scheduled_at".into(), json!(at));
    let body = Value::Object(body).to_string();
    let command = Command { method: "POST".to_owned(), path: "/switchover".to_owned(), body };
    ask(shared, &command, WAIT_FOR_ANSWER, &SCHEDULE);
    format!("switchover scheduled for {at}")
}

/// Takes a scheduled switchover back.
#[pg_extern(volatile, parallel_unsafe)]
fn ha_cancel_switchover() -> String {
    let command = Command { method: "DELETE".to_owned(), path: "/switchover".to_owned(), body: String::new() };
    ask(active(), &command, WAIT_FOR_ANSWER, &CANCEL).body
}

/// ISO 8601, in UTC.
fn moment(at: TimestampWithTimeZone) -> String {
    // The server counts microseconds from 2000 on, and says infinity with the ends of what it can count.
    let since_2000_us = pgrx::pg_sys::TimestampTz::from(at);
    let unix_us = since_2000_us.checked_add(Y2000_UNIX_US).filter(|_| since_2000_us != i64::MIN);
    if let Some(unix_us) = unix_us.filter(|at| *at < Y10000_UNIX_US) {
        return time::iso(unix_us);
    }
    let hint = "Give a time to come within the next years.";
    report::error(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, SCHEDULE.failure, "Such a time never comes.", hint);
    unreachable!("an error ends the statement")
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
    let patch = patch?.0;
    if patch.as_object().is_none_or(Map::is_empty) {
        report::error(
            PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
            "a configuration patch must be a JSON object with at least one key",
            "",
            "For example: {\"loop_wait\": 5}. A null removes the key.",
        );
    }
    let command = Command { method: "PATCH".to_owned(), path: "/config".to_owned(), body: patch.to_string() };
    let reply = ask(shared, &command, WAIT_FOR_ANSWER, &CHANGE_CONFIG);
    serde_json::from_str(&reply.body).ok().map(JsonB)
}

/// Begins maintenance mode: roles change only by name, and nothing that is stopped is started.
#[pg_extern(volatile, parallel_unsafe)]
fn ha_pause() -> String {
    set_paused(&json!(true), "/config", &PAUSE);
    "maintenance mode is on".to_owned()
}

/// Ends maintenance mode. Refused while a former leader may acknowledge commits without a lease, unless `force`.
#[pg_extern(volatile, parallel_unsafe)]
fn ha_resume(force: default!(Option<bool>, "false")) -> String {
    let path = if force == Some(true) { "/config?force=true" } else { "/config" };
    set_paused(&Value::Null, path, &RESUME);
    "maintenance mode is off".to_owned()
}

fn set_paused(pause: &Value, path: &str, purpose: &Purpose) {
    let body = json!({ "pause": pause }).to_string();
    let command = Command { method: "PATCH".to_owned(), path: path.to_owned(), body };
    ask(active(), &command, WAIT_FOR_ANSWER, purpose);
}

fn active() -> &'static Shared {
    match shared() {
        Some(shared) => shared,
        None => super::views::not_active(),
    }
}

/// Refuses a change of leader.
fn wrong(code: PgSqlErrorCode, detail: &str, hint: &str) -> ! {
    report::error(code, CHANGE_LEADER.failure, detail, hint);
    unreachable!("an error ends the statement")
}

/// A switchover needs a leader that hands over.
fn no_leader(shared: &Shared) -> ! {
    let page: Option<Value> = shared.page.read().and_then(|page| serde_json::from_str(&page).ok());
    let store = page.as_ref().and_then(|page| page.get("store")?.as_str()).unwrap_or("not read yet");
    if store == "reachable" {
        let hint = "ha_failover() makes a member the leader. ha_who_would_win() shows who could lead, and why not.";
        wrong(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "There is no leader that could hand over.",
            hint,
        );
    }
    let detail = format!("No leader is known here: the store is {store}.");
    wrong(PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE, &detail, STORE_HINT)
}

fn known_leader(shared: &Shared) -> Option<String> {
    let page: Value = serde_json::from_str(&shared.page.read()?).ok()?;
    page.get("leader")?.as_str().map(str::to_owned)
}

fn change_leader(shared: &Shared, path: &str, body: Map<String, Value>) -> String {
    let body = Value::Object(body).to_string();
    let command = Command { method: "POST".to_owned(), path: path.to_owned(), body };
    ask(shared, &command, WAIT_FOR_LEADER, &CHANGE_LEADER).body
}

const STORE_HINT: &str =
    "The view ha_cluster shows whether the store is reachable from here, and who acts for this node.";

/// What a command is called when it fails, and what helps then.
struct Purpose {
    failure: &'static str,
    hint: &'static str,
}

const CHANGE_LEADER: Purpose =
    Purpose { failure: "could not change the leader", hint: "ha_who_would_win() shows who could lead, and why not." };
const SCHEDULE: Purpose = Purpose {
    failure: "could not schedule the switchover",
    hint: "It needs a time to come, and no maintenance mode. The view ha_cluster shows what is scheduled.",
};
const CANCEL: Purpose = Purpose {
    failure: "could not take the switchover back",
    hint: "The view ha_cluster shows what is scheduled; one that has begun cannot be taken back.",
};
const CHANGE_CONFIG: Purpose =
    Purpose { failure: "could not change the configuration", hint: "The view ha_settings shows what is in force." };
const PAUSE: Purpose = Purpose {
    failure: "could not begin maintenance mode",
    hint: "The view ha_cluster shows whether it is on, and ha_settings what is in force.",
};
const RESUME: Purpose = Purpose {
    failure: "could not end maintenance mode",
    hint: "The view ha_members shows who can be reached, and ha_cluster whether maintenance mode is on.",
};

fn ask(shared: &Shared, command: &Command, limit: Duration, purpose: &Purpose) -> Answer {
    let wait = |limit| {
        latch::wait(None, limit);
        latch::reset();
        latch::check_for_interrupts();
    };
    match mailbox::ask(shared, command, limit, wait) {
        Ok(reply) if reply.status < 300 => reply,
        Ok(reply) => refused(&reply, purpose),
        Err(failed) => unanswered(failed, purpose.failure),
    }
}

fn refused(reply: &Answer, purpose: &Purpose) -> ! {
    let (code, hint) = match reply.status {
        400 | 422 => (PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, purpose.hint),
        409 => {
            (PgSqlErrorCode::ERRCODE_T_R_SERIALIZATION_FAILURE, "Somebody else changed it at the same time. Try again.")
        }
        503 => (PgSqlErrorCode::ERRCODE_CONNECTION_FAILURE, STORE_HINT),
        504 => (
            PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
            "The request may still be carried out; the view ha_events shows what happens.",
        ),
        _ => (PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE, purpose.hint),
    };
    // Some answers are a page for browsers, which says no more than the code.
    let detail = if reply.body.trim_start().starts_with('<') { "" } else { reply.body.trim_end() };
    report::error(code, purpose.failure, detail, hint);
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
