//! I7: maintenance mode changes no role, and a fence without a deadline is known to whoever could take over after it.
//!
//! Why: operators pause a cluster to do things to it that would look like failures. A leader that goes on acknowledging without a lease is safe
//! only as long as nobody takes over by himself, in the pause and after it.
//! Source: architecture section 3 ("In pause"); lessons 15, 141, 142.

use crate::effect::Step;
use crate::sim::world::World;

/// How long what was begun before may take.
const UNDER_WAY_MS: u64 = 120_000;

/// The store names it before its fence loses the deadline.
pub(in crate::sim) fn told(world: &mut World, node: usize) -> Result<(), String> {
    let name = world.nodes[node].name.clone();
    if world.store.cluster().unbound.contains_key(&name) {
        return Ok(());
    }
    Err(format!("{name} goes on without a deadline, and the store does not know"))
}

/// Somebody has deleted what the store knows: whoever goes on without a lease, and cannot see that, is his to stop.
pub(in crate::sim) fn wiped(world: &mut World) {
    let unbound = |index: &usize| world.server(*index).is_some_and(|server| server.fence.unbound);
    let nodes: Vec<usize> = (0..world.nodes.len()).filter(unbound).collect();
    world.judge.overruled.extend(nodes);
}

/// Whether two open fences are an operator's doing.
pub(in crate::sim) fn is_overruled(world: &World, node: usize) -> bool {
    world.judge.overruled.contains(&node) && world.server(node).is_some_and(|server| server.fence.unbound)
}

/// Nothing that this system does by itself starts, stops or replaces a server.
pub(in crate::sim) fn leaves_alone(world: &mut World, node: usize, step: &Step) -> Result<(), String> {
    // What is left of a server that has ended is no server, and one that hangs is told to stop again and again.
    let clears = matches!(step, Step::ClearLeftover | Step::EndStragglers);
    let server = world.server(node).map(|server| (node, server.life));
    let again =
        matches!(step, Step::Stop { .. }) && server.is_some_and(|server| world.judge.stopping.contains(&server));
    if clears || again {
        return Ok(());
    }
    if on_for_long(world, node) {
        return Err(told_off(world, node, &step.to_string()));
    }
    if matches!(step, Step::Stop { .. }) {
        world.judge.stopping.extend(server);
    }
    Ok(())
}

/// Nor is anybody promoted who was not named.
pub(in crate::sim) fn promotes_nobody(world: &mut World, node: usize) -> Result<(), String> {
    if on_for_long(world, node) { Err(told_off(world, node, "promotion")) } else { Ok(()) }
}

fn told_off(world: &World, node: usize, what: &str) -> String {
    format!("{}: {what} in maintenance mode", world.nodes[node].name)
}

/// This node knows of maintenance mode, and whatever was under way when it began, or was asked for by an operator since, is over.
fn on_for_long(world: &mut World, node: usize) -> bool {
    let asked = world.judge.named.map(|(_, at)| at);
    let since = world.judge.paused_since.max(asked);
    let over = since.is_some_and(|at| world.now.saturating_sub(at) > UNDER_WAY_MS);
    let pending = world
        .store
        .cluster()
        .failover
        .as_ref()
        .is_some_and(|request| request.value.member.is_some() && request.value.is_for_now());
    world.paused() && world.nodes[node].kept_pause && over && !pending
}
