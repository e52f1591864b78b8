//! This server is out of recovery: it leads, gets its key back, or is demoted.

use super::turn::{Standing, Turn, Verdict};
use super::{
    by_hand, clocks, duties, failsafe, handover, in_place, lease, pause, promotion, schedule, switchover, upkeep,
    watchdog,
};
use crate::clock::Millis;
use crate::cluster::{Cluster, Initialize, LeaderKey, Member, Released, TimelineClaim};
use crate::dcs::DcsCall;
use crate::effect::{DemoteMethod, Effect};
use crate::ids::{LeaseId, Revision, Timeline};
use crate::lease::Lease;
use crate::local::PrimaryView;
use crate::memory::Stage;
use crate::rule::Rule;
use crate::seat::LeaveReason;
use crate::view::DcsView;

pub(super) fn decide(turn: &mut Turn<'_>, primary: &PrimaryView) -> Verdict {
    match turn.memory.stage {
        Stage::HandingOver { .. } => return handover::after_release(turn, primary),
        Stage::Demoting { in_place: true, .. } => return in_place::demote(turn, primary, Rule::DemotionInPlace),
        Stage::Demoting { .. } => return ask_to_demote(Rule::DemotionRunning, demotion_reason(turn)),
        Stage::Steady | Stage::Preparing { .. } | Stage::Sealing { .. } => {}
    }
    if turn.view.local.cannot_write.is_some() && !pause::is_on(turn) {
        return demote(turn, primary, Rule::LeaderCannotWrite, LeaveReason::Shutdown, true);
    }
    if watchdog::is_due(turn) {
        return demote(turn, primary, Rule::LeaderWatchdogDue, LeaveReason::LeaseLost, false);
    }
    if let Some(lease) = turn.memory.lease.filter(|lease| turn.gave_up(*lease)) {
        // Stopped by hand and started again while its release is on the way, which must not be sent of a primary: its lease ends.
        if lease.valid_at(turn.now()) {
            return Verdict::of(Rule::PauseReleasing).with(Effect::CloseFence).soon(250);
        }
        turn.memory.lease = None;
        turn.memory.session = None;
    }
    match turn.standing() {
        Standing::Leads(lease) => leading(turn, primary, lease),
        Standing::Overdue(_) if pause::goes_on(turn, primary) => pause::without_store(turn),
        Standing::Overdue(_) if failsafe::goes_on(turn, primary) => failsafe::without_store(turn, primary),
        Standing::Overdue(_) => overdue(turn, primary),
        Standing::None => match turn.view.dcs {
            DcsView::Fresh(cluster) => without_lease(turn, primary, cluster),
            DcsView::Unreachable { .. } if pause::goes_on(turn, primary) => pause::without_store(turn),
            DcsView::Unreachable { .. } => {
                let too_long = lease::overdue_too_long(turn);
                if too_long {
                    return demote(turn, primary, Rule::LeaderStoreLost, LeaveReason::LeaseLost, false);
                }
                Verdict::of(Rule::PrimaryWaiting).with(Effect::CloseFence).soon(100)
            }
        },
    }
}

