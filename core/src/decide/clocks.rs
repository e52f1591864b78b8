//! A clock that jumps says that time may have passed unseen: what is left of the lease is counted as if it had, and the lease is
//! proven anew at once.

use super::failsafe;
use super::turn::Turn;
use crate::clock::{Millis, Tick};
use crate::clocks::{Jumps, Lowest};
use crate::dcs::DcsCall;
use crate::effect::Effect;
use crate::failsafe::{PromiseAnswer, PromiseView};
use crate::lease::Lease;
use crate::local::Server;
use crate::memory::Doubt;
use crate::view::Side;

/// Compares the clocks with where they stood, before anything else: answers of the store are judged by it. With where they stood when
/// the last confirmed request was sent, and not only in the last turn: several short pauses count as one.
pub(super) fn observe(turn: &mut Turn<'_>) -> Option<Jumps> {
    let clocks = turn.view.clocks?;
    let before = turn.memory.clocks.replace(clocks).unwrap_or(clocks);
    if let Some(clocks) = turn.memory.clocks.as_mut().filter(|clocks| clocks.hardware_ms.is_none()) {
        // Not read in this turn, as whoever has just got the seat has not: a pause shows when it is.
        clocks.hardware_ms = before.hardware_ms;
    }
    count_on_from_next(turn);
    let lowest = turn.memory.clocks_lowest.unwrap_or(before);
    let jumps = clocks.jumps(&before, &lowest);
    turn.memory.clocks_lowest = Some(lowest.lowest(&clocks, jumps.as_ref()));
    if let Some(next) = &mut turn.memory.clocks_next {
        next.clocks = next.clocks.lowest(&clocks, jumps.as_ref());
    }
    let jumps = jumps?;
    turn.memory.clock_jumps = turn.memory.clock_jumps.saturating_add(1);
    let (since, mut unseen) = (turn.now(), jumps.unseen());
    if let Some(earlier) = turn.memory.doubt.filter(|doubt| !is_settled(turn, doubt)) {
        unseen = unseen + earlier.unseen;
    }
    failsafe::doubted(&mut turn.memory, jumps.unseen());
    turn.memory.lease = turn.memory.lease.map(|lease| lease.older_by(jumps.unseen()));
    turn.memory.doubt = Some(Doubt { since, unseen });
    Some(jumps)
}

/// When everything that counts now was asked of the store, if it has confirmed anything.
fn confirmed_at(turn: &Turn<'_>) -> Option<Tick> {
    let kept_at = turn.memory.kept_at?;
    Some(turn.memory.lease.map_or(kept_at, |lease| lease.sent_at.min(kept_at)))
}

/// What was asked for before `clocks_next` counts no more, or has come to its end: neither has any pause before that.
fn count_on_from_next(turn: &mut Turn<'_>) {
    let Some(next) = turn.memory.clocks_next else { return };
    let longest = turn.memory.lease.map_or(Millis(0), |lease| lease.ttl).max(turn.longest_ttl());
    let over = turn.passed(Some(next.since), longest + longest);
    if over || confirmed_at(turn) >= Some(next.since) {
        turn.memory.clocks_lowest = Some(next.clocks);
        turn.memory.clocks_next = None;
    }
}

/// What is sent now may be confirmed: from then on pauses are counted from here.
pub(super) fn sent(turn: &mut Turn<'_>, effects: &[Effect]) {
    use DcsCall::{AcquireLeader, AdoptLeader, KeepSession, RenewLeader};
    let confirms = |effect: &Effect| {
        matches!(effect, Effect::Dcs(KeepSession | RenewLeader(_) | AcquireLeader { .. } | AdoptLeader { .. }))
    };
    if let Some(clocks) = turn.memory.clocks
        && turn.view.clocks.is_some()
        && effects.iter().any(confirms)
    {
        turn.memory.clocks_next.get_or_insert(Lowest { since: turn.now(), clocks });
    }
}

/// Nothing that was asked before that jump is still on its way: the store has answered what was asked later, one request after the other,
/// and no member owes a promise that it was asked for before.
fn is_settled(turn: &Turn<'_>, doubt: &Doubt) -> bool {
    let owes = |view: &PromiseView| {
        let given = turn.memory.failsafe.given.get(&view.name).map(|given| given.asked_at);
        let comes = !matches!(view.answer, PromiseAnswer::Refused(_)) && given < Some(view.asked_at);
        view.asked_at < doubt.since && comes
    };
    confirmed_at(turn) >= Some(doubt.since) && !turn.view.promises.iter().any(owes)
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
