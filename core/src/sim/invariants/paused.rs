//! What a pause by a hypervisor excuses, and nothing more (`docs/clocks.md`, "A guest that is paused").
//!
//! The deadline stands still with the clock. So it lies later, by the length of the pause, than it would have: until the loop has seen a clock
//! that shows the pause, and for no longer than that length, the node cannot know that it is over.

use crate::lease::Lease;
use crate::sim::world::World;

/// When the deadline would have passed if the machine had not stood still.
pub(in crate::sim) fn deadline_without(world: &World, node: usize) -> u64 {
    let here = &world.nodes[node];
    let deadline = here.server.as_ref().map(|server| server.fence.deadline).unwrap_or_default();
    here.clock.true_time(deadline).saturating_sub(here.guest.late_by().0)
}

/// Whether this machine takes a lease that is over for one that is not only because of pauses that it cannot know of yet.
pub(in crate::sim) fn lease_is_excused(world: &World, node: usize, lease: &Lease) -> bool {
    let here = &world.nodes[node];
    let unnoticed = here.guest.unnoticed_since(lease.sent_at);
    let ends = here.clock.true_time(lease.deadline());
    unnoticed > 0 && world.now + unnoticed + 2 >= ends && world.now <= ends
}

/// Whether the fence is open only because of pauses that the node cannot know of yet.
pub(in crate::sim) fn is_excused(world: &World, node: usize) -> bool {
    let guest = &world.nodes[node].guest;
    if guest.is_paused() {
        return true;
    }
    if !guest.was_ever_paused() {
        return false;
    }
    let over = deadline_without(world, node);
    // A millisecond for each rounding of two clocks.
    world.now + 2 >= over && world.now <= over + guest.late_by().1
}
