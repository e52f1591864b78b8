//! The end of the log of a server that hands over: nothing behind it becomes durable (ADR 0030).
//!
//! Whoever holds `WALWriteLock` is the only one who can write the log, and without its log no page of data can be written
//! either. The worker takes the lock, knows then where the log ends, and keeps it until the log is thawed or the process
//! ends without its exit callbacks.
#![allow(unsafe_code)]

use super::locks::FixedLock;
use ha_core::ids::{Lsn, Timeline};
use pgrx::pg_sys;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How often the end of the log is looked for before the worker goes round again: others may still write, and somebody
/// may have written what is not flushed yet.
const ATTEMPTS: u32 = 8;

/// A log that ends, as long as this is not [thawed](Frozen::thaw). It is not when it is dropped: the lock goes with the process.
#[derive(Debug)]
pub struct Frozen {
    at: Lsn,
}

impl Frozen {
    /// Where it ends.
    pub fn at(&self) -> Lsn {
        self.at
    }

    /// Lets the server write again; what was held back in memory follows.
    pub fn thaw(self) {
        tracing::debug!("the log goes on behind {}", self.at);
        release();
    }
}

/// Ends the log with a record of no effect behind everything that was written so far, waits until it is flushed, and lets nobody write
/// from there on. It waits for the disk, as long as one flush takes.
pub fn freeze(data_dir: &Path) -> Result<Frozen, String> {
    let last = insert_noop();
    flush(last);
    for _ in 0..ATTEMPTS {
        acquire();
        let (flushed, timeline) = super::wal::flushed();
        let written = written();
        if written == flushed && flushed >= last {
            if let Err(error) = clear_page_behind(data_dir, flushed, timeline) {
                release();
                return Err(format!("the log cannot be ended at {flushed}: {error}"));
            }
            return Ok(Frozen { at: flushed });
        }
        release();
        flush(written.max(last));
    }
    Err("others write too much for the log to be ended".to_owned())
}

/// The server's own manager of records, and its record of no effect.
#[allow(clippy::cast_possible_truncation, reason = "both are far below 256")]
const NOOP: (pg_sys::RmgrId, u8) = (pg_sys::RmgrIds::RM_XLOG_ID as pg_sys::RmgrId, pg_sys::XLOG_NOOP as u8);

/// A record that recovery reads and does nothing for; its end.
fn insert_noop() -> Lsn {
    // SAFETY: a process with access to shared memory, in no critical section.
    unsafe { pg_sys::XLogBeginInsert() };
    let (manager, kind) = NOOP;
    // SAFETY: begun above; this record has no data.
    Lsn(unsafe { pg_sys::XLogInsert(manager, kind) })
}

fn flush(position: Lsn) {
    // SAFETY: a position that was inserted, by a process that does not hold the lock.
    unsafe { pg_sys::XLogFlush(position.0) };
}

fn written() -> Lsn {
    // SAFETY: reads shared memory.
    Lsn(unsafe { pg_sys::GetXLogWriteRecPtr() })
}

fn acquire() {
    // SAFETY: a fixed lock of the server that this process does not hold. The server holds off interrupts until it is released.
    unsafe { pg_sys::LWLockAcquire(FixedLock::WalWrite.get(), pg_sys::LWLockMode::LW_EXCLUSIVE) };
}

fn release() {
    // SAFETY: taken in `acquire`.
    unsafe { pg_sys::LWLockRelease(FixedLock::WalWrite.get()) };
}

/// The server writes whole pages, so the file may hold the beginning of what nobody flushed: recovery must not find it. A log that
/// is thawed writes the page again, from memory.
fn clear_page_behind(data_dir: &Path, end: Lsn, timeline: Timeline) -> std::io::Result<()> {
    let page_bytes = u64::from(pg_sys::XLOG_BLCKSZ);
    let used = end.0 % page_bytes;
    if used == 0 {
        return Ok(());
    }
    let zeros = vec![0_u8; usize::try_from(page_bytes - used).unwrap_or(0)];
    let segment_bytes = segment_bytes();
    let file = OpenOptions::new().write(true).open(segment(data_dir, end, timeline, segment_bytes))?;
    file.write_all_at(&zeros, end.0 % segment_bytes)
}

fn segment_bytes() -> u64 {
    // SAFETY: a plain variable, set before any worker starts.
    u64::try_from(unsafe { pg_sys::wal_segment_size }).unwrap_or(1).max(1)
}

fn segment(data_dir: &Path, position: Lsn, timeline: Timeline, segment_bytes: u64) -> PathBuf {
    let number = position.0 / segment_bytes;
    let in_one = 0x1_0000_0000 / segment_bytes;
    let name = format!("{:08X}{:08X}{:08X}", timeline.0, number / in_one, number % in_one);
    data_dir.join("pg_wal").join(name)
}
