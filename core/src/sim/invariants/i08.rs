//! I8: an old leader never serves as primary after it released the leader key.
//!
//! Why: from the release on another node may lead without waiting for any lease to end. The server must be unable to
//! acknowledge before the request to release is sent, not only after it was answered.
//! Source: architecture sections 2 ("seal before demote, demote before release") and 4; lesson 21.

use crate::sim::world::World;

pub(in crate::sim) fn released_when_fenced(world: &World, node: usize) -> Result<(), String> {
    let here = &world.nodes[node];
    if here.fence_open(world.now) {
        return Err(format!("{} released the leader key with its fence open", here.name));
    }
    Ok(())
}

/// Checked after every event, until the node has the key again.
pub(in crate::sim) fn stays_out(world: &World) -> Result<(), String> {
    for (node, _) in &world.judge.released {
        let here = &world.nodes[*node];
        if here.fence_open(world.now) {
            return Err(format!("{} acknowledges commits after it released the leader key", here.name));
        }
    }
    Ok(())
}
