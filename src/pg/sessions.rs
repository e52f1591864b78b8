//! The sessions of clients, from the server's array of processes.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use rustix::process::{Pid, Signal, kill_process};

/// Processes that serve a session in a database. Words are read without a lock: one that comes or goes at this moment may
/// be missed.
pub fn pids() -> Vec<i32> {
    // SAFETY: a plain variable, set before any worker starts.
    let all = unsafe { pg_sys::ProcGlobal };
    // SAFETY: part of the server's shared memory, and constant there.
    let count = usize::try_from(unsafe { (*all).allProcCount }).unwrap_or(0);
    // SAFETY: as above.
    let first = unsafe { (*all).allProcs };
    (0..count).filter_map(|number| session(first, number)).collect()
}

fn session(first: *mut pg_sys::PGPROC, number: usize) -> Option<i32> {
    // SAFETY: the array has that many elements.
    let process = unsafe { first.add(number) };
    // SAFETY: part of the server's shared memory.
    let pid = unsafe { &raw const (*process).pid };
    // SAFETY: as above; volatile because another process writes it.
    let pid = unsafe { pid.read_volatile() };
    // SAFETY: as for the pid.
    let database = unsafe { &raw const (*process).databaseId };
    // SAFETY: as for the pid.
    let database = unsafe { database.read_volatile() };
    (pid != 0 && database != pg_sys::InvalidOid && serves_client(process)).then_some(pid)
}

fn serves_client(process: *mut pg_sys::PGPROC) -> bool {
    #[cfg(any(feature = "pg15", feature = "pg16", feature = "pg17"))]
    // SAFETY: part of the server's shared memory.
    let regular = unsafe { !(*process).isBackgroundWorker };
    #[cfg(feature = "pg18")]
    // SAFETY: part of the server's shared memory.
    let regular = unsafe { (*process).isRegularBackend };
    regular
}

/// Asks every session to end. Returns how many were asked.
pub fn terminate() -> usize {
    let told = |pid: &i32| Pid::from_raw(*pid).is_some_and(|pid| kill_process(pid, Signal::TERM).is_ok());
    pids().into_iter().filter(told).count()
}
