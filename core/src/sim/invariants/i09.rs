//! I9: after faults heal, within a bound, there is exactly one leader and every healthy node follows it.
//!
//! Why: a cluster that is safe and never comes back is of no use. The bound is generous in units of the settings: a lease
//! must end, an election and a rewind or copy must run, and failed steps are tried once per loop.
//! Source: architecture section 9; style 1.5 (safety phase, then heal and require convergence).

use crate::sim::node::Phase;
use crate::sim::world::World;
use crate::view::Side;

/// Virtual time from healing until everybody must follow.
const BOUND_MS: u64 = 180_000;
/// How long the state must last.
const STAYS_MS: u64 = 6_000;

pub(in crate::sim) fn settles(world: &mut World) -> Result<(), String> {
    let Some(healed_at) = world.healed_at else { return Ok(()) };
    match unsettled(world) {
        None => {
            let since = *world.judge.settled_since.get_or_insert(world.now);
            if world.now - since >= STAYS_MS {
                world.judge.settled_after = Some(since - healed_at);
                world.over = true;
            }
            Ok(())
        }
        Some(why) => {
            world.judge.settled_since = None;
            if world.now - healed_at > BOUND_MS {
                return Err(format!("{} s after the last fault: {why}", BOUND_MS / 1000));
            }
            Ok(())
        }
    }
}

/// What is still missing.
fn unsettled(world: &World) -> Option<String> {
    let Some(key) = world.store.leader() else { return Some("there is no leader".to_owned()) };
    let Some(leader) = world.nodes.iter().position(|node| node.name == key.name) else {
        return Some(format!("{} leads, which is no node", key.name));
    };
    let primary = world.server(leader).is_some_and(|server| server.phase == Phase::Primary);
    if !primary || !world.nodes[leader].fence_open(world.now) {
        return Some(format!("{} holds the key but does not take writes", key.name));
    }
    (0..world.nodes.len()).filter(|node| *node != leader).find_map(|node| behind(world, node, leader))
}

fn behind(world: &World, node: usize, leader: usize) -> Option<String> {
    let here = &world.nodes[node];
    if excused(world, node) {
        return None;
    }
    let Some(server) = &here.server else { return Some(format!("{} is down", here.name)) };
    let streams = server.phase == Phase::Standby
        && server.consistent
        && server.receiver.as_ref().is_some_and(|receiver| receiver.to == leader);
    (!streams).then(|| format!("{} does not follow {}", here.name, world.nodes[leader].name))
}

/// A node that needs an operator: its data is damaged or has diverged, and its settings forbid to replace it.
fn excused(world: &World, node: usize) -> bool {
    use crate::rule::Rule;
    let here = &world.nodes[node];
    if here.settings.may_replace_data {
        return false;
    }
    let rule = match here.seat() {
        Some(Side::Inside) => here.worker.rule,
        Some(Side::Outside) => here.supervisor.rule,
        None => None,
    };
    matches!(
        rule,
        Some(Rule::RejoinImpossible | Rule::DataDamaged | Rule::StandbyDivergedWaiting | Rule::ForeignSystemId)
    )
}
