//! Transactions: who may commit, and who is answered.
#![allow(unsafe_code)]

use crate::fence;
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_void;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C-unwind" {
    // SAFETY: it cannot raise an error; declared here because it is on the path of every commit, where the binding's error
    // boundary would cost more than the call.
    safe fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
}

/// This transaction will be given an id only when nobody can refuse it any more.
static WRITES_AT_ITS_END: AtomicBool = AtomicBool::new(false);

pub fn install() {
    // SAFETY: the callback lives as long as the library, and it needs no argument.
    unsafe { pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut()) };
}

fn has_xid() -> bool {
    GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId
}

/// NOTIFY: the transaction becomes durable even if nothing else in it is.
pub fn writes_at_its_end() {
    WRITES_AT_ITS_END.store(true, Ordering::Relaxed);
}

/// Before the commit record: an error, or a wait. After it an error would be a PANIC: the connection is shut instead.
#[pg_guard]
extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent as E;
    match event {
        E::XACT_EVENT_PRE_COMMIT | E::XACT_EVENT_PRE_PREPARE
            if has_xid() || WRITES_AT_ITS_END.load(Ordering::Relaxed) =>
        {
            fence::pass();
        }
        // Its leader's commit is what counts: that one is held.
        E::XACT_EVENT_PARALLEL_PRE_COMMIT if has_xid() => fence::check_statement("a parallel worker's commit"),
        E::XACT_EVENT_COMMIT | E::XACT_EVENT_PREPARE => {
            WRITES_AT_ITS_END.store(false, Ordering::Relaxed);
            let passed = fence::settled();
            if passed || has_xid() {
                became_durable();
            }
        }
        E::XACT_EVENT_ABORT => {
            WRITES_AT_ITS_END.store(false, Ordering::Relaxed);
            fence::settled();
        }
        _ => {}
    }
}

/// Something that a client may be told about is in the log for good.
pub fn became_durable() {
    if fence::closed() {
        cut_client();
    }
}

/// Makes sure that nothing more reaches the client: it sees a lost connection, and the outcome is unknown to it.
fn cut_client() {
    // SAFETY: a plain variable of this process.
    let port = unsafe { pg_sys::MyProcPort };
    if port.is_null() {
        return;
    }
    // SAFETY: the socket is the first field of `Port`, which the bindings declare opaque.
    let socket = unsafe { *port.cast::<pg_sys::pgsocket>() };
    if socket < 0 {
        return;
    }
    // SAFETY: the client's socket is open as long as this process serves it.
    let socket = unsafe { BorrowedFd::borrow_raw(socket) };
    // It fails only if the client has gone, which is as good.
    let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
}
