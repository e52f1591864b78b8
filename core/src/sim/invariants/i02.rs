//! I2: no commit whose record was flushed after the deadline is acknowledged, and no deadline lies after the end of the
//! lease as the store counts it.
//!
//! Why: after the lease's end another node may lead; what is acknowledged then exists on one branch only. The deadline
//! counts from when the keepalive was sent, which is before the store received it, and a margin covers clock rates.
//! Source: architecture section 3.

use crate::sim::judge::Ack;
use crate::sim::world::World;

pub(in crate::sim) fn deadline_within_lease(world: &World, node: usize) -> Result<(), String> {
    let here = &world.nodes[node];
    let Some(server) = &here.server else { return Ok(()) };
    let ends = here.clock.true_time(server.fence.deadline);
    if ends <= world.now {
        return Ok(());
    }
    let expires = server.fence.lease.and_then(|lease| world.store.expires(lease));
    match expires {
        Some(expires) if ends <= expires => Ok(()),
        Some(expires) => {
            Err(format!("{} may acknowledge {} ms longer than its lease lives", here.name, ends - expires))
        }
        None => Err(format!("{} may acknowledge on a lease that does not exist", here.name)),
    }
}

pub(in crate::sim) fn flushed_before_deadline(world: &World, ack: &Ack) -> Result<(), String> {
    let here = &world.nodes[ack.node];
    let Some(server) = &here.server else { return Ok(()) };
    if server.fence.unbound {
        // Maintenance mode: I7.
        return Ok(());
    }
    if ack.flushed_at >= server.fence.deadline {
        return Err(format!("{} acknowledged a commit that was flushed after its deadline", here.name));
    }
    let alive = server.fence.lease.and_then(|lease| world.store.expires(lease)).is_some_and(|ends| world.now <= ends);
    if !alive {
        return Err(format!("{} acknowledged a commit after its lease had ended in the store", here.name));
    }
    Ok(())
}
