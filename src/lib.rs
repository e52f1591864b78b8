//! `ha_ext`: high availability from inside the postmaster.
//!
//! This crate is the Postgres skin: it observes the server, executes what `ha_core` decides and keeps commits from being
//! acknowledged without a lease. [`_PG_init`] is the only place where anything is registered with the server.

mod commands;
mod fence;
mod files;
mod guc;
mod log;
mod mailbox;
mod pg;
mod placeholders;
mod port;
mod ring;
mod shmem;
mod sql;
mod sqlworker;
mod status;
mod supervisor;
mod tenancy;
mod worker;

use pgrx::prelude::*;

::pgrx::pg_module_magic!();

/// Called when the library is loaded: by the postmaster through `shared_preload_libraries`, which registers everything,
/// or by a session that calls one of our functions in a server that did not preload it, which registers nothing.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    if !pg::process::preloading() {
        return;
    }
    guc::define();
    #[cfg(debug_assertions)]
    pg::debug::define();
    fence::decide_mode(&guc::config_file(), &pg::process::data_dir());
    if fence::mode() == fence::Mode::Inert {
        return;
    }
    // `ha_bootstrap` never starts such a directory; this is for whoever does it by hand. In doubt it is whole.
    if ha_node::paths::Paths::new(&pg::process::data_dir()).unfinished().exists() {
        pg::report::fatal(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the data directory is not whole: an earlier rewind or copy was interrupted",
            "Start it with ha_bootstrap, which repairs or replaces it.",
        );
    }
    if let Err(error) = tenancy::lock(&pg::process::data_dir()) {
        pg::report::fatal(
            PgSqlErrorCode::ERRCODE_LOCK_FILE_EXISTS,
            &format!("could not lock the data directory: {error}"),
            "Processes of an earlier server may still be running in it.",
        );
    }
    if let Err(error) = pg::locks::check() {
        pg::report::fatal(
            PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            &format!("ha_ext does not know this build of PostgreSQL: {error}"),
            "Build ha_ext for the server that loads it.",
        );
    }
    shmem::install();
    pg::hooks::install();
    if fence::mode() == fence::Mode::Active {
        pg::process::register_workers();
    }
}

/// Entry point of the loop worker.
// SAFETY: the postmaster looks this symbol up by the name it was registered with.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn ha_ext_loop_worker(_argument: pg_sys::Datum) {
    worker::run()
}

/// Entry point of the sql worker.
// SAFETY: the postmaster looks this symbol up by the name it was registered with.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
#[pg_guard]
pub extern "C-unwind" fn ha_ext_sql_worker(_argument: pg_sys::Datum) {
    sqlworker::run()
}
