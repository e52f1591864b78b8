//! Takes what happened since the last tick into memory.

use super::turn::Turn;
use super::{clocks, pause};
use crate::clock::Tick;
use crate::cluster::{Cluster, Initialize, TimelineClaim};
use crate::dcs::{DcsCall, DcsReply, Expect, Key, KeyEdit};
use crate::effect::{StartRole, Step};
use crate::ids::{LeaseId, Revision, Timeline};
use crate::lease::Lease;
use crate::local::Server;
use crate::memory::Stage;
use crate::outcome::Outcome;
use crate::peer::{PeerAnswer, PeerView};
use crate::seat::LeaveReason;
use crate::view::Side;
use std::sync::Arc;

/// Until when the fence is open of a leader that maintenance mode keeps open without a lease.
pub(super) const UNBOUND: Tick = Tick(u64::MAX);

/// Outcomes of effects, in order.
pub(super) fn outcomes(turn: &mut Turn<'_>) {
    for outcome in turn.view.outcomes {
        match outcome {
            Outcome::Dcs { call, reply, at } => store(turn, call, reply, *at),
            Outcome::Step { step, result, at } => step_ended(turn, step, result, *at),
            Outcome::SeatTaken(reason) => seat_taken(turn, reason),
        }
    }
    let (ttl, now) = (turn.view.settings.ttl_ms, turn.now());
    if let Some(lease) = turn.memory.lease.filter(|lease| lease.ttl > ttl) {
        turn.memory.lease = Some(lease.limited(ttl, now));
    }
}

fn store(turn: &mut Turn<'_>, call: &DcsCall, reply: &DcsReply, at: Tick) {
    if !matches!(reply, DcsReply::Unknown(_) | DcsReply::Denied(_)) {
        turn.memory.store_failed_at = None;
    }
    match reply {
        DcsReply::SessionKept { lease, sent_at, .. } => kept(turn, *lease, *sent_at),
        DcsReply::Won(lease) => {
            kept(turn, lease.id, lease.sent_at);
            turn.memory.lease = Some(clocks::believed(turn, *lease));
            turn.memory.refused = None;
            turn.memory.claim = None;
            let failsafe = &mut turn.memory.failsafe;
            (failsafe.written, failsafe.extended) = (None, None);
            failsafe.given.clear();
        }
        DcsReply::Kept(lease) => {
            kept(turn, lease.id, lease.sent_at);
            // A renewal that was sent before the loss was noticed brings nothing back.
            if turn.memory.lease.is_some_and(|held| held.leader_created == lease.leader_created) {
                turn.memory.lease = Some(clocks::believed(turn, *lease));
            }
        }
        DcsReply::Refused => {
            if let DcsCall::RenewLeader(lease) = call {
                refused(turn, lease);
            }
        }
        DcsReply::Released => turn.memory.lease = None,
        DcsReply::LeaseAlive(alive) => {
            if let (DcsCall::CheckLease(lease), false) = (call, alive) {
                turn.memory.dead_leases.insert(*lease);
            }
        }
        DcsReply::Written(revision) => {
            if let DcsCall::Write(edit) = call {
                if !edit.leased && (edit.value.is_some() || edit.key == Key::Initialize) {
                    turn.memory.last_write = Some((*revision, at));
                }
                written(turn, edit, *revision, at);
            }
        }
        DcsReply::Conflict => {
            // The view that the write was made from is old: wait for the next one instead of asking again at once.
            turn.memory.store_failed_at = Some(at);
            if let DcsCall::Write(KeyEdit { expect: Expect::WeLead(lease), .. }) = call {
                refused(turn, lease);
            }
        }
        DcsReply::Lost => {
            turn.memory.voting_since = None;
            if matches!(call, DcsCall::AdoptLeader { .. }) {
                // The view that shows the key as ours is old, too.
                turn.memory.store_failed_at = Some(at);
            }
        }
        DcsReply::Unknown(_) | DcsReply::Denied(_) => turn.memory.store_failed_at = Some(at),
    }
}

