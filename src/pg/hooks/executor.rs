//! Queries: what changes data, and what reads it.
#![allow(unsafe_code)]

use super::commit;
use crate::fence::{self, Guard, stands};
use crate::guc::{FenceReads, fence_reads};
use pgrx::{pg_guard, pg_sys};
use std::sync::OnceLock;

unsafe extern "C-unwind" {
    // SAFETY: it cannot raise an error; declared here because the binding's error boundary would cost more than the call.
    safe fn RecoveryInProgress() -> bool;
    // SAFETY: declared here because the binding would catch and rebuild every error, and lose fields on the way.
    fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: i32);
    #[cfg(not(feature = "pg18"))]
    fn standard_ExecutorRun(query: *mut pg_sys::QueryDesc, direction: Direction, count: u64, once: bool);
    #[cfg(feature = "pg18")]
    fn standard_ExecutorRun(query: *mut pg_sys::QueryDesc, direction: Direction, count: u64);
    fn standard_ExecutorEnd(query: *mut pg_sys::QueryDesc);
}

type Direction = pg_sys::ScanDirection::Type;

/// The number of `pg_largeobject`, which is not among the bindings.
const LARGE_OBJECTS: u32 = 2613;

static PREVIOUS_EXECUTOR_START: OnceLock<pg_sys::ExecutorStart_hook_type> = OnceLock::new();
static PREVIOUS_EXECUTOR_RUN: OnceLock<pg_sys::ExecutorRun_hook_type> = OnceLock::new();
static PREVIOUS_EXECUTOR_END: OnceLock<pg_sys::ExecutorEnd_hook_type> = OnceLock::new();

pub fn install() {
    // SAFETY: the postmaster is single-threaded while it preloads libraries.
    PREVIOUS_EXECUTOR_START.get_or_init(|| unsafe { pg_sys::ExecutorStart_hook });
    // SAFETY: as above.
    unsafe { pg_sys::ExecutorStart_hook = Some(on_executor_start) };
    // SAFETY: as above.
    PREVIOUS_EXECUTOR_RUN.get_or_init(|| unsafe { pg_sys::ExecutorRun_hook });
    // SAFETY: as above.
    unsafe { pg_sys::ExecutorRun_hook = Some(on_executor_run) };
    // SAFETY: as above.
    PREVIOUS_EXECUTOR_END.get_or_init(|| unsafe { pg_sys::ExecutorEnd_hook });
    // SAFETY: as above.
    unsafe { pg_sys::ExecutorEnd_hook = Some(on_executor_end) };
}

/// Whether reads are refused where they may show what will be lost.
pub fn reads_refused() -> bool {
    fence_reads() == FenceReads::Refuse
}

/// A read of a user table on a standby that must not be read yet.
pub fn check_standby_read() {
    if fence::standby_withheld() && reads_refused() {
        fence::refuse_standby_read();
    }
}

/// Not guarded, so that an error passes through as the server raised it: nothing in this frame needs to be dropped.
unsafe extern "C-unwind" fn on_executor_start(query: *mut pg_sys::QueryDesc, flags: i32) {
    if stands(Guard::QueryStart) {
        look_at(query);
    }
    let next = PREVIOUS_EXECUTOR_START.get().copied().flatten().unwrap_or(standard_ExecutorStart);
    // SAFETY: the next in line, with the arguments as they came.
    unsafe { next(query, flags) };
}

/// A cursor goes on after its beginning was allowed. Not guarded, for the same reason.
#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn on_executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: Direction,
    count: u64,
    once: bool,
) {
    if stands(Guard::QueryRun) {
        look_at(query);
    }
    let next = PREVIOUS_EXECUTOR_RUN.get().copied().flatten().unwrap_or(standard_ExecutorRun);
    // SAFETY: the next in line, with the arguments as they came.
    unsafe { next(query, direction, count, once) };
}

/// A cursor goes on after its beginning was allowed. Not guarded, for the same reason.
#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn on_executor_run(query: *mut pg_sys::QueryDesc, direction: Direction, count: u64) {
    if stands(Guard::QueryRun) {
        look_at(query);
    }
    let next = PREVIOUS_EXECUTOR_RUN.get().copied().flatten().unwrap_or(standard_ExecutorRun);
    // SAFETY: the next in line, with the arguments as they came.
    unsafe { next(query, direction, count) };
}

