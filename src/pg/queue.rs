//! Sessions that wait in shared memory until the worker wakes them.
#![allow(unsafe_code)]

use crate::shmem::WaitQueue;
use pgrx::pg_sys;
use std::ffi::c_long;

/// What wakes nobody (a deadline that passes, a fence that is closed from another thread) is noticed this soon.
const LOOK_EVERY_MS: c_long = 10;

/// Waits until `done`. Raises an error when the session is cancelled or terminated.
pub fn wait(queue: &WaitQueue, done: impl Fn() -> bool) {
    // SAFETY: a condition variable that was initialised when the server started.
    unsafe { pg_sys::ConditionVariablePrepareToSleep(queue.as_pointer()) };
    while !done() {
        // SAFETY: as above.
        unsafe {
            pg_sys::ConditionVariableTimedSleep(queue.as_pointer(), LOOK_EVERY_MS, pg_sys::PG_WAIT_EXTENSION);
        }
    }
    cancel();
}

fn cancel() {
    // SAFETY: leaves the queue that this process is in.
    unsafe { pg_sys::ConditionVariableCancelSleep() };
}

/// Wakes everybody. Only for the main thread of a process of the server.
pub fn wake_all(queue: &WaitQueue) {
    // SAFETY: a condition variable that was initialised when the server started.
    unsafe { pg_sys::ConditionVariableBroadcast(queue.as_pointer()) };
}
