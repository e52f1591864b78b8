//! What the views are made of.

use crate::pg::report;
use crate::shmem::shared;
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
