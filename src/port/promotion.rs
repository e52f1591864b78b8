//! A promotion, from the order to the open fence.

use super::{Inside, signal};
use crate::files::PromotionJob;
use crate::pg::wal::{self, Phase};
use crate::pg::{recovery, sessions};
use ha_core::clock::{Millis, Tick};
use ha_core::ids::{Lsn, Timeline};
use ha_core::lease::Lease;
use ha_node::clock;
use rustix::process::Signal;

/// How long the server may take to notice that it shall promote.
const PROMOTION_MAX: Millis = Millis(10_000);
/// How long replay may stand still before statements that may be in its way are cancelled, and before their sessions end. The
/// server itself would wait for `max_standby_streaming_delay`, and every writer with it.
const CANCEL_AFTER: Millis = Millis(100);
const TERMINATE_AFTER: Millis = Millis(300);

/// What was asked for.
#[derive(Default)]
pub(super) struct Promotion {
    /// Since when it has been under way.
    since: Option<Tick>,
    times: Times,
    standstill: Standstill,
}

/// Replay that does not go on.
#[derive(Default)]
struct Standstill {
    at: Lsn,
    since: Tick,
    /// What was done last.
    sent: Option<Signal>,
}

impl Standstill {
    /// What sessions in a transaction are to be sent now.
    fn next(&mut self, replayed: Lsn, now: Tick) -> Option<Signal> {
        if self.at != replayed {
            *self = Self { at: replayed, since: now, sent: None };
        }
        let signal = match now.since(self.since) {
            lasts if lasts >= TERMINATE_AFTER => Signal::TERM,
            lasts if lasts >= CANCEL_AFTER => Signal::INT,
            _ => return None,
        };
        (self.sent != Some(signal)).then(|| {
            self.sent = Some(signal);
            signal
        })
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
    pub(super) fn ask_for_promotion(&mut self, skip: &[Timeline], lease: Lease) {
        if self.promotion.since.is_none() {
            let times = Times { asked: clock::now_ns(), ..Times::default() };
            self.promotion = Promotion { since: Some(clock::now()), times, standstill: Standstill::default() };
            self.files.send_promotion(PromotionJob::Promote { skip: skip.to_vec(), lease });
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

    /// Ends what holds up a server that is being promoted.
    pub(super) fn press_on(&mut self) {
        if self.promotion.times.signalled == 0 {
            return;
        }
        // It may have heard of the promotion while it waited for WAL, and goes to sleep once more, for as long as it does between two
        // attempts to connect (`wal_retrieve_retry_interval`), if an attempt has just failed.
        wal::wake_recovery();
        let (replayed, _) = wal::replayed();
        if recovery::received() <= replayed {
            return;
        }
        let Some(signal) = self.promotion.standstill.next(replayed, clock::now()) else { return };
        let told = sessions::all().into_iter().filter(|s| s.in_transaction && s.signal(signal)).count();
        if told > 0 {
            let done = if signal == Signal::TERM { "terminated" } else { "cancelled" };
            tracing::warn!("replay stands still at {replayed} in a promotion: {told} sessions were {done}");
        }
    }

    pub(super) fn forget_promotion(&mut self) {
        self.promotion.since = None;
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
