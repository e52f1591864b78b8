//! The one clock: `CLOCK_BOOTTIME`, which runs on while the machine is suspended.

use ha_core::clock::Tick;
use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since the machine booted, suspend included.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let secs = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Milliseconds since the machine booted, rounded down.
#[must_use]
pub fn now() -> Tick {
    Tick(now_ns() / 1_000_000)
}

/// Milliseconds since 1970 by the wall clock: for people and logs, never for decisions.
#[must_use]
pub fn wall_ms() -> u64 {
    let now = clock_gettime(ClockId::Realtime);
    let secs = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    secs.saturating_mul(1000).saturating_add(nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_and_nanoseconds_are_of_one_clock() {
        let before = now_ns() / 1_000_000;
        let tick = now();
        let after = now_ns() / 1_000_000;
        assert!((before..=after).contains(&tick.0), "{before} <= {} <= {after}", tick.0);
    }
}
