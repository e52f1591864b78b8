//! I11: a timeline has exactly one owner.
//!
//! Why: two servers that make the same timeline write equal history files with different WAL behind them. Every later
//! check of divergence compares numbers and switch points and would call them the same.
//! Source: architecture section 4 ("claim the timeline") and section 9.

use crate::dcs::Key;
use crate::sim::wal::BranchId;
use crate::sim::world::World;

pub(in crate::sim) fn one_owner(world: &mut World, node: usize, branch: BranchId) -> Result<(), String> {
    if world.judge.claims_wiped {
        return Ok(());
    }
    let here = &world.nodes[node];
    let made = world.wal.branch(branch);
    let by_hand = here.server.as_ref().is_some_and(|server| server.by_hand);
    let path = Key::TimelineClaim(made.timeline).path();
    let claim: Option<crate::cluster::TimelineClaim> =
        world.store.key(&path).and_then(|key| serde_json::from_str(&key.value).ok());
    let claimed = claim.is_some_and(|claim| claim.node == here.name);
    let twin =
        world.wal.branches()[..branch].iter().position(|b| (b.system, b.timeline) == (made.system, made.timeline));
    if by_hand {
        world.judge.made_by_hand.insert(branch);
    }
    match twin {
        // Promoted by hand where the store was not told in time, and another was elected: nobody can tell the two apart any more.
        Some(twin) if by_hand || claimed && world.judge.made_by_hand.contains(&twin) => {
            world.judge.claims_wiped = true;
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
