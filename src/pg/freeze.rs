//! The end of the log of a server that hands over: nothing behind it becomes durable (ADR 0030).
//!
//! Whoever holds `WALWriteLock` is the only one who can write the log, and without its log no page of data can be written
//! either. The worker takes the lock, knows then where the log ends, and keeps it until the log is thawed or recovery begins.
#![allow(unsafe_code)]

use super::locks::FixedLock;
use super::segment_end;
use super::wal::{segment_bytes, segment_name};
use ha_core::ids::{Lsn, Timeline};
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_int;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// The most that may be written and not flushed when the log is ended; with more than that it is flushed once more.
const UNFLUSHED_BYTES_MAX: u64 = 64 << 20;

/// What the files held behind the end of a frozen log. For the whole process: it may end in many ways, and in none of them may the others
/// write on behind a hole.
static BEHIND: Mutex<Option<Vec<Piece>>> = Mutex::new(None);

fn behind() -> MutexGuard<'static, Option<Vec<Piece>>> {
    BEHIND.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets the server write again, if it could not. After an error the log has a hole, and this server must not go on.
pub fn thaw() -> io::Result<()> {
    let mut behind = behind();
    if let Some(pieces) = behind.as_ref() {
        pieces.iter().try_for_each(Piece::put_back)?;
        *behind = None;
        release();
    }
    Ok(())
}

/// The postmaster has died: nobody would begin recovery, so the others must find a whole log until they end too.
pub fn abandon() {
    if thaw().is_err() {
        super::process::exit_into_recovery();
    }
}

/// An error or a panic ends this process, and the server would let go of the lock and start another worker: recovery begins instead, from
/// the end of the log as it is.
#[pg_guard]
extern "C-unwind" fn at_exit(_code: c_int, _argument: pg_sys::Datum) {
    if behind().is_some() {
        super::process::exit_into_recovery();
    }
}

fn watch_the_exit() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the function lives as long as the process.
        unsafe { pg_sys::before_shmem_exit(Some(at_exit), pg_sys::Datum::from(0)) };
    });
}

/// Ends the log with a record of no effect behind everything that was written so far, waits until it is flushed, and lets nobody write
/// from there on until [`thaw`]; returns where that is. It waits for the disk, as long as one flush takes.
pub fn freeze(data_dir: &Path) -> io::Result<Lsn> {
    watch_the_exit();
    let last = if segment_end::is_near() { insert_switch() } else { insert_noop(&[]) };
    flush(last);
    acquire();
    let end = end_log(data_dir, last);
    if end.is_err() {
        release();
    }
    end
}

/// Where the flushed log ends, with everything cleared away behind it.
fn end_log(data_dir: &Path, last: Lsn) -> io::Result<Lsn> {
    let ((flushed, timeline), written) = (super::wal::flushed(), written());
    if flushed < last || written.0.saturating_sub(flushed.0) > UNFLUSHED_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, "others write too much"));
    }
    // The server writes whole pages, so the files may hold the beginning of what nobody has asked for yet, and others may have
    // written without a flush to make room in memory: recovery must find neither.
    let page_bytes = u64::from(pg_sys::XLOG_BLCKSZ);
    let end = Lsn(written.0.max(flushed.0).next_multiple_of(page_bytes));
    let mut found = Vec::new();
    for (path, offset, bytes) in pieces(data_dir, timeline, flushed, end) {
        found.push(Piece::take(&path, offset, bytes)?);
    }
    // From here on an exit by any way knows of it.
    let mut behind = behind();
    let found = behind.insert(found);
    if let Err(error) = found.iter().try_for_each(Piece::clear) {
        // What was cleared must be whole again for those who go on. With a hole nobody may.
        if found.iter().try_for_each(Piece::put_back).is_err() {
            super::process::exit_into_recovery();
        }
        *behind = None;
        return Err(error);
    }
    Ok(flushed)
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
        self.file.write_all_at(&self.content, self.offset)?;
        // The server may count as flushed what it finds written.
        self.file.sync_data()
    }
}

/// The files that hold the log from `begin` to `end`, with offset and length in each.
fn pieces(data_dir: &Path, timeline: Timeline, begin: Lsn, end: Lsn) -> Vec<(PathBuf, u64, usize)> {
    let segment_bytes = segment_bytes();
    let mut out = Vec::new();
    let mut at = begin.0;
    while at < end.0 {
        let next = end.0.min((at / segment_bytes + 1) * segment_bytes);
        let name = segment_name(timeline, Lsn(at));
        out.push((
            data_dir.join("pg_wal").join(name),
            at % segment_bytes,
            usize::try_from(next - at).unwrap_or(usize::MAX),
        ));
        at = next;
    }
    out
}

/// The server's own manager of records, and its record of no effect.
#[allow(clippy::cast_possible_truncation, reason = "both are far below 256")]
const NOOP: (pg_sys::RmgrId, u8) = (pg_sys::RmgrIds::RM_XLOG_ID as pg_sys::RmgrId, pg_sys::XLOG_NOOP as u8);

/// A record that recovery reads and does nothing for; its end.
pub(super) fn insert_noop(data: &[u8]) -> Lsn {
    // SAFETY: a process with access to shared memory, in no critical section.
    unsafe { pg_sys::XLogBeginInsert() };
    if !data.is_empty() {
        // SAFETY: begun above; the data outlive the insertion, and nobody writes them.
        unsafe { pg_sys::XLogRegisterData(data.as_ptr().cast_mut().cast(), data.len().try_into().unwrap_or_default()) };
    }
    let (manager, kind) = NOOP;
    // SAFETY: begun above.
    Lsn(unsafe { pg_sys::XLogInsert(manager, kind) })
}

/// Ends the segment, and flushes it; the end of the record.
fn insert_switch() -> Lsn {
    // SAFETY: a process with access to shared memory, in no critical section, that need not be told apart from others.
    Lsn(unsafe { pg_sys::RequestXLogSwitch(false) })
}

/// Waits until the log is flushed up to `position`, by a process that does not hold the lock.
pub fn flush(position: Lsn) {
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