fn kept(turn: &mut Turn<'_>, lease: LeaseId, sent_at: Tick) {
    turn.memory.session = Some(lease);
    turn.memory.kept_at = Some(sent_at);
}

/// The fence may be open until the newest deadline, whatever becomes of the lease.
pub(super) fn fence(turn: &mut Turn<'_>) {
    let confirmed = turn.memory.lease.map(|lease| lease.deadline()).max(turn.memory.failsafe.extended);
    turn.memory.fence_until = match &turn.view.local.server {
        Server::Primary(primary) if primary.fence_unbound => Some(UNBOUND),
        Server::Primary(_) | Server::Standby(_) if turn.memory.fence_until == Some(UNBOUND) => confirmed,
        _ => turn.memory.fence_until.max(confirmed),
    };
    if let (Server::Primary(_), Some(lease)) = (&turn.view.local.server, turn.memory.lease) {
        turn.memory.led_by = Some(lease.leader_created);
    }
    match (&turn.view.local.server, &turn.view.local.step_running) {
        (_, Some(Step::Start { role })) => turn.memory.started_as_standby = matches!(role, StartRole::Standby { .. }),
        (Server::Primary(_), _) => turn.memory.started_as_standby = false,
        _ => {}
    }
    // Closed by this node itself, and never opened again: a release was sent, or the server is about to go.
    let closed = matches!(&turn.view.local.server, Server::Primary(primary) if !primary.fence_open);
    if turn.memory.stage.in_place() && closed {
        turn.memory.fence_until = None;
    }
    if !matches!(turn.view.local.server, Server::Primary(_)) {
        turn.memory.unchecked_since = None;
    }
    // Nobody can close it then: orphans of a dead postmaster and the moments before a crash cycle has ended them all.
    let out_of_reach = matches!(turn.view.local.server, Server::Leftover | Server::Starting { .. });
    let open = turn.memory.fence_until.is_some_and(|until| turn.now() < until);
    let was_primary = turn.control().is_some_and(|control| !super::data::was_standby(control));
    if turn.view.seat.side() == Side::Inside {
        turn.memory.left_closed = false;
    }
    let closed = turn.memory.left_closed || turn.memory.started_as_standby;
    turn.memory.may_acknowledge = out_of_reach && open && was_primary && !closed;
}

fn refused(turn: &mut Turn<'_>, lease: &Lease) {
    if turn.memory.lease.is_some_and(|held| held.leader_created == lease.leader_created) {
        turn.memory.lease = None;
    }
    turn.memory.refused = Some(lease.leader_created);
}

fn written(turn: &mut Turn<'_>, edit: &KeyEdit, revision: Revision, at: Tick) {
    match &edit.key {
        Key::Member(_) => {
            turn.memory.member_written_at = Some(at);
            let written = edit.value.as_deref().and_then(|text| serde_json::from_str(text).ok());
            turn.memory.member_written = written.map(Arc::new);
        }
        Key::Status => turn.memory.status_written_at = Some(at),
        Key::TimelineClaim(timeline) => {
            let claim = edit.value.as_deref().and_then(|text| serde_json::from_str::<TimelineClaim>(text).ok());
            if claim.is_some_and(|claim| !claim.by_hand) {
                turn.memory.claim = Some(*timeline);
            }
        }
        Key::Initialize => {
            turn.memory.bootstrapping = edit.value.as_deref() == Some("");
            if turn.memory.bootstrapping {
                turn.memory.bootstrap_failed = false;
            }
        }
        Key::Failsafe => turn.memory.failsafe.written = edit.value.is_some().then_some(revision),
        Key::Config | Key::Failover | Key::History | Key::LastLeader => {}
        Key::Unbound => turn.memory.unbound_told = Some(revision),
    }
}

