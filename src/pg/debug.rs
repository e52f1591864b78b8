//! Settings of debug builds alone. With two of them a test places the end of the lease at an exact point: they can close the
//! fence, hold commits and withhold reads, and open nothing that the lease or the worker has closed. With the third, which is
//! read when the server starts, it takes single guards away, to show that something fails then.
#![allow(unsafe_code)]

use crate::fence::{self, GUARDS, Guard};
use crate::shmem::shared;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting, PostgresGucEnum};
use pgrx::pg_guard;
use pgrx::prelude::PgSqlErrorCode;
use std::ffi::{CString, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What is done to this server for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
enum Gate {
    /// Lifts a seal, and only that.
    #[name = c"none"]
    None,
    #[name = c"seal"]
    Seal,
    #[name = c"demote"]
    Demote,
    #[name = c"withhold"]
    Withhold,
}

/// Where the lease of this session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Point {
    /// Where it ends for everybody.
    #[name = c"none"]
    None,
    /// Now.
    #[name = c"passed"]
    Passed,
    /// After a commit was allowed, before its record is written; or in the middle of what has no transaction.
    #[name = c"in_commit"]
    InCommit,
    /// After the record was flushed and looked after, before the client hears of it.
    #[name = c"flushed"]
    Flushed,
    /// After the answer was written, before it is sent.
    #[name = c"written"]
    Written,
}

static DEADLINE: GucSetting<Point> = GucSetting::<Point>::new(Point::None);
/// The point was reached.
static PASSED: AtomicBool = AtomicBool::new(false);

/// Whether the lease of this session is over, whatever the lease of this server is.
pub fn passed() -> bool {
    PASSED.load(Ordering::Relaxed) || DEADLINE.get() == Point::Passed
}

/// This session is at `point`.
pub fn reached(point: Point) {
    if DEADLINE.get() == point {
        PASSED.store(true, Ordering::Relaxed);
    }
}

static GATE: GucSetting<Gate> = GucSetting::<Gate>::new(Gate::None);
static WITHOUT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// One bit for each guard that is missing. Forked processes inherit it.
static MISSING: AtomicU64 = AtomicU64::new(0);

/// Whether this server does without a guard.
pub fn without(guard: Guard) -> bool {
    MISSING.load(Ordering::Relaxed) & (1 << guard as u8) != 0
}

/// A name that no guard has ends the start: the test that wanted it would show nothing.
fn take_away() {
    let text = WITHOUT.get().and_then(|text| text.into_string().ok()).unwrap_or_default();
    for wanted in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match GUARDS.iter().find(|(_, name)| *name == wanted) {
            Some((guard, _)) => {
                MISSING.fetch_or(1 << *guard as u8, Ordering::Relaxed);
                pgrx::warning!("ha_ext: the fence does without the guard {wanted}");
            }
            None => crate::pg::report::fatal(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                &format!("the fence has no guard \"{wanted}\""),
                "",
            ),
        }
    }
}

/// Registers the settings. Called once, by the postmaster.
pub fn define() {
    GucRegistry::define_enum_guc(
        c"ha_ext.debug_deadline",
        c"Where the lease ends for this session.",
        c"",
        &DEADLINE,
        GucContext::Suset,
        GucFlags::SUPERUSER_ONLY,
    );
    // SAFETY: the hook is guarded.
    unsafe {
        GucRegistry::define_enum_guc_with_hooks(
            c"ha_ext.debug_gate",
            c"What a planned switchover does to commits, logins and reads.",
            c"",
            &GATE,
            GucContext::Suset,
            GucFlags::SUPERUSER_ONLY,
            None,
            Some(on_gate),
            None,
        );
    }
    GucRegistry::define_string_guc(
        c"ha_ext.debug_without",
        c"Guards of the fence that are missing.",
        c"",
        &WITHOUT,
        GucContext::Postmaster,
        GucFlags::SUPERUSER_ONLY,
    );
    take_away();
}

#[pg_guard]
unsafe extern "C-unwind" fn on_gate(value: c_int, _extra: *mut c_void) {
    // The postmaster has no shared memory yet when it registers the setting.
    let Some(shared) = shared() else { return };
    match value {
        value if value == Gate::Seal as c_int => fence::seal(shared),
        value if value == Gate::Demote as c_int => fence::close_for_demotion(shared, "192.0.2.1:5432 (next)"),
        value if value == Gate::Withhold as c_int => fence::withhold_reads(shared),
        _ => fence::unseal(shared),
    }
}
