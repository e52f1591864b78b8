//! Giving the leader key up, once nothing of the old server is left.

use super::turn::{Turn, Verdict};
use super::{duties, lease, switchover};
use crate::clock::Millis;
use crate::cluster::{Cluster, Member, Released};
use crate::dcs::DcsCall;
use crate::effect::Effect;
use crate::ids::{Lsn, NodeName, Timeline};
use crate::lease::Lease;
use crate::local::{Control, ControlState, DataDir};
use crate::memory::Stage;
use crate::peer::PeerAnswer;
use crate::rule::Rule;

/// How long to wait for a member that has the shutdown checkpoint.
const RECEIVED_WAIT: Millis = Millis(5000);
/// A request that failed this long ago was not the release that is under way now.
const ANSWER_MAX: Millis = Millis(5000);

/// `None` when there is nothing to release: go on with the data directory.
pub(super) fn decide(turn: &mut Turn<'_>) -> Option<Verdict> {
    let lease = turn.memory.lease?;
    if matches!((&turn.view.local.data, &turn.memory.stage), (DataDir::Present(_), Stage::Demoting { .. }))
        && turn.fresh().is_none()
        && !lease.valid_at(turn.now())
    {
        // It is over by itself, and nobody can be told: the server comes up without it.
        turn.memory.lease = None;
        return None;
    }
    let resigning = !matches!(turn.memory.stage, Stage::HandingOver { .. });
    if let (DataDir::Present(control), true, true) = (&turn.view.local.data, turn.gave_up(lease), resigning) {
        let known = (control.state == ControlState::ShutDown).then_some(control);
        return Some(give_up(turn, lease, known, given_up_as(turn, control)));
    }
    match (&turn.view.local.data, turn.memory.stage.clone()) {
        (DataDir::Empty | DataDir::Damaged { .. }, _) if !turn.memory.bootstrapping => Some(data_lost(turn, lease)),
        (DataDir::Present(control), Stage::Demoting { candidate, down_since, .. }) => {
            let down = turn.now().since(down_since.unwrap_or(turn.now()));
            after_demotion(turn, lease, control, candidate.as_ref(), down)
        }
        (DataDir::Present(_), Stage::HandingOver { candidate, at, timeline, .. }) => {
            Some(hand_over(turn, lease, &candidate, at, timeline))
        }
        (DataDir::Present(control), Stage::Steady | Stage::Preparing { .. } | Stage::Sealing { .. }) => {
            after_crash(turn, lease, control)
        }
        (DataDir::Empty | DataDir::Damaged { .. }, _) => None,
    }
}

/// What is said of a key whose release was sent: while the answer is on its way, why it was sent.
fn given_up_as(turn: &Turn<'_>, control: &Control) -> Rule {
    let failed = !turn.passed(turn.memory.store_failed_at, ANSWER_MAX);
    if !turn.view.dcs_busy || failed {
        return Rule::ReleaseUnknown;
    }
    let candidate = match &turn.memory.stage {
        Stage::Demoting { candidate, .. } => candidate.as_ref(),
        _ => None,
    };
    match control.state {
        ControlState::ShutDown if received(turn, candidate, control) => Rule::ReleaseHandedOver,
        ControlState::ShutDown => Rule::ReleaseNobodyReady,
        _ => Rule::ReleaseAfterCrash,
    }
}

/// Released as soon as somebody who may lead has the shutdown checkpoint (lessons 21-23). A hand-over to a candidate that does not
/// get that far is called off: this node has everything, and nobody asked for rows to be lost.
fn after_demotion(
    turn: &mut Turn<'_>,
    lease: Lease,
    control: &Control,
    candidate: Option<&NodeName>,
    down: Millis,
) -> Option<Verdict> {
    let planned = candidate.is_some() && !turn.view.stop_requested;
    let without_successor = |turn: &mut Turn<'_>, known: Option<&Control>, rule: Rule| {
        if planned { call_off(turn) } else { Some(give_up(turn, lease, known, rule)) }
    };
    if control.state != ControlState::ShutDown {
        return without_successor(turn, None, Rule::ReleaseAfterCrash);
    }
    if received(turn, candidate, control) {
        return Some(give_up(turn, lease, Some(control), Rule::ReleaseHandedOver));
    }
    let targets = turn.peer_targets();
    if targets.is_empty() || down >= RECEIVED_WAIT {
        return without_successor(turn, Some(control), Rule::ReleaseNobodyReady);
    }
    let poll = turn.poll(targets, Millis(5));
    let renewal = lease::renewal(turn);
    Some(Verdict::of(Rule::ReleaseWaiting).and(poll).and(renewal).soon(10))
}

