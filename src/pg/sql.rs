//! SQL inside the sql worker.
#![allow(unsafe_code)]

use ha_core::local::PendingSetting;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::datum::DatumWithOid;
use pgrx::pg_sys::panic::CaughtError;
use pgrx::prelude::*;
use std::panic::AssertUnwindSafe;

/// Connects this worker to a database. It ends the process if there is no such database.
pub fn connect(database: &str) {
    BackgroundWorker::connect_worker_to_spi(Some(database), None);
}

/// One physical replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Somebody uses it.
    pub active: bool,
    /// Oldest position it holds, in bytes; `None` if it holds nothing or is lost.
    pub restart_lsn: Option<i64>,
}

/// Every permanent physical slot.
pub fn physical_slots() -> Result<Vec<Slot>, String> {
    let query = "SELECT slot_name::text, active, (restart_lsn - '0/0'::pg_lsn)::bigint \
                 FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary";
    transaction(|| {
        Spi::connect(|client| {
            let mut slots = Vec::new();
            for row in client.select(query, None, &[])? {
                slots.push(Slot {
                    name: row.get::<String>(1)?.unwrap_or_default(),
                    active: row.get::<bool>(2)?.unwrap_or(true),
                    restart_lsn: row.get::<i64>(3)?,
                });
            }
            Ok(slots)
        })
    })
}

/// Settings that the server takes only at its next start. What stands on its command line it does not count itself: there the
/// files, which the next command line is made from, are compared.
pub fn pending_restart() -> Result<Vec<(String, PendingSetting)>, String> {
    let query = "SELECT s.name, pg_catalog.current_setting(s.name), coalesce(f.setting, s.boot_val, '') \
                 FROM pg_catalog.pg_settings s LEFT JOIN ( \
                     SELECT DISTINCT ON (lower(name)) lower(name) AS name, setting \
                     FROM pg_catalog.pg_file_settings WHERE name IS NOT NULL ORDER BY lower(name), seqno DESC \
                 ) f ON f.name = lower(s.name) \
                 WHERE s.pending_restart \
                    OR (s.source = 'command line' AND s.context = 'postmaster' AND f.setting <> s.setting)";
    transaction(|| {
        Spi::connect(|client| {
            let mut pending = Vec::new();
            for row in client.select(query, None, &[])? {
                let text = |number| row.get::<String>(number).map(Option::unwrap_or_default);
                pending.push((text(1)?, PendingSetting { old_value: text(2)?, new_value: text(3)? }));
            }
            Ok(pending)
        })
    })
}

/// Makes a physical slot that holds WAL from now on.
pub fn create_slot(name: &str) -> Result<(), String> {
    run("SELECT pg_catalog.pg_create_physical_replication_slot($1, true)", &[name.into()])
}

/// Drops a slot.
pub fn drop_slot(name: &str) -> Result<(), String> {
    run("SELECT pg_catalog.pg_drop_replication_slot($1)", &[name.into()])
}

/// Moves a slot forward, as far as this server has WAL.
pub fn advance_slot(name: &str, lsn: &str) -> Result<(), String> {
    run("SELECT pg_catalog.pg_replication_slot_advance($1, $2::pg_lsn)", &[name.into(), lsn.into()])
}

/// As a query: anything else would take a transaction id first, which a standby does not have to give.
fn run(query: &str, arguments: &[DatumWithOid<'_>]) -> Result<(), String> {
    transaction(|| Spi::connect(|client| client.select(query, None, arguments).map(drop)))
}

/// Runs `body` in a transaction of its own; an error of the server rolls it back and comes back as text.
fn transaction<T>(body: impl FnOnce() -> Result<T, pgrx::spi::Error>) -> Result<T, String> {
    // SAFETY: this worker is connected to a database, and no transaction is open.
    unsafe { pg_sys::SetCurrentStatementStartTimestamp() };
    // SAFETY: as above.
    unsafe { pg_sys::StartTransactionCommand() };
    // SAFETY: inside the transaction just begun.
    let snapshot = unsafe { pg_sys::GetTransactionSnapshot() };
    // SAFETY: as above.
    unsafe { pg_sys::PushActiveSnapshot(snapshot) };
    let body = AssertUnwindSafe(|| body().map_err(|error| error.to_string()));
    let result = PgTryBuilder::new(body).catch_others(|error| Err(message(&error))).execute();
    if result.is_ok() {
        // SAFETY: pushed above.
        unsafe { pg_sys::PopActiveSnapshot() };
        // SAFETY: begun above.
        unsafe { pg_sys::CommitTransactionCommand() };
    } else {
        // SAFETY: begun above; the snapshot goes with it.
        unsafe { pg_sys::AbortCurrentTransaction() };
    }
    result
}

fn message(error: &CaughtError) -> String {
    match error {
        CaughtError::PostgresError(report)
        | CaughtError::ErrorReport(report)
        | CaughtError::RustPanic { ereport: report, .. } => report.message().to_owned(),
    }
}