fn leading(turn: &mut Turn<'_>, primary: &PrimaryView, lease: Lease) -> Verdict {
    turn.memory.not_running_since = None;
    if let Some(owner) = foreign_owner(turn, primary.timeline) {
        debug_assert_ne!(owner, *turn.me());
        return demote(turn, primary, Rule::LeaderForeignTimeline, LeaveReason::Shutdown, true);
    }
    if turn.fresh().is_some_and(|cluster| outdated(turn, primary, cluster, lease.leader_created)) {
        // The key was won, or adopted, by what was known before a stall.
        return demote(turn, primary, Rule::PrimaryOutdated, LeaveReason::Shutdown, true);
    }
    let another_founded =
        |cluster: &Cluster| matches!(cluster.initialize, Initialize::Done(_)) && !is_founded(turn, cluster);
    if !primary.fence_open && turn.fresh().is_some_and(another_founded) {
        // Won while that was on its way: this server has acknowledged nothing by this key.
        turn.memory.bootstrap_failed |= turn.memory.bootstrapping;
        return demote(turn, primary, Rule::ForeignSystemId, LeaveReason::Shutdown, true);
    }
    if let Some(why) = watchdog::failure(turn) {
        return demote(turn, primary, Rule::LeaderNoWatchdog, LeaveReason::Shutdown, true).because(why);
    }
    let rule = match pause::is_on(turn) {
        _ if clocks::in_doubt(turn, &lease) => Rule::LeaderClockJumped,
        true => Rule::PauseLeading,
        false if failsafe::needed(turn, &lease) => Rule::FailsafeAsking,
        false if schedule::waits(turn).is_some() => Rule::SwitchoverScheduled,
        false => Rule::LeaderLeading,
    };
    let mut verdict = switchover::decide(turn, primary, lease).unwrap_or_else(|| Verdict::of(rule));
    let (arm, watched) = watchdog::while_leading(turn);
    verdict.effects.splice(0..0, arm);
    if opens(turn, primary) {
        // Before anything is written: clients wait for it.
        let open = watched.then_some(Effect::OpenFence { lease });
        verdict.soon = if watched { verdict.soon } else { Some(Millis(2)) };
        verdict.effects.splice(0..0, open);
    } else if let Some(effect) = pause::fence(turn, primary, lease) {
        verdict.effects.insert(0, effect);
    }
    if verdict.closed() || handover::holds_commits(turn) {
        return verdict;
    }
    if failsafe::needed(turn, &lease) {
        verdict = verdict.and(failsafe::lean(turn, primary, lease)).soon(500);
    }
    if matches!(turn.memory.stage, Stage::Steady | Stage::Preparing { .. }) {
        // What is left of a preparation that was given up, in this life of the worker or another.
        let left = handover::undo(primary).into_iter().filter(|effect| !verdict.effects.contains(effect));
        verdict.effects.extend(left.collect::<Vec<_>>());
    }
    match promotion::checkpoint_due(turn, primary) {
        Some(Millis(0)) => verdict = verdict.with(Effect::Checkpoint),
        Some(left) => verdict.soon = Some(verdict.soon.unwrap_or(left).min(left)),
        None => {}
    }
    if let Some(left) = schedule::waits(turn) {
        verdict.soon = Some(verdict.soon.unwrap_or(left).min(left));
    }
    if !duties::owns_timeline(turn, primary) {
        // Nothing is acknowledged on a timeline that somebody else might own.
        let claim = duties::claim(turn, primary.timeline, primary.flushed);
        return verdict.and(claim).soon(20);
    }
    let duty = lease::renewal(turn).or_else(|| upkeep::leads_now(turn)).or_else(|| duties::next(turn, primary, lease));
    verdict.and(duty)
}

/// Whether a leader lets commits be acknowledged now.
fn opens(turn: &Turn<'_>, primary: &PrimaryView) -> bool {
    // A cluster without its identifier can be founded a second time: nothing may be acknowledged before it stands there.
    // Nor in one that another has founded.
    let founded = match turn.view.dcs.newest() {
        Some(cluster) => is_founded(turn, cluster),
        None => !turn.memory.bootstrapping,
    };
    // Nor while this directory may be thrown away as the rest of a bootstrap.
    let lasting = founded && !turn.view.local.founding;
    let stays = matches!(turn.memory.stage, Stage::Steady | Stage::Preparing { .. });
    !primary.fence_open && stays && lasting && duties::owns_timeline(turn, primary)
}

/// Whether the cluster has its identifier, and it is that of this server's data.
fn is_founded(turn: &Turn<'_>, cluster: &Cluster) -> bool {
    matches!(cluster.initialize, Initialize::Done(id) if turn.system_id().is_none_or(|own| own == id))
}

