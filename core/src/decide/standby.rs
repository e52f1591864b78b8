//! This server is in recovery: it follows, stands for election, or promotes.

use super::turn::{Standing, Turn, Verdict};
use super::{election, lease, pause, primary, promotion, rejoin, release};
use crate::clock::Millis;
use crate::cluster::{Cluster, Initialize, LeaderKey};
use crate::dcs::DcsCall;
use crate::effect::Effect;
use crate::local::{Receiver, StandbyView};
use crate::memory::{Stage, Standstill};
use crate::rule::Rule;
use crate::seat::LeaveReason;
use crate::timeline::{Branch, WalEnd};
use crate::view::{DcsView, Seat};

/// For how long a server may try to get over WAL that it cannot replay: it tries every half second.
const UNREADABLE_WAIT: Millis = Millis(5000);
/// How long a new leader is left to the clients that come to it from the old one: a standby that connects makes it start processes and read
/// its log, and writes a whole segment itself.
const CLIENTS_FIRST: Millis = Millis(200);

pub(super) fn decide(turn: &mut Turn<'_>, standby: &StandbyView) -> Verdict {
    if standby.promoting {
        return promotion::running(turn, standby);
    }
    match turn.memory.stage.clone() {
        // Asked to leave; the supervisor takes it from here.
        Stage::Demoting { in_place: false, .. } => {
            return primary::ask_to_demote(Rule::DemotionRunning, LeaveReason::Rejoin);
        }
        // The outcome of the release is not known yet, and this node never leads by that key again.
        Stage::HandingOver { candidate, at, timeline, .. } => {
            if let Some(lease) = turn.memory.lease {
                return release::hand_over(turn, lease, &candidate, at, timeline);
            }
            turn.memory.stage = Stage::Steady;
        }
        // Through, or overtaken by a crash.
        Stage::Demoting { .. } | Stage::Sealing { .. } | Stage::Preparing { .. } => turn.memory.stage = Stage::Steady,
        Stage::Steady => {}
    }
    match turn.standing() {
        Standing::Leads(lease) if pause::was_led(turn, lease) => pause::release(turn, lease),
        Standing::Leads(lease) => promotion::decide(turn, standby, lease),
        Standing::Overdue(_) => {
            // Nothing was promoted by it: simply let it go.
            turn.memory.lease = None;
            Verdict::of(Rule::PromotionLeaseLost).with(Effect::CloseFence).soon(50)
        }
        Standing::None => match turn.view.dcs {
            DcsView::Unreachable { since, last: None }
                if turn.now().since(since) < turn.view.settings.retry_timeout_ms =>
            {
                // This worker has only just started.
                Verdict::of(Rule::StandbyAwaitingStore).soon(1000)
            }
            DcsView::Unreachable { .. } => Verdict::of(Rule::StandbyStoreLost),
            DcsView::Fresh(cluster) => with_store(turn, standby, cluster),
        },
    }
}

fn with_store(turn: &mut Turn<'_>, standby: &StandbyView, cluster: &Cluster) -> Verdict {
    if let (Initialize::Done(id), Some(control)) = (cluster.initialize, turn.control())
        && id != control.system_id
    {
        if pause::is_on(turn) {
            // Left alone, lesson 125: it must not follow, nor stand for election.
            return Verdict::of(Rule::PauseDiverged).because(Rule::ForeignSystemId.sentence().to_owned()).soon(1000);
        }
        return primary::stop_standby(turn, Rule::ForeignSystemId, LeaveReason::Shutdown, false);
    }
    match &cluster.leader {
        None => election::decide(turn, standby, cluster),
        Some(leader) if leader.name == *turn.me() => own_key(turn, leader),
        Some(leader) => following(turn, standby, cluster, leader),
    }
}

/// The leader key has our name, from an earlier life of this node or of a namesake.
fn own_key(turn: &mut Turn<'_>, leader: &LeaderKey) -> Verdict {
    if turn.memory.refused == Some(leader.created) {
        return Verdict::of(Rule::PromotionLeaseLost).soon(100);
    }
    if turn.view.dcs_busy && turn.memory.session == Some(leader.lease) {
        // The answer to the request that took it is still on its way.
        return Verdict::of(Rule::ElectionAcquiring).soon(50);
    }
    if primary::may_adopt(turn, leader) {
        let adopt = primary::adopt(turn, leader);
        return Verdict::of(Rule::LeaderAdopting).and(adopt).soon(50);
    }
    if let Some(verdict) = primary::disown(turn, leader) {
        return verdict;
    }
    let check = primary::check_lease(turn, leader.lease);
    Verdict::of(Rule::LeaderKeyOfNamesake).and(check).soon(300)
}

