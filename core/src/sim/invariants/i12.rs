//! I12: a planned change of role loses no WAL segment that the archive needs.
//!
//! Why: a standby does not archive (`archive_mode = on`), and may recycle what waits. A gap makes every later backup useless.
//! Source: architecture sections 4 and 9; lesson 45.

use crate::sim::world::World;

/// The release of a server that goes on in place.
pub(in crate::sim) fn nothing_waits(world: &World, node: usize) -> Result<(), String> {
    if world.server(node).is_some() && world.archive_waiting(node) {
        return Err(format!("{} hands over while WAL waits for its archiver", world.nodes[node].name));
    }
    Ok(())
}
