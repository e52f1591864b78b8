//! What the views are made of.

use crate::pg::report;
use crate::shmem::shared;
use crate::pg::lsn::PgLsn;
use ha_core::ids::Lsn;
use ha_core::rule::Rule;
use pgrx::prelude::*;
use pgrx::{Json, JsonB};
use serde_json::{Value, json};

/// The status page, as the loop worker wrote it last; NULL before the first.
#[pg_extern(volatile, parallel_safe)]
fn ha_status() -> Option<JsonB> {
    let Some(shared) = shared() else { not_active() };
    let page = shared.page.read()?;
    serde_json::from_str(&page).ok().map(JsonB)
}

/// Every rule there is, with its sentence.
#[pg_extern(immutable, parallel_safe)]
fn ha_all_rules() -> Json {
    let rule = |rule: &Rule| json!({ "rule": rule.code(), "meaning": rule.sentence() });
    Json(Value::Array(Rule::ALL.iter().map(rule).collect()))
}

type Candidate = (
    name!(member, String),
    name!(may_lead, bool),
    name!(reason, Option<String>),
    name!(lsn, Option<PgLsn>),
    name!(timeline, Option<i32>),
    name!(priority, i32),
);

/// Why each member could or could not lead now: those that could first, by position, then by priority.
#[pg_extern(volatile, parallel_safe)]
fn ha_who_would_win() -> TableIterator<'static, Candidate> {
    let page = ha_status().map(|page| page.0).unwrap_or_default();
    let members = page.get("members").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut rows: Vec<Candidate> = members.iter().filter_map(candidate).collect();
    rows.sort_by(|a, b| (b.1, b.3, b.5).cmp(&(a.1, a.3, a.5)));
    TableIterator::new(rows)
}

fn candidate(member: &Value) -> Option<Candidate> {
    let text = |name: &str| member.get(name).and_then(Value::as_str);
    let number = |name: &str| member.get(name).and_then(Value::as_i64);
    let obstacle = text("obstacle").map(str::to_owned);
    let leads = member.get("leads").and_then(Value::as_bool).unwrap_or(false);
    let lsn = text("lsn").and_then(|lsn| lsn.parse::<Lsn>().ok());
    let timeline = number("timeline").and_then(|timeline| i32::try_from(timeline).ok());
    let priority = i32::try_from(number("priority")?).unwrap_or(i32::MAX);
    let reason = if leads { Some("It leads.".to_owned()) } else { obstacle.clone() };
    Some((text("member")?.to_owned(), obstacle.is_none(), reason, lsn.map(PgLsn), timeline, priority))
}

/// Raises the error of a server in which we are not at work.
pub(super) fn not_active() -> ! {
    report::error(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        "ha_ext is not active in this server",
        "This server is not part of a cluster, or was started without its configuration.",
        "Add ha_ext to shared_preload_libraries and set ha_ext.config_file; ha_bootstrap does both.",
    );
    unreachable!("an error ends the statement")
}
