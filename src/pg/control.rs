//! The control file, as the server keeps it in shared memory.
#![allow(unsafe_code)]

use super::locks::FixedLock;
use ha_core::ids::{Lsn, SystemId, Timeline};
use ha_core::local::{Control, ControlState};
use pgrx::pg_sys;
use std::mem::size_of;

/// The parts of the control file that are looked at each tick.
#[derive(Clone, Copy, Debug)]
pub struct ControlNow {
    /// For decisions.
    pub control: Control,
    /// Redo position of the latest completed checkpoint.
    pub redo: Lsn,
}

/// Access to it; keeps the newest copy.
pub struct ControlFile {
    shared: *const pg_sys::ControlFileData,
    newest: ControlNow,
}

impl ControlFile {
    /// Finds it. Waits for its lock this one time.
    pub fn attach() -> Option<Self> {
        let shared = find()?;
        // SAFETY: a worker with access to shared memory may take locks.
        unsafe { pg_sys::LWLockAcquire(FixedLock::ControlFile.get(), pg_sys::LWLockMode::LW_SHARED) };
        // SAFETY: found above, and whole while the lock is held.
        let copy = unsafe { shared.read() };
        // SAFETY: taken above.
        unsafe { pg_sys::LWLockRelease(FixedLock::ControlFile.get()) };
        Some(Self { shared, newest: convert(&copy) })
    }

    /// The newest copy. While the server writes the file, which waits for the disk under the lock, it is the one before.
    pub fn read(&mut self) -> ControlNow {
        // SAFETY: a worker with access to shared memory may take locks.
        if unsafe { pg_sys::LWLockConditionalAcquire(FixedLock::ControlFile.get(), pg_sys::LWLockMode::LW_SHARED) } {
            // SAFETY: found in `attach`, and whole while the lock is held.
            let copy = unsafe { self.shared.read() };
            // SAFETY: taken above.
            unsafe { pg_sys::LWLockRelease(FixedLock::ControlFile.get()) };
            self.newest = convert(&copy);
        }
        self.newest
    }
}

/// The timeline on which recovery begins, by the server's own rule. For the postmaster, while it is alone.
pub fn recovery_timeline() -> Option<Timeline> {
    // SAFETY: found, and nobody else runs who could write it.
    let data = unsafe { find()?.read() };
    Some(Timeline(data.checkPointCopy.ThisTimeLineID.max(data.minRecoveryPointTLI)))
}

fn find() -> Option<*const pg_sys::ControlFileData> {
    let mut found = false;
    let size = size_of::<pg_sys::ControlFileData>();
    // SAFETY: the server made this segment, under this name and with this size, before anybody could ask for it.
    let shared = unsafe { pg_sys::ShmemInitStruct(c"Control File".as_ptr(), size, &raw mut found) };
    found.then_some(shared.cast_const().cast())
}

fn convert(data: &pg_sys::ControlFileData) -> ControlNow {
    use pg_sys::DBState as S;
    let state = match data.state {
        S::DB_SHUTDOWNED => ControlState::ShutDown,
        S::DB_SHUTDOWNED_IN_RECOVERY => ControlState::ShutDownInRecovery,
        S::DB_SHUTDOWNING => ControlState::ShuttingDown,
        S::DB_IN_ARCHIVE_RECOVERY => ControlState::InArchiveRecovery,
        S::DB_IN_PRODUCTION => ControlState::InProduction,
        // DB_STARTUP is seen for a moment at most, and is what a crash in it would be: to be recovered.
        _ => ControlState::InCrashRecovery,
    };
    ControlNow {
        control: Control {
            system_id: SystemId(data.system_identifier),
            state,
            timeline: Timeline(data.checkPointCopy.ThisTimeLineID),
            checkpoint: Lsn(data.checkPoint),
            min_recovery_point: Lsn(data.minRecoveryPoint),
            min_recovery_timeline: Timeline(data.minRecoveryPointTLI),
            can_be_rewound: data.wal_log_hints || data.data_checksum_version > 0,
            // The startup process has dealt with it before any worker can look.
            backup_label: false,
        },
        redo: Lsn(data.checkPointCopy.redo),
    }
}