/// Who owns the timeline this server is on, if that is somebody else (I11).
fn foreign_owner(turn: &Turn<'_>, timeline: Timeline) -> Option<crate::ids::NodeName> {
    let claim = duties::claim_on(turn, turn.fresh()?, timeline)?;
    (claim.node != *turn.me()).then(|| claim.node.clone())
}

/// The deadline has passed and nobody said that the lease is lost: one renewal may still be answered.
fn overdue(turn: &mut Turn<'_>, primary: &PrimaryView) -> Verdict {
    let too_long = lease::overdue_too_long(turn);
    if too_long {
        return demote(turn, primary, Rule::LeaderLeaseOverdue, LeaveReason::LeaseLost, false);
    }
    let renewal = lease::renewal(turn);
    Verdict::of(Rule::LeaderRenewalLate).with(Effect::CloseFence).and(renewal).soon(50)
}

/// A primary that holds no lease and sees the store.
fn without_lease(turn: &mut Turn<'_>, primary: &PrimaryView, cluster: &Cluster) -> Verdict {
    if let (Initialize::Done(id), Some(control)) = (cluster.initialize, turn.control())
        && id != control.system_id
    {
        return demote(turn, primary, Rule::ForeignSystemId, LeaveReason::Shutdown, false);
    }
    match &cluster.leader {
        Some(leader) if leader.name != *turn.me() => {
            // Promoted by hand? Whoever stops it comes after that: there may be no time for it later.
            let told = by_hand::tell(turn).filter(|_| !pause::is_on(turn));
            let verdict = demote(turn, primary, Rule::LeaderLost, LeaveReason::LeaseLost, false);
            match told {
                Some(told) => Verdict::of(Rule::LeaderLost).with(Effect::CloseFence).with(told).soon(20),
                None => verdict,
            }
        }
        Some(leader) => own_key(turn, primary, leader),
        None => take_back(turn, primary, cluster),
    }
}

/// The leader key has our name, but we do not hold it by a confirmed lease.
fn own_key(turn: &mut Turn<'_>, primary: &PrimaryView, leader: &LeaderKey) -> Verdict {
    if turn.memory.released == Some(leader.created) {
        return Verdict::of(Rule::PauseReleasing).with(Effect::CloseFence).soon(250);
    }
    if may_adopt(turn, leader) {
        let adopt = adopt(turn, leader);
        return Verdict::of(Rule::LeaderAdopting).with(Effect::CloseFence).and(adopt);
    }
    if is_put_back(turn, leader) {
        // Nothing is released before this server is none that could write.
        return demote(turn, primary, Rule::LeaderKeyPutBack, LeaveReason::LeaseLost, false);
    }
    if turn.memory.refused == Some(leader.created) {
        // The store said this key is not ours, and the watch has yet to show it.
        let too_long = lease::overdue_too_long(turn);
        if too_long {
            return demote(turn, primary, Rule::LeaderLost, LeaveReason::LeaseLost, false);
        }
        return Verdict::of(Rule::PrimaryWaiting).with(Effect::CloseFence).soon(50);
    }
    let check = check_lease(turn, leader.lease);
    Verdict::of(Rule::LeaderKeyOfNamesake).with(Effect::CloseFence).and(check)
}

/// Whether a key with our name may be taken over: its lease was this data directory's or this very process's, it is this node that took it,
/// and the store did not say that it is not ours.
pub(super) fn may_adopt(turn: &Turn<'_>, leader: &LeaderKey) -> bool {
    is_on_own_lease(turn, leader) && took_it(turn, leader)
}

fn is_on_own_lease(turn: &Turn<'_>, leader: &LeaderKey) -> bool {
    let marker = turn.view.local.marker.as_ref().filter(|marker| marker.member == *turn.me());
    let marker = marker.and_then(|marker| marker.lease);
    let known = marker == Some(leader.lease) || turn.memory.session == Some(leader.lease);
    known && turn.memory.refused != Some(leader.created)
}

