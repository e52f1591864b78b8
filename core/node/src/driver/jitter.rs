//! Random numbers that spread what several nodes would do at once.

use std::hash::{BuildHasher, Hasher, RandomState};

/// The operating system's randomness, by way of the standard library's hash keys.
pub fn seed() -> u64 {
    RandomState::new().build_hasher().finish() | 1
}

/// xorshift64*: jitter, not cryptography.
pub fn next(state: u64) -> u64 {
    let mut x = state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    x.wrapping_mul(0x2545_F491_4F6C_DD1D) | 1
}
