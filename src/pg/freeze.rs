//! The end of the log of a server that hands over: nothing behind it becomes durable (ADR 0030).
//!
//! Whoever holds `WALWriteLock` is the only one who can write the log, and without its log no page of data can be written
//! either. The worker takes the lock, knows then where the log ends, and keeps it until the log is thawed or the process
//! ends without its exit callbacks.
#![allow(unsafe_code)]

use super::locks::FixedLock;
use ha_core::ids::{Lsn, Timeline};
use pgrx::pg_sys;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The most that may be written and not flushed when the log is ended; with more than that it is flushed once more.
const UNFLUSHED_BYTES_MAX: u64 = 64 << 20;

/// A log that ends, as long as this is not [thawed](Frozen::thaw). It is not when it is dropped: the lock goes with the process.
#[derive(Debug)]
pub struct Frozen {
    at: Lsn,
    /// What the files held behind the end.
    behind: Vec<Piece>,
}

impl Frozen {
    /// Where it ends.
    pub fn at(&self) -> Lsn {
        self.at
    }

    /// Lets the server write again. After an error the log has a hole, and this server must not go on.
    pub fn thaw(self) -> io::Result<()> {
        self.behind.iter().try_for_each(Piece::put_back)?;
        release();
        Ok(())
    }
}

/// Ends the log with a record of no effect behind everything that was written so far, waits until it is flushed, and lets nobody write
/// from there on. It waits for the disk, as long as one flush takes.
pub fn freeze(data_dir: &Path) -> io::Result<Frozen> {
    let last = insert_noop();
    flush(last);
    acquire();
    let frozen = end_log(data_dir, last);
    if frozen.is_err() {
        release();
    }
    frozen
}

/// Where the flushed log ends, with everything cleared away behind it.
fn end_log(data_dir: &Path, last: Lsn) -> io::Result<Frozen> {
    let ((flushed, timeline), written) = (super::wal::flushed(), written());
    if flushed < last || written.0.saturating_sub(flushed.0) > UNFLUSHED_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "others write too much"));
    }
    // The server writes whole pages, so the files may hold the beginning of what nobody has asked for yet, and others may have
    // written without a flush to make room in memory: recovery must find neither.
    let page_bytes = u64::from(pg_sys::XLOG_BLCKSZ);
    let end = Lsn(written.0.max(flushed.0).next_multiple_of(page_bytes));
    let mut behind = Vec::new();
    for (path, offset, bytes) in pieces(data_dir, timeline, flushed, end) {
        behind.push(Piece::take(&path, offset, bytes)?);
    }
    for (number, piece) in behind.iter().enumerate() {
        if let Err(error) = piece.clear() {
            // What was cleared must be whole again for those who go on. With a hole nobody may.
            if behind[..=number].iter().try_for_each(Piece::put_back).is_err() {
                super::process::exit_into_recovery();
            }
            return Err(error);
        }
    }
    Ok(Frozen { at: flushed, behind })
}

/// A part of a segment's file.
#[derive(Debug)]
struct Piece {
    file: File,
    offset: u64,
    content: Vec<u8>,
}

impl Piece {
    fn take(path: &Path, offset: u64, bytes: usize) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut content = vec![0; bytes];
        file.read_exact_at(&mut content, offset)?;
        Ok(Self { file, offset, content })
    }

    fn clear(&self) -> io::Result<()> {
        self.file.write_all_at(&vec![0; self.content.len()], self.offset)
    }

    fn put_back(&self) -> io::Result<()> {
        self.file.write_all_at(&self.content, self.offset)
    }
}

/// The files that hold the log from `begin` to `end`, with offset and length in each.
fn pieces(data_dir: &Path, timeline: Timeline, begin: Lsn, end: Lsn) -> Vec<(PathBuf, u64, usize)> {
    let segment_bytes = segment_bytes();
    let mut out = Vec::new();
    let mut at = begin.0;
    while at < end.0 {
        let number = at / segment_bytes;
        let next = end.0.min((number + 1) * segment_bytes);
        let in_one = 0x1_0000_0000 / segment_bytes;
        let name = format!("{:08X}{:08X}{:08X}", timeline.0, number / in_one, number % in_one);
        out.push((
            data_dir.join("pg_wal").join(name),
            at % segment_bytes,
            usize::try_from(next - at).unwrap_or(usize::MAX),
        ));
        at = next;
    }
    out
}

fn segment_bytes() -> u64 {
    // SAFETY: a plain variable, set before any worker starts.
    u64::try_from(unsafe { pg_sys::wal_segment_size }).unwrap_or(1).max(1)
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
