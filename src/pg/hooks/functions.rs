//! Functions that act outside the transaction that calls them, wherever they are called: in a query, a default expression,
//! a procedural language, or by the protocol's function call.
#![allow(unsafe_code)]

use super::commit::writes_at_its_end;
use super::{executor, protocol};
use crate::fence::{self, Guard, stands};
use pgrx::{pg_guard, pg_sys};
use std::ffi::{CStr, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C-unwind" {
    // SAFETY: it cannot raise an error.
    safe fn RecoveryInProgress() -> bool;
}

static PREVIOUS: OnceLock<pg_sys::object_access_hook_type> = OnceLock::new();
/// This process answers nobody.
static EXEMPT: AtomicBool = AtomicBool::new(false);

/// What a function does to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Effect {
    /// Something outside the transaction that a client may rely on.
    Outside,
    /// It makes the transaction durable at its end.
    AtCommit,
    /// It reads users' data, or tells how a transaction ended, behind the executor's back.
    Reads,
}

/// By number, which is the same in every version that is supported; a number that a version does not have is not called.
const FUNCTIONS: &[(u32, Effect)] = &[
    (765, Effect::Outside),   // lo_export
    (952, Effect::Reads),     // lo_open
    (954, Effect::Reads),     // loread
    (1065, Effect::Reads),    // pg_prepared_xact
    (1574, Effect::Outside),  // nextval
    (1576, Effect::Outside),  // setval
    (1765, Effect::Outside),  // setval
    (2172, Effect::Outside),  // pg_backup_start
    (2739, Effect::Outside),  // pg_backup_stop
    (2848, Effect::Outside),  // pg_switch_wal
    (2880, Effect::Outside),  // pg_advisory_lock
    (2881, Effect::Outside),  // pg_advisory_lock_shared
    (2882, Effect::Outside),  // pg_try_advisory_lock
    (2883, Effect::Outside),  // pg_try_advisory_lock_shared
    (2886, Effect::Outside),  // pg_advisory_lock
    (2887, Effect::Outside),  // pg_advisory_lock_shared
    (2888, Effect::Outside),  // pg_try_advisory_lock
    (2889, Effect::Outside),  // pg_try_advisory_lock_shared
    (3036, Effect::AtCommit), // pg_notify
    (3089, Effect::Outside),  // pg_advisory_xact_lock
    (3090, Effect::Outside),  // pg_advisory_xact_lock_shared
    (3091, Effect::Outside),  // pg_try_advisory_xact_lock
    (3092, Effect::Outside),  // pg_try_advisory_xact_lock_shared
    (3093, Effect::Outside),  // pg_advisory_xact_lock
    (3094, Effect::Outside),  // pg_advisory_xact_lock_shared
    (3095, Effect::Outside),  // pg_try_advisory_xact_lock
    (3096, Effect::Outside),  // pg_try_advisory_xact_lock_shared
    (3098, Effect::Outside),  // pg_create_restore_point
    (3360, Effect::Reads),    // txid_status
    (3458, Effect::Reads),    // lo_get
    (3459, Effect::Reads),    // lo_get
    (3577, Effect::Outside),  // pg_logical_emit_message
    (3578, Effect::Outside),  // pg_logical_emit_message
    (3581, Effect::Reads),    // pg_xact_commit_timestamp
    (3583, Effect::Reads),    // pg_last_committed_xact
    (3779, Effect::Outside),  // pg_create_physical_replication_slot
    (3780, Effect::Outside),  // pg_drop_replication_slot
    (3782, Effect::Outside),  // pg_logical_slot_get_changes
    (3783, Effect::Outside),  // pg_logical_slot_get_binary_changes
    (3784, Effect::Reads),    // pg_logical_slot_peek_changes
    (3785, Effect::Reads),    // pg_logical_slot_peek_binary_changes
    (3786, Effect::Outside),  // pg_create_logical_replication_slot
    (3789, Effect::Outside),  // gin_clean_pending_list
    (3878, Effect::Outside),  // pg_replication_slot_advance
    (3952, Effect::Outside),  // brin_summarize_new_values
    (3999, Effect::Outside),  // brin_summarize_range
    (4014, Effect::Outside),  // brin_desummarize_range
    (4032, Effect::Reads),    // pg_sequence_last_value
    (4220, Effect::Outside),  // pg_copy_physical_replication_slot
    (4221, Effect::Outside),  // pg_copy_physical_replication_slot
    (4222, Effect::Outside),  // pg_copy_logical_replication_slot
    (4223, Effect::Outside),  // pg_copy_logical_replication_slot
    (4224, Effect::Outside),  // pg_copy_logical_replication_slot
    (5066, Effect::Reads),    // pg_xact_status
    (6003, Effect::Outside),  // pg_replication_origin_create
    (6004, Effect::Outside),  // pg_replication_origin_drop
    (6009, Effect::Reads),    // pg_replication_origin_session_progress
    (6012, Effect::Outside),  // pg_replication_origin_advance
    (6013, Effect::Reads),    // pg_replication_origin_progress
    (6014, Effect::Reads),    // pg_show_replication_origin_status
    (6168, Effect::Reads),    // pg_xact_commit_timestamp_origin
    (6305, Effect::Outside),  // pg_log_standby_snapshot
    (6427, Effect::Reads),    // pg_get_sequence_data
];

