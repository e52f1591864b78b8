//! I11: a timeline has exactly one owner.
//!
//! Why: two servers that make the same timeline write equal history files with different WAL behind them. Every later
//! check of divergence compares numbers and switch points and would call them the same.
//! Source: architecture section 4 ("claim the timeline") and section 9.

use crate::cluster::TimelineClaim;
use crate::dcs::Key;
use crate::ids::{LeaseId, Timeline};
use crate::sim::event::Who;
use crate::sim::wal::BranchId;
use crate::sim::world::World;
use std::collections::BTreeMap;

/// A claim that an operator took away from its owner.
#[derive(Debug)]
pub(in crate::sim) struct Taken {
    at: u64,
    /// By which lease it was made.
    by: LeaseId,
    /// Nodes that had decided by a view of the store that showed it.
    known_to: Vec<usize>,
}

/// An operator has changed keys that were `before`: whose claims are gone, and who knows of them all the same?
pub(in crate::sim) fn claims_changed(world: &mut World, before: &BTreeMap<String, String>) {
    for (path, text) in before {
        let timeline = path.strip_prefix("ha_ext/timeline/").and_then(|timeline| timeline.parse().ok().map(Timeline));
        let stands = world.store.key(path).is_some_and(|key| key.value == *text);
        let claim = serde_json::from_str::<TimelineClaim>(text).ok().filter(|_| !stands);
        let (Some(timeline), Some(claim)) = (timeline, claim) else { continue };
        let Some(owner) = world.nodes.iter().position(|node| node.name == claim.node) else { continue };
        let knows = |node: &usize| {
            let seat = world.nodes[*node].seat().filter(|_| world.nodes[*node].up);
            let decided_by = seat.and_then(|side| world.process(Who { node: *node, side }).decided_by.as_ref());
            decided_by.is_some_and(|cluster| cluster.claims.get(&timeline).is_some_and(|known| known.value == claim))
        };
        let known_to = (0..world.nodes.len()).filter(knows).collect();
        world.judge.claims_taken.insert((timeline, owner), Taken { at: world.now, by: claim.nonce, known_to });
    }
}

/// Whether an operator took away what `node` had claimed by this lease.
pub(in crate::sim) fn was_claimed(world: &World, node: usize, timeline: Timeline, lease: LeaseId) -> bool {
    world.judge.claims_taken.get(&(timeline, node)).is_some_and(|taken| taken.by == lease)
}

/// A node has claimed a timeline, perhaps once more.
pub(in crate::sim) fn claimed(world: &mut World, node: usize, timeline: Timeline) {
    world.judge.claims_taken.remove(&(timeline, node));
}

/// Whether an operator took away the claim by which `owner` made `timeline`, and `node` had not seen it, or may have forgotten.
fn cannot_know(world: &World, node: usize, timeline: Timeline, owner: usize) -> bool {
    world.judge.claims_taken.get(&(timeline, owner)).is_some_and(|taken| {
        let knew = taken.known_to.contains(&node) && world.nodes[node].troubled_at <= taken.at;
        !knew
    })
}

pub(in crate::sim) fn one_owner(world: &mut World, node: usize, branch: BranchId) -> Result<(), String> {
    let here = &world.nodes[node];
    let made = world.wal.branch(branch);
    let by_hand = here.server.as_ref().is_some_and(|server| server.by_hand);
    let path = Key::TimelineClaim(made.timeline).path();
    let claim: Option<TimelineClaim> = world.store.key(&path).and_then(|key| serde_json::from_str(&key.value).ok());
    let taken = world.judge.claims_taken.contains_key(&(made.timeline, node));
    let claimed = taken || claim.is_some_and(|claim| claim.node == here.name);
    let twin =
        world.wal.branches()[..branch].iter().position(|b| (b.system, b.timeline) == (made.system, made.timeline));
    if by_hand {
        world.judge.made_by_hand.insert(branch);
    }
    match twin {
        // Promoted by hand where the store was not told in time, and another was elected: nobody can tell the two apart any more.
        Some(twin) if by_hand || claimed && world.judge.made_by_hand.contains(&twin) => {
            world.judge.made_twice = true;
            Ok(())
        }
        // Its claim was taken away before this node could see it.
        Some(twin) if claimed && cannot_know(world, node, made.timeline, world.wal.branch(twin).owner) => {
            world.judge.made_twice = true;
            Ok(())
        }
        Some(twin) => {
            let first = &world.nodes[world.wal.branch(twin).owner].name;
            Err(format!("{} made timeline {}, which {first} had made already", here.name, made.timeline))
        }
        // Claimed as soon as its worker sees it.
        None if claimed || by_hand => Ok(()),
        None => Err(format!("{} made timeline {}, which it had not claimed", here.name, made.timeline)),
    }
}
