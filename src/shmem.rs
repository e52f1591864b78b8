//! The shared memory of all processes of the server: fixed size, versioned, atomics only, so that a reader needs no lock and
//! no process that is stopped or killed in the middle can harm another.
//!
//! A fresh or re-initialised segment is all zeros, and zero means: fence closed, nothing known.
#![allow(unsafe_code)]

use crate::ring::{self, Ring};
use ha_core::ids::Timeline;
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use std::cell::UnsafeCell;
use std::ffi::{CStr, c_void};
use std::mem::{align_of, offset_of, size_of};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

/// Grows with every change of [`Shared`]'s layout.
pub const LAYOUT_VERSION: u32 = 4;
/// Longest status page, bytes.
pub const PAGE_BYTES: usize = 256 * 1024;
/// Longest memory of a worker, bytes.
pub const LEGACY_BYTES: usize = 64 * 1024;
/// Longest request of a session, bytes.
pub const REQUEST_BYTES: usize = 32 * 1024;
/// Longest answer to a session, bytes.
pub const REPLY_BYTES: usize = 64 * 1024;
/// Longest list of settings that wait for a restart, bytes.
pub const PENDING_BYTES: usize = 16 * 1024;
/// Sessions that can have a command under way.
pub const LETTERS: usize = 8;

/// Everything in shared memory.
#[repr(C)]
pub struct Shared {
    layout_version: AtomicU32,
    /// Process id of the loop worker, 0 when none runs.
    pub worker_pid: AtomicI32,
    /// Latch of the loop worker.
    pub worker_latch: AtomicPtr<c_void>,
    /// Latch of the sql worker.
    pub sql_latch: AtomicPtr<c_void>,
    /// What every commit looks at.
    pub gate: Gate,
    /// Commits that are held wait here.
    pub held: WaitQueue,
    /// When the loop worker's main thread last went round, nanoseconds of `CLOCK_BOOTTIME`.
    pub heartbeat_ns: AtomicU64,
    /// The end of the last commit that did not wait for its flush.
    pub asynchronous_end: AtomicU64,
    /// Who leads: `host:port (name)`.
    pub leader_hint: Board<64>,
    /// What a worker without a supervisor leaves to the next one, JSON; empty once it was taken.
    pub legacy: Board<{ LEGACY_BYTES / 8 }>,
    /// The status page, JSON.
    pub page: Board<{ PAGE_BYTES / 8 }>,
    /// Settings that wait for a restart, JSON; written by the sql worker.
    pub pending_restart: Board<{ PENDING_BYTES / 8 }>,
    /// The flight recorder.
    pub events: Ring,
    /// Commands of sessions to the loop worker.
    pub letters: [Letter; LETTERS],
}

/// What every commit looks at, on a cache line that only the lease and a planned switchover write: busy clients share it
/// without taking it from each other.
#[repr(C, align(128))]
pub struct Gate {
    /// Until when commits may be acknowledged, nanoseconds of `CLOCK_BOOTTIME`; 0 is closed.
    pub deadline_ns: AtomicU64,
    /// Not 0: commits are held.
    pub sealed: AtomicU32,
    /// Not 0: this standby must not be read yet.
    pub reads_withheld: AtomicU32,
    /// When the fence was closed for a change of role, nanoseconds of `CLOCK_BOOTTIME`; 0 is not.
    pub yielded_ns: AtomicU64,
    /// Who leads after that: `host:port (name)`.
    pub successor: Board<64>,
}

/// How far the commit of one process of the server has come; each has a cache line of its own. See [`crate::fence`].
#[repr(C, align(128))]
pub struct Mark(pub AtomicU32);

/// Two cache lines, since processors fetch them in pairs.
const LINE_BYTES: usize = 128;
const _: () = assert!(size_of::<Mark>() == LINE_BYTES && align_of::<Mark>() == LINE_BYTES, "a mark shares its line");
const _: () = assert!(
    align_of::<Gate>() == LINE_BYTES && size_of::<Gate>().is_multiple_of(LINE_BYTES),
    "the gate shares its line"
);
const _: () = assert!(offset_of!(Gate, reads_withheld) < 64, "what every commit looks at is on more than one line");
const _: () = assert!(offset_of!(Shared, held).is_multiple_of(LINE_BYTES), "those who wait write into the gate's line");

/// A condition variable of the server. Only used through [`crate::pg::queue`].
#[repr(C, align(128))]
pub struct WaitQueue(UnsafeCell<pg_sys::ConditionVariable>);

// SAFETY: the server's functions, which alone touch it, lock it.
unsafe impl Sync for WaitQueue {}

