//! Waiting on the latch, and setting that of another process or from another thread.
#![allow(unsafe_code)]

use super::freeze;
use pgrx::pg_sys;
use std::ffi::{c_int, c_long, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

unsafe extern "C-unwind" {
    /// The server's own, without the binding's check that only the main thread calls it: setting a latch is an
    /// atomic store and, if its owner sleeps, a signal; the server itself does so in signal handlers.
    #[link_name = "SetLatch"]
    fn set_latch(latch: *mut c_void);
}

/// A latch of some process of this server, as an address in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatchAddress(usize);

impl LatchAddress {
    /// The latch of this process.
    pub fn mine() -> Self {
        // SAFETY: a plain variable of this process.
        Self(unsafe { pg_sys::MyLatch } as usize)
    }

    /// A latch that was stored with [`LatchAddress::as_pointer`]; `None` if there is none.
    pub fn from_pointer(pointer: *mut c_void) -> Option<Self> {
        (!pointer.is_null()).then_some(Self(pointer as usize))
    }

    /// To store it in shared memory.
    pub fn as_pointer(self) -> *mut c_void {
        self.0 as *mut c_void
    }

    /// Wakes its owner, from any thread. A latch whose owner has gone may be set too: nobody notices.
    pub fn set(self) {
        // SAFETY: latches of processes lie in the server's shared memory and stay there as long as it runs.
        unsafe { set_latch(self.as_pointer()) };
    }
}

/// Forgets earlier wakes.
pub fn reset() {
    // SAFETY: a plain variable of this process.
    let latch = unsafe { pg_sys::MyLatch };
    // SAFETY: our own latch.
    unsafe { pg_sys::ResetLatch(latch) };
}

/// Waits until the latch is set or `socket` is readable (`true`), or `timeout` has passed. Ends this process if the postmaster has died.
pub fn wait(socket: Option<BorrowedFd<'_>>, timeout: Duration) -> bool {
    let mut events = pg_sys::WL_LATCH_SET | pg_sys::WL_TIMEOUT | pg_sys::WL_POSTMASTER_DEATH;
    if socket.is_some() {
        events |= pg_sys::WL_SOCKET_READABLE;
    }
    let socket = socket.map_or(pg_sys::PGINVALID_SOCKET, |socket| socket.as_raw_fd());
    let timeout_ms = c_long::try_from(timeout.as_millis()).unwrap_or(c_long::MAX);
    // SAFETY: a plain variable of this process.
    let latch = unsafe { pg_sys::MyLatch };
    // SAFETY: our own latch; the socket is open as long as it is borrowed.
    let happened = unsafe {
        pg_sys::WaitLatchOrSocket(latch, events.cast_signed() as c_int, socket, timeout_ms, pg_sys::PG_WAIT_EXTENSION)
    };
    if happened.cast_unsigned() & pg_sys::WL_POSTMASTER_DEATH != 0 {
        freeze::abandon();
        // SAFETY: the way in which a process of the server ends.
        unsafe { pg_sys::proc_exit(1) };
    }
    happened.cast_unsigned() & (pg_sys::WL_LATCH_SET | pg_sys::WL_SOCKET_READABLE) != 0
}

/// Lets the server interrupt us (cancel, termination): it raises an error then.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}
