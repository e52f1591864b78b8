//! I1: at most one node holds an unexpired lease with its leader key, and at most one node's fence is open at any
//! true time.
//!
//! Why: two open fences acknowledge two histories, and one of them will be thrown away (split brain). The first half is
//! the store's doing (one key), the second is ours: every deadline ends before the store lets somebody else take the key.
//! Source: architecture sections 3 and 9; lessons 1-3, 17.

use super::i07::is_overruled;
use super::paused::is_excused;
use crate::sim::world::World;

/// Whose it is. Checked after every event: opening is an event, and time alone only closes.
pub(in crate::sim) fn one_open_fence(world: &World) -> Result<Option<usize>, String> {
    let mut first: Option<usize> = None;
    for (index, node) in world.nodes.iter().enumerate() {
        let set = node.server.as_ref().is_some_and(|server| server.fence.deadline.0 > 0 || server.fence.unbound);
        let excused = || is_overruled(world, index) || is_unprotected(world, index) || is_excused(world, index);
        if !set || !node.fence_open(world.now) || excused() {
            continue;
        }
        if let Some(first) = first {
            let other = &world.nodes[first].name;
            return Err(format!("{other} and {} both acknowledge commits", node.name));
        }
        first = Some(index);
    }
    Ok(first)
}

/// Whoever takes the key finds every other fence closed.
pub(in crate::sim) fn taker_is_alone(world: &World, taker: Option<usize>) -> Result<(), String> {
    for (index, node) in world.nodes.iter().enumerate() {
        let excused = || is_overruled(world, index) || is_unprotected(world, index) || is_excused(world, index);
        if Some(index) != taker && node.fence_open(world.now) && !excused() {
            return Err(format!("the leader key changed hands while {} still acknowledges commits", node.name));
        }
    }
    Ok(())
}

/// Without the store, by promises of members whose list an operator deleted or changed since it was written down: nobody else can know of it.
fn is_unprotected(world: &World, node: usize) -> bool {
    world.judge.unprotected.contains(&node) && world.server(node).is_some_and(|server| server.fence.promised)
}
