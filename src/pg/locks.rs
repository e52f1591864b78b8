//! The server's fixed locks, which have numbers but no symbols.
#![allow(unsafe_code)]

use pgrx::pg_sys;
use std::ffi::{CStr, c_char};

unsafe extern "C-unwind" {
    // SAFETY: looks into a table of constants for the locks below; the binding would put its error boundary around it.
    safe fn GetLWLockIdentifier(class: u32, number: u16) -> *const c_char;
}

/// One of them; the numbers are the same from 15 to 18, and [`check`] makes sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum FixedLock {
    /// Held by whoever writes the log.
    WalWrite = 8,
    /// Guards the control file.
    ControlFile = 9,
}

impl FixedLock {
    const ALL: [Self; 2] = [Self::WalWrite, Self::ControlFile];

    /// The lock in shared memory.
    pub fn get(self) -> *mut pg_sys::LWLock {
        // SAFETY: a plain variable of this process.
        let first = unsafe { pg_sys::MainLWLockArray };
        // SAFETY: the array holds many more than that.
        let padded = unsafe { first.add(usize::from(self as u16)) };
        padded.cast()
    }

    /// What the server calls it as a wait event.
    fn name(self) -> &'static CStr {
        match self {
            Self::WalWrite => c"WALWrite",
            Self::ControlFile => c"ControlFile",
        }
    }
}

/// Fails if the server that loads us numbers its locks in another way.
pub fn check() -> Result<(), String> {
    for lock in FixedLock::ALL {
        let name = GetLWLockIdentifier(pg_sys::PG_WAIT_LWLOCK, lock as u16);
        // SAFETY: the name of a fixed lock is a constant of the server.
        let name = unsafe { CStr::from_ptr(name) };
        if name != lock.name() {
            return Err(format!("lock {} of this server is {name:?}, not {:?}", lock as u16, lock.name()));
        }
    }
    Ok(())
}
