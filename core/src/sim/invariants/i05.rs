//! I5: with asynchronous replication, what is lost in a failover is at most what no reachable standby had flushed.
//!
//! Why: an acknowledged commit that some healthy, eligible standby has is still there to be saved. A winner that did not
//! ask, or asked while WAL was still arriving, would throw it away.
//! Source: architecture sections 4 ("Election") and 9; peers.md; lessons 1, 8.

use crate::dcs::Key;
use crate::sim::judge::{Ack, Vanished, acts};
use crate::sim::node::Phase;
use crate::sim::wal::{BranchId, Position};
use crate::sim::world::World;
use crate::watchdog::Mode;

/// A node counts as reachable only if nothing went wrong around it for this long before the leader key vanished.
const QUIET_BEFORE_MS: u64 = 20_000;
/// A failover that an operator asked for by name is his choice (lesson 6).
const NAMED_FOR_MS: u64 = 120_000;

/// How far every consistent standby is now. One without a member key is none that anybody could ask.
pub(in crate::sim) fn snapshot(world: &World) -> Vanished {
    let standbys = world.nodes.iter().map(|node| {
        world.store.key(&Key::Member(node.name.clone()).path())?;
        let server = node.server.as_ref()?;
        (server.phase == Phase::Standby && server.consistent).then(|| node.disk.data().map(|data| data.at)).flatten()
    });
    let claimed =
        |branch: &&BranchId| world.store.key(&Key::TimelineClaim(world.wal.branch(**branch).timeline).path()).is_some();
    let untold = world
        .judge
        .beside_leader
        .iter()
        .filter(|(branch, made_at)| !claimed(branch) && !told_in_time(world, **branch, **made_at));
    Vanished { at: world.now, standbys: standbys.collect(), untold: untold.map(|(branch, _)| *branch).collect() }
}

/// Whether the node that made `branch` by hand at that time has had the time to say so in the store.
fn told_in_time(world: &World, branch: BranchId, made_at: u64) -> bool {
    let owner = world.wal.branch(branch).owner;
    let node = &world.nodes[owner];
    let calm = acts(world, owner) && world.net.healthy(owner, world.net.store());
    // Its processes may have died before: what they had noticed has died with them.
    calm && node.troubled_at + QUIET_BEFORE_MS < made_at && made_at + 2 * node.settings.loop_wait_ms.0 < world.now
}

/// Somebody leads on a branch that begins at `from`: what is not part of that is lost.
pub(in crate::sim) fn goes_on_from(
    world: &mut World,
    winner: usize,
    branch: BranchId,
    from: Position,
) -> Vec<Position> {
    let lost = write_off(world, from);
    world.judge.lost_total += lost.len() as u64;
    let on = Position { branch, ..from };
    let result = nothing_reachable_is_lost(world, winner, on, &lost);
    world.judge.verdict("I5", result);
    let wal = &world.wal;
    // It is the cluster's from here on.
    world.judge.beside_leader.retain(|made, _| wal.end_seen_from(on, *made).is_none());
    lost
}

fn nothing_reachable_is_lost(world: &World, winner: usize, from: Position, lost: &[Position]) -> Result<(), String> {
    let Some(vanished) = &world.judge.vanished else { return Ok(()) };
    let named = world.judge.named.is_some_and(|(node, at)| node == winner && at + NAMED_FOR_MS > world.now);
    // Somebody promoted it where nobody led, and nobody has led since.
    let wanted = world.judge.wanted.iter().any(|branch| world.wal.end_seen_from(from, *branch).is_some());
    // Promoted by hand a moment before the leader was lost, or in the midst of trouble: no other server can know of it.
    let untold = vanished.untold.iter().any(|branch| world.wal.end_seen_from(from, *branch).is_some());
    // With claims deleted, two may go by one number.
    if lost.is_empty() || named || wanted || untold || world.judge.made_twice || troubled(world, winner, vanished.at) {
        return Ok(());
    }
    for (index, position) in vanished.standbys.iter().enumerate() {
        let Some(position) = position else { continue };
        let node = &world.nodes[index];
        let connected = world.net.healthy(index, winner) && world.net.healthy(index, world.net.store());
        // Without its member key for as long as a lease lasts, it cannot get at the store: the others stop waiting for it.
        let cut_off = world.store.key(&Key::Member(node.name.clone()).path()).is_none()
            && world.now - vanished.at >= node.settings.ttl_ms.0;
        // It has left the cluster: to lead it would lose whatever was acknowledged since.
        let left = world.judge.beside_leader.contains_key(&position.branch);
        let barred =
            left || cut_off || node.settings.tags.nofailover() || node.cannot_write || world.watchdog_bars(index);
        // Where a watchdog is required nobody leads without a supervisor: nothing could stop the device once the server is down.
        let alone = !node.supervisor.alive || node.supervised_at >= vanished.at;
        let barred = barred || alone && world.params.settings.watchdog.mode == Mode::Required;
        if index == winner || !connected || barred || troubled(world, index, vanished.at) {
            continue;
        }
        if let Some(saved) = lost.iter().find(|ack| world.wal.contains(*position, **ack)) {
            let winner = &world.nodes[winner].name;
            return Err(format!(
                "{winner} promoted at {} without a commit acknowledged at {} that {} had flushed",
                from.lsn, saved.lsn, node.name
            ));
        }
    }
    Ok(())
}

