//! A standby that holds the lease: claim a timeline, then promote.

use super::turn::{Turn, Verdict};
use super::{duties, in_place, lease, outside, pause, primary, release, watchdog};
use crate::clock::Millis;
use crate::cluster::{Cluster, Member, TimelineClaim};
use crate::dcs::ClaimAlong;
use crate::effect::{Effect, Pressure};
use crate::ids::{LeaseId, Lsn, NodeName, Timeline};
use crate::lease::Lease;
use crate::local::{PrimaryView, Receiver, Server, StandbyView};
use crate::memory::Standstill;
use crate::rule::Rule;
use crate::seat::LeaveReason;
use crate::view::{DcsView, Seat};

/// How long a new leader leaves its disk to the clients that arrive all at once, before its first checkpoint is hastened.
const CHECKPOINT_AFTER: Millis = Millis(1000);
/// How long the first checkpoint after a promotion may be spread.
const CHECKPOINT_SPREAD_MAX: Millis = Millis(60_000);
/// With no more than this in the log since the last one it need not be spread at all: what it writes is of that order. An idle server of
/// which a copy was made has two or three segments, most of them empty.
const CHECKPOINT_SMALL_BYTES: u64 = 64 << 20;
/// How long replay may stand still in a promotion before statements that may be in its way are cancelled, and before their sessions end.
/// The server itself would wait for `max_standby_streaming_delay`, and every writer with it.
const CANCEL_AFTER: Millis = Millis(100);
const TERMINATE_AFTER: Millis = Millis(300);
/// How long a promotion may take if `primary_start_timeout` allows less.
const PROMOTION_MAX: Millis = Millis(30_000);
/// How long a promotion may wait for its walreceiver to go, which takes milliseconds: the server itself would wait for ever. Whoever writes
/// waits too, and who handed over has everything.
const RECEIVER_STOP_MAX: Millis = Millis(3000);

/// The worker has the seat, and its server is not up. From here on REST says that this is no primary, and others act on it; the key of a
/// leader whose server recovers is kept for as long as it may take.
pub(super) fn not_ready(turn: &mut Turn<'_>) -> Verdict {
    let closed = Verdict::of(Rule::InsideNotReady).with(Effect::CloseFence);
    let starting = matches!(turn.view.local.server, Server::Starting { .. });
    if starting && watchdog::is_due(turn) && !turn.memory.stage.resigning() {
        let release = turn.memory.lease.is_some();
        return primary::stop_standby(turn, Rule::LeaderWatchdogDue, LeaveReason::Shutdown, release);
    }
    if !starting || turn.memory.lease.is_none() || turn.memory.stage.stops_server() {
        return closed;
    }
    if turn.memory.stage.in_place() {
        return closed.and(in_place::left_to_release(turn)).soon(100);
    }
    let now = turn.now();
    let since = *turn.memory.not_running_since.get_or_insert(now);
    let patience = turn.view.settings.primary_start_timeout_ms.max(outside::START_MIN);
    if now.since(since) < patience || !release::others_could_lead(turn) {
        return closed.and(lease::renewal(turn)).soon(1000);
    }
    if turn.view.seat == (Seat::Inside { supervised: true }) {
        return primary::stop_standby(turn, Rule::StartTimedOut, LeaveReason::Shutdown, true);
    }
    closed
}

/// Triggered, and not out of recovery yet: wait, but not for ever.
pub(super) fn running(turn: &mut Turn<'_>, standby: &StandbyView) -> Verdict {
    let now = turn.now();
    let since = *turn.memory.not_running_since.get_or_insert(now);
    // One by hand is left alone, however long it takes.
    let ours = !pause::is_on(turn) || turn.memory.lease.is_some();
    if ours && now.since(since) >= turn.view.settings.primary_start_timeout_ms.max(PROMOTION_MAX) {
        return primary::stop_standby(turn, Rule::StartTimedOut, LeaveReason::Shutdown, true);
    }
    if ours && watchdog::is_due(turn) {
        return primary::stop_standby(turn, Rule::LeaderWatchdogDue, LeaveReason::Shutdown, true);
    }
    if ours && receiver_hangs(turn, standby) && release::others_could_lead(turn) {
        return primary::stop_standby(turn, Rule::PromotionHangs, LeaveReason::Shutdown, true);
    }
    let press_on = press_on(turn, standby);
    let renewal = lease::renewal(turn);
    Verdict::of(Rule::PromotionRunning).and(press_on).and(renewal).soon(3)
}

fn receiver_hangs(turn: &mut Turn<'_>, standby: &StandbyView) -> bool {
    if standby.receiver != Receiver::Stopping {
        turn.memory.receiver_stops_since = None;
        return false;
    }
    let now = turn.now();
    now.since(*turn.memory.receiver_stops_since.get_or_insert(now)) >= RECEIVER_STOP_MAX
}

/// What holds up replay is ended: every writer waits for it. Replay that goes on is left alone, however long it takes.
fn press_on(turn: &mut Turn<'_>, standby: &StandbyView) -> Option<Effect> {
    if standby.received <= standby.replayed {
        turn.memory.standstill = None;
        return None;
    }
    let now = turn.now();
    let known = turn.memory.standstill.filter(|known| known.at == standby.replayed);
    let mut standstill = known.unwrap_or(Standstill { at: standby.replayed, since: now, done: None });
    let wanted = match now.since(standstill.since) {
        lasts if lasts >= TERMINATE_AFTER => Some(Pressure::Terminate),
        lasts if lasts >= CANCEL_AFTER => Some(Pressure::Cancel),
        _ => None,
    };
    let next = wanted.filter(|_| standstill.done != wanted);
    standstill.done = wanted;
    turn.memory.standstill = Some(standstill);
    next.map(Effect::PressOn)
}