/// Whether this node took that very key, by the record or its memory. A tool can put an earlier one back, on a lease that lives, while
/// another leads who cannot see it.
fn took_it(turn: &Turn<'_>, leader: &LeaderKey) -> bool {
    let recorded = |cluster: &Cluster| {
        // A key that is put back has another create revision than the record says, whichever writing that is.
        let named = cluster.last_leader.as_ref().filter(|last| last.value.created == Some(leader.created));
        let with_it = || cluster.last_taken().or_else(|| cluster.taken_with(leader));
        let with_it = || with_it().filter(|last| last.value.created.is_none() && last.revision == leader.created);
        named.or_else(with_it).is_some_and(|last| last.value.leader == *turn.me())
    };
    turn.memory.led_by == Some(leader.created) || turn.fresh().is_some_and(recorded)
}

fn is_put_back(turn: &Turn<'_>, leader: &LeaderKey) -> bool {
    is_on_own_lease(turn, leader) && !took_it(turn, leader)
}

/// Deletes a key with our name that was put back: nobody else would, as long as this node keeps its lease alive. Who leads then is elected.
pub(super) fn disown(turn: &Turn<'_>, leader: &LeaderKey) -> Option<Verdict> {
    if !is_put_back(turn, leader) {
        return None;
    }
    let lease = Lease::confirmed(leader.lease, leader.created, turn.now(), turn.view.settings.ttl_ms);
    let announce = Released::by(turn.me().clone(), leader.lease, leader.created);
    let release = turn.store(DcsCall::ReleaseLeader { lease, announce, status: None });
    Some(Verdict::of(Rule::LeaderKeyPutBack).and(release).soon(250))
}

/// Takes the key over.
pub(super) fn adopt(turn: &Turn<'_>, leader: &LeaderKey) -> Option<Effect> {
    if failsafe::bound(turn).is_some() {
        return None;
    }
    let edition = turn.fresh().and_then(Cluster::next_edition);
    turn.store(DcsCall::AdoptLeader { old: leader.lease, created: leader.created, edition })
}

/// Asks whether a foreign lease still lives, a few times a second.
pub(super) fn check_lease(turn: &mut Turn<'_>, lease: LeaseId) -> Option<Effect> {
    if !turn.passed(turn.memory.lease_checked_at, crate::clock::Millis(300)) {
        return None;
    }
    let check = turn.store(DcsCall::CheckLease(lease))?;
    turn.memory.lease_checked_at = Some(turn.now());
    Some(check)
}

/// Whether a timeline newer than this server's was made, or claimed by another `before`, that is the cluster's. While this node holds the
/// leader key nobody else can be elected: what is claimed then was promoted by hand, also by a node that does not say so.
fn outdated(turn: &Turn<'_>, primary: &PrimaryView, cluster: &Cluster, before: Revision) -> bool {
    let claims = cluster.claims_of(turn.system_id());
    let earlier = |timeline: &Timeline| cluster.claims.get(timeline).is_some_and(|claim| claim.revision < before);
    let of_the_cluster = |claim: &TimelineClaim| claim.node != *turn.me() && !claim.by_hand;
    let by_another = claims.filter(|(timeline, claim)| of_the_cluster(claim) && earlier(timeline));
    let claimed = by_another.map(|(timeline, _)| timeline);
    cluster.history_timeline().into_iter().chain(claimed).any(|newest| newest.is_plausibly_after(primary.timeline))
}

