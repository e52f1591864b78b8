//! Logical subscriptions: what a publisher is told about this server.
#![allow(unsafe_code)]

use crate::fence::{self, Guard, stands};
use pgrx::pg_sys;
use std::ffi::{c_char, c_int};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C-unwind" {
    // SAFETY: it cannot raise an error.
    safe fn RecoveryInProgress() -> bool;
    // SAFETY: it only looks at plain variables of this process.
    safe fn IsLogicalWorker() -> bool;
}

type Functions = pg_sys::WalReceiverFunctionsType;

/// The table of the library that talks to the publisher, and ours in its place. Only in apply and synchronisation workers.
static LIBRARYS: OnceLock<Functions> = OnceLock::new();
static OURS: OnceLock<Functions> = OnceLock::new();
/// This process was looked at, and there is nothing (more) to do.
static DONE: AtomicBool = AtomicBool::new(false);

/// Called after each transaction: such a worker loads the library and runs a transaction before it talks to anybody.
pub fn keep_silent_while_fenced() {
    if DONE.load(Ordering::Relaxed) {
        return;
    }
    if IsLogicalWorker() {
        // SAFETY: a plain variable of this process.
        let current = unsafe { pg_sys::WalReceiverFunctions };
        if current.is_null() {
            return;
        }
        // SAFETY: a constant table of the library, which is never unloaded.
        let librarys = *LIBRARYS.get_or_init(|| unsafe { *current });
        let ours = OURS.get_or_init(|| Functions { walrcv_send: Some(on_send), ..librarys });
        // SAFETY: as above; our table lives as long as the process, and nobody writes into it.
        unsafe { pg_sys::WalReceiverFunctions = std::ptr::from_ref(ours).cast_mut() };
    }
    DONE.store(true, Ordering::Relaxed);
}

/// Feedback for the publisher: how far everything was flushed here. While fenced it stays silent, so that it never confirms
/// what a failover would lose: the publisher sends that again to whoever leads. Not guarded: nothing needs to be dropped.
unsafe extern "C-unwind" fn on_send(connection: *mut pg_sys::WalReceiverConn, bytes: *const c_char, length: c_int) {
    if stands(Guard::Feedback) && !RecoveryInProgress() && fence::closed() {
        return;
    }
    if let Some(send) = LIBRARYS.get().and_then(|functions| functions.walrcv_send) {
        // SAFETY: the library's own, with the arguments as they came.
        unsafe { send(connection, bytes, length) };
    }
}
