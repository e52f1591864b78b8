//! A promotion, from the order to the open fence.

use super::{Inside, signal};
use crate::files::PromotionJob;
use crate::pg::wal::{self, Phase};
use crate::pg::{recovery, segment_end, sessions};
use ha_core::clock::{Millis, Tick};
use ha_core::effect::Pressure;
use ha_core::ids::Timeline;
use ha_core::lease::Lease;
use ha_node::clock;
use rustix::process::Signal;

/// How long the server may take to notice that it shall promote.
const PROMOTION_MAX: Millis = Millis(10_000);

/// How long after its start a standby makes an empty segment.
const EMPTY_SEGMENT_AFTER: Millis = Millis(1500);

/// What was asked for.
#[derive(Default)]
pub(super) struct Promotion {
    /// Since when it has been under way.
    since: Option<Tick>,
    times: Times,
    /// It is expected, and an empty segment was asked for.
    expected: bool,
}

/// Presses whoever may hold up replay.
pub(super) fn press_on(pressure: Pressure) {
    let (signal, done) = match pressure {
        Pressure::Cancel => (Signal::INT, "cancelled"),
        Pressure::Terminate => (Signal::TERM, "terminated"),
    };
    let told = sessions::all().into_iter().filter(|s| s.in_transaction && s.signal(signal)).count();
    if told > 0 {
        let (replayed, _) = wal::replayed();
        tracing::warn!("replay stands still at {replayed} in a promotion: {told} sessions were {done}");
    }
}

/// When each step was done, nanoseconds of `CLOCK_BOOTTIME`; 0 is not.
#[derive(Clone, Copy, Default)]
struct Times {
    asked: u64,
    signalled: u64,
    primary: u64,
    open: u64,
}

impl Inside {
    pub(super) fn ask_for_promotion(&mut self, timeline: Timeline, skip: &[Timeline], lease: Lease) {
        if self.promotion.since.is_none() {
            let times = Times { asked: clock::now_ns(), ..Times::default() };
            self.promotion.since = Some(clock::now());
            self.promotion.times = times;
            let end = recovery::received().max(wal::replayed().0);
            let at_segment_end = end.0.is_multiple_of(wal::segment_bytes());
            let first_segment = at_segment_end.then(|| wal::segment_name(timeline, end));
            self.files.send_promotion(PromotionJob::Promote { skip: skip.to_vec(), lease, first_segment });
        }
    }

    /// A standby has an empty segment ready, for a log that begins at the end of another: the server would make one while everybody waits.
    /// One that has just begun makes it a moment later, or when `named`, as the next leader, by a request in the store.
    pub fn expect_promotion(&mut self, named: bool) {
        // Nothing is written beside a promotion.
        if self.promotion_runs() {
            return;
        }
        let settled = clock::now().since(self.started_at) >= EMPTY_SEGMENT_AFTER;
        let waited_for = named || settled || self.promotion.expected;
        let expected = waited_for && segment_end::is_wanted() && wal::phase() == Phase::Standby;
        if expected != self.promotion.expected {
            self.promotion.expected = expected;
            self.files.keep_segment(expected.then(wal::segment_bytes));
        }
    }

    /// The last step of a promotion: it happens at the next SIGUSR1 to the postmaster, whoever sends it.
    pub(super) fn promote(&mut self, lease: &Lease, result: std::io::Result<()>) {
        match result {
            Ok(()) if lease.valid_at(clock::now()) && self.seat.is_some() => {
                signal(Signal::USR1);
                if wal::replay_paused() {
                    wal::resume_replay();
                }
                self.promotion.times.signalled = clock::now_ns();
                return;
            }
            Ok(()) => tracing::warn!("the promotion is called off: the lease is over"),
            Err(error) => tracing::warn!("the promotion cannot begin: {error}"),
        }
        self.forget_promotion();
    }

    /// Whether a promotion was asked for that the server has not followed yet. The file must not outlive it: the next
    /// standby in this data directory would be promoted by it.
    pub(super) fn promotion_asked(&mut self) -> bool {
        let Some(since) = self.promotion.since else { return false };
        if wal::phase() == Phase::Primary {
            self.promotion.times.primary = clock::now_ns();
            self.forget_promotion();
        } else if clock::now().since(since) >= PROMOTION_MAX && !wal::promote_is_triggered() {
            tracing::warn!("the server did not follow the signal to promote");
            self.forget_promotion();
        }
        self.promotion.since.is_some()
    }

    /// A server that is being promoted may have heard of it while it waited for WAL, and goes to sleep once more, for as long as it
    /// does between two attempts to connect (`wal_retrieve_retry_interval`), if an attempt has just failed.
    pub(super) fn wake_promotion(&self) {
        if self.promotion.times.signalled != 0 {
            wal::wake_recovery();
        }
    }

    pub(super) fn forget_promotion(&mut self) {
        self.promotion.since = None;
        // One that was called off may have used the empty segment: it is looked for, and made, again.
        self.promotion.expected &= wal::phase() == Phase::Primary;
        self.files.send_promotion(PromotionJob::Cancel);
    }

    pub(super) fn promotion_runs(&self) -> bool {
        self.promotion.since.is_some()
    }

    /// Commits are acknowledged from here on.
    pub(super) fn promotion_is_over(&mut self) {
        if self.promotion.times.primary != 0 && self.promotion.times.open == 0 {
            self.promotion.times.open = clock::now_ns();
        }
    }

    /// How long each step of a promotion took that is over, for the flight recorder; once.
    pub fn take_promotion_times(&mut self) -> Option<String> {
        if self.promotion.times.open == 0 {
            return None;
        }
        let times = std::mem::take(&mut self.promotion.times);
        let steps = [("signal", times.signalled), ("primary", times.primary), ("open", times.open)];
        Some(format!("promoted:{} ms", super::times::since(times.asked, &steps)))
    }
}
