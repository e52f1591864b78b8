//! Lease arithmetic: until when may commits be acknowledged, counted so that every doubt shortens it.

use crate::clock::{Millis, Tick};
use crate::ids::{LeaseId, Revision};
use serde::{Deserialize, Serialize};

/// The right to lead, confirmed by the store. Only an answer of the store can make one
/// ([`Lease::confirmed`] is fed from [`crate::outcome::Outcome`]); [`crate::effect::Effect::Promote`] needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The store's lease that carries our leader key.
    pub id: LeaseId,
    /// Create revision of the leader key we acquired: a key deleted and made again is not ours.
    pub leader_created: Revision,
    /// When the last confirmed keepalive was SENT.
    pub sent_at: Tick,
    /// The time to live the store RETURNED for that keepalive.
    pub ttl: Millis,
}

impl Lease {
    /// A lease as confirmed by the store.
    #[must_use]
    pub fn confirmed(id: LeaseId, leader_created: Revision, sent_at: Tick, ttl: Millis) -> Self {
        Self { id, leader_created, sent_at, ttl }
    }

    /// After this moment nothing may be acknowledged. Counted from when the keepalive was sent, since the
    /// store counts from when it arrived, which is later; shortened by [`margin`] for clocks that run at different rates.
    #[must_use]
    pub fn deadline(&self) -> Tick {
        (self.sent_at + self.ttl) - margin(self.ttl)
    }

    /// The same lease once `ttl` was lowered at `now`: any lease that the leader key may be moved to is granted later, and lives as long.
    #[must_use]
    pub fn limited(self, ttl: Millis, now: Tick) -> Self {
        let shorter = Self { sent_at: now, ttl, ..self };
        if shorter.deadline() < self.deadline() { shorter } else { self }
    }

    /// The same lease when `unseen` more has passed since it was asked for than the clock knows of.
    #[must_use]
    pub fn older_by(self, unseen: Millis) -> Self {
        let (sent_at, ttl) = earlier(self.sent_at, self.ttl, unseen);
        Self { sent_at, ttl, ..self }
    }

    /// Whether the lease still allows acknowledgements at `now`.
    #[must_use]
    pub fn valid_at(&self, now: Tick) -> bool {
        now < self.deadline()
    }
}

/// What is cut off the end of every lease: a twentieth, at least 200 ms. Clocks of the supported machines
/// differ by far less than 5 % in rate; the floor covers the time between reading the clock and acting on it.
#[must_use]
pub fn margin(ttl: Millis) -> Millis {
    Millis((ttl.0 / 20).max(200).min(ttl.0))
}

/// What lasts for so long from a moment, from `by` earlier. No moment is before the machine's boot: as much is taken off the end then, and
/// more, as the [`margin`] of what is left is smaller.
#[must_use]
pub fn earlier(from: Tick, lasts: Millis, by: Millis) -> (Tick, Millis) {
    let cut = match by.0.saturating_sub(from.0) {
        0 => 0,
        before_boot => before_boot.saturating_add(1).saturating_mul(20).div_ceil(19),
    };
    (from - by, Millis(lasts.0.saturating_sub(cut)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_counts_from_sending_and_keeps_a_margin() {
        let lease = Lease::confirmed(LeaseId(1), Revision(1), Tick(10_000), Millis(30_000));
        assert_eq!(lease.deadline(), Tick(38_500));
        assert!(lease.valid_at(Tick(38_499)));
        assert!(!lease.valid_at(Tick(38_500)));
    }

    #[test]
    fn a_pause_longer_than_the_machine_runs_counts_in_full() {
        for (sent_at, unseen) in [(40_000, 10_343), (9990, 10_343), (0, 1), (5, 20_000)] {
            let lease = Lease::confirmed(LeaseId(1), Revision(1), Tick(sent_at), Millis(30_000));
            let shift = lease.deadline().since(lease.older_by(Millis(unseen)).deadline()).0;
            assert!((unseen..unseen + 4).contains(&shift), "{sent_at}: {unseen} counted as {shift}");
        }
        let lease = Lease::confirmed(LeaseId(1), Revision(1), Tick(10), Millis(30_000));
        assert_eq!(lease.older_by(Millis(40_000)).deadline(), Tick(0));
    }

    #[test]
    fn a_lowered_ttl_never_leaves_more_time_than_the_next_lease_has() {
        let lease = Lease::confirmed(LeaseId(1), Revision(1), Tick(10_000), Millis(30_000));
        assert_eq!(lease.limited(Millis(5000), Tick(12_000)).deadline(), Tick(16_750));
        assert_eq!(lease.limited(Millis(5000), Tick(36_000)), lease, "it ends sooner by itself");
        assert_eq!(lease.limited(Millis(60_000), Tick(12_000)), lease);
    }

    #[test]
    fn a_tiny_ttl_leaves_no_time_at_all() {
        let lease = Lease::confirmed(LeaseId(1), Revision(1), Tick(0), Millis(150));
        assert_eq!(lease.deadline(), Tick(0));
    }
}
