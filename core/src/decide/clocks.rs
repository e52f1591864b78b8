//! A clock that jumps says that time may have passed unseen: what is left of the lease is counted as if it had, and the lease is
//! proven anew at once.

use super::failsafe;
use super::turn::Turn;
use crate::clocks::Jumps;
use crate::effect::Effect;
use crate::lease::Lease;
use crate::local::Server;
use crate::memory::Doubt;
use crate::view::Side;

/// Compares the clocks with where they stood in the last turn. Before anything else: answers of the store are judged by it.
pub(super) fn observe(turn: &mut Turn<'_>) -> Option<Jumps> {
    let clocks = turn.view.clocks?;
    let before = turn.memory.clocks.replace(clocks)?;
    if let Some(clocks) = turn.memory.clocks.as_mut().filter(|clocks| clocks.hardware_ms.is_none()) {
        // Not read in this turn, as whoever has just got the seat has not: a pause shows when it is.
        clocks.hardware_ms = before.hardware_ms;
    }
    let jumps = clocks.jumps_since(&before)?;
    turn.memory.clock_jumps = turn.memory.clock_jumps.saturating_add(1);
    let (since, mut unseen) = (turn.now(), jumps.unseen());
    failsafe::doubted(&mut turn.memory, unseen);
    if let Some(lease) = &mut turn.memory.lease {
        lease.sent_at = lease.sent_at - unseen;
        // Nothing was confirmed since the jump before: what is still on its way may be from before that.
        if let Some(earlier) = turn.memory.doubt.filter(|doubt| lease.sent_at < doubt.since) {
            unseen = unseen + earlier.unseen;
        }
    }
    turn.memory.doubt = Some(Doubt { since, unseen });
    Some(jumps)
}

/// A lease as an answer of the store confirms it.
pub(super) fn believed(turn: &mut Turn<'_>, lease: Lease) -> Lease {
    // The fence may have been told without any doubt.
    turn.memory.fence_until = turn.memory.fence_until.max(Some(lease.deadline()));
    turn.memory.doubt.map_or(lease, |doubt| doubt.believed(lease))
}

/// The fence counts on no more than what is believed of the lease now: it comes to its end without this loop, which may stall.
pub(super) fn limit_fence(turn: &Turn<'_>) -> Option<Effect> {
    let Server::Primary(primary) = &turn.view.local.server else { return None };
    let lease = turn.memory.lease.filter(|lease| in_doubt(turn, lease))?;
    let until = turn.memory.failsafe.extended.unwrap_or_default().max(lease.deadline());
    let open = primary.fence_open && !primary.fence_unbound && turn.view.seat.side() == Side::Inside;
    (open && primary.fence_until > until).then_some(Effect::LimitFence { until })
}

/// Whether the last confirmation is from before a jump.
pub(super) fn in_doubt(turn: &Turn<'_>, lease: &Lease) -> bool {
    turn.memory.doubt.is_some_and(|doubt| lease.sent_at < doubt.since)
}
