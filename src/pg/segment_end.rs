//! A log that ends with a segment: a standby that is promoted there has nothing to copy (ADR 0037).
#![allow(unsafe_code)]

use super::wal::{segment_bytes, segment_name};
use super::{freeze, settings};
use ha_core::ids::Lsn;
use pgrx::pg_sys;
use std::path::Path;
use std::time::Instant;

/// Segments of another size than the usual one are left as they are.
const SEGMENT_BYTES: u64 = 16 << 20;
/// With no more than this free in its segment the log is ended at the segment's end: what is left of it is sent and flushed as zeros.
const REST_BYTES_MAX: u64 = 2 << 20;
/// How near [`Filling`] brings it, besides what others write until it ends.
const REST_BYTES_LEFT: u64 = 256 << 10;
const REST_BYTES_LEFT_MAX: u64 = 4 << 20;
/// The most that is filled, by how much at once, and from what on it is worth it.
const FILL_BYTES_MAX: u64 = 24 << 20;
const RECORD_BYTES: u64 = 1 << 20;
const FILL_BYTES_MIN: u64 = 64 << 10;

/// Whether a hand-over may end the log with a segment. One that ends would have to be archived first.
pub fn is_wanted() -> bool {
    !settings::archiving() && segment_bytes() == SEGMENT_BYTES
}

/// Whether the log is near enough to the end of its segment to be ended there.
pub(super) fn is_near() -> bool {
    is_wanted() && rest_of_segment() <= REST_BYTES_MAX
}

/// Brings the log near the end of its segment with records of no effect. Commits go on meanwhile.
pub struct Filling {
    begun: Instant,
    until_end_ms: u64,
    /// Where the log ended then.
    first: u64,
    filled: u64,
}

impl Filling {
    /// The log ends about so long after it. `None` if there is nothing to be gained by it.
    pub fn begin(until_end_ms: u64) -> Option<Self> {
        is_wanted().then(|| Self { begun: Instant::now(), until_end_ms, first: inserted(), filled: 0 })
    }

    /// Writes and flushes one record; false if none is needed any more. It waits for the disk.
    pub fn step(&mut self, data_dir: &Path) -> bool {
        let others = inserted().saturating_sub(self.first + self.filled);
        let took_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(5);
        // What others will have written when the log is ended must find room.
        let wanted = (REST_BYTES_LEFT + others * self.until_end_ms / took_ms).min(REST_BYTES_LEFT_MAX);
        let rest = rest_of_segment();
        let more = rest.saturating_sub(wanted);
        if self.filled >= FILL_BYTES_MAX || (more < FILL_BYTES_MIN && rest >= wanted / 2) {
            return false;
        }
        // With too little left it goes on into the next segment, but not where that would have to be made: the disk may be full.
        if more == 0 && !next_segment_exists(data_dir) {
            return false;
        }
        let bytes = if more == 0 { RECORD_BYTES } else { more.min(RECORD_BYTES) };
        let zeros = vec![0; usize::try_from(bytes).unwrap_or_default()];
        freeze::flush(freeze::insert_noop(&zeros));
        self.filled += bytes;
        true
    }
}

fn next_segment_exists(data_dir: &Path) -> bool {
    let (_, timeline) = super::wal::flushed();
    let next = Lsn(inserted() + segment_bytes());
    data_dir.join("pg_wal").join(segment_name(timeline, next)).exists()
}

fn inserted() -> u64 {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::GetXLogInsertRecPtr() }
}

/// How much is free in the segment that is written now.
fn rest_of_segment() -> u64 {
    segment_bytes() - inserted() % segment_bytes()
}
