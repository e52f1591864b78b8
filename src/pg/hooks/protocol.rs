//! What leaves for the client: an answer that is owed for something durable leaves only while the lease lasts.
//!
//! The table through which the server writes to its client is replaced in the postmaster, and inherited by every process
//! that talks to one. Parallel workers replace it again, by one that writes to their leader.
#![allow(unsafe_code)]

use crate::fence::{self, Guard, stands};
use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_int};
use std::os::fd::BorrowedFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// The server's own table; its layout is the same in every version that is supported.
#[repr(C)]
#[derive(Clone, Copy)]
struct PqCommMethods {
    comm_reset: unsafe extern "C-unwind" fn(),
    flush: unsafe extern "C-unwind" fn() -> c_int,
    flush_if_writable: unsafe extern "C-unwind" fn() -> c_int,
    is_send_pending: unsafe extern "C-unwind" fn() -> bool,
    putmessage: unsafe extern "C-unwind" fn(kind: c_char, bytes: *const c_char, length: usize) -> c_int,
    putmessage_noblock: unsafe extern "C-unwind" fn(kind: c_char, bytes: *const c_char, length: usize),
}

unsafe extern "C-unwind" {
    /// Not among the bindings.
    #[link_name = "PqCommMethods"]
    static mut CURRENT: *const PqCommMethods;
    // SAFETY: it cannot raise an error.
    safe fn RecoveryInProgress() -> bool;
}

static SERVERS: OnceLock<PqCommMethods> = OnceLock::new();
static OURS: OnceLock<PqCommMethods> = OnceLock::new();

/// What was done that a client may rely on once it is told, and that it was not told yet.
static OWED: AtomicU8 = AtomicU8::new(NOTHING);
const NOTHING: u8 = 0;
/// An effect outside the transaction: an error says that the statement failed, and promises nothing of it.
const EFFECT: u8 = 1;
/// Something is in the log for good: an error would say that it is not.
const DURABLE: u8 = 2;
/// This client is told nothing any more.
static CUT: AtomicBool = AtomicBool::new(false);
/// The message that was written last.
static LAST: AtomicU8 = AtomicU8::new(0);
/// What was written, and has not left for sure, tells of the commits of others.
static TELLS: AtomicBool = AtomicBool::new(false);

const COMPLETE: u8 = b'C';
const COPY_DATA: u8 = b'd';
const ERROR: u8 = b'E';
const NOTIFICATION: u8 = b'A';
const READY: u8 = b'Z';
/// What the server's functions return when the connection is lost.
const LOST: c_int = -1;

pub fn install() {
    // SAFETY: the postmaster is single-threaded while it preloads libraries.
    let current = unsafe { CURRENT };
    // SAFETY: a constant table of the server.
    let servers = *SERVERS.get_or_init(|| unsafe { *current });
    let ours = OURS.get_or_init(|| PqCommMethods {
        flush: on_flush,
        flush_if_writable: on_flush_if_writable,
        putmessage: on_message,
        putmessage_noblock: on_message_noblock,
        ..servers
    });
    // SAFETY: as above; the table lives as long as the process.
    unsafe { CURRENT = ours };
}

/// The client is about to be told of something durable, or of an effect outside its transaction.
pub fn owe() {
    OWED.store(DURABLE, Ordering::Relaxed);
}

/// A statement that may run for a while begins something outside its transaction.
pub fn owe_effect() {
    if stands(Guard::OwedFunction) {
        OWED.fetch_max(EFFECT, Ordering::Relaxed);
    }
    #[cfg(debug_assertions)]
    {
        crate::pg::debug::reached(crate::pg::debug::Point::InCommit);
        crate::pg::debug::reached(crate::pg::debug::Point::Flushed);
    }
}

