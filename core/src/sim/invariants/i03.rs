//! I3: a node promotes only with a lease and only if it is eligible.
//!
//! Why: a promotion cannot be taken back. Without a lease it makes a second primary; of a node that may not lead, is not
//! consistent, or is behind the cluster's history it throws away what others have.
//! Source: architecture sections 4 and 9; lessons 2, 4, 9, 30.

use crate::dcs::Key;
use crate::ids::Timeline;
use crate::lease::Lease;
use crate::sim::node::Phase;
use crate::sim::world::World;

pub(in crate::sim) fn may_promote(world: &World, node: usize, lease: &Lease, timeline: Timeline) -> Result<(), String> {
    has_lease(world, node, lease, "promotes")?;
    let here = &world.nodes[node];
    if here.settings.tags.nofailover() {
        return Err(format!("{} promotes although its tags forbid it", here.name));
    }
    if here.cannot_write {
        return Err(format!("{} promotes although its disk cannot be written", here.name));
    }
    match &here.server {
        Some(server) if server.phase == Phase::Standby && server.consistent => {}
        // The server died or changed between the snapshot and now: the file has no effect.
        Some(server) if server.phase != Phase::Standby => return Ok(()),
        Some(_) => return Err(format!("{} promotes before it is consistent", here.name)),
        None => return Ok(()),
    }
    if super::i11::was_claimed(world, node, timeline, lease.id) {
        return Ok(());
    }
    let claim = world.store.key(&Key::TimelineClaim(timeline).path()).map(|key| key.value.clone()).unwrap_or_default();
    let claim: Option<crate::cluster::TimelineClaim> = serde_json::from_str(&claim).ok();
    if claim.is_none_or(|claim| claim.node != here.name) {
        return Err(format!("{} promotes to timeline {timeline}, which it has not claimed", here.name));
    }
    Ok(())
}

pub(in crate::sim) fn may_start_as_primary(world: &World, node: usize, lease: &Lease) -> Result<(), String> {
    let here = &world.nodes[node];
    // The step takes a while; the lease was judged when it began. It must not be somebody else's turn by then
    // with the fence open here, which I1 sees; here it is enough that the lease was once ours.
    if world.store.leader().is_some_and(|key| key.created == lease.leader_created && key.name != here.name) {
        return Err(format!("{} starts as primary on the lease of another", here.name));
    }
    Ok(())
}

fn has_lease(world: &World, node: usize, lease: &Lease, what: &str) -> Result<(), String> {
    let here = &world.nodes[node];
    if super::paused::lease_is_excused(world, node, lease) {
        return Ok(());
    }
    if world.store.expires(lease.id).is_none_or(|ends| ends <= world.now) {
        return Err(format!("{} {what} on a lease that has ended", here.name));
    }
    match world.store.leader() {
        Some(key) if key.name != here.name => {
            Err(format!("{} {what} while {} holds the leader key", here.name, key.name))
        }
        // A key that an operator deleted a moment ago cannot be known to be gone; its lease still keeps others out.
        Some(_) | None => Ok(()),
    }
}
