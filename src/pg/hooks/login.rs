//! Sessions that begin or end while this server turns into a standby.
#![allow(unsafe_code)]

use crate::fence;
use pgrx::prelude::{PgLogLevel, PgSqlErrorCode};
use pgrx::{pg_guard, pg_sys};
use std::ffi::{CString, c_int};
use std::sync::OnceLock;

type AuthenticationHook = Option<unsafe extern "C-unwind" fn(port: *mut pg_sys::Port, status: c_int)>;

unsafe extern "C-unwind" {
    /// Not among the bindings.
    static mut ClientAuthentication_hook: AuthenticationHook;
    safe fn RecoveryInProgress() -> bool;
}

static PREVIOUS_AUTHENTICATION: OnceLock<AuthenticationHook> = OnceLock::new();
static PREVIOUS_LOG: OnceLock<pg_sys::emit_log_hook_type> = OnceLock::new();

pub fn install() {
    // SAFETY: the postmaster is single-threaded while it preloads libraries.
    PREVIOUS_AUTHENTICATION.get_or_init(|| unsafe { ClientAuthentication_hook });
    // SAFETY: as above.
    unsafe { ClientAuthentication_hook = Some(on_authentication) };
    // SAFETY: as above.
    PREVIOUS_LOG.get_or_init(|| unsafe { pg_sys::emit_log_hook });
    // SAFETY: as above.
    unsafe { pg_sys::emit_log_hook = Some(on_log) };
}

/// A client has said who it is. Not guarded, so that an error of another library passes as it was raised.
unsafe extern "C-unwind" fn on_authentication(port: *mut pg_sys::Port, status: c_int) {
    if let Some(previous) = PREVIOUS_AUTHENTICATION.get().copied().flatten() {
        // SAFETY: the hook of another library, with the arguments as they came.
        unsafe { previous(port, status) };
    }
    if status == pg_sys::STATUS_OK.cast_signed() {
        check_login();
    }
}

/// Standbys are never sent away: they have to receive the end of the log.
#[pg_guard]
extern "C-unwind" fn check_login() {
    // SAFETY: the function lives as long as the process.
    unsafe { pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0)) };
    // SAFETY: a plain variable of this process.
    let replication = unsafe { pg_sys::am_walsender };
    if !replication {
        fence::check_login();
    }
}

/// The lowest priority there is.
const LAST: i32 = 19;

/// Before the transaction is undone and the locks are given back, which others may wait for.
#[pg_guard]
extern "C-unwind" fn on_exit(_code: c_int, _argument: pg_sys::Datum) {
    if fence::handed_over() {
        // SAFETY: the function lives as long as the process.
        unsafe { pg_sys::on_proc_exit(Some(leave_the_processor), pg_sys::Datum::from(0)) };
    }
}

/// The client has been told where to go, and nobody waits for anything of its session: what is left, its memory above all, is given back
/// when nobody else needs the processor. The client may log in on the same machine.
#[pg_guard]
extern "C-unwind" fn leave_the_processor(_code: c_int, _argument: pg_sys::Datum) {
    // Where it fails the priority stays as it is.
    let _ = rustix::process::nice(LAST);
}

/// A message is about to be written and sent. Not guarded, for the same reason.
unsafe extern "C-unwind" fn on_log(data: *mut pg_sys::ErrorData) {
    tell_where_to_go(data);
    if let Some(previous) = PREVIOUS_LOG.get().copied().flatten() {
        // SAFETY: the hook of another library, with the argument as it came.
        unsafe { previous(data) };
    }
}

/// Whether a client that gets this message is to go elsewhere: a demotion ends its session, or it wants to change something on a standby.
fn is_sent_away(data: &pg_sys::ErrorData) -> bool {
    let code = data.sqlerrcode;
    let ended = data.elevel == pg_sys::FATAL.cast_signed() && code == PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN as i32;
    let read_only =
        data.elevel == PgLogLevel::ERROR as i32 && code == PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION as i32;
    (ended && fence::yielding()) || (read_only && fence::in_cluster() && RecoveryInProgress())
}

/// Whoever is sent away is told who leads. Nothing in here may raise an error.
#[pg_guard]
extern "C-unwind" fn tell_where_to_go(data: *mut pg_sys::ErrorData) {
    // SAFETY: the message that the server is reporting, which belongs to this process.
    if let Some(data) = unsafe { data.as_mut() }
        && data.hint.is_null()
        && is_sent_away(data)
        && let Ok(hint) = CString::new(fence::leader_hint())
    {
        // SAFETY: a C string; the copy is the server's own, which frees it with the message.
        data.hint = unsafe { pg_sys::pstrdup(hint.as_ptr()) };
    }
}
