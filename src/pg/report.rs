//! Messages to clients and to the server's log.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::{PgLogLevel, PgSqlErrorCode};

/// Ends the current statement with an error. Never called by the loop worker.
#[track_caller]
pub fn error(code: PgSqlErrorCode, message: &str, detail: &str, hint: &str) {
    let mut report = ErrorReport::new(code, message.to_owned(), "ha_ext");
    if !detail.is_empty() {
        report = report.set_detail(detail);
    }
    if !hint.is_empty() {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
}

/// Ends the process; the postmaster refuses to start.
#[track_caller]
pub fn fatal(code: PgSqlErrorCode, message: &str, hint: &str) {
    ErrorReport::new(code, message.to_owned(), "ha_ext").set_hint(hint).report(PgLogLevel::FATAL);
}

/// One line for the server's log.
pub fn log(message: &str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_SUCCESSFUL_COMPLETION, message.to_owned(), "ha_ext")
        .report(PgLogLevel::LOG);
}

/// One warning for the server's log.
pub fn warning(message: &str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message.to_owned(), "ha_ext").report(PgLogLevel::WARNING);
}
