//! The sessions of clients, from the server's array of processes.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use rustix::process::{Pid, Signal, kill_process};

/// A session in a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its process.
    pub pid: i32,
    /// It is in a transaction, of its own or for one statement.
    pub in_transaction: bool,
}

impl Session {
    /// Asks it to cancel its statement, or to end. `false` if it has gone.
    pub fn signal(self, signal: Signal) -> bool {
        Pid::from_raw(self.pid).is_some_and(|pid| kill_process(pid, signal).is_ok())
    }
}

/// Every session. Words are read without a lock: one that comes or goes at this moment may be missed.
pub fn all() -> Vec<Session> {
    // SAFETY: a plain variable, set before any worker starts.
    let all = unsafe { pg_sys::ProcGlobal };
    // SAFETY: part of the server's shared memory, and constant there.
    let count = usize::try_from(unsafe { (*all).allProcCount }).unwrap_or(0);
    // SAFETY: as above.
    let first = unsafe { (*all).allProcs };
    (0..count).filter_map(|number| session(first, number)).collect()
}

fn session(first: *mut pg_sys::PGPROC, number: usize) -> Option<Session> {
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
    if pid == 0 || database == pg_sys::InvalidOid || !serves_client(process) {
        return None;
    }
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    // SAFETY: as for the pid.
    let transaction = unsafe { &raw const (*process).lxid };
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: as for the pid.
    let transaction = unsafe { &raw const (*process).vxid.lxid };
    // SAFETY: as for the pid.
    let in_transaction = unsafe { transaction.read_volatile() } != pg_sys::InvalidLocalTransactionId;
    Some(Session { pid, in_transaction })
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
