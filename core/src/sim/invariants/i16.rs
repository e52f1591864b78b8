//! I16: a watchdog resets a machine whose leader hangs before another may lead, and no other machine.
//!
//! Why: a leader whose processes all hang does nothing about it any more. A device that is fed without the store's word, or stopped while
//! the server can still write, only looks like a safeguard; one that resets machines that are well is none that anybody keeps.
//! Source: architecture sections 1 and 4; lessons 137 to 139.

use crate::sim::event::{Frozen, Who};
use crate::sim::hang::Deaf;
use crate::sim::node::Phase;
use crate::sim::world::World;
use crate::view::Side;
use crate::watchdog::Mode;

/// Where one is required nothing becomes a primary without one that runs, and for no longer than it is to.
pub(in crate::sim) fn is_watched(world: &World, node: usize, what: &str) -> Result<(), String> {
    let here = &world.nodes[node];
    if world.params.settings.watchdog.mode != Mode::Required || here.settings.pause {
        return Ok(());
    }
    let name = &here.name;
    match &here.watchdog.live {
        Some(live) if live.set.timeout_ms <= live.set.asked_ms => Ok(()),
        Some(live) => Err(format!("{name} {what} with a watchdog that waits for {}", live.set.timeout_ms)),
        None => Err(format!("{name} {what} without a watchdog")),
    }
}

/// Fed by a confirmation: the machine is reset before anybody else may lead.
pub(in crate::sim) fn resets_in_time(world: &World, who: Who) -> Result<(), String> {
    let here = &world.nodes[who.node];
    let Some(live) = &here.watchdog.live else { return Ok(()) };
    if live.set.timeout_ms > live.set.asked_ms {
        // Where none is required, one that waits for too long is better than none; where one is, it is stopped before anything can write.
        return Ok(());
    }
    if world.process(who).watchdog.is_some_and(|running| running.stays) && nothing_can_write(world, who.node).is_ok() {
        return Ok(());
    }
    let Some(lease) = world.process(who).memory.lease else {
        return Err(format!("{} feeds its watchdog without a lease", here.name));
    };
    // A key that an operator deleted a moment ago cannot be known to be gone; its lease still keeps others out.
    let expires = world.store.expires(lease.id).unwrap_or_default();
    let until = expires.max(super::i02::promised_until(world, who.node).unwrap_or_default());
    if live.resets_at <= until || world.judge.unprotected.contains(&who.node) {
        return Ok(());
    }
    Err(format!(
        "{} feeds its watchdog, which resets it {} ms after another may lead",
        here.name,
        live.resets_at - until
    ))
}

/// Stopped, or fed on, only when nothing can write, or by maintenance mode.
pub(in crate::sim) fn nothing_can_write(world: &World, node: usize) -> Result<(), String> {
    let here = &world.nodes[node];
    let Some(server) = &here.server else { return Ok(()) };
    let quiet = match server.phase {
        Phase::Standby => !server.promoting,
        // In the crash cycle of a demotion in place the last child is gone once its stragglers are.
        Phase::Starting => here.disk.data().is_some_and(|data| data.standby_signal),
        Phase::Primary | Phase::Stopping | Phase::Leftover => false,
    };
    // Where an operator deletes the configuration, maintenance mode goes on as the node last knew it; a process that had not read it since it
    // began has not seen that.
    if quiet || here.settings.pause || here.kept_pause {
        return Ok(());
    }
    Err(format!("{} stops its watchdog although its server can write", here.name))
}

/// Nothing is wrong with the machine itself, nor has been for a while: whoever leads there had to give up in time.
pub(in crate::sim) fn had_to_reset(world: &World, node: usize) -> Result<(), String> {
    let here = &world.nodes[node];
    let Some(live) = &here.watchdog.live else { return Ok(()) };
    let frozen = [Frozen::Worker, Frozen::Main, Frozen::Supervisor, Frozen::Node];
    let hangs = frozen.into_iter().any(|what| here.is_frozen(what)) || world.is_deaf(node, Deaf::Interrupt);
    let held = |side| world.process(Who { node, side }).watchdog.is_some();
    let lost = !held(Side::Inside) && !held(Side::Outside);
    let recently = world.now.saturating_sub(here.hurt_at) < 2 * live.set.timeout_ms.0 + 5000;
    // A server that was stopped, or stops, while no supervisor ran: the one that has just come finds it so.
    let alone = !here.supervisor.alive || world.now.saturating_sub(here.supervised_at) < live.set.timeout_ms.0;
    if hangs || recently || lost || alone {
        return Ok(());
    }
    Err(format!("{} is reset by its watchdog although nothing is wrong with it", here.name))
}
