//! I11: a timeline has exactly one owner.
//!
//! Why: two servers that make the same timeline write equal history files with different WAL behind them. Every later
//! check of divergence compares numbers and switch points and would call them the same.
//! Source: architecture section 4 ("claim the timeline") and section 9.

use crate::dcs::Key;
use crate::sim::wal::BranchId;
use crate::sim::world::World;

pub(in crate::sim) fn one_owner(world: &World, node: usize, branch: BranchId) -> Result<(), String> {
    if world.judge.claims_wiped {
        return Ok(());
    }
    let here = &world.nodes[node];
    let made = world.wal.branch(branch);
    let twin = world.wal.branches()[..branch].iter().find(|b| (b.system, b.timeline) == (made.system, made.timeline));
    if let Some(twin) = twin {
        let first = &world.nodes[twin.owner].name;
        return Err(format!("{} made timeline {}, which {first} had made already", here.name, made.timeline));
    }
    let path = Key::TimelineClaim(made.timeline).path();
    let claim: Option<crate::cluster::TimelineClaim> =
        world.store.key(&path).and_then(|key| serde_json::from_str(&key.value).ok());
    if claim.is_none_or(|claim| claim.node != here.name) {
        return Err(format!("{} made timeline {}, which it had not claimed", here.name, made.timeline));
    }
    Ok(())
}
