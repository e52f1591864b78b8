//! What a leader writes into the store, one request at a time, the most urgent first.

use super::failsafe;
use super::turn::Turn;
use crate::cluster::{Cluster, HistoryRow, Initialize, LastLeader, TimelineClaim};
use crate::dcs::{ClaimAlong, Expect, Key};
use crate::effect::Effect;
use crate::ids::{Lsn, Timeline};
use crate::lease::Lease;
use crate::local::PrimaryView;
use crate::parse::history_json;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Whether the timeline this primary is on is known to be claimed by it. Somebody else's claim was dealt with
/// before; ours, also one from an earlier lease, stands, but not what was promoted by hand.
pub(super) fn owns_timeline(turn: &Turn<'_>, primary: &PrimaryView) -> bool {
    turn.memory.claim == Some(primary.timeline)
        || turn
            .fresh()
            .is_some_and(|cluster| claim_on(turn, cluster, primary.timeline).is_some_and(|claim| !claim.by_hand))
}

/// The claim on a timeline of this node's data.
pub(super) fn claim_on<'a>(turn: &Turn<'_>, cluster: &'a Cluster, timeline: Timeline) -> Option<&'a TimelineClaim> {
    cluster.claims_of(turn.system_id()).find_map(|(claimed, claim)| (claimed == timeline).then_some(claim))
}

/// The write that claims `timeline`.
pub(super) fn claim(turn: &Turn<'_>, timeline: Timeline, lsn: Lsn) -> Option<Effect> {
    let lease = turn.memory.lease?;
    let claim = claim_along(turn, turn.fresh()?, timeline, lsn);
    turn.write(Key::TimelineClaim(timeline), Some(claim.record(turn.me(), lease.id).text()), claim.expect)
}

/// The same for the transaction that takes the leader key.
pub(super) fn claim_along(turn: &Turn<'_>, cluster: &Cluster, timeline: Timeline, lsn: Lsn) -> ClaimAlong {
    // One that is there, and is not of these data, is left from a cluster that was removed. What was promoted by hand here gives way when it
    // leads. Any other stays: the write fails then.
    let stays = claim_on(turn, cluster, timeline).is_some_and(|claim| !claim.by_hand || claim.node != *turn.me());
    let left = cluster.claims.get(&timeline).filter(|_| !stays);
    let expect = left.map_or(Expect::Absent, |left| Expect::Unchanged(left.revision));
    ClaimAlong { timeline, lsn, system: turn.system_id(), expect }
}

/// The next thing to write, if anything.
pub(super) fn next(turn: &Turn<'_>, primary: &PrimaryView, lease: Lease) -> Option<Effect> {
    let cluster = turn.fresh()?;
    initialize(turn, cluster, lease)
        .or_else(|| last_leader(turn, cluster, lease))
        .or_else(|| config(turn, cluster))
        .or_else(|| failsafe::map(turn, cluster, lease))
        .or_else(|| history(turn, cluster, primary, lease))
        .or_else(|| claim_again(turn, cluster, primary, lease))
        .or_else(|| status(turn, cluster, primary, lease))
}

/// Claimed before anything was acknowledged on it; again after somebody removed that.
fn claim_again(turn: &Turn<'_>, cluster: &Cluster, primary: &PrimaryView, lease: Lease) -> Option<Effect> {
    let written = turn.memory.last_write.map(|(revision, _)| revision);
    // A view from before our last write may not show it.
    let current = cluster.leader.as_ref().is_some_and(|leader| leader.created == lease.leader_created)
        && written.is_none_or(|written| cluster.revision >= written);
    if !current || claim_on(turn, cluster, primary.timeline).is_some_and(|claim| !claim.by_hand) {
        return None;
    }
    claim(turn, primary.timeline, primary.flushed)
}

fn initialize(turn: &Turn<'_>, cluster: &Cluster, lease: Lease) -> Option<Effect> {
    let control = turn.control()?;
    match cluster.initialize {
        Initialize::Done(_) => None,
        Initialize::Absent | Initialize::Running => {
            turn.write(Key::Initialize, Some(control.system_id.to_string()), Expect::WeLead(lease))
        }
    }
}

/// Written with the leader key already; again where that was the first, which could not name its edition, and after somebody removed it,
/// or put an earlier one back.
fn last_leader(turn: &Turn<'_>, cluster: &Cluster, lease: Lease) -> Option<Effect> {
    let created = Some(lease.leader_created);
    let ours = LastLeader { leader: turn.me().clone(), lease: lease.id, created, edition: cluster.next_edition() };
    // A view from before the key was taken (or moved) shows an earlier one.
    let current = cluster.leader.as_ref().is_some_and(|leader| leader.lease == lease.id);
    let stands = cluster.last_taken().is_some_and(|last| {
        let of_this_key = last.value.created.unwrap_or(last.revision) == lease.leader_created;
        (&last.value.leader, last.value.lease) == (&ours.leader, ours.lease) && of_this_key
    });
    if !current || stands {
        return None;
    }
    turn.write(Key::LastLeader, Some(ours.text()), Expect::WeLead(lease))
}

