//! What the server thinks of its settings.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use std::ffi::CString;

/// Whether the server could be started with this setting in its configuration file. A single one that it cannot read
/// keeps it from starting, and an unknown name from reading any other change.
pub fn acceptable(name: &str, value: &str) -> bool {
    let (Ok(name), Ok(value)) = (CString::new(name), CString::new(value)) else { return false };
    // SAFETY: two C strings that outlive the call, which only checks: a mistake is a line in the debug log at this
    // source and level, not an error.
    let result = unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_POSTMASTER,
            pg_sys::GucSource::PGC_S_FILE,
            pg_sys::GucAction::GUC_ACTION_SET,
            false,
            0,
            false,
        )
    };
    result != 0
}

/// `restart_after_crash`: the postmaster outlives the end of all its sessions.
pub fn restart_after_crash() -> bool {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::restart_after_crash }
}

/// `hot_standby`: a server in recovery starts its workers, this one too.
pub fn hot_standby() -> bool {
    // SAFETY: a plain variable of this process.
    unsafe { pg_sys::EnableHotStandby }
}

/// `synchronous_standby_names` names somebody.
pub fn commits_wait() -> bool {
    // SAFETY: a plain variable of this process.
    let names = unsafe { pg_sys::SyncRepStandbyNames };
    // SAFETY: a string setting of the server.
    !names.is_null() && unsafe { *names } != 0
}

/// `archive_mode` is not `off`.
pub fn archiving() -> bool {
    // SAFETY: a plain variable of this process.
    let mode = unsafe { pg_sys::XLogArchiveMode };
    mode != pg_sys::ArchiveMode::ARCHIVE_MODE_OFF.cast_signed()
}
