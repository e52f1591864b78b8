//! The flight recorder's place in shared memory: the newest events, each in a slot of fixed size.
//!
//! The loop worker's main thread writes; the next worker reads what the last one left. A crash cycle makes the memory anew: the
//! postmaster, which outlives it, carries the events over, and with them what an unsupervised worker leaves to the next.
#![allow(unsafe_code)]

use crate::shmem::{Shared, Text, shared};
use pgrx::{pg_guard, pg_sys};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Events kept.
pub const ENTRIES: usize = 256;
/// Longest event.
pub const ENTRY_BYTES: usize = 512;

/// See the module. All zeros is empty.
#[repr(C)]
pub struct Ring {
    entries: [Entry; ENTRIES],
}

#[repr(C)]
struct Entry {
    /// The event's number and one; zero while there is none, or while it is written.
    number: AtomicU64,
    text: Text<{ ENTRY_BYTES / 8 }>,
}

impl Ring {
    /// Puts an event in the place of the one that is [`ENTRIES`] older.
    pub fn put(&self, number: u64, text: &str) {
        let entry = &self.entries[usize::try_from(number % ENTRIES as u64).unwrap_or(0)];
        entry.number.store(0, Ordering::Release);
        entry.text.store(text);
        entry.number.store(number + 1, Ordering::Release);
    }

    /// What is there, oldest first. For when nobody writes.
    pub fn read(&self) -> Vec<(u64, String)> {
        let entry = |entry: &Entry| {
            let number = entry.number.load(Ordering::Acquire).checked_sub(1)?;
            Some((number, String::from_utf8(entry.text.load()).ok()?))
        };
        let mut events: Vec<(u64, String)> = self.entries.iter().filter_map(entry).collect();
        events.sort_unstable();
        events
    }
}

/// What the postmaster carries over a crash cycle.
struct Carried {
    events: Vec<(u64, String)>,
    /// What a worker without a supervisor remembered when it demoted this server in place.
    legacy: Option<String>,
}

static CARRIED: Mutex<Option<Carried>> = Mutex::new(None);

/// Puts back what was carried, and asks for it to be carried again. Called by the postmaster whenever the memory is new.
pub fn begin(shared: &Shared) {
    if let Some(carried) = CARRIED.lock().unwrap_or_else(PoisonError::into_inner).take() {
        for (number, text) in carried.events {
            shared.events.put(number, &text);
        }
        if let Some(legacy) = carried.legacy {
            shared.legacy.publish(&legacy);
        }
    }
    // SAFETY: registered after the server's own callbacks for the segment, and so called before they detach it; the list is
    // emptied with each call, and children of the postmaster begin with an empty one.
    unsafe { pg_sys::on_shmem_exit(Some(carry), pg_sys::Datum::from(0)) };
}

#[pg_guard]
extern "C-unwind" fn carry(_code: i32, _argument: pg_sys::Datum) {
    if let Some(shared) = shared() {
        let legacy = shared.legacy.read().filter(|text| !text.is_empty());
        *CARRIED.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Carried { events: shared.events.read(), legacy });
    }
}