/// Makes sure that nothing more reaches the client: it sees a lost connection, and the outcome is unknown to it.
fn cut() {
    if !stands(Guard::Cut) {
        return;
    }
    CUT.store(true, Ordering::Relaxed);
    if !stands(Guard::CutSocket) {
        return;
    }
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

/// Streams to a subscriber what was committed here.
fn decodes() -> bool {
    // SAFETY: a plain variable of this process.
    let sender = unsafe { pg_sys::am_walsender };
    // SAFETY: a plain variable of this process: a standby's walsender has no database.
    sender && unsafe { pg_sys::am_db_walsender }
}

/// Whether what this server holds may be lost with it.
fn doomed() -> bool {
    if RecoveryInProgress() { fence::standby_withheld() } else { fence::closed() }
}

/// Commits of others, as a stream or as a notification.
fn tells(kind: u8) -> bool {
    match kind {
        COPY_DATA => stands(Guard::Subscriber) && decodes(),
        NOTIFICATION => stands(Guard::Notification),
        _ => false,
    }
}

/// Whether what was written before tells of them, and may not have left.
fn told() -> bool {
    stands(Guard::Told) && TELLS.load(Ordering::Relaxed)
}

/// Whether a message that tells of others' commits, or not, may leave after what was written before it. Called for every
/// message: none of it raises an error.
fn may_leave(tells: bool) -> bool {
    if CUT.load(Ordering::Relaxed) {
        return false;
    }
    let owed = OWED.load(Ordering::Relaxed) != NOTHING;
    if (tells && doomed()) || (owed && fence::closed()) {
        cut();
        return !stands(Guard::Cut);
    }
    true
}

/// The end of a replication command that made, changed or dropped a slot for a subscriber. No hook sees the command, so that
/// it can only be kept from being answered. What a standby needs goes on: it does not connect to a database.
fn changes_slot(kind: u8, bytes: *const c_char) -> bool {
    if kind != COMPLETE || bytes.is_null() || !decodes() || RecoveryInProgress() {
        return false;
    }
    // SAFETY: a completed command is told by its name, a C string.
    let name = unsafe { CStr::from_ptr(bytes) }.to_bytes();
    name.ends_with(b"_REPLICATION_SLOT") && !name.starts_with(b"READ_")
}

/// Whether the message may be written.
fn may_write(kind: u8, bytes: *const c_char) -> bool {
    if changes_slot(kind, bytes) {
        if stands(Guard::OwedCommand) {
            owe();
        }
        #[cfg(debug_assertions)]
        {
            crate::pg::debug::reached(crate::pg::debug::Point::InCommit);
            crate::pg::debug::reached(crate::pg::debug::Point::Flushed);
        }
    }
    if kind == ERROR {
        // An error says that a statement failed, and promises nothing of it; not so after a commit.
        let spoken = if stands(Guard::ErrorAfterCommit) { EFFECT } else { DURABLE };
        if OWED.load(Ordering::Relaxed) <= spoken {
            OWED.store(NOTHING, Ordering::Relaxed);
        }
    }
    !stands(Guard::Message) || may_leave(tells(kind) || told())
}

/// It was written, and has not left for sure.
fn written(kind: u8) {
    LAST.store(kind, Ordering::Relaxed);
    if tells(kind) {
        TELLS.store(true, Ordering::Relaxed);
    }
    #[cfg(debug_assertions)]
    if TELLS.load(Ordering::Relaxed) || (kind == READY && OWED.load(Ordering::Relaxed) != NOTHING) {
        crate::pg::debug::reached(crate::pg::debug::Point::Written);
    }
}

fn servers() -> &'static PqCommMethods {
    SERVERS.get().expect("set before our table was")
}

unsafe extern "C-unwind" fn on_message(kind: c_char, bytes: *const c_char, length: usize) -> c_int {
    let code = kind.cast_unsigned();
    if !may_write(code, bytes) {
        return LOST;
    }
    // SAFETY: the server's own, with the arguments as they came.
    let result = unsafe { (servers().putmessage)(kind, bytes, length) };
    written(code);
    result
}

unsafe extern "C-unwind" fn on_message_noblock(kind: c_char, bytes: *const c_char, length: usize) {
    let code = kind.cast_unsigned();
    if may_write(code, bytes) {
        // SAFETY: the server's own, with the arguments as they came.
        unsafe { (servers().putmessage_noblock)(kind, bytes, length) };
        written(code);
    }
}

unsafe extern "C-unwind" fn on_flush() -> c_int {
    if stands(Guard::Flush) && !may_leave(told()) {
        return LOST;
    }
    // SAFETY: the server's own.
    let sent = unsafe { (servers().flush)() };
    settle(sent);
    sent
}

unsafe extern "C-unwind" fn on_flush_if_writable() -> c_int {
    if stands(Guard::FlushIfWritable) && !may_leave(told()) {
        return LOST;
    }
    // SAFETY: the server's own.
    let sent = unsafe { (servers().flush_if_writable)() };
    // SAFETY: the server's own.
    if !unsafe { (servers().is_send_pending)() } {
        settle(sent);
    }
    sent
}

/// Nothing is owed once "ready" has left: what leaves before it (a notice, a part of a pipeline) is not the whole answer.
fn settle(sent: c_int) {
    if sent == 0 {
        TELLS.store(false, Ordering::Relaxed);
        if LAST.swap(0, Ordering::Relaxed) == READY {
            OWED.store(NOTHING, Ordering::Relaxed);
        }
    }
}
