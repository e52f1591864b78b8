//! The walreceiver, and whom this server is told to follow.
#![allow(unsafe_code)]

use ha_core::ids::Lsn;
use ha_core::local::Receiver;
use pgrx::pg_sys;
use std::ffi::{CStr, c_char};

/// State of the walreceiver. The word is read without its spinlock: one aligned load, and each tick looks again.
pub fn receiver() -> Receiver {
    use pg_sys::WalRcvState as S;
    // SAFETY: a plain variable, set before any worker starts.
    let shared = unsafe { pg_sys::WalRcv };
    // SAFETY: part of the server's shared memory.
    let state = unsafe { &raw const (*shared).walRcvState };
    // SAFETY: as above; volatile because another process writes it.
    match unsafe { state.read_volatile() } {
        S::WALRCV_STOPPED => Receiver::Stopped,
        S::WALRCV_STREAMING => Receiver::Streaming,
        S::WALRCV_STOPPING => Receiver::Stopping,
        _ => Receiver::Connecting,
    }
}

/// What the walreceiver has flushed to disk, on whatever timeline.
pub fn received() -> Lsn {
    let none = std::ptr::null_mut();
    // SAFETY: both results are optional.
    Lsn(unsafe { pg_sys::GetWalRcvFlushRecPtr(none, none.cast()) })
}

/// `primary_conninfo`, as this process has loaded it. The postmaster reads the file before it tells its children.
pub fn primary_conninfo() -> String {
    // SAFETY: a plain variable of this process.
    text(unsafe { pg_sys::PrimaryConnInfo })
}

/// `primary_slot_name`, as this process has loaded it.
pub fn primary_slot_name() -> String {
    // SAFETY: a plain variable of this process.
    text(unsafe { pg_sys::PrimarySlotName })
}

/// `restore_command`, as this process has loaded it.
pub fn restore_command() -> String {
    // SAFETY: a plain variable of this process.
    text(unsafe { pg_sys::recoveryRestoreCommand })
}

/// Whether recovery looks for WAL as seldom as `ha_ext.conf` of a standby at rest says.
pub fn is_at_rest() -> bool {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::wal_retrieve_retry_interval == ha_core::pgconf::AT_REST_MS }
}

fn text(setting: *const c_char) -> String {
    if setting.is_null() {
        return String::new();
    }
    // SAFETY: a string setting of the server.
    unsafe { CStr::from_ptr(setting) }.to_string_lossy().into_owned()
}
