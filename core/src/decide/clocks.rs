//! A clock that jumps says that time may have passed unseen: what is left of the lease is counted as if it had, and the lease is
//! proven anew at once.

use super::failsafe;
use super::turn::Turn;
use crate::clocks::Jumps;
use crate::lease::Lease;
use crate::memory::Doubt;

/// Compares the clocks with where they stood in the last turn. Before anything else: answers of the store are judged by it.
pub(super) fn observe(turn: &mut Turn<'_>) -> Option<Jumps> {
    let clocks = turn.view.clocks?;
    let jumps = clocks.jumps_since(&turn.memory.clocks.replace(clocks)?)?;
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

/// A lease as an answer of the store confirms it. What was asked before a jump counts from earlier than was thought.
pub(super) fn believed(turn: &mut Turn<'_>, lease: Lease) -> Lease {
    // The fence may have been told without any doubt.
    turn.memory.fence_until = turn.memory.fence_until.max(Some(lease.deadline()));
    match turn.memory.doubt {
        Some(doubt) if lease.sent_at < doubt.since => Lease { sent_at: lease.sent_at - doubt.unseen, ..lease },
        _ => lease,
    }
}

/// Whether the last confirmation is from before a jump.
pub(super) fn in_doubt(turn: &Turn<'_>, lease: &Lease) -> bool {
    turn.memory.doubt.is_some_and(|doubt| lease.sent_at < doubt.since)
}
