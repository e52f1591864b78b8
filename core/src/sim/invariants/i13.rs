//! I13: a former primary serves reads only once its WAL was compared with the leader's.
//!
//! Why: what it flushed after its lease may be on no other node. A session that reads it sees rows that will be gone.
//! Source: architecture section 4 ("Emergency demotion"); postgres-internals.md, pitfall B.

use crate::ids::{Lsn, Timeline};
use crate::local::ControlState;
use crate::sim::wal::{Branch, Position};
use crate::sim::world::World;

/// A standby is up.
pub(in crate::sim) fn withheld(world: &World, node: usize) -> Result<(), String> {
    let here = &world.nodes[node];
    let open = here.server.as_ref().is_some_and(|server| server.uncompared && !server.withheld);
    if open { Err(format!("{} serves reads from WAL that nobody has compared", here.name)) } else { Ok(()) }
}

/// Recovery that begins on the data of a running primary must replay all of it before it calls itself consistent, and nothing else.
pub(in crate::sim) fn recovers_all(world: &World, node: usize) -> Result<(), String> {
    let here = &world.nodes[node];
    let Some(data) = here.disk.data() else { return Ok(()) };
    let unclean = matches!(data.state, ControlState::InProduction | ControlState::InCrashRecovery);
    if !data.standby_signal || data.backup_label || !unclean {
        return Ok(());
    }
    if data.min_recovery > Lsn(0) {
        return Err(format!("{} calls itself consistent long before the end of its log", here.name));
    }
    let own = world.wal.branch(data.at.branch).timeline;
    if data.foreign_history.iter().any(|other| *other > own && cuts_off(world, data.at, *other)) {
        return Err(format!("{} recovers along a history that is not its own", here.name));
    }
    Ok(())
}

/// Whether recovery along the history of `other` would leave out the end of a log that ends `at`. One that ended before the new timeline
/// began, as after a hand-over, is part of it.
fn cuts_off(world: &World, at: Position, other: Timeline) -> bool {
    let begins_behind = |branch: &Branch| {
        branch.parent.is_some_and(|(parent, lsn)| world.wal.contains(Position { branch: parent, lsn }, at))
    };
    let mut made = world.wal.branches().iter().filter(|branch| branch.timeline == other).peekable();
    made.peek().is_none() || !made.all(begins_behind)
}

/// Reads are admitted: all of this WAL must be part of what another node has or left its mark on.
pub(in crate::sim) fn compared(world: &World, node: usize) -> Result<(), String> {
    let here = &world.nodes[node];
    let Some(at) = here.disk.data().map(|data| data.at) else { return Ok(()) };
    if world.judge.made_twice {
        // Numbers tell nothing any more.
        return Ok(());
    }
    let others = world.nodes.iter().enumerate().filter(|(index, _)| *index != node);
    let mut others = others.filter_map(|(_, other)| other.disk.data().map(|data| data.at));
    let forked = |branch: &Branch| {
        branch.owner != node
            && branch.parent.is_some_and(|(parent, lsn)| world.wal.contains(Position { branch: parent, lsn }, at))
    };
    if others.any(|other| world.wal.contains(other, at)) || world.wal.branches().iter().any(forked) {
        return Ok(());
    }
    Err(format!("{} serves reads up to {}, which nobody else has", here.name, at.lsn))
}
