//! Waiting for observable state, never for a guessed time.

use std::time::{Duration, Instant};

/// How often a condition is looked at: often at first, since most come true soon, then less, since looking costs too.
fn pause(waited: Duration) -> Duration {
    if waited < Duration::from_secs(1) { Duration::from_millis(20) } else { Duration::from_millis(100) }
}

/// Polls until `look` yields a value; `None` when `within` is over.
pub fn poll<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(value) = look() {
            return Some(value);
        }
        if begun.elapsed() >= within {
            return None;
        }
        std::thread::sleep(pause(begun.elapsed()));
    }
}

/// Seconds as a duration; tests read better with it.
#[must_use]
pub const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Milliseconds as a duration.
#[must_use]
pub const fn millis(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