/// A cluster is founded: nothing may have been acknowledged in another one under the same name.
pub(in crate::sim) fn founded_once(world: &World) -> Result<(), String> {
    let Some(Ok(system)) = world.store.key("initialize").map(|key| key.value.parse::<u64>()) else { return Ok(()) };
    let elsewhere =
        |(branch, acks): (&usize, &Vec<Ack>)| !acks.is_empty() && world.wal.branch(*branch).system != system;
    if !world.judge.initialize_wiped && world.judge.acks.iter().any(elsewhere) {
        return Err(format!("cluster {system} was founded while commits were acknowledged in another"));
    }
    Ok(())
}

/// Once all data that there are anywhere are of the cluster that `initialize` names again, nobody founds another.
pub(in crate::sim) fn is_founded(world: &mut World) {
    let named = world.store.key("initialize").and_then(|key| key.value.parse::<u64>().ok());
    let mut systems = world.nodes.iter().filter_map(|node| node.disk.data().map(|data| data.system));
    if named.is_some() && systems.all(|system| Some(system) == named) {
        world.judge.initialize_wiped = false;
    }
}

/// Takes what is not part of the new leader's WAL off the books: it is judged once, when it is lost.
fn write_off(world: &mut World, from: Position) -> Vec<Position> {
    let mut lost = Vec::new();
    for (branch, acks) in &mut world.judge.acks {
        let end = world.wal.end_seen_from(from, *branch);
        let kept = |ack: &Ack| end.is_some_and(|end| ack.position.lsn <= end);
        lost.extend(acks.iter().filter(|ack| !kept(ack)).map(|ack| ack.position));
        acks.retain(kept);
    }
    lost
}

/// Takes what a server has acknowledged and not flushed off the books.
pub(in crate::sim) fn gone_with_memory(world: &mut World, node: usize) -> Vec<Ack> {
    let Some(data) = world.nodes[node].disk.data() else { return Vec::new() };
    let end = data.at;
    let Some(acks) = world.judge.acks.get_mut(&end.branch) else { return Vec::new() };
    let is_gone = |ack: &Ack| ack.node == node && ack.position.lsn > end.lsn;
    let gone = acks.iter().filter(|ack| is_gone(ack)).cloned().collect();
    acks.retain(|ack| !is_gone(ack));
    gone
}

/// Only a crash takes what was acknowledged, and only from who did not wait for the flush.
pub(in crate::sim) fn nothing_lost_with_memory(
    world: &World,
    node: usize,
    gone: &[Ack],
    crash: bool,
) -> Result<(), String> {
    let name = &world.nodes[node].name;
    if let Some(ack) = gone.iter().find(|ack| !ack.asynchronous) {
        return Err(format!("{name} acknowledged a commit at {} that it had to flush first", ack.position.lsn));
    }
    match gone {
        [first, ..] if !crash => Err(format!(
            "{name} lost {} commits, from {} on, that it had acknowledged and not flushed, and did not crash",
            gone.len(),
            first.position.lsn
        )),
        _ => Ok(()),
    }
}

fn troubled(world: &World, node: usize, vanished_at: u64) -> bool {
    let here = &world.nodes[node];
    let still_there =
        here.server.as_ref().is_some_and(|server| matches!(server.phase, Phase::Standby | Phase::Primary));
    !still_there || !acts(world, node) || here.troubled_at + QUIET_BEFORE_MS > vanished_at
}