fn config(turn: &Turn<'_>, cluster: &Cluster) -> Option<Effect> {
    if cluster.config.is_some() || cluster.config_unreadable.is_some() {
        // What somebody wrote there is his to mend: the settings in force stay.
        return None;
    }
    turn.write(Key::Config, Some(turn.view.settings.bootstrap_dcs.to_string()), Expect::Absent)
}

fn history(turn: &Turn<'_>, cluster: &Cluster, primary: &PrimaryView, lease: Lease) -> Option<Effect> {
    if history_stands(turn, cluster, primary) {
        return None;
    }
    let rows = history_rows(turn, cluster, primary);
    // A server past its first timeline whose file has not been read yet must not wipe what is known.
    if rows.is_empty() && primary.timeline > Timeline(1) {
        return None;
    }
    turn.write(Key::History, Some(history_json(&rows).to_string()), Expect::WeLead(lease))
}

/// Whether the store shows where this server's timeline branched off. Until then nobody may take what stands there for complete.
pub(super) fn history_published(turn: &Turn<'_>, primary: &PrimaryView) -> bool {
    turn.fresh().is_some_and(|cluster| history_stands(turn, cluster, primary))
}

/// The ancestors of the timeline this primary is on.
fn ancestors<'a>(turn: &Turn<'a>, primary: &PrimaryView) -> impl Iterator<Item = &'a (Timeline, Lsn)> {
    let on = primary.timeline;
    turn.view.local.history.iter().filter(move |(timeline, _)| *timeline < on)
}

/// Whether the store shows just these.
fn history_stands(turn: &Turn<'_>, cluster: &Cluster, primary: &PrimaryView) -> bool {
    ancestors(turn, primary).copied().eq(cluster.history.iter().map(|row| (row.timeline, row.switch_lsn)))
}

/// The rows this server's history file gives, with time and leader kept from rows already there.
fn history_rows(turn: &Turn<'_>, cluster: &Cluster, primary: &PrimaryView) -> Vec<HistoryRow> {
    ancestors(turn, primary)
        .map(|(timeline, switch_lsn)| {
            let known = cluster.history.iter().find(|row| row.timeline == *timeline && row.switch_lsn == *switch_lsn);
            // The newest row is of the promotion that made this leader.
            let newest = turn.view.local.history.last().is_some_and(|(last, _)| last == timeline);
            let at = turn.view.local.history_at.clone().filter(|_| newest);
            known.cloned().unwrap_or_else(|| HistoryRow {
                timeline: *timeline,
                switch_lsn: *switch_lsn,
                reason: "no recovery target specified".to_owned(),
                new_leader: at.is_some().then(|| turn.me().clone()),
                at,
            })
        })
        .collect()
}

fn status(turn: &Turn<'_>, cluster: &Cluster, primary: &PrimaryView, lease: Lease) -> Option<Effect> {
    let due = turn.passed(turn.memory.status_written_at, turn.view.settings.loop_wait_ms);
    if !due || cluster.status.optime == Some(primary.flushed) {
        return None;
    }
    let slots = primary.standbys.iter().map(|standby| (standby.slot.clone(), standby.flushed)).collect();
    turn.write(Key::Status, Some(status_text(turn, cluster, primary.flushed, slots)), Expect::WeLead(lease))
}

/// The `status` that a leader leaves behind whose server ended in a shutdown checkpoint at `checkpoint`.
pub(super) fn last_status(turn: &Turn<'_>, checkpoint: Lsn) -> Option<String> {
    let cluster = turn.fresh()?;
    Some(status_text(turn, cluster, checkpoint, cluster.status.slots.clone()))
}

fn status_text(turn: &Turn<'_>, cluster: &Cluster, optime: Lsn, mut slots: BTreeMap<String, Lsn>) -> String {
    slots.insert(turn.me().slot_name(), optime);
    let slots: Map<String, Value> = slots.into_iter().map(|(slot, lsn)| (slot, json!(lsn.0))).collect();
    let mut value = json!({ "optime": optime.0, "slots": slots });
    if !cluster.status.retain_slots.is_empty() {
        value["retain_slots"] = json!(cluster.status.retain_slots);
    }
    value.to_string()
}
