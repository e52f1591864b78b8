//! What mutants make of a decision, where that takes more than a line ([`super::mutant`]).

use super::Mutant;
use crate::clock::Millis;
use crate::cluster::{Cluster, Released};
use crate::dcs::{DcsCall, DcsReply, Expect, Key, KeyEdit};
use crate::decide::Decision;
use crate::effect::{DemoteMethod, Effect, StartRole, Step};
use crate::ids::{LeaseId, NodeName, Revision, Timeline};
use crate::lease::Lease;
use crate::local::{DataDir, Server};
use crate::memory::Stage;
use crate::outcome::Outcome;
use crate::rule::Rule;
use crate::seat::LeaveReason;
use crate::view::View;

pub(super) fn park_skipped(decision: &mut Decision) {
    if decision.memory.stage.in_place() && decision.effects.contains(&Effect::Park) {
        let demote = Effect::Demote { reason: LeaveReason::LeaseLost, method: DemoteMethod::InPlace };
        decision.effects = vec![Effect::CloseFence, demote];
    }
}

pub(super) fn no_rewind(decision: &mut Decision, view: &View<'_>) {
    for effect in &mut decision.effects {
        if let Effect::Run(Step::Rewind { from } | Step::BaseBackup { from }) = effect
            && matches!(view.local.data, DataDir::Present(_))
        {
            let upstream = Some(from.clone());
            *effect = Effect::Run(Step::Start { role: StartRole::Standby { upstream } });
        }
    }
}

/// The one that is missing counts as if it had promised with the others.
pub(super) fn all_but_one(decision: &mut Decision, view: &View<'_>) {
    let failsafe = &mut decision.memory.failsafe;
    let others = failsafe.members().into_iter().flatten().map(|(name, _)| name.clone());
    let old =
        |name: &NodeName| failsafe.given.get(name).is_none_or(|given| view.now.since(given.asked_at) >= given.lasts);
    let missing: Vec<NodeName> = others.filter(|name| name != view.me && old(name)).collect();
    if let ([name], Some(newest)) = (&missing[..], failsafe.given.values().copied().max_by_key(|given| given.asked_at))
    {
        failsafe.given.insert(name.clone(), newest);
    }
}

pub(super) fn unbound_forgotten(decision: &mut Decision, view: &View<'_>) {
    let unbound = matches!(&view.local.server, Server::Primary(primary) if primary.fence_unbound);
    let known = view.dcs.fresh().and_then(|cluster| cluster.unbound_revision);
    if unbound {
        // Nor does it look whether its name still stands there.
        decision.effects.retain(|effect| !matches!(effect, Effect::OpenFence { .. }));
    }
    if let (true, Some(revision), false) = (unbound, known, view.dcs_busy) {
        let edit = KeyEdit { key: Key::Unbound, value: None, expect: Expect::Unchanged(revision), leased: false };
        decision.effects = vec![Effect::Dcs(DcsCall::Write(edit))];
    }
}

pub(super) fn acquire(decision: &mut Decision, view: &View<'_>) {
    if !view.dcs_busy {
        let seen = view.dcs.newest().map_or(Revision(0), |cluster| cluster.revision);
        let edition = view.dcs.newest().and_then(Cluster::next_edition);
        decision.effects = vec![Effect::Dcs(DcsCall::AcquireLeader { seen, claim: None, edition })];
    }
}

/// Takes the key where an election is not won, or may not begin yet.
pub(super) fn stand(mutant: Mutant, decision: &mut Decision, view: &View<'_>) {
    let waits = decision.rule == Rule::ElectionPredecessorAlive;
    let fresh = view.dcs.fresh();
    let put_back = |cluster: &&Cluster| cluster.last_leader.is_some() && cluster.last_taken().is_none();
    let stands = match mutant {
        Mutant::VoteWhileReceiving => decision.rule == Rule::ElectionStoppingReceiver,
        Mutant::TakeBlindly => waits && fresh.is_none_or(|cluster| cluster.last_leader.is_none()),
        Mutant::OldRecordBelieved => waits && fresh.as_ref().is_some_and(put_back),
        _ => {
            let voting = [Rule::ElectionVoting, Rule::ElectionPeerAhead, Rule::ElectionStoppingReceiver];
            voting.contains(&decision.rule)
        }
    };
    if stands {
        if mutant == Mutant::VoteWhileReceiving {
            decision.memory.voting_since = Some(view.now);
        }
        acquire(decision, view);
    }
}

pub(super) fn release_before_stop(decision: &mut Decision, view: &View<'_>) {
    let Some(lease) = decision.memory.lease else { return };
    if decision.rule == Rule::SwitchoverHandingOver && !view.dcs_busy {
        let announce = Released::by(view.me.clone(), lease.id, lease.leader_created);
        decision.effects = vec![Effect::Dcs(DcsCall::ReleaseLeader { lease, announce, status: None })];
    }
}

pub(super) fn promote_without_lease(decision: &mut Decision, view: &View<'_>) {
    if let Server::Standby(standby) = &view.local.server
        && decision.rule == Rule::ElectionAcquiring
    {
        let lease = Lease::confirmed(LeaseId(7), Revision(7), view.now, Millis(5000));
        let timeline = Timeline(standby.timeline.0 + 1);
        decision.effects = vec![Effect::Promote { lease, timeline, skip: Vec::new() }];
    }
}

