//! The tenancy lock: while any process of this server lives, orphans of a killed postmaster included, no other server,
//! rewind or copy may touch its data directory.

use std::fs::{File, TryLockError};
use std::io;
use std::mem::ManuallyDrop;
use std::path::Path;

/// Locks the data directory for the postmaster and for all it will ever fork: they inherit the open file
/// description, and the lock is free once the last of them is gone. Programs they execute do not inherit it.
pub fn lock(data_dir: &Path) -> io::Result<()> {
    // Never closed on purpose.
    let directory = ManuallyDrop::new(File::open(data_dir)?);
    match directory.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => {
            Err(io::Error::new(io::ErrorKind::WouldBlock, "it is locked by another server or by ha_bootstrap"))
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}
