//! Keeping the lease, whatever else goes on.

use super::turn::{Standing, Turn};
use super::{clocks, watchdog};
use crate::clock::{Millis, Tick};
use crate::dcs::DcsCall;
use crate::effect::Effect;
use crate::lease::Lease;

/// What comes sooner after a renewal needs no other.
const MOMENT: Millis = Millis(100);

/// A renewal, if one is due: each `loop_wait`, but at least three times within a ttl (or the time a watchdog leaves) so that one lost answer costs nothing; at once
/// after a clock has jumped, or once the key hangs on another lease.
pub(super) fn renewal(turn: &Turn<'_>) -> Option<Effect> {
    let (Standing::Leads(lease) | Standing::Overdue(lease)) = turn.standing() else { return None };
    if turn.gave_up(lease) {
        return None;
    }
    let overdue = matches!(turn.standing(), Standing::Overdue(_));
    if overdue || turn.now() >= due_at(turn, &lease) {
        return turn.store(DcsCall::RenewLeader(lease));
    }
    None
}

/// A renewal at once, if the last is more than a moment old.
pub(super) fn renew_now(turn: &Turn<'_>) -> Option<Effect> {
    let Standing::Leads(lease) = turn.standing() else { return None };
    (turn.now().since(lease.sent_at) >= MOMENT).then(|| turn.store(DcsCall::RenewLeader(lease))).flatten()
}

/// Whether the lease is long enough for something that takes `work` and cannot be cancelled at its end, or as long as one can be.
pub(super) fn outlasts(turn: &Turn<'_>, lease: &Lease, work: Millis) -> bool {
    let left = watchdog::end(turn, lease).since(turn.now());
    let whole = watchdog::window(turn).map_or(lease.ttl, |window| window.min(lease.ttl));
    let most = Millis(whole.0 / 4 * 3);
    left >= (work + Millis(whole.0 / 4)).min(most)
}

/// When the next renewal is due.
pub(super) fn due_at(turn: &Turn<'_>, lease: &Lease) -> Tick {
    let at_once = clocks::in_doubt(turn, lease) || watchdog::waits_for_renewal(turn);
    if at_once {
        return turn.now();
    }
    lease.sent_at + if hangs_elsewhere(turn, lease) { MOMENT } else { renew_every(turn) }
}

/// Whether the leader key hangs on another lease of this node than the one that is counted on: put back by somebody, and perhaps a shorter one.
/// A renewal finds out.
fn hangs_elsewhere(turn: &Turn<'_>, lease: &Lease) -> bool {
    let key = turn.fresh().and_then(|cluster| cluster.leader.as_ref());
    key.is_some_and(|key| key.name == *turn.me() && key.created == lease.leader_created && key.lease != lease.id)
}

/// Time between two renewals.
pub(super) fn renew_every(turn: &Turn<'_>) -> Millis {
    let settings = turn.view.settings;
    let whole = watchdog::window(turn).map_or(settings.ttl_ms, |window| window.min(settings.ttl_ms));
    Millis(settings.loop_wait_ms.0.min(whole.0 / 3))
}

/// How long a lease past its deadline may wait for the answer of one more renewal. The fence is closed all the
/// while; the pause spares a role change after a stall that the store did not notice.
pub(super) fn overdue_grace(turn: &Turn<'_>) -> Millis {
    Millis((turn.view.settings.ttl_ms.0 / 10).clamp(500, 2000))
}

/// Marks the lease overdue and says whether the grace is used up.
pub(super) fn overdue_too_long(turn: &mut Turn<'_>) -> bool {
    let now = turn.now();
    let since = *turn.memory.overdue_since.get_or_insert(now);
    now.since(since) >= overdue_grace(turn)
}

/// Whether enough of the lease is left for something that cannot be cancelled.
pub(super) fn enough_left(turn: &Turn<'_>, lease: &Lease) -> bool {
    let whole = watchdog::window(turn).map_or(lease.ttl, |window| window.min(lease.ttl));
    watchdog::end(turn, lease).since(turn.now()) >= Millis(whole.0 / 4)
}
