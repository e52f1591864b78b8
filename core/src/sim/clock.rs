//! Each machine's own `CLOCK_BOOTTIME`: an offset that means nothing elsewhere, and a rate that is slightly wrong.

use crate::clock::Tick;

/// True time is milliseconds of the world; this turns it into one machine's ticks and back.
#[derive(Clone, Copy, Debug)]
pub(super) struct BootClock {
    true_base: u64,
    local_base: u64,
    /// Ticks per million true milliseconds.
    rate: u64,
}

impl BootClock {
    pub(super) fn new(true_base: u64, local_base: u64, rate_ppm: i64) -> Self {
        Self { true_base, local_base, rate: 1_000_000u64.saturating_add_signed(rate_ppm) }
    }

    pub(super) fn at(&self, now: u64) -> Tick {
        Tick(self.local_base + now.saturating_sub(self.true_base) * self.rate / 1_000_000)
    }

    /// The first true time at which the clock shows at least `tick`.
    pub(super) fn true_time(&self, tick: Tick) -> u64 {
        self.true_base + (tick.0.saturating_sub(self.local_base) * 1_000_000).div_ceil(self.rate)
    }

    /// The clock goes on at another rate from `now` on, without a jump.
    pub(super) fn change_rate(&mut self, now: u64, rate_ppm: i64) {
        *self = Self::new(now.max(self.true_base), self.at(now).0, rate_ppm);
    }

    /// The clock stands still from `now` on until true time is `until`.
    pub(super) fn stand_still(&mut self, now: u64, until: u64) {
        *self = Self { true_base: until, local_base: self.at(now).0, rate: self.rate };
    }

    /// It goes on; no two readings before and after are the same, so that a request is known to be from before or after.
    pub(super) fn go_on(&mut self, now: u64) {
        *self = Self { true_base: now, local_base: self.at(now).0 + 1, rate: self.rate };
    }
}
