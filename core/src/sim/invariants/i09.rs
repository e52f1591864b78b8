//! I9: after faults heal, within a bound, there is exactly one leader and every healthy node follows it.
//!
//! Why: a cluster that is safe and never comes back is of no use. The bound is generous in units of the settings: a lease
//! must end, an election and a rewind or copy must run, and failed steps are tried once per loop.
//! Source: architecture section 9; style 1.5 (safety phase, then heal and require convergence).

use crate::rule::Rule;
use crate::sim::node::{DiskState, Node, Phase};
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
                state_of_all(world);
                return Err(format!("{} s after the last fault: {why}", BOUND_MS / 1000));
            }
            Ok(())
        }
    }
}

/// Everybody's state, for the log.
fn state_of_all(world: &mut World) {
    for index in 0..world.nodes.len() {
        let node = &world.nodes[index];
        let data = node.disk.data();
        let text = format!(
            "state: {:?} at {:?} timeline {:?} rule {} supervisor {} worker {} step {:?}",
            node.server.as_ref().map(|server| server.phase),
            data.map(|data| data.at),
            data.map(|data| world.wal.branch(data.at.branch).timeline),
            rule(node).map_or("none", Rule::code),
            node.supervisor.alive,
            node.worker.alive,
            node.step.as_ref().map(|running| &running.step),
        );
        world.say(index, &text);
    }
}

/// What is still missing.
fn unsettled(world: &World) -> Option<String> {
    let Some(key) = world.store.leader() else {
        return (!excuse_for_nobody(world)).then(|| "there is no leader".to_owned());
    };
    if mixed_up(world) {
        return None;
    }
    let Some(leader) = world.nodes.iter().position(|node| node.name == key.name) else {
        return Some(format!("{} leads, which is no node", key.name));
    };
    let primary = world.server(leader).is_some_and(|server| server.phase == Phase::Primary);
    if !primary || !world.nodes[leader].fence_open(world.now) {
        return Some(format!("{} holds the key but does not take writes", key.name));
    }
    if let Some(missing) = super::i12::all_archived(world).or_else(|| super::i17::left_over(world, leader)) {
        return Some(missing);
    }
    if world.nodes[leader].disk.data().is_some_and(|data| data.standby_signal || data.mark) {
        return Some(format!("{} leads, prepared for a demotion that nobody wants", key.name));
    }
    (0..world.nodes.len()).filter(|node| *node != leader).find_map(|node| behind(world, node, leader))
}

fn behind(world: &World, node: usize, leader: usize) -> Option<String> {
    let here = &world.nodes[node];
    if excused(world, node, leader) {
        return None;
    }
    let Some(server) = &here.server else { return Some(format!("{} is down", here.name)) };
    if server.withheld {
        return Some(format!("{} withholds reads", here.name));
    }
    let streams = server.phase == Phase::Standby
        && server.consistent
        && server.receiver.as_ref().is_some_and(|receiver| receiver.to == leader);
    let rule = rule(here).map_or("no rule", Rule::code);
    (!streams).then(|| format!("{} does not follow {} ({rule})", here.name, world.nodes[leader].name))
}

/// A node that needs an operator: its data is damaged or has diverged, and its settings forbid to replace it.
fn excused(world: &World, node: usize, leader: usize) -> bool {
    let here = &world.nodes[node];
    // An operator deleted `initialize`, and a node without data founded another cluster; or this node founded one
    // and died before it could take the key: nothing was ever acknowledged there, and an operator removes it.
    let system = |node: usize| world.nodes[node].disk.data().map(|data| data.system);
    let foreign = system(node).is_some_and(|own| Some(own) != system(leader));
    if foreign && (world.judge.initialize_wiped || !acknowledged_on(world, node)) {
        return true;
    }
    // An operator deleted claims, and a timeline was made twice: numbers no longer tell who diverged.
    let position = |node: usize| world.nodes[node].disk.data().map(|data| data.at);
    if let (true, Some(own), Some(leads)) = (world.judge.made_twice, position(node), position(leader))
        && !world.wal.contains(leads, own)
    {
        return true;
    }
    let rule = rule(here);
    // Whatever it is, it is not ours to replace.
    if rule == Some(Rule::DataDamaged) && matches!(here.disk.state, DiskState::Damaged { ours: false, .. }) {
        return true;
    }
    if here.settings.replace_after_failed_rewind && here.settings.replace_diverged {
        return false;
    }
    matches!(
        rule,
        Some(Rule::RejoinImpossible | Rule::DataDamaged | Rule::StandbyDivergedWaiting | Rule::ForeignSystemId)
    )
}

/// Reasons why nobody can lead that only an operator can remove.
fn excuse_for_nobody(world: &World) -> bool {
    // He deleted `initialize` while nobody led, or its founder died before anything was acknowledged: a replica never
    // founds a cluster (lesson 124).
    let waits = world.nodes.iter().any(|node| rule(node) == Some(Rule::ElectionNotInitialised));
    if waits && (world.judge.initialize_wiped || world.judge.acks_total == 0) {
        return true;
    }
    let too_old = |node: &Node| matches!(rule(node), Some(Rule::ElectionOldTimeline | Rule::ElectionLagging));
    if world.judge.leader_data_lost && world.nodes.iter().any(too_old) {
        return true;
    }
    // All that is left of the data is half a copy, or on nodes that may not lead: what an operator promoted by hand, or by name in maintenance
    // mode, may be on such nodes alone, and nobody else is elected over it.
    let timeline = |node: &Node| node.disk.data().map(|data| world.wal.branch(data.at.branch).timeline);
    let barred = |(index, node): &(usize, &Node)| node.settings.tags.nofailover() || world.watchdog_bars(*index);
    let out_of_reach = world.nodes.iter().enumerate().filter(barred).filter_map(|(_, node)| timeline(node)).max();
    let may_lead = |(index, node): (usize, &Node)| {
        if rule(node) == Some(Rule::ElectionOldTimeline) && timeline(node) < out_of_reach {
            return false;
        }
        let whole = node.disk.data().is_some_and(|data| data.at.lsn >= data.consistent_at);
        let ours = node.disk.data().map(|data| data.system.to_string());
        let foreign = world.store.key("initialize").is_some_and(|key| Some(&key.value) != ours.as_ref());
        whole && !foreign && !node.settings.tags.nofailover() && !world.watchdog_bars(index)
    };
    !world.nodes.iter().enumerate().any(may_lead) || mixed_up(world)
}

/// An operator deleted `initialize`, and there are two clusters under one name now.
fn mixed_up(world: &World) -> bool {
    let mut systems = world.nodes.iter().filter_map(|node| node.disk.data().map(|data| data.system));
    let first = systems.next();
    world.judge.initialize_wiped && systems.any(|system| Some(system) != first)
}

/// Whether any client was ever told that something is safe in this node's system.
fn acknowledged_on(world: &World, node: usize) -> bool {
    let Some(data) = world.nodes[node].disk.data() else { return false };
    world.judge.acks.iter().any(|(branch, acks)| !acks.is_empty() && world.wal.branch(*branch).system == data.system)
}

fn rule(node: &Node) -> Option<Rule> {
    match node.seat()? {
        Side::Inside => node.worker.rule,
        Side::Outside => node.supervisor.rule,
    }
}