impl WaitQueue {
    /// For the server's functions.
    pub fn as_pointer(&self) -> *mut pg_sys::ConditionVariable {
        self.0.get()
    }
}

/// Text that one process writes (the loop worker's main thread, if nothing else is said) and any process reads. Two slots: a
/// writer that stops in the middle leaves the other one whole.
#[repr(C)]
pub struct Board<const WORDS: usize> {
    current: AtomicU64,
    slots: [Slot<WORDS>; 2],
}

#[repr(C)]
struct Slot<const WORDS: usize> {
    sequence: AtomicU64,
    text: Text<WORDS>,
}

/// Text of bounded length. Alone it gives no protection against reading while it is written.
#[repr(C)]
pub struct Text<const WORDS: usize> {
    length: AtomicU64,
    words: [AtomicU64; WORDS],
}

impl<const WORDS: usize> Text<WORDS> {
    /// Stores as much of `text` as fits, cut at a character.
    pub fn store(&self, text: &str) {
        let bytes = &text.as_bytes()[..text.floor_char_boundary(WORDS * 8)];
        for (word, chunk) in self.words.iter().zip(bytes.chunks(8)) {
            let mut buffer = [0; 8];
            buffer[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_ne_bytes(buffer), Ordering::Relaxed);
        }
        self.length.store(bytes.len() as u64, Ordering::Relaxed);
    }

