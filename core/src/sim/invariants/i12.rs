//! I12: a planned change of role loses no WAL segment that the archive needs.
//!
//! Why: a standby does not archive (`archive_mode = on`), and may recycle what waits. A gap makes every later backup useless.
//! Source: architecture sections 4 and 9; lesson 45.

use crate::sim::in_place::finished;
use crate::sim::world::World;

/// A server that hands over in place, or goes on as a standby after it, without a supervisor that would see to the rest.
pub(in crate::sim) fn nothing_waits(world: &World, node: usize) -> Result<(), String> {
    let here = &world.nodes[node];
    let alone = !here.supervisor.alive && here.server.is_some() && !here.supervised;
    if alone && world.archive_waiting(node) {
        return Err(format!("{} hands over while WAL waits for its archiver", here.name));
    }
    Ok(())
}

/// At the end of a run: what the last hand-over left has come into the archive.
pub(in crate::sim) fn all_archived(world: &World) -> Option<String> {
    let over = world.judge.handed_over.filter(|over| super::i14::stayed_calm(world, over))?;
    let here = &world.nodes[over.node];
    let data = here.disk.data().filter(|data| world.wal.contains(data.at, over.end))?;
    let missing = world.params.archive_max_ms.is_some() && finished(over.end.lsn) > data.archived;
    missing.then(|| format!("WAL of {} from before its hand-over is not in the archive", here.name))
}
