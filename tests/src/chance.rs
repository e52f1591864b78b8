//! How often a scenario repeats itself, and at which moments it strikes.

use std::time::{Duration, Instant};

/// A number from the environment, for runs by hand that are longer than CI's.
#[must_use]
pub fn times(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable)
        .ok()
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

/// The rounds of a scenario that repeats itself; none begins later than `HA_TESTS_SECONDS` after the first.
pub fn rounds(variable: &str, otherwise: usize) -> impl Iterator<Item = usize> {
    let (most_s, begun) = (times("HA_TESTS_SECONDS", usize::MAX) as u64, Instant::now());
    (0..times(variable, otherwise)).take_while(move |_| begun.elapsed().as_secs() < most_s)
}

/// Random delays that can be repeated: the seed is printed, and `HA_TESTS_SEED` sets it.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// A new sequence.
    #[must_use]
    pub fn seeded() -> Self {
        let clock = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.subsec_nanos() as usize);
        let seed = times("HA_TESTS_SEED", clock);
        println!("HA_TESTS_SEED={seed}");
        Self((seed as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A delay below `most`.
    pub fn delay(&mut self, most: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let most_us = u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1);
        Duration::from_micros(self.0 % most_us)
    }
}