fn step_ended(turn: &mut Turn<'_>, step: &Step, result: &Result<(), String>, at: Tick) {
    match result {
        Ok(()) => {
            turn.memory.step_failures = 0;
            turn.memory.step_failed_at = None;
            turn.memory.step_error = None;
            match step {
                Step::Rewind { .. } | Step::BaseBackup { .. } => turn.memory.rewind_failed = false,
                Step::Start { role } => {
                    turn.memory.not_running_since = Some(at);
                    turn.memory.started_as_standby = matches!(role, StartRole::Standby { .. });
                }
                Step::EndStragglers => turn.memory.stragglers_ended = true,
                Step::SetAside | Step::Initdb | Step::CrashRecover | Step::Stop { .. } | Step::ClearLeftover => {}
            }
        }
        Err(reason) => {
            turn.memory.step_failures = turn.memory.step_failures.saturating_add(1);
            turn.memory.step_failed_at = Some(at);
            turn.memory.step_error = Some(format!("{step}: {reason}"));
            match step {
                Step::Rewind { .. } => turn.memory.rewind_failed = true,
                Step::Initdb => turn.memory.bootstrap_failed = true,
                Step::BaseBackup { .. }
                | Step::CrashRecover
                | Step::Start { .. }
                | Step::Stop { .. }
                | Step::ClearLeftover
                | Step::EndStragglers
                | Step::SetAside => {}
            }
        }
    }
}

fn seat_taken(turn: &mut Turn<'_>, reason: &LeaveReason) {
    // Whatever the worker had in hand ended with its seat, and a new server may have made anything of a claim.
    turn.memory.voting_since = None;
    turn.memory.stragglers_ended = false;
    turn.memory.left_closed = !matches!(reason, LeaveReason::WorkerLost);
    if turn.memory.stage.in_place() && !matches!(reason, LeaveReason::Shutdown) {
        // From here on counts how long the server takes to come up.
        turn.memory.not_running_since = Some(turn.view.now);
        // Failures of the steps before say nothing of those that come.
        turn.memory.step_failures = 0;
        turn.memory.step_failed_at = None;
        return;
    }
    let demoting = turn.memory.stage.stops_server();
    let release = match reason {
        LeaveReason::Shutdown | LeaveReason::Switchover => true,
        LeaveReason::LeaseLost | LeaveReason::Rejoin => false,
        LeaveReason::WorkerLost => {
            // It may have sent what nobody heard of.
            turn.memory.failsafe.written = None;
            if !demoting {
                turn.memory.stage = Stage::Steady;
            }
            return;
        }
    };
    if pause::is_on(turn) && !turn.memory.stage.resigning() {
        // Somebody stops the server by hand.
        turn.memory.stage = Stage::Steady;
        return;
    }
    if !demoting {
        turn.memory.stage =
            Stage::Demoting { candidate: None, release, since: turn.view.now, down_since: None, in_place: false };
    }
}

/// Nobody holds the leader key. If somebody led since it was last seen gone, unseen by this node, then everything that was learnt for
/// the present election is out of date: it begins anew.
fn leader_gone(turn: &mut Turn<'_>, cluster: &Cluster) {
    let after = cluster.last_leader.as_ref().map(|last| last.revision);
    if turn.memory.leader_gone_at.is_some() && turn.memory.leader_gone_after == after {
        return;
    }
    turn.memory.leader_gone_at = Some(turn.now());
    turn.memory.leader_gone_after = after;
    turn.memory.leader_gone_revision = Some(cluster.revision);
    turn.memory.voting_since = None;
}

/// A configuration from an earlier time may name a shorter `ttl` than that by which the last leader's lease was granted.
pub(super) fn ttl(turn: &mut Turn<'_>) {
    let (ttl, now) = (turn.view.settings.ttl_ms, turn.now());
    turn.memory.longer_ttl = turn.memory.longer_ttl.filter(|(longer, until)| *longer > ttl && now < *until);
    if let Some(before) = turn.memory.ttl.filter(|before| *before > ttl)
        && turn.memory.longer_ttl.is_none_or(|(longer, _)| longer <= before)
    {
        turn.memory.longer_ttl = Some((before, now + before + before));
    }
    turn.memory.ttl = Some(ttl);
}