fn following(turn: &mut Turn<'_>, standby: &StandbyView, cluster: &Cluster, leader: &LeaderKey) -> Verdict {
    turn.memory.voting_since = None;
    if let Some(verdict) = must_rejoin(turn, standby, cluster) {
        return verdict;
    }
    if standby.reads_withheld && compared(turn, standby, cluster) {
        // Whom to follow comes with the next look: whoever reads here need not wait for that.
        return Verdict::of(Rule::StandbyServing).with(Effect::ServeReads).soon(10);
    }
    let Some(wanted) = turn.upstream(cluster, &leader.name) else {
        return Verdict::of(Rule::StandbyLeaderUnknown).soon(1000);
    };
    if !standby.upstream.as_ref().is_some_and(|current| current.same_target(&wanted)) {
        if let Some(left) = stays_with_old_leader(turn, standby, cluster, leader) {
            return Verdict::of(Rule::StandbyAwaitingSuccessor).soon(left.0);
        }
        return Verdict::of(Rule::StandbyRepointing).with(Effect::Follow { upstream: Some(wanted) }).soon(250);
    }
    if standby.reads_withheld {
        return Verdict::of(Rule::StandbyComparing).soon(50);
    }
    if standby.receiver == Receiver::Streaming {
        // Who does not answer now is not waited for long in an election.
        let poll = turn.poll_all(turn.view.settings.loop_wait_ms);
        return Verdict::of(Rule::StandbyFollowing).and(poll);
    }
    // The leader may be dying: know who else is there before its lease ends (pre-vote).
    let poll = turn.poll_all(Millis(1000));
    Verdict::of(Rule::StandbyNotStreaming).and(poll).soon(1000)
}

/// How long this standby stays with a leader that has handed over and still sends: the successor has nothing to send that the old leader has
/// not sent, until its clients arrive, and they wait for it.
fn stays_with_old_leader(
    turn: &mut Turn<'_>,
    standby: &StandbyView,
    cluster: &Cluster,
    leader: &LeaderKey,
) -> Option<Millis> {
    let named = cluster.released.as_ref().and_then(|released| released.candidate.as_ref()) == Some(&leader.name);
    if !named || standby.receiver != Receiver::Streaming {
        return None;
    }
    let member = cluster.members.get(&leader.name)?;
    if member.role != "primary" {
        return Some(Millis(1000));
    }
    let now = turn.now();
    let seen = turn.memory.successor_seen.filter(|(created, _)| *created == leader.created);
    let (_, since) = *turn.memory.successor_seen.insert(seen.unwrap_or((leader.created, now)));
    let left = CLIENTS_FIRST.0.saturating_sub(now.since(since).0);
    (left > 0 && !standby.commits_wait).then_some(Millis(left))
}

/// Whether all of this standby's WAL is known to be the leader's too.
fn compared(turn: &Turn<'_>, standby: &StandbyView, cluster: &Cluster) -> bool {
    let end = WalEnd::Received(standby.received.max(standby.replayed));
    standby.consistent && rejoin::compare(cluster, turn.control(), standby.timeline, end) == Branch::Ancestor
}

/// A standby whose WAL is not on the leader's branch cannot follow as it is.
fn must_rejoin(turn: &mut Turn<'_>, standby: &StandbyView, cluster: &Cluster) -> Option<Verdict> {
    let standstill = turn.memory.standstill.take();
    if standby.receiver == Receiver::Streaming {
        return None;
    }
    // What was received may end within a record that its sender never completed. A whole one that the leader does not have is replayed,
    // and stands out then.
    let replayed = WalEnd::Received(standby.replayed);
    if rejoin::compare(cluster, turn.control(), standby.timeline, replayed) != Branch::Diverged {
        return unreadable(turn, standby, cluster, standstill);
    }
    if pause::is_on(turn) {
        return Some(Verdict::of(Rule::PauseDiverged).soon(1000));
    }
    let ready = rejoin::leader_ready(cluster) && rejoin::can_mend(turn);
    if ready && turn.view.seat == (Seat::Inside { supervised: true }) {
        return Some(primary::stop_standby(turn, Rule::StandbyDiverged, LeaveReason::Rejoin, false));
    }
    rejoin::ask_for_checkpoint(turn, cluster);
    Some(Verdict::of(Rule::StandbyDivergedWaiting).soon(1000))
}

/// What was received beyond the leader's branch and is not replayed is no WAL. A server that has the beginning of a record gets over it by
/// itself, but one that has zeros or old contents there ends its receiver each time before that has asked for the leader's timeline.
/// A server that was started anew does not count on what it had received.
fn unreadable(
    turn: &mut Turn<'_>,
    standby: &StandbyView,
    cluster: &Cluster,
    standstill: Option<Standstill>,
) -> Option<Verdict> {
    let received = WalEnd::Received(standby.received);
    let beyond = rejoin::compare(cluster, turn.control(), standby.timeline, received) == Branch::Diverged;
    if !beyond || standby.replay_paused || pause::is_on(turn) {
        return None;
    }
    let known = standstill.filter(|known| known.at == standby.replayed);
    let known = known.unwrap_or(Standstill { at: standby.replayed, since: turn.now(), done: None });
    turn.memory.standstill = Some(known);
    let lasts = turn.now().since(known.since) >= UNREADABLE_WAIT;
    let mends = lasts && turn.view.seat == (Seat::Inside { supervised: true });
    mends.then(|| primary::stop_standby(turn, Rule::StandbyUnreadable, LeaveReason::Rejoin, false))
}

/// Keeping the lease of this node alive while it does not lead.
pub(super) fn session_due(turn: &Turn<'_>) -> Option<Effect> {
    // The leader key hangs on it, and this node never leads by that key again: it has to end.
    let given_up = |leader: &LeaderKey| leader.name == *turn.me() && turn.memory.released == Some(leader.created);
    if turn.fresh().is_some_and(|cluster| cluster.leader.as_ref().is_some_and(given_up)) {
        return None;
    }
    let doubted = turn.memory.doubt.is_some_and(|doubt| turn.memory.kept_at < Some(doubt.since));
    let due = doubted || turn.passed(turn.memory.kept_at, lease::renew_every(turn));
    due.then(|| turn.store(DcsCall::KeepSession)).flatten()
}
