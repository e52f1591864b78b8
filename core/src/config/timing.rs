//! The three times every node must agree on, and how they are corrected when they do not fit together (wire.md 8.1).

use super::problem::Warning;
use crate::clock::Millis;

/// Shortest `ttl`. The fence makes short leases safe; below this an ordinary pause would cost the lead.
pub const TTL_MIN_MS: Millis = Millis::from_secs(5);
/// What Patroni raises a shorter `ttl` to.
pub const TTL_MIN_PATRONI_MS: Millis = Millis::from_secs(20);
const LOOP_WAIT_MIN_MS: Millis = Millis::from_secs(1);
const RETRY_TIMEOUT_MIN_MS: Millis = Millis::from_secs(3);

/// `ttl`, `loop_wait` and `retry_timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// `ttl`.
    pub ttl_ms: Millis,
    /// `loop_wait`.
    pub loop_wait_ms: Millis,
    /// `retry_timeout`.
    pub retry_timeout_ms: Millis,
}

impl Timing {
    /// The times as they take effect, so that `loop_wait + 2 * retry_timeout <= ttl`, with a warning for each
    /// correction. While a Patroni member is in the cluster (`patroni_present`) its floor of 20 s for `ttl` is ours.
    #[must_use]
    pub fn corrected(self, patroni_present: bool) -> (Timing, Vec<Warning>) {
        let mut warnings = Vec::new();
        let mut out = self;
        // Stores count leases in whole seconds.
        out.ttl_ms = Millis(out.ttl_ms.0.div_ceil(1000).saturating_mul(1000));
        let floor = if patroni_present { TTL_MIN_PATRONI_MS } else { TTL_MIN_MS };
        raise(&mut out.ttl_ms, floor, "ttl", &mut warnings);
        raise(&mut out.loop_wait_ms, LOOP_WAIT_MIN_MS, "loop_wait", &mut warnings);
        raise(&mut out.retry_timeout_ms, RETRY_TIMEOUT_MIN_MS, "retry_timeout", &mut warnings);

        let (ttl, loop_wait, retry) = (out.ttl_ms.0, out.loop_wait_ms.0, out.retry_timeout_ms.0);
        let twice = retry.saturating_mul(2);
        if LOOP_WAIT_MIN_MS.0.saturating_add(twice) > ttl {
            out.loop_wait_ms = LOOP_WAIT_MIN_MS;
            // Whole seconds, as Patroni computes it; every member must come to the same numbers.
            out.retry_timeout_ms = Millis((ttl - LOOP_WAIT_MIN_MS.0) / 2000 * 1000);
        } else if loop_wait.saturating_add(twice) > ttl {
            out.loop_wait_ms = Millis(ttl - twice);
        }
        for (name, before, after) in
            [("loop_wait", loop_wait, out.loop_wait_ms.0), ("retry_timeout", retry, out.retry_timeout_ms.0)]
        {
            if before != after {
                let message = format!(
                    "{} s does not fit: loop_wait + 2 * retry_timeout must not exceed ttl ({} s); {} s is used",
                    seconds(before),
                    seconds(ttl),
                    seconds(after)
                );
                warnings.push(Warning { path: name.to_owned(), message });
            }
        }
        (out, warnings)
    }
}

fn raise(value: &mut Millis, floor: Millis, name: &str, warnings: &mut Vec<Warning>) {
    if *value < floor {
        let message = format!("{} s is less than the minimum; {} s is used", seconds(value.0), seconds(floor.0));
        warnings.push(Warning { path: name.to_owned(), message });
        *value = floor;
    }
}

fn seconds(ms: u64) -> String {
    if ms.is_multiple_of(1000) {
        (ms / 1000).to_string()
    } else {
        format!("{}.{:03}", ms / 1000, ms % 1000).trim_end_matches('0').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corrected(ttl: u64, loop_wait: u64, retry: u64, patroni: bool) -> (u64, u64, u64, usize) {
        let timing = Timing {
            ttl_ms: Millis::from_secs(ttl),
            loop_wait_ms: Millis::from_secs(loop_wait),
            retry_timeout_ms: Millis::from_secs(retry),
        };
        let (out, warnings) = timing.corrected(patroni);
        (out.ttl_ms.0 / 1000, out.loop_wait_ms.0 / 1000, out.retry_timeout_ms.0 / 1000, warnings.len())
    }

    #[test]
    fn what_fits_is_left_alone() {
        assert_eq!(corrected(30, 10, 10, false), (30, 10, 10, 0));
        assert_eq!(corrected(20, 1, 3, true), (20, 1, 3, 0));
        assert_eq!(corrected(7, 1, 3, false), (7, 1, 3, 0));
    }

    #[test]
    fn times_without_bounds_do_not_overflow() {
        let timing = |ttl, retry| Timing { ttl_ms: ttl, loop_wait_ms: Millis(10_000), retry_timeout_ms: retry };
        let (endless, day) = (Millis(u64::MAX), Millis::from_secs(86_400));
        let (out, warnings) = timing(Millis(30_000), Millis(u64::MAX / 2 + 1)).corrected(false);
        assert_eq!((out.loop_wait_ms, out.retry_timeout_ms, warnings.len()), (Millis(1000), Millis(14_000), 2));
        assert_eq!(timing(endless, day).corrected(false).0.retry_timeout_ms, day);
    }

    #[test]
    fn what_does_not_fit_shrinks_the_way_patroni_shrinks_it() {
        assert_eq!(corrected(30, 15, 10, false), (30, 10, 10, 1));
        assert_eq!(corrected(20, 10, 10, false), (20, 1, 9, 2));
        assert_eq!(corrected(5, 1, 3, false), (5, 1, 2, 1));
    }

    #[test]
    fn minima() {
        assert_eq!(corrected(1, 0, 0, false), (5, 1, 2, 4));
        assert_eq!(corrected(5, 1, 3, true), (20, 1, 3, 1));
    }

    #[test]
    fn a_ttl_is_whole_seconds() {
        let timing = Timing { ttl_ms: Millis(6500), loop_wait_ms: Millis(1000), retry_timeout_ms: Millis(3000) };
        let (out, warnings) = timing.corrected(false);
        assert_eq!((out.ttl_ms.0, warnings.len()), (7000, 0));
    }
}
