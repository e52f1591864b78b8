//! Transactions: who may commit, and who is answered.
#![allow(unsafe_code)]

use super::{apply, protocol};
use crate::fence::{self, Guard, stands};
use crate::pg::wal;
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C-unwind" {
    // SAFETY: it cannot raise an error; declared here because it is on the path of every commit, where the binding's error
    // boundary would cost more than the call.
    safe fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
}

/// This transaction becomes durable, here or elsewhere, even if it has no id when it is asked about.
static WRITES_AT_ITS_END: AtomicBool = AtomicBool::new(false);

pub fn install() {
    // SAFETY: the callback lives as long as the library, and it needs no argument.
    unsafe { pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut()) };
}

/// Changes were made on another server through a foreign table: its library commits them there in a callback of its own,
/// which must come after ours. The server calls the newest one first.
pub fn stand_first() {
    WRITES_AT_ITS_END.store(true, Ordering::Relaxed);
    if stands(Guard::ForeignOrder) {
        // SAFETY: registered above, with the same argument.
        unsafe { pg_sys::UnregisterXactCallback(Some(on_transaction), std::ptr::null_mut()) };
        install();
    }
}

fn has_xid() -> bool {
    GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId
}

fn becomes_durable() -> bool {
    has_xid() || WRITES_AT_ITS_END.load(Ordering::Relaxed)
}

/// `pg_notify()`: the transaction is given an id only when nobody can refuse it any more.
pub fn writes_at_its_end() {
    WRITES_AT_ITS_END.store(true, Ordering::Relaxed);
}

/// Before the commit record: an error, or a wait. After it an error would be a PANIC: the connection is shut instead.
#[pg_guard]
extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent as E;
    match event {
        // A parallel worker is not asked: it commits nothing that its leader does not commit after it.
        E::XACT_EVENT_PRE_COMMIT if stands(Guard::PreCommit) && becomes_durable() => fence::pass(),
        E::XACT_EVENT_PRE_PREPARE if stands(Guard::PrePrepare) && becomes_durable() => fence::pass(),
        E::XACT_EVENT_COMMIT | E::XACT_EVENT_PREPARE => {
            WRITES_AT_ITS_END.store(false, Ordering::Relaxed);
            if let Some(end) = wal::committed_unflushed() {
                fence::committed_unflushed(end);
            }
            let passed = fence::settled();
            // Another library may have written after ours was asked.
            if passed || has_xid() {
                if stands(if event == E::XACT_EVENT_COMMIT { Guard::OwedCommit } else { Guard::OwedPrepare }) {
                    protocol::owe();
                }
                #[cfg(debug_assertions)]
                crate::pg::debug::reached(crate::pg::debug::Point::Flushed);
            }
            apply::keep_silent_while_fenced();
        }
        E::XACT_EVENT_ABORT => {
            WRITES_AT_ITS_END.store(false, Ordering::Relaxed);
            fence::settled();
        }
        _ => {}
    }
}