/// Whatever kept it from that.
pub(super) fn promote_anyway(decision: &mut Decision, view: &View<'_>, instead_of: &[Rule]) {
    let (Server::Standby(standby), Some(lease)) = (&view.local.server, decision.memory.lease) else { return };
    let claims = view.dcs.newest().into_iter().flat_map(|cluster| cluster.claims_of(None));
    let own = claims.filter(|(timeline, claim)| claim.node == *view.me && *timeline > standby.timeline);
    let Some(timeline) = own.map(|(timeline, _)| timeline).next_back() else { return };
    if instead_of.contains(&decision.rule) {
        decision.effects = vec![Effect::Promote { lease, timeline, skip: Vec::new() }];
    }
}

/// Once: what it has wiped it writes again when it has read its file.
pub(super) fn history_unread(decision: &mut Decision, view: &View<'_>) {
    let known = view.dcs.newest().is_some_and(|cluster| !cluster.history.is_empty());
    for effect in &mut decision.effects {
        if let Effect::Dcs(DcsCall::Write(edit)) = effect
            && edit.key == Key::History
            && known
        {
            edit.value = Some("[]".to_owned());
        }
    }
}

pub(super) fn fence_unconfirmed(decision: &mut Decision, view: &View<'_>) {
    let renews = |effect: &Effect| match effect {
        Effect::Dcs(DcsCall::RenewLeader(lease)) => Some(*lease),
        _ => None,
    };
    if let (Server::Primary(_), Some(lease)) = (&view.local.server, decision.effects.iter().find_map(renews)) {
        decision.effects.push(Effect::OpenFence { lease: Lease { sent_at: view.now, ..lease } });
    }
}

pub(super) fn no_claim(decision: &mut Decision, view: &View<'_>) {
    for effect in &mut decision.effects {
        if let Effect::Dcs(DcsCall::AcquireLeader { claim, .. }) = effect {
            *claim = None;
        }
    }
    let Some(lease) = decision.memory.lease else { return };
    let claims = decision
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::Dcs(DcsCall::Write(edit)) if matches!(edit.key, Key::TimelineClaim(_))));
    if let Server::Standby(standby) = &view.local.server
        && claims
        && lease.valid_at(view.now)
    {
        let timeline = Timeline(standby.timeline.0 + 1);
        decision.effects = vec![Effect::Promote { lease, timeline, skip: Vec::new() }];
    }
}

/// Hands over at once, wherever the log is.
pub(super) fn release_now(decision: &mut Decision, view: &View<'_>, from: Rule) {
    let (Some(lease), Server::Primary(primary)) = (decision.memory.lease, &view.local.server) else { return };
    if decision.rule != from || view.dcs_busy {
        return;
    }
    let Stage::Sealing { candidate, .. } = decision.memory.stage.clone() else { return };
    let (at, timeline) = (primary.flushed, primary.timeline);
    let announce = Released {
        end: Some(at),
        timeline: Some(timeline),
        candidate: Some(candidate.clone()),
        ..Released::by(view.me.clone(), lease.id, lease.leader_created)
    };
    decision.memory.stage = Stage::HandingOver { candidate, at, timeline, since: view.now };
    let release = Effect::Dcs(DcsCall::ReleaseLeader { lease, announce, status: None });
    decision.effects = vec![Effect::CloseFence, release];
}

/// The answer to the release was lost: as if nothing had been sent.
pub(super) fn lead_after_release(decision: &mut Decision, view: &View<'_>) {
    let unknown = view.outcomes.iter().any(|outcome| {
        matches!(outcome, Outcome::Dcs { call: DcsCall::ReleaseLeader { .. }, reply: DcsReply::Unknown(_), .. })
    });
    if let (Stage::HandingOver { .. }, Some(lease)) = (&decision.memory.stage, decision.memory.lease)
        && unknown
        && lease.valid_at(view.now)
    {
        decision.memory.stage = Stage::Steady;
        // As if the hand-over had been given up.
        let request = view.dcs.fresh().and_then(|cluster| cluster.failover.as_ref());
        decision.memory.rejected = request.map(|request| (request.revision, String::new()));
        decision.effects = vec![Effect::Unseal, Effect::OpenFence { lease }];
    }
}

pub(super) fn by_hand_untold(decision: &mut Decision) {
    for effect in &mut decision.effects {
        if let Effect::Dcs(DcsCall::Write(edit)) = effect
            && let (Key::TimelineClaim(_), Some(value)) = (&edit.key, &mut edit.value)
        {
            *value = value.replace("\"by_hand\":true,", "");
        }
    }
}

pub(super) fn by_hand_unclaimed(decision: &mut Decision) {
    decision.effects.retain(|effect| {
        let Effect::Dcs(DcsCall::Write(edit)) = effect else { return true };
        let says_so = edit.value.as_ref().is_some_and(|value| value.contains("\"by_hand\":true"));
        !(matches!(edit.key, Key::TimelineClaim(_)) && says_so)
    });
}
