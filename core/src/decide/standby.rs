//! This server is in recovery: it follows, stands for election, or promotes.

use super::turn::{Standing, Turn, Verdict};
use super::{election, lease, primary, promotion, rejoin, release};
use crate::clock::Millis;
use crate::cluster::{Cluster, Initialize, LeaderKey};
use crate::dcs::DcsCall;
use crate::effect::Effect;
use crate::local::{Receiver, StandbyView};
use crate::memory::Stage;
use crate::rule::Rule;
use crate::seat::LeaveReason;
use crate::timeline::{Branch, WalEnd};
use crate::view::{DcsView, Seat};

/// A part of a record that is longer than this spans segments of the usual size.
const RECORD_PART_MAX_BYTES: u64 = 16 << 20;

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
        Standing::Leads(lease) => promotion::decide(turn, standby, lease),
        Standing::Overdue(_) => {
            // Nothing was promoted by it: simply let it go.
            turn.memory.lease = None;
            Verdict::of(Rule::PromotionLeaseLost).with(Effect::CloseFence).soon(50)
        }
        Standing::None => match turn.view.dcs {
            DcsView::Unreachable { .. } => Verdict::of(Rule::StandbyStoreLost),
            DcsView::Fresh(cluster) => with_store(turn, standby, cluster),
        },
    }
}

fn with_store(turn: &mut Turn<'_>, standby: &StandbyView, cluster: &Cluster) -> Verdict {
    if let (Initialize::Done(id), Some(control)) = (cluster.initialize, turn.control())
        && id != control.system_id
    {
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
    let check = primary::check_lease(turn, leader.lease);
    Verdict::of(Rule::LeaderKeyOfNamesake).and(check).soon(300)
}

fn following(turn: &mut Turn<'_>, standby: &StandbyView, cluster: &Cluster, leader: &LeaderKey) -> Verdict {
    turn.memory.voting_since = None;
    if let Some(verdict) = must_rejoin(turn, standby, cluster) {
        return verdict;
    }
    if standby.reads_withheld && compared(standby, cluster) {
        // Whom to follow comes with the next look: whoever reads here need not wait for that.
        return Verdict::of(Rule::StandbyServing).with(Effect::ServeReads).soon(10);
    }
    let Some(wanted) = turn.upstream(cluster, &leader.name) else {
        return Verdict::of(Rule::StandbyLeaderUnknown).soon(1000);
    };
    if !standby.upstream.as_ref().is_some_and(|current| current.same_target(&wanted)) {
        if standby.receiver == Receiver::Streaming && is_promoted_by_hand_over(cluster, leader) {
            return Verdict::of(Rule::StandbyAwaitingSuccessor).soon(1000);
        }
        return Verdict::of(Rule::StandbyRepointing).with(Effect::Follow { upstream: Some(wanted) }).soon(250);
    }
    if standby.reads_withheld {
        return Verdict::of(Rule::StandbyComparing).soon(50);
    }
    if standby.receiver == Receiver::Streaming {
        // Who does not answer now is not waited for long in an election.
        let targets = turn.peer_targets();
        let poll = turn.poll(targets, turn.view.settings.loop_wait_ms);
        return Verdict::of(Rule::StandbyFollowing).and(poll);
    }
    // The leader may be dying: know who else is there before its lease ends (pre-vote).
    let targets = turn.peer_targets();
    let poll = turn.poll(targets, Millis(1000));
    Verdict::of(Rule::StandbyNotStreaming).and(poll).soon(1000)
}

/// Whether the leader was handed the key and is still being promoted. It has nothing to send that the old leader, which stays until then,
/// has not sent, and clients wait for it.
fn is_promoted_by_hand_over(cluster: &Cluster, leader: &LeaderKey) -> bool {
    let named = cluster.released.as_ref().and_then(|released| released.candidate.as_ref()) == Some(&leader.name);
    named && cluster.members.get(&leader.name).is_some_and(|member| member.role != "primary")
}

/// Whether all of this standby's WAL is known to be the leader's too.
fn compared(standby: &StandbyView, cluster: &Cluster) -> bool {
    let end = WalEnd::Received(standby.received.max(standby.replayed));
    standby.consistent && rejoin::compare(cluster, standby.timeline, end) == Branch::Ancestor
}

/// A standby whose WAL is not on the leader's branch cannot follow as it is.
fn must_rejoin(turn: &mut Turn<'_>, standby: &StandbyView, cluster: &Cluster) -> Option<Verdict> {
    if standby.receiver == Receiver::Streaming {
        return None;
    }
    // What was received may end in the middle of a record that its sender never completed: the server drops that by itself, unless it spans
    // segments. A whole record that the leader does not have is replayed, and stands out then.
    let record = standby.received.ahead_of(standby.replayed) <= RECORD_PART_MAX_BYTES || !rejoin::can_mend(turn);
    let end = WalEnd::Received(if record { standby.replayed } else { standby.received.max(standby.replayed) });
    if rejoin::compare(cluster, standby.timeline, end) != Branch::Diverged {
        return None;
    }
    let ready = rejoin::leader_ready(cluster) && rejoin::can_mend(turn);
    if ready && turn.view.seat == (Seat::Inside { supervised: true }) {
        return Some(primary::stop_standby(turn, Rule::StandbyDiverged, LeaveReason::Rejoin, false));
    }
    rejoin::ask_for_checkpoint(turn, cluster);
    Some(Verdict::of(Rule::StandbyDivergedWaiting).soon(1000))
}

/// Keeping the lease of this node alive while it does not lead.
pub(super) fn session_due(turn: &Turn<'_>) -> Option<Effect> {
    let doubted = turn.memory.doubt.is_some_and(|doubt| turn.memory.kept_at < Some(doubt.since));
    let due = doubted || turn.passed(turn.memory.kept_at, lease::renew_every(turn));
    due.then(|| turn.store(DcsCall::KeepSession)).flatten()
}