const fn in_order(table: &[(u32, Effect)]) -> bool {
    let mut index = 1;
    while index < table.len() {
        if table[index - 1].0 >= table[index].0 {
            return false;
        }
        index += 1;
    }
    true
}

const _: () = assert!(in_order(FUNCTIONS), "it is searched by halves");

pub fn install() {
    // SAFETY: the postmaster is single-threaded while it preloads libraries.
    PREVIOUS.get_or_init(|| unsafe { pg_sys::object_access_hook });
    // SAFETY: as above.
    unsafe { pg_sys::object_access_hook = Some(on_access) };
}

/// This process answers nobody: what it does with slots is for this server alone.
pub fn exempt() {
    EXEMPT.store(true, Ordering::Relaxed);
}

/// Not guarded, so that an error of another library passes as it was raised: nothing in this frame needs to be dropped.
unsafe extern "C-unwind" fn on_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    part: c_int,
    argument: *mut c_void,
) {
    if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE && !EXEMPT.load(Ordering::Relaxed) {
        let number = object.to_u32();
        if number >= pg_sys::FirstNormalObjectId {
            if fence::closed() && !RecoveryInProgress() {
                check_foreign(object);
            }
        } else if let Ok(found) = FUNCTIONS.binary_search_by_key(&number, |(number, _)| *number) {
            check_builtin(object, FUNCTIONS[found].1);
        }
    }
    if let Some(previous) = PREVIOUS.get().copied().flatten() {
        // SAFETY: the hook of another library, with the arguments as they came.
        unsafe { previous(access, class, object, part, argument) };
    }
}

#[pg_guard]
extern "C-unwind" fn check_builtin(function: pg_sys::Oid, effect: Effect) {
    if RecoveryInProgress() {
        if effect == Effect::Reads && stands(Guard::StandbyFunction) {
            executor::check_standby_read();
        }
        return;
    }
    let guarded = match effect {
        Effect::Reads => stands(Guard::FunctionReads) && executor::reads_refused(),
        Effect::Outside | Effect::AtCommit => stands(Guard::Function),
    };
    if guarded && fence::closed() {
        fence::check_statement(&format!("{}()", name(function)));
    }
    match effect {
        Effect::AtCommit if stands(Guard::NotifyFunction) => writes_at_its_end(),
        // Asked for the beginning of the statement: one that ends after the deadline is not answered.
        Effect::Outside => protocol::owe_effect(),
        Effect::AtCommit | Effect::Reads => {}
    }
}

/// dblink commits on another server, which no transaction of this one undoes.
#[pg_guard]
extern "C-unwind" fn check_foreign(function: pg_sys::Oid) {
    let name = name(function);
    if name.starts_with("dblink") && stands(Guard::Dblink) {
        fence::check_statement(&format!("{name}()"));
    }
}

fn name(function: pg_sys::Oid) -> String {
    // SAFETY: looks it up in a catalog cache, within a transaction, since a function is about to be executed.
    let name = unsafe { pg_sys::get_func_name(function) };
    if name.is_null() {
        return "a function".to_owned();
    }
    // SAFETY: a C string in the memory of the statement.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}