    /// The text as bytes.
    pub fn load(&self) -> Vec<u8> {
        let length = usize::try_from(self.length.load(Ordering::Relaxed)).unwrap_or(0).min(WORDS * 8);
        let mut bytes = Vec::with_capacity(length + 8);
        for word in &self.words[..length.div_ceil(8)] {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

impl<const WORDS: usize> Board<WORDS> {
    /// Publishes `text`. There is one writer.
    pub fn publish(&self, text: &str) {
        let next = self.current.load(Ordering::Relaxed) + 1;
        let slot = self.slot(next);
        slot.sequence.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        slot.text.store(text);
        slot.sequence.store(next, Ordering::Release);
        self.current.store(next, Ordering::Release);
    }

    /// Changes with every text.
    pub fn version(&self) -> u64 {
        self.current.load(Ordering::Acquire)
    }

    /// The newest text; `None` before the first.
    pub fn read(&self) -> Option<String> {
        // Each retry means that two newer texts came meanwhile: a reader that loses this often is as good as without any.
        for _ in 0..1000 {
            let sequence = self.current.load(Ordering::Acquire);
            if sequence == 0 {
                return None;
            }
            let slot = self.slot(sequence);
            if slot.sequence.load(Ordering::Acquire) != sequence {
                continue;
            }
            let bytes = slot.text.load();
            fence(Ordering::Acquire);
            if slot.sequence.load(Ordering::Relaxed) == sequence {
                return String::from_utf8(bytes).ok();
            }
        }
        None
    }

    fn slot(&self, sequence: u64) -> &Slot<WORDS> {
        &self.slots[usize::from(sequence % 2 == 1)]
    }
}

/// One command of a session and its answer. `state` says who may touch the rest; see [`crate::mailbox`].
#[repr(C)]
pub struct Letter {
    /// One of the states in [`crate::mailbox`].
    pub state: AtomicU32,
    /// The session.
    pub owner_pid: AtomicI32,
    /// Its latch.
    pub owner_latch: AtomicPtr<c_void>,
    /// Tells one use of this letter from the next.
    pub ticket: AtomicU64,
    /// JSON.
    pub request: Text<{ REQUEST_BYTES / 8 }>,
    /// JSON.
    pub reply: Text<{ REPLY_BYTES / 8 }>,
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

/// The segment; `None` in a server that did not preload us (or where we are inert).
pub fn shared() -> Option<&'static Shared> {
    let shared = SHARED.load(Ordering::Relaxed);
    // SAFETY: either null or set by `on_startup` to a segment that lives as long as the process and holds only atomics.
    unsafe { shared.as_ref() }
}

static MARKS: AtomicPtr<Mark> = AtomicPtr::new(std::ptr::null_mut());
static MARK_COUNT: AtomicUsize = AtomicUsize::new(0);

/// The mark of every process that can commit, by its number in the server's array of processes.
pub fn marks() -> &'static [Mark] {
    let first = MARKS.load(Ordering::Relaxed);
    if first.is_null() {
        return &[];
    }
    // SAFETY: set by `on_startup` to an array of that length, which lives as long as the process and holds only atomics.
    unsafe { std::slice::from_raw_parts(first, MARK_COUNT.load(Ordering::Relaxed)) }
}

/// Sessions, background workers, walsenders: whatever can commit has a number below this. Final before shared memory is
/// asked for.
fn mark_count() -> usize {
    // SAFETY: a plain variable, computed before shared memory is asked for.
    usize::try_from(unsafe { pg_sys::MaxBackends }).unwrap_or(0)
}

type Hook = Option<unsafe extern "C-unwind" fn()>;

static PREVIOUS_REQUEST: OnceLock<Hook> = OnceLock::new();
static PREVIOUS_STARTUP: OnceLock<Hook> = OnceLock::new();

/// Asks for the segment. Called once, by the postmaster.
pub fn install() {
    // SAFETY: the postmaster is single-threaded while it preloads libraries.
    PREVIOUS_REQUEST.get_or_init(|| unsafe { pg_sys::shmem_request_hook });
    // SAFETY: as above.
    unsafe { pg_sys::shmem_request_hook = Some(on_request) };
    // SAFETY: as above.
    PREVIOUS_STARTUP.get_or_init(|| unsafe { pg_sys::shmem_startup_hook });
    // SAFETY: as above.
    unsafe { pg_sys::shmem_startup_hook = Some(on_startup) };
}

#[pgrx::pg_guard]
extern "C-unwind" fn on_request() {
    if let Some(previous) = PREVIOUS_REQUEST.get().copied().flatten() {
        // SAFETY: the hook of another library, called the way the server would.
        let call = || unsafe { previous() };
        // SAFETY: turns an error of the hook into an unwinding of ours, as the bindings do.
        unsafe { pg_guard_ffi_boundary(call) };
    }
    // SAFETY: inside shmem_request_hook, where this is allowed.
    unsafe { pg_sys::RequestAddinShmemSpace(size_of::<Shared>()) };
    // SAFETY: as above. The server rounds each area up to its own cache line, which may be longer than what is left here.
    unsafe { pg_sys::RequestAddinShmemSpace((mark_count() + 1) * size_of::<Mark>()) };
}

/// A promotion that was asked for before a crash must not happen after it: whoever asked may not lead any more. The server
/// itself removes the trigger only when the postmaster starts.
fn forget_promotion() {
    let data_dir = crate::pg::process::data_dir();
    let trigger = ha_node::files::remove(&data_dir.join("promote")).map(|_| ());
    let timeline = crate::pg::control::recovery_timeline().unwrap_or(Timeline(0));
    if let Err(error) = trigger.and(crate::placeholders::clear(&data_dir, timeline)) {
        pgrx::log!("ha_ext: what a promotion left behind cannot be removed: {error}");
    }
}

/// Runs again after every crash cycle, with memory that is new and zero: the fence is closed then. Recovery begins after it.
#[pgrx::pg_guard]
extern "C-unwind" fn on_startup() {
    if let Some(previous) = PREVIOUS_STARTUP.get().copied().flatten() {
        // SAFETY: the hook of another library, called the way the server would.
        let call = || unsafe { previous() };
        // SAFETY: turns an error of the hook into an unwinding of ours, as the bindings do.
        unsafe { pg_guard_ffi_boundary(call) };
    }
    forget_promotion();
    let segment = area::<Shared>(c"ha_ext", 1);
    let marks = area::<Mark>(c"ha_ext marks", mark_count());
    SHARED.store(segment, Ordering::Relaxed);
    MARK_COUNT.store(mark_count(), Ordering::Relaxed);
    MARKS.store(marks, Ordering::Relaxed);
    if let Some(shared) = shared() {
        // SAFETY: memory of its size that nobody uses yet.
        unsafe { pg_sys::ConditionVariableInit(shared.held.as_pointer()) };
        ring::begin(shared);
        // One that cannot be looked at counts as present.
        let demoted = ha_node::paths::Paths::new(&crate::pg::process::data_dir()).demoted();
        if demoted.try_exists().unwrap_or(true) {
            crate::fence::withhold_reads(shared);
        }
        shared.layout_version.store(LAYOUT_VERSION, Ordering::Relaxed);
    }
}

/// `count` zeroed elements of shared memory.
fn area<T>(name: &CStr, count: usize) -> *mut T {
    let mut found = false;
    // SAFETY: inside shmem_startup_hook; the postmaster is alone, so that no lock is needed around it.
    let pointer = unsafe { pg_sys::ShmemInitStruct(name.as_ptr(), count * size_of::<T>(), &raw mut found) };
    let pointer = pointer.cast::<T>();
    // The server aligns every area to its cache line.
    assert!(pointer.is_aligned(), "shared memory is not aligned");
    if !found {
        // SAFETY: the area has the size that was asked for, and all-zero is a valid `T`.
        unsafe { std::ptr::write_bytes(pointer, 0, count) };
    }
    pointer
}
