//! I2: no commit whose record was flushed after the deadline is acknowledged, and no deadline lies after the end of the
//! lease as the store counts it.
//!
//! Why: after the lease's end another node may lead; what is acknowledged then exists on one branch only. The deadline
//! counts from when the keepalive was sent, which is before the store received it, and a margin covers clock rates.
//! In failsafe mode a deadline may lie later, but no later than every other member stays away from the leader key.
//! Source: architecture section 3.

use super::paused::{deadline_without, is_excused};
use crate::dcs::Key;
use crate::ids::{LeaseId, NodeName};
use crate::sim::event::Who;
use crate::sim::judge::Ack;
use crate::sim::world::World;
use crate::view::Side;
use std::collections::BTreeMap;

/// When the lease ends that keeps others from the leader key: the one on which our key hangs, which may have been moved to it, or else the one
/// that the fence counts on.
fn expires(world: &World, node: usize, counted_on: Option<LeaseId>) -> Option<u64> {
    let carries = world.store.leader().filter(|key| key.name == world.nodes[node].name).map(|key| key.lease);
    carries.or(counted_on).and_then(|lease| world.store.expires(lease))
}

/// The leader key was moved to another lease.
pub(in crate::sim) fn moved_lease_lasts(world: &World, node: usize) -> Result<(), String> {
    let open = world.server(node).map(|server| &server.fence).filter(|fence| fence.open);
    if open.is_none_or(|fence| fence.unbound || fence.promised || fence.deadline.0 == 0) || is_excused(world, node) {
        return Ok(());
    }
    deadline_within_lease(world, node)
}

pub(in crate::sim) fn deadline_within_lease(world: &World, node: usize) -> Result<(), String> {
    let here = &world.nodes[node];
    let Some(server) = &here.server else { return Ok(()) };
    let ends = deadline_without(world, node);
    if ends <= world.now {
        return Ok(());
    }
    match expires(world, node, server.fence.lease) {
        Some(expires) if ends <= expires => Ok(()),
        Some(expires) => {
            Err(format!("{} may acknowledge {} ms longer than its lease lives", here.name, ends - expires))
        }
        None => Err(format!("{} may acknowledge on a lease that does not exist", here.name)),
    }
}

/// A deadline beyond the lease: every other member that is written down stays away from the leader key until then.
pub(in crate::sim) fn promised_by_all(world: &World, node: usize) -> Result<(), String> {
    let here = &world.nodes[node];
    let Some(server) = &here.server else { return Ok(()) };
    let ends = deadline_without(world, node);
    let expires = expires(world, node, server.fence.lease);
    if ends <= world.now || expires.is_some_and(|expires| ends <= expires) || world.judge.unprotected.contains(&node) {
        return Ok(());
    }
    let Some(map) = written_down(world) else {
        return Err(format!("{} goes on without the store, and nobody is written down", here.name));
    };
    for (index, other) in world.nodes.iter().enumerate() {
        let promised = world.judge.promises.get(&(index, node)).copied().unwrap_or(0);
        if index != node && map.contains_key(&other.name) && promised < ends {
            let short = ends - promised.max(world.now);
            return Err(format!(
                "{} goes on without the store {short} ms longer than {} stays away",
                here.name, other.name
            ));
        }
    }
    Ok(())
}

/// An operator has deleted or changed the list: who leads may count on the one that was there.
pub(in crate::sim) fn list_changed(world: &mut World) {
    let counts_on_it = |node, side| world.process(Who { node, side }).memory.failsafe.written.is_some();
    let leads = |node: &usize| {
        world.nodes[*node].fence_open(world.now)
            || counts_on_it(*node, Side::Inside)
            || counts_on_it(*node, Side::Outside)
    };
    let nodes: Vec<usize> = (0..world.nodes.len()).filter(leads).collect();
    world.judge.unprotected.extend(nodes);
}

fn written_down(world: &World) -> Option<BTreeMap<NodeName, String>> {
    world.store.key(&Key::Failsafe.path()).and_then(|key| serde_json::from_str(&key.value).ok())
}

/// Until when every other member that is written down stays away from the leader key.
pub(in crate::sim) fn promised_until(world: &World, node: usize) -> Option<u64> {
    let map = written_down(world)?;
    let others =
        world.nodes.iter().enumerate().filter(|(index, other)| *index != node && map.contains_key(&other.name));
    others
        .map(|(index, _)| world.judge.promises.get(&(index, node)).copied().unwrap_or_default())
        .min()
        .or(Some(u64::MAX))
}

pub(in crate::sim) fn flushed_before_deadline(world: &World, ack: &Ack) -> Result<(), String> {
    let here = &world.nodes[ack.node];
    let Some(server) = &here.server else { return Ok(()) };
    if server.fence.unbound {
        // Maintenance mode: I7.
        return Ok(());
    }
    if ack.flushed_at >= server.fence.deadline {
        return Err(format!("{} acknowledged a commit that was flushed after its deadline", here.name));
    }
    let excused = is_excused(world, ack.node);
    if server.fence.promised && !excused {
        if world.now > deadline_without(world, ack.node) {
            return Err(format!("{} acknowledged a commit by promises that a pause had outlasted", here.name));
        }
        return promised_by_all(world, ack.node);
    }
    let alive = expires(world, ack.node, server.fence.lease).is_some_and(|ends| world.now <= ends);
    if !alive && !excused {
        return Err(format!("{} acknowledged a commit after its lease had ended in the store", here.name));
    }
    Ok(())
}