/// What a fresh snapshot says about our lease and about who led.
pub(super) fn cluster(turn: &mut Turn<'_>) {
    for peer in turn.view.peers {
        match &peer.answer {
            PeerAnswer::Unreachable(_) => {
                turn.memory.unreachable.entry(peer.name.clone()).or_insert(peer.asked_at);
            }
            PeerAnswer::Status(_) => {
                turn.memory.unreachable.remove(&peer.name);
            }
            PeerAnswer::Pending => {}
        }
    }
    let Some(cluster) = turn.fresh() else { return };
    timelines(turn, cluster);
    if let Some(lease) = turn.memory.lease {
        let ours = cluster.leader.as_ref().is_some_and(|l| l.name == *turn.me() && l.created == lease.leader_created);
        if cluster.revision >= lease.leader_created && !ours {
            turn.memory.lease = None;
        }
    }
    if let Some(leader) = &cluster.leader {
        turn.memory.last_leader = Some(leader.clone());
        if let Some(member) = cluster.members.get(&leader.name) {
            turn.memory.last_leader_fenced = member.ha_ext_version.is_some();
        }
        turn.memory.leader_gone_at = None;
        turn.memory.received_since = None;
        turn.memory.dead_leases.clear();
        let peers = || cluster.members.iter().filter_map(|(name, member)| Some((name, member.api_url.as_ref()?)));
        if !turn.memory.known_peers.iter().eq(peers()) {
            turn.memory.known_peers = Arc::new(peers().map(|(name, url)| (name.clone(), url.clone())).collect());
        }
    } else {
        leader_gone(turn, cluster);
    }
    if turn.memory.lease.is_none() {
        turn.memory.claim = None;
    }
    if let (Initialize::Done(id), Some(control)) = (cluster.initialize, turn.control())
        && id == control.system_id
    {
        // Founded, whatever became of the answer: from here on this is a member like any other.
        turn.memory.bootstrapping = false;
    }
    if turn.memory.lease.is_none_or(|lease| lease.valid_at(turn.view.now)) {
        turn.memory.overdue_since = None;
    }
}

/// Remembers which timeline is the newest that anybody has claimed or made, this server among them: the keys may be put back as they were
/// before, and so may data.
fn timelines(turn: &mut Turn<'_>, cluster: &Cluster) {
    let own = match &turn.view.local.server {
        Server::Primary(primary) => Some(primary.timeline),
        Server::Standby(standby) => Some(standby.timeline),
        Server::Starting { .. } | Server::Stopping { .. } | Server::Down | Server::Leftover => {
            turn.control().map(|control| control.timeline)
        }
    };
    // Data that are still to be copied will be the cluster's: until then its leader says how far it is.
    let founded = match cluster.initialize {
        Initialize::Done(system) => Some(system),
        Initialize::Absent | Initialize::Running => None,
    };
    let leaders = || cluster.leader_member().and_then(|(_, member)| member.timeline);
    let Some(system) = turn.system_id().or(founded) else { return };
    let known = turn.memory.newest_timeline.filter(|(of, _)| *of == system).map(|(_, timeline)| timeline);
    let own = own.or_else(leaders).or(known).unwrap_or(Timeline(1));
    let of_peer = |peer: &PeerView| match &peer.answer {
        PeerAnswer::Status(status) => status.timeline,
        PeerAnswer::Unreachable(_) | PeerAnswer::Pending => None,
    };
    let told = turn.view.peers.iter().filter_map(of_peer);
    let newer = told.chain(known).filter(|newer| newer.is_plausibly_after(own));
    let newest = newer.chain(cluster.newest_timeline(own, Some(system))).max().unwrap_or(own);
    turn.memory.newest_timeline = Some((system, newest));
}