/// Nobody leads: a primary that is still on the cluster's newest timeline takes the key (back).
fn take_back(turn: &mut Turn<'_>, primary: &PrimaryView, cluster: &Cluster) -> Verdict {
    // With the history deleted, it is the members that tell.
    let on_newer = |member: &std::sync::Arc<Member>| {
        let newer = member.timeline.filter(|newer| newer.is_plausibly_after(primary.timeline));
        newer.is_some_and(|newer| !cluster.is_by_hand(newer, turn.system_id()))
    };
    // In maintenance mode who was promoted by hand is taken in where nobody leads and nothing is lost by it.
    let left = by_hand::has_left(turn, cluster, primary.timeline) && !pause::is_on(turn);
    if left || outdated(turn, primary, cluster, Revision(i64::MAX)) || cluster.members.values().any(on_newer) {
        return demote(turn, primary, Rule::PrimaryOutdated, LeaveReason::LeaseLost, false);
    }
    if let Some(other) = pause::unbound(turn, cluster) {
        let verdict = Verdict::of(Rule::ElectionAwaitingUnbound).with(Effect::CloseFence);
        return verdict.because(other.to_string()).soon(1000);
    }
    if let Some(mut verdict) = super::election::unleased(turn, cluster) {
        verdict.effects.insert(0, Effect::CloseFence);
        return verdict;
    }
    if super::eligibility::may_be_blind(turn, cluster) {
        let mut verdict = super::election::wait_for_unknown(cluster);
        verdict.effects.insert(0, Effect::CloseFence);
        return verdict;
    }
    if let Some(lease) = super::eligibility::predecessor(turn, cluster) {
        let mut verdict = super::election::wait_for_predecessor(turn, lease);
        verdict.effects.insert(0, Effect::CloseFence);
        return verdict;
    }
    if let Some(verdict) = by_hand::waits(turn, primary, cluster) {
        return verdict;
    }
    if let Some(why) = watchdog::failure(turn) {
        return demote(turn, primary, Rule::LeaderNoWatchdog, LeaveReason::LeaseLost, false).because(why);
    }
    let barred = failsafe::barred(turn);
    if barred == Some(Rule::ElectionNotInFailsafe) {
        // Nobody else leads before this server is a standby.
        return demote(turn, primary, Rule::ElectionNotInFailsafe, LeaveReason::LeaseLost, false);
    }
    if let Some(rule) = barred {
        let mut verdict = failsafe::wait(turn, rule);
        verdict.effects.insert(0, Effect::CloseFence);
        return verdict;
    }
    let acquire = turn.acquire(cluster, None);
    Verdict::of(Rule::LeaderTakingBack).with(Effect::CloseFence).and(acquire).soon(100)
}

/// Begins a demotion: the fence closes first. In place if that is possible and the lease is gone anyway; else the seat goes to the
/// supervisor, which stops the server.
fn demote(turn: &mut Turn<'_>, primary: &PrimaryView, rule: Rule, reason: LeaveReason, release: bool) -> Verdict {
    if pause::is_on(turn) {
        return pause::leave_alone(turn, primary, rule);
    }
    let in_place = reason == LeaveReason::LeaseLost && !release && in_place::possible(turn, primary);
    turn.memory.stage = Stage::Demoting { candidate: None, release, since: turn.now(), down_since: None, in_place };
    if in_place { in_place::demote(turn, primary, rule) } else { ask_to_demote(rule, reason) }
}

/// A standby that has to be stopped.
pub(super) fn stop_standby(turn: &mut Turn<'_>, rule: Rule, reason: LeaveReason, release: bool) -> Verdict {
    turn.memory.stage =
        Stage::Demoting { candidate: None, release, since: turn.now(), down_since: None, in_place: false };
    ask_to_demote(rule, reason)
}

/// Gives the seat to the supervisor, which stops the server; a frozen log goes on for that, behind a closed fence.
pub(super) fn ask_to_demote(rule: Rule, reason: LeaveReason) -> Verdict {
    Verdict::of(rule).with(Effect::CloseFence).with(Effect::Demote { reason, method: DemoteMethod::Restart }).soon(1000)
}

pub(super) fn demotion_reason(turn: &Turn<'_>) -> LeaveReason {
    match &turn.memory.stage {
        Stage::HandingOver { .. } | Stage::Demoting { candidate: Some(_), .. } => LeaveReason::Switchover,
        Stage::Demoting { release: true, .. } => LeaveReason::Shutdown,
        Stage::Demoting { .. } | Stage::Sealing { .. } | Stage::Preparing { .. } | Stage::Steady => {
            LeaveReason::LeaseLost
        }
    }
}
