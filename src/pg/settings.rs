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
