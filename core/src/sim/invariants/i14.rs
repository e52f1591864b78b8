//! I14: a planned hand-over in place costs nobody anything: no acknowledged commit is lost, none is cut off under way, the candidate goes on
//! exactly where the old leader ended, and that follows without a rewind.
//!
//! Why: that is what it is for. Whatever goes wrong meanwhile may cost a rewind; nothing but that may.
//! Source: architecture section 4 ("Planned switchover"); postgres-internals.md ("freeze").

use crate::effect::Step;
use crate::local::{ControlState, Seal};
use crate::seat::LeaveReason;
use crate::sim::judge::{HandedOver, Judge};
use crate::sim::node::Phase;
use crate::sim::wal::{BranchId, Position};
use crate::sim::world::World;

/// How long before the release nothing may have gone wrong for the hand-over to be held to its promise.
const QUIET_MS: u64 = 5000;
/// For how long it is.
const LASTS_MS: u64 = 60_000;

/// The worker is about to go.
pub(in crate::sim) fn nothing_cut_off(world: &World, node: usize, reason: &LeaveReason) -> Result<(), String> {
    let here = &world.nodes[node];
    let Some(server) = &here.server else { return Ok(()) };
    if server.phase != Phase::Primary {
        return Ok(());
    }
    let parked = here.disk.data().is_some_and(|data| data.standby_signal && data.mark);
    if !parked {
        return Err(format!("{} is demoted in place without being prepared", here.name));
    }
    let under_way = server.passing.len() + server.unseen.len();
    if *reason == LeaveReason::Switchover && under_way > 0 {
        return Err(format!("{} cuts off {under_way} commits in a planned hand-over", here.name));
    }
    Ok(())
}

/// The request to release was carried out.
pub(in crate::sim) fn announce(world: &mut World, node: usize) -> Option<HandedOver> {
    let released = world.store.cluster().released.clone()?;
    let candidate = released.candidate.as_ref()?;
    let candidate = world.nodes.iter().position(|other| other.name == *candidate)?;
    // A server that died between the request and its arrival recovers by itself, and may write behind the end.
    world.nodes[node].server.as_ref().filter(|server| server.phase == Phase::Primary)?;
    let branch = world.nodes[node].disk.data()?.at.branch;
    Some(HandedOver { node, candidate, end: Position { branch, lsn: released.end? }, at: world.now, over: false })
}

/// The same of a server that was stopped for it, the old way.
pub(in crate::sim) fn announce_stopped(world: &mut World, node: usize) -> Option<HandedOver> {
    let candidate = world.store.cluster().released.clone()?.candidate?;
    let candidate = world.nodes.iter().position(|other| other.name == candidate)?;
    let data = world.nodes[node].disk.data().filter(|data| data.state == ControlState::ShutDown)?;
    world.nodes[node].server.is_none().then_some(HandedOver {
        node,
        candidate,
        end: data.at,
        at: world.now,
        over: false,
    })
}

pub(in crate::sim) fn log_has_ended(world: &World, over: &HandedOver) -> Result<(), String> {
    let here = &world.nodes[over.node];
    let Some(server) = here.server.as_ref().filter(|server| server.phase == Phase::Primary) else { return Ok(()) };
    if server.seal != (Seal::Frozen { at: over.end.lsn }) {
        return Err(format!("{} hands over while its log goes on", here.name));
    }
    let has_it = world.nodes[over.candidate].disk.data().is_some_and(|data| world.wal.contains(data.at, over.end));
    if has_it || !calm(world, over.candidate, over) {
        return Ok(());
    }
    Err(format!("{} hands over to {}, which lacks the end of its log", here.name, world.nodes[over.candidate].name))
}

fn calm(world: &World, node: usize, over: &HandedOver) -> bool {
    let here = &world.nodes[node];
    // One that an operator promotes by hand meanwhile goes on where he says.
    here.troubled_at.max(here.mistaken_at) + QUIET_MS <= over.at && here.up && here.frozen.is_empty()
}

/// Nothing went wrong with the old leader for as long before it as after it.
pub(in crate::sim) fn stayed_calm(world: &World, over: &HandedOver) -> bool {
    calm(world, over.node, over)
}

fn held_to(world: &World, over: &HandedOver) -> bool {
    world.now - over.at <= LASTS_MS && calm(world, over.node, over) && calm(world, over.candidate, over)
}

/// Somebody was promoted, and the acknowledged commits in `lost` were not part of its WAL. What the old leader never had (another that an
/// operator had passed over acknowledged it) is not for it to hand over.
pub(in crate::sim) fn goes_on_there(
    world: &World,
    winner: usize,
    from: Position,
    lost: &[Position],
) -> Result<(), String> {
    let Judge { handed_over, stopped_for, .. } = &world.judge;
    let undone = |over: &&HandedOver| !over.over && winner == over.candidate && held_to(world, over);
    let in_place = handed_over.as_ref().filter(undone);
    let Some(over) = in_place.or(stopped_for.as_ref().filter(undone)) else { return Ok(()) };
    let had = |commit: &&Position| commit.branch == over.end.branch || world.wal.contains(over.end, **commit);
    let lost = lost.iter().filter(had).count();
    if lost > 0 {
        return Err(format!("a planned hand-over lost {lost} commits"));
    }
    if in_place.is_some() && from != over.end {
        return Err(format!("the candidate went on at {} and not at {}", from.lsn, over.end.lsn));
    }
    Ok(())
}

/// Whether somebody promoted a server by hand since, and this branch comes of that: what that costs is not the hand-over's fault.
fn by_hand_since(world: &World, branch: BranchId, over: &HandedOver) -> bool {
    let line =
        |branch| std::iter::successors(Some(branch), |at| world.wal.branch(*at).parent.map(|(parent, _)| parent));
    let before: Vec<BranchId> = line(over.end.branch).collect();
    line(branch).any(|made| world.judge.made_by_hand.contains(&made) && !before.contains(&made))
}

/// A step on a stopped server begins.
pub(in crate::sim) fn needs_no_mending(world: &World, node: usize, step: &Step) -> Result<(), String> {
    let Some(over) = world.judge.handed_over.filter(|over| over.node == node && held_to(world, over)) else {
        return Ok(());
    };
    let (Step::Rewind { from } | Step::BaseBackup { from }) = step else { return Ok(()) };
    let source = world.nodes.iter().position(|other| other.name == from.name);
    let branches = [Some(node), source].into_iter().flatten().filter_map(|index| world.nodes[index].disk.data());
    if branches.map(|data| data.at.branch).any(|branch| by_hand_since(world, branch, &over)) {
        return Ok(());
    }
    let went_on = world
        .wal
        .branches()
        .iter()
        .any(|branch| branch.owner == over.candidate && branch.parent == Some((over.end.branch, over.end.lsn)));
    if went_on {
        return Err(format!("{} needs {step} after a planned hand-over in place", world.nodes[node].name));
    }
    Ok(())
}