/// The request goes first, or the server would begin it again; then it is started in place.
fn call_off(turn: &mut Turn<'_>) -> Option<Verdict> {
    let request = turn.fresh().and_then(|cluster| cluster.failover.as_ref()).map(|request| request.revision);
    let Some(revision) = request else {
        turn.memory.stage = Stage::Steady;
        return None;
    };
    turn.memory.rejected = Some((revision, "the candidate did not get everything in time".to_owned()));
    let effect = lease::renewal(turn).or_else(|| switchover::clear(turn, revision));
    Some(Verdict::of(Rule::SwitchoverCalledOff).and(effect).soon(50))
}

/// The data directory is gone, and with it the lock that proves that no process of its server is left: one that sleeps in a long statement
/// may acknowledge it until the fence is over.
pub(super) fn data_lost(turn: &Turn<'_>, lease: Lease) -> Verdict {
    if turn.memory.fence_until.is_some_and(|until| turn.now() < until) {
        return Verdict::of(Rule::ReleaseDataLost).soon(250);
    }
    give_up(turn, lease, None, Rule::ReleaseDataLost)
}

/// Whether the candidate (or any member that may lead) says it has the shutdown checkpoint, on its timeline: a longer tail of
/// another one has not.
fn received(turn: &Turn<'_>, candidate: Option<&NodeName>, control: &Control) -> bool {
    turn.view.peers.iter().any(|peer| {
        let wanted = candidate.is_none_or(|name| *name == peer.name);
        match &peer.answer {
            PeerAnswer::Status(status) => {
                let has_it = status.lsn > control.checkpoint && status.timeline == Some(control.timeline);
                wanted && status.may_lead() && has_it
            }
            PeerAnswer::Pending | PeerAnswer::Unreachable(_) => false,
        }
    })
}

/// A leader whose server died: restarted in place, unless that takes too long or is not wanted.
fn after_crash(turn: &mut Turn<'_>, lease: Lease, control: &Control) -> Option<Verdict> {
    let now = turn.now();
    let since = *turn.memory.not_running_since.get_or_insert(now);
    let patience = turn.view.settings.primary_start_timeout_ms;
    let crashed = !super::data::was_standby(control) && control.state != ControlState::ShutDown;
    let over = crashed && now.since(since) >= patience;
    (over && others_could_lead(turn)).then(|| give_up(turn, lease, None, Rule::ReleaseAfterCrash))
}

/// Whether a member could take over. Without one, restarting this server is all that helps.
pub(super) fn others_could_lead(turn: &Turn<'_>) -> bool {
    let stands = |cluster: &Cluster, member: &Member| {
        let left = member.timeline.is_some_and(|on| cluster.is_by_hand(on, turn.system_id()));
        member.may_lead() && !left
    };
    turn.fresh().is_some_and(|cluster| {
        cluster.members.iter().any(|(name, member)| name != turn.me() && stands(cluster, member))
    })
}

pub(super) fn give_up(turn: &Turn<'_>, lease: Lease, checkpoint: Option<&Control>, rule: Rule) -> Verdict {
    let announce = Released {
        lsn: checkpoint.map(|control| control.checkpoint),
        timeline: checkpoint.map(|control| control.timeline),
        ..Released::by(turn.me().clone(), lease.id, lease.leader_created)
    };
    let status = checkpoint.and_then(|control| duties::last_status(turn, control.checkpoint));
    let release = turn.store(DcsCall::ReleaseLeader { lease, announce, status });
    Verdict::of(rule).with(Effect::CloseFence).and(release).soon(20)
}

/// What is said once more of a key that this node gives up while its server comes up as a standby.
pub(super) fn again(turn: &Turn<'_>, lease: Lease) -> Option<Effect> {
    let verdict = match &turn.memory.stage {
        Stage::HandingOver { candidate, at, timeline, .. } => hand_over(turn, lease, candidate, *at, *timeline),
        _ => give_up(turn, lease, None, Rule::ReleaseAfterCrash),
    };
    verdict.effects.into_iter().find(|effect| matches!(effect, Effect::Dcs(_)))
}

/// Gives the key to a candidate that has the whole log, which ended at `at` in a server that acknowledges nothing any more. Asked for
/// again until the outcome is known: whatever the store did with the first request, this node never leads by that key again.
pub(super) fn hand_over(turn: &Turn<'_>, lease: Lease, candidate: &NodeName, at: Lsn, timeline: Timeline) -> Verdict {
    let announce = Released {
        end: Some(at),
        timeline: Some(timeline),
        candidate: Some(candidate.clone()),
        ..Released::by(turn.me().clone(), lease.id, lease.leader_created)
    };
    let release = turn.store(DcsCall::ReleaseLeader { lease, announce, status: duties::last_status(turn, at) });
    Verdict::of(Rule::HandOverReleasing).with(Effect::CloseFence).and(release).soon(20)
}
