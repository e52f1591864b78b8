//! Positions in the write-ahead log and the state of recovery, from shared memory.
#![allow(unsafe_code)]

use ha_core::ids::{Lsn, Timeline};
use pgrx::pg_sys;
use std::ffi::c_int;

unsafe extern "C-unwind" {
    /// Not among the bindings. Without `CHECKPOINT_WAIT` it sets a flag and signals the checkpointer.
    fn RequestCheckpoint(flags: c_int);
}

/// What the startup process has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the control file, or in crash recovery.
    Starting,
    /// In standby mode (or archive recovery).
    Standby,
    /// Out of recovery.
    Primary,
}

/// The phase now.
pub fn phase() -> Phase {
    // SAFETY: reads shared memory.
    match unsafe { pg_sys::GetRecoveryState() } {
        pg_sys::RecoveryState::RECOVERY_STATE_DONE => Phase::Primary,
        pg_sys::RecoveryState::RECOVERY_STATE_ARCHIVE => Phase::Standby,
        _ => Phase::Starting,
    }
}

/// Flush position and timeline of a primary. Only for [`Phase::Primary`].
pub fn flushed() -> (Lsn, Timeline) {
    let mut timeline = 0;
    // SAFETY: the phase was checked, as the function demands.
    let lsn = unsafe { pg_sys::GetFlushRecPtr(&raw mut timeline) };
    (Lsn(lsn), Timeline(timeline))
}

/// The transaction of this process has been committed: where its record ends, if that was not flushed first (`synchronous_commit = off`).
pub fn committed_unflushed() -> Option<Lsn> {
    // SAFETY: this process's own, and nothing else of it runs now.
    let setting = unsafe { pg_sys::synchronous_commit };
    // SAFETY: as above.
    let end = unsafe { pg_sys::XactLastCommitEnd };
    (u32::try_from(setting) == Ok(pg_sys::SyncCommitLevel::SYNCHRONOUS_COMMIT_OFF)).then_some(Lsn(end))
}

/// Replay position and timeline of a standby.
pub fn replayed() -> (Lsn, Timeline) {
    let mut timeline = 0;
    // SAFETY: reads shared memory.
    let lsn = unsafe { pg_sys::GetXLogReplayRecPtr(&raw mut timeline) };
    (Lsn(lsn), Timeline(timeline))
}

/// Hot standby has reached consistency and admits sessions.
pub fn hot_standby_active() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::HotStandbyActive() }
}

/// A promotion was triggered.
pub fn promote_is_triggered() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::PromoteIsTriggered() }
}

/// Replay is paused, or asked to pause.
pub fn replay_paused() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetRecoveryPauseState() != pg_sys::RecoveryPauseState::RECOVERY_NOT_PAUSED }
}

/// Lets paused replay go on. A promotion ends a pause anyway, but the server looks for one only once a second then.
pub fn resume_replay() {
    // SAFETY: changes shared memory under its own lock, and wakes the startup process.
    unsafe { pg_sys::SetRecoveryPause(false) };
}

/// Makes the startup process look again.
pub fn wake_recovery() {
    // SAFETY: sets a latch in shared memory.
    unsafe { pg_sys::WakeupRecovery() };
}

/// Microseconds between the epochs of Unix and of the server's timestamps.
const EPOCH_SHIFT_US: i64 = 946_684_800_000_000;

/// Commit time of the last replayed transaction, microseconds since 1970.
pub fn replayed_at_unix_us() -> Option<i64> {
    // SAFETY: reads shared memory.
    let time = unsafe { pg_sys::GetLatestXTime() };
    (time != 0).then(|| time.saturating_add(EPOCH_SHIFT_US))
}

/// When the postmaster started, microseconds since 1970.
pub fn postmaster_started_unix_us() -> i64 {
    // SAFETY: a plain variable, inherited from the postmaster.
    unsafe { pg_sys::PgStartTime }.saturating_add(EPOCH_SHIFT_US)
}

/// `server_version_num` of the running server's major and minor version.
pub const fn version_num() -> u32 {
    pg_sys::PG_VERSION_NUM
}

/// Size of a segment of the log.
pub fn segment_bytes() -> u64 {
    // SAFETY: a plain variable, set before any worker starts.
    u64::try_from(unsafe { pg_sys::wal_segment_size }).unwrap_or(1).max(1)
}

/// Name of the segment of `timeline` that holds `position`.
pub fn segment_name(timeline: Timeline, position: Lsn) -> String {
    let number = position.0 / segment_bytes();
    let in_one = 0x1_0000_0000 / segment_bytes();
    format!("{:08X}{:08X}{:08X}", timeline.0, number / in_one, number % in_one)
}

/// Asks for an immediate checkpoint (on a standby: restartpoint) and does not wait for it.
pub fn request_checkpoint() {
    let flags = pg_sys::CHECKPOINT_IMMEDIATE | pg_sys::CHECKPOINT_FORCE;
    // SAFETY: without CHECKPOINT_WAIT it neither waits nor raises an error.
    unsafe { RequestCheckpoint(flags.cast_signed()) };
}
