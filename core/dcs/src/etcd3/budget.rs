//! Time: the budget of one call and how it is divided over members and attempts.

use ha_core::clock::Millis;
use std::time::Duration;
use tokio::time::Instant;

const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Below this an attempt is not worth making.
const SLICE_MIN: Duration = Duration::from_millis(20);

/// The time one call may take, retries included.
pub(super) struct Budget {
    until: Instant,
    per_request: Option<Duration>,
    attempts: u32,
    pause: Duration,
}

impl Budget {
    pub(super) fn new(total: Millis, per_request: Option<Millis>) -> Self {
        Self {
            until: Instant::now() + Duration::from_millis(total.0),
            per_request: per_request.map(|limit| Duration::from_millis(limit.0)),
            attempts: 0,
            pause: PAUSE_FIRST,
        }
    }

    /// A part of this budget for something that may wait: at most `limit`.
    pub(super) fn part(&self, limit: Duration) -> Self {
        let until = self.until.min(Instant::now() + limit);
        Self { until, per_request: self.per_request, attempts: 0, pause: PAUSE_FIRST }
    }

    fn remaining(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// How long the next attempt may take with `members` to try: what is left, divided over those that this round
    /// has not tried. A single member is tried twice, because a fresh connection may do where an old one hangs.
    pub(super) fn slice(&self, members: usize) -> Option<Duration> {
        let round = u32::try_from(members.max(2)).unwrap_or(u32::MAX);
        let untried = round - self.attempts % round;
        let slice = self.remaining() / untried;
        let slice = self.per_request.map_or(slice, |limit| slice.min(limit));
        (slice >= SLICE_MIN).then_some(slice)
    }

    /// An attempt failed. How long to pause before the next: not at all while this round has untried members.
    pub(super) fn failed(&mut self, members: usize) -> Duration {
        self.attempts = self.attempts.wrapping_add(1);
        if !(self.attempts as usize).is_multiple_of(members.max(1)) {
            return Duration::ZERO;
        }
        let pause = self.pause.min(self.remaining());
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        pause
    }
}

/// How long a sign of life may take: a sixth of the lease.
pub(super) fn quiet_time(ttl: Millis) -> Duration {
    Duration::from_millis((ttl.0 / 6).clamp(500, 5_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_divided_over_members() {
        let mut budget = Budget::new(Millis(3_000), None);
        let first = budget.slice(3).expect("time is left");
        assert!((900..=1_000).contains(&first.as_millis()), "{first:?}");
        assert_eq!(budget.failed(3), Duration::ZERO);
        let second = budget.slice(3).expect("time is left");
        assert!((1_400..=1_500).contains(&second.as_millis()), "{second:?}");
        assert_eq!(budget.failed(3), Duration::ZERO);
        assert_eq!(budget.failed(3), PAUSE_FIRST);
        assert_eq!(budget.failed(1), PAUSE_FIRST * 2);
    }

    #[test]
    fn a_single_member_is_tried_twice() {
        let budget = Budget::new(Millis(1_000), Some(Millis(300)));
        assert_eq!(budget.slice(1), Some(Duration::from_millis(300)));
        let budget = Budget::new(Millis(1_000), None);
        assert!(budget.slice(1).expect("time is left") <= Duration::from_millis(500));
        assert_eq!(Budget::new(Millis(0), None).slice(1), None);
    }
}
