//! I6: timelines in the store's history never go back.
//!
//! Why: nodes decide by that history whether they diverged. A history that forgets a timeline would let an old primary
//! believe that it is still on the cluster's branch.
//! Source: architecture section 9; lessons 4, 39-41.

use crate::ids::Timeline;
use crate::sim::world::World;

pub(in crate::sim) fn never_back(world: &mut World) -> Result<(), String> {
    let newest = world.store.cluster().history_timeline().unwrap_or(Timeline(1));
    let before = world.judge.newest_history;
    world.judge.newest_history = newest;
    if newest < before && !world.judge.made_twice {
        return Err(format!("the history went back from timeline {before} to {newest}"));
    }
    Ok(())
}