/// What was changed on other servers is known now. Not guarded, for the same reason.
unsafe extern "C-unwind" fn on_executor_end(query: *mut pg_sys::QueryDesc) {
    look_back_at(query);
    let next = PREVIOUS_EXECUTOR_END.get().copied().flatten().unwrap_or(standard_ExecutorEnd);
    // SAFETY: the next in line, with the argument as it came.
    unsafe { next(query) };
}

fn look_at(query: *mut pg_sys::QueryDesc) {
    if RecoveryInProgress() {
        if fence::standby_withheld() {
            check_standby_query(query);
        }
    } else if fence::closed() {
        check_query(query);
    }
}

fn changes_data(plan: &pg_sys::PlannedStmt) -> bool {
    plan.commandType != pg_sys::CmdType::CMD_SELECT || plan.hasModifyingCTE
}

#[pg_guard]
extern "C-unwind" fn look_back_at(query: *mut pg_sys::QueryDesc) {
    let plan = plan_of(query);
    // A partition may be a foreign table.
    let elsewhere = |entry: &pg_sys::RangeTblEntry| {
        let kind = entry.relkind.cast_unsigned();
        (stands(Guard::ForeignTable) && kind == pg_sys::RELKIND_FOREIGN_TABLE)
            || (stands(Guard::ForeignPartition) && kind == pg_sys::RELKIND_PARTITIONED_TABLE)
    };
    if changes_data(plan) && any_table(plan.rtable, elsewhere) {
        commit::stand_first();
    }
}

/// A query on a primary without a lease: changes are refused before they reach a foreign server, and reads of user
/// tables unless they are allowed. Catalogs and functions stay usable, for whoever has to look at this server.
#[pg_guard]
extern "C-unwind" fn check_query(query: *mut pg_sys::QueryDesc) {
    let plan = plan_of(query);
    let locks = stands(Guard::QueryLocks) && !plan.rowMarks.is_null();
    if locks || (stands(Guard::QueryChanges) && changes_data(plan)) {
        fence::check_statement("a statement that changes data");
    }
    if stands(Guard::QueryReads) && reads_refused() && reads_user_table(plan.rtable) {
        fence::check_statement("a read");
    }
}

/// A query on a standby that must not be read yet.
#[pg_guard]
extern "C-unwind" fn check_standby_query(query: *mut pg_sys::QueryDesc) {
    if stands(Guard::StandbyQuery) && reads_user_table(plan_of(query).rtable) {
        check_standby_read();
    }
}

fn plan_of<'a>(query: *mut pg_sys::QueryDesc) -> &'a pg_sys::PlannedStmt {
    // SAFETY: the server hands over a valid query.
    let plan = unsafe { (*query).plannedstmt };
    // SAFETY: every query has its plan, which lives as long.
    unsafe { &*plan }
}

fn reads_user_table(range_table: *mut pg_sys::List) -> bool {
    any_table(range_table, |entry| {
        // The one catalog that is full of users' data.
        let number = entry.relid.to_u32();
        let large_objects = stands(Guard::QueryLargeObjects) && number == LARGE_OBJECTS;
        large_objects
            || (number >= pg_sys::FirstNormalObjectId && entry.relkind.cast_unsigned() != pg_sys::RELKIND_VIEW)
    })
}

fn any_table(range_table: *mut pg_sys::List, wanted: impl Fn(&pg_sys::RangeTblEntry) -> bool) -> bool {
    // SAFETY: null or a list of the server.
    let Some(list) = (unsafe { range_table.as_ref() }) else { return false };
    let length = usize::try_from(list.length).unwrap_or(0);
    // SAFETY: a list has `length` initialised cells.
    let cells = unsafe { std::slice::from_raw_parts(list.elements, length) };
    cells.iter().any(|cell| {
        // SAFETY: a range table is a list of pointers.
        let entry = unsafe { cell.ptr_value }.cast::<pg_sys::RangeTblEntry>();
        // SAFETY: to range table entries.
        let entry = unsafe { &*entry };
        entry.rtekind == pg_sys::RTEKind::RTE_RELATION && wanted(entry)
    })
}
