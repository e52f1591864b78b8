//! What kind of process this is, its place in the server, and the life of our workers.
#![allow(unsafe_code)]

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags};
use pgrx::pg_sys;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::{CStr, OsStr, c_int};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

unsafe extern "C-unwind" {
    /// Declared here because not every major's binding says that it does not return.
    fn proc_exit(code: c_int) -> !;
}

/// The postmaster is loading `shared_preload_libraries` now.
pub fn preloading() -> bool {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

/// A postmaster that serves clients: neither single-user mode nor `pg_upgrade`'s.
pub fn full_server() -> bool {
    // SAFETY: a plain variable of this process.
    let postmaster = unsafe { pg_sys::IsPostmasterEnvironment };
    // SAFETY: a plain variable of this process.
    let upgrade = unsafe { pg_sys::IsBinaryUpgrade };
    postmaster && !upgrade
}

/// The data directory, absolute.
pub fn data_dir() -> PathBuf {
    // SAFETY: set by the postmaster before it loads libraries, never changed after.
    let pointer = unsafe { pg_sys::DataDir };
    // SAFETY: a C string that lives as long as the process.
    let text = unsafe { CStr::from_ptr(pointer) };
    PathBuf::from(OsStr::from_bytes(text.to_bytes()))
}

/// This process.
pub fn pid() -> i32 {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::MyProcPid }
}

/// The number of this process in the server's array of processes; `None` outside it.
pub fn number() -> Option<usize> {
    // SAFETY: a plain variable of this process.
    let own = unsafe { pg_sys::MyProc };
    if own.is_null() {
        return None;
    }
    #[cfg(any(feature = "pg15", feature = "pg16"))]
    // SAFETY: an entry of the array, which belongs to this process.
    let number = unsafe { (*own).pgprocno };
    #[cfg(not(any(feature = "pg15", feature = "pg16")))]
    // SAFETY: a plain variable of this process.
    let number = unsafe { pg_sys::MyProcNumber };
    usize::try_from(number).ok()
}

/// The postmaster.
pub fn postmaster_pid() -> i32 {
    // SAFETY: a plain variable, inherited from the postmaster.
    unsafe { pg_sys::PostmasterPid }
}

/// Sends a signal to the postmaster.
pub fn signal_postmaster(signal: Signal) -> io::Result<()> {
    let pid = Pid::from_raw(postmaster_pid()).ok_or_else(|| io::Error::other("the postmaster is not known"))?;
    Ok(kill_process(pid, signal)?)
}

/// Whether a process with this number exists.
pub fn exists(pid: i32) -> bool {
    Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

/// Registers our background workers. Called once, by the postmaster.
pub fn register_workers() {
    let restart = Some(Duration::from_secs(1));
    BackgroundWorkerBuilder::new("ha_ext loop worker")
        .set_type("ha_ext loop worker")
        .set_library("ha_ext")
        .set_function("ha_ext_loop_worker")
        .enable_shmem_access(None)
        .set_start_time(BgWorkerStartTime::PostmasterStart)
        .set_restart_time(restart)
        .load();
    BackgroundWorkerBuilder::new("ha_ext sql worker")
        .set_type("ha_ext sql worker")
        .set_library("ha_ext")
        .set_function("ha_ext_sql_worker")
        .enable_spi_access()
        .set_start_time(BgWorkerStartTime::ConsistentState)
        .set_restart_time(restart)
        .load();
}

/// Installs the worker's signal handlers: SIGTERM and SIGHUP set flags and the latch.
pub fn become_worker() {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
}

/// SIGTERM has come since the last call.
pub fn told_to_stop() -> bool {
    BackgroundWorker::sigterm_received()
}

/// SIGHUP has come since the last call: the server's settings are read again then.
pub fn told_to_reload() -> bool {
    let told = BackgroundWorker::sighup_received();
    if told {
        // SAFETY: what every process of the server does on SIGHUP; a mistake in the file is logged, not raised.
        unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
    }
    told
}

/// Ends this worker so that the postmaster starts it anew.
pub fn exit_for_restart() -> ! {
    // SAFETY: ends the process with its exit callbacks; 1 asks for a restart without a crash cycle.
    unsafe { proc_exit(1) }
}

unsafe extern "C" {
    // SAFETY: it ends the process, and nothing else.
    safe fn _exit(code: c_int) -> !;
}

/// Ends this worker as a crash would: without its exit callbacks, so that it keeps what it holds, and with the status upon which the
/// postmaster ends all its children and begins recovery.
pub fn exit_into_recovery() -> ! {
    _exit(2)
}