pub(super) fn decide(turn: &mut Turn<'_>, standby: &StandbyView, lease: Lease) -> Verdict {
    turn.memory.not_running_since = None;
    turn.memory.receiver_stops_since = None;
    if turn.gave_up(lease) {
        return release::give_up(turn, lease, None, Rule::ReleaseUnknown);
    }
    let barred = turn.view.settings.tags.nofailover() || turn.view.local.cannot_write.is_some();
    if barred && !turn.view.dcs_busy {
        return release::give_up(turn, lease, None, Rule::PromotionGivenUp);
    }
    if let Some(why) = watchdog::failure(turn) {
        return release::give_up(turn, lease, None, Rule::PromotionNoWatchdog).because(why);
    }
    if barred || !lease::enough_left(turn, &lease) {
        // A promotion cannot be cancelled: begin it only with time in hand.
        let renewal = lease::renewal(turn);
        return Verdict::of(Rule::PromotionRenewing).and(renewal).soon(50);
    }
    if !standby.consistent {
        let renewal = lease::renewal(turn);
        return Verdict::of(Rule::PromotionNotReady).and(renewal).soon(50);
    }
    let DcsView::Fresh(cluster) = turn.view.dcs else {
        return Verdict::of(Rule::PromotionRenewing).soon(50);
    };
    if cluster.history_timeline().is_some_and(|newest| newest.is_plausibly_after(standby.timeline))
        && !turn.view.dcs_busy
    {
        // The key was won, or adopted, by what was known before a stall.
        return release::give_up(turn, lease, None, Rule::PromotionGivenUp);
    }
    if let Some(timeline) = claimed(turn, cluster, lease).filter(|timeline| *timeline > standby.timeline) {
        turn.memory.claim = Some(timeline);
        if let Some(arming) = watchdog::before_writing(turn) {
            return arming;
        }
        turn.memory.standstill = None;
        let skip = (standby.timeline.0 + 1..timeline.0).map(Timeline).collect();
        return Verdict::of(Rule::PromotionStarting).with(Effect::Promote { lease, timeline, skip }).soon(3);
    }
    if cluster.revision < lease.leader_created {
        // A view from before the key was taken does not show what was claimed along with it.
        return Verdict::of(Rule::PromotionClaiming).soon(20);
    }
    let timeline = turn.next_timeline(cluster, standby.timeline);
    let claim = duties::claim(turn, timeline, end_of_wal(standby));
    Verdict::of(Rule::PromotionClaiming).and(claim).soon(20)
}

/// The timeline to claim when the key is taken; none if one that this node claimed before can be used.
pub(super) fn claim_along(turn: &Turn<'_>, standby: &StandbyView, cluster: &Cluster) -> Option<ClaimAlong> {
    let before = turn.memory.session.and_then(|session| newest_claim(turn, cluster, session));
    if before.is_some_and(|timeline| timeline > standby.timeline) {
        return None;
    }
    let timeline = turn.next_timeline(cluster, standby.timeline);
    Some(duties::claim_along(turn, cluster, timeline, end_of_wal(standby)))
}

fn end_of_wal(standby: &StandbyView) -> Lsn {
    standby.received.max(standby.replayed)
}

/// The newest timeline claimed under this lease, by what is remembered or what the store shows. A node leads by one lease again and again:
/// there may be claims of its earlier promotions.
fn claimed(turn: &Turn<'_>, cluster: &Cluster, lease: Lease) -> Option<Timeline> {
    turn.memory.claim.max(newest_claim(turn, cluster, lease.id))
}

fn newest_claim(turn: &Turn<'_>, cluster: &Cluster, lease: LeaseId) -> Option<Timeline> {
    let ours = |(timeline, claim): (Timeline, &TimelineClaim)| {
        (claim.node == *turn.me() && claim.nonce == lease && !claim.by_hand).then_some(timeline)
    };
    cluster.claims_of(turn.system_id()).filter_map(ours).next_back()
}

/// How soon the first checkpoint after a promotion is to be hastened, if it is. The server has begun one by itself that it spreads, so that
/// it does not stall the new leader; until it is through nobody can be rewound onto this leader, and it cannot be demoted in place.
pub(super) fn checkpoint_due(turn: &mut Turn<'_>, primary: &PrimaryView) -> Option<Millis> {
    if primary.checkpointed {
        turn.memory.unchecked_since = None;
        return None;
    }
    let now = turn.now();
    let since = *turn.memory.unchecked_since.get_or_insert(now);
    // Members of another kind wait for it without a word.
    let waits = |(name, member): (&NodeName, &std::sync::Arc<Member>)| {
        let asks = member.json.get("awaits_checkpoint").is_some_and(|value| value == true);
        name != turn.me() && (asks || member.ha_ext_version.is_none())
    };
    let small = primary.flushed.ahead_of(primary.checkpoint_redo) <= CHECKPOINT_SMALL_BYTES;
    let asked = || turn.fresh().is_some_and(|cluster| cluster.members.iter().any(waits));
    let after = if small || asked() { CHECKPOINT_AFTER } else { CHECKPOINT_SPREAD_MAX };
    Some(Millis(after.0.saturating_sub(now.since(since).0)))
}
