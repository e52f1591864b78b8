//! The judge: sees every event, knows true time and the true contents of the store, and decides whether an
//! invariant is broken. What each invariant says is in its own file under `invariants`.

use super::event::Who;
use super::invariants::{i01, i02, i03, i05, i06, i07, i08, i09, i11, i12, i13, i14, i16, i17, paused};
use super::wal::{BranchId, Position};
use super::world::World;
use crate::clock::{Millis, Tick};
use crate::cluster::LeaderKey;
use crate::dcs::{KeyEdit, RawKey};
use crate::effect::Step;
use crate::ids::{LeaseId, Timeline};
use crate::lease::Lease;
use crate::memory::{Memory, Stage};
use crate::seat::LeaveReason;
use std::collections::BTreeMap;

/// A broken invariant.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) invariant: &'static str,
    pub(super) text: String,
    pub(super) at: u64,
}

/// A commit that a client was told is safe.
#[derive(Clone, Debug)]
pub(super) struct Ack {
    pub(super) node: usize,
    pub(super) position: Position,
    /// Its client did not wait for the flush.
    pub(super) asynchronous: bool,
    /// By the node's clock.
    pub(super) flushed_at: Tick,
}

/// How far everybody was when the leader key went away.
#[derive(Clone, Debug)]
pub(super) struct Vanished {
    pub(super) at: u64,
    /// Of every node that was a consistent standby then.
    pub(super) standbys: Vec<Option<Position>>,
    /// Branches made by hand beside a leader that nobody had been told of.
    pub(super) untold: Vec<BranchId>,
}

/// A planned hand-over, as it was announced.
#[derive(Clone, Copy, Debug)]
pub(super) struct HandedOver {
    pub(super) node: usize,
    pub(super) candidate: usize,
    pub(super) end: Position,
    pub(super) at: u64,
    /// Somebody was promoted since.
    pub(super) over: bool,
}

#[derive(Debug, Default)]
// Independent facts, not a state.
#[allow(clippy::struct_excessive_bools)]
pub(super) struct Judge {
    pub(super) violation: Option<Broken>,
    /// By branch, in order of position.
    pub(super) acks: BTreeMap<BranchId, Vec<Ack>>,
    pub(super) acks_total: u64,
    pub(super) lost_total: u64,
    /// Commits acknowledged after a lease was over, by a machine that could not know of its pause yet.
    pub(super) stale_total: u64,
    /// Commits that went with the memory of a server before they were flushed, as their clients had accepted.
    pub(super) unflushed_total: u64,
    pub(super) vanished: Option<Vanished>,
    /// Nodes that gave the leader key up and have not had it again.
    pub(super) released: Vec<(usize, LeaseId)>,
    /// The last candidate an operator named, and when.
    pub(super) named: Option<(usize, u64)>,
    /// Maintenance mode, by the store.
    pub(super) paused_since: Option<u64>,
    /// Nodes that could acknowledge without a lease when an operator deleted what the store knew of that.
    pub(super) overruled: std::collections::BTreeSet<usize>,
    /// Branches that operators made with `pg_ctl promote`.
    pub(super) made_by_hand: std::collections::BTreeSet<BranchId>,
    /// Branches whose makers did not hold the leader key any more when they had made them.
    pub(super) outrun: std::collections::BTreeSet<BranchId>,
    /// Those made by hand that were made while another led, by mistake, and when.
    pub(super) beside_leader: BTreeMap<BranchId, u64>,
    /// Those made by hand while nobody led, nor has since: whoever made them wants them to lead.
    pub(super) wanted: std::collections::BTreeSet<BranchId>,
    /// Servers (by node and life) that are being stopped, from before maintenance mode or for an operator.
    pub(super) stopping: std::collections::BTreeSet<(usize, u64)>,
    /// Who has promised whom to stay away from the leader key, and until when by true time; what a node forgets counts all the same.
    pub(super) promises: BTreeMap<(usize, usize), u64>,
    pub(super) extensions: u64,
    /// Nodes that led, and could count on the list of failsafe mode, when an operator deleted or changed it, and have neither written it anew
    /// nor taken the leader key again since: whoever is not on the list that is there cannot know of them.
    pub(super) unprotected: std::collections::BTreeSet<usize>,
    /// The operator named whom he had promoted by hand.
    pub(super) stalemate_ended: bool,
    /// Claims that operators took away, by timeline and owner.
    pub(super) claims_taken: BTreeMap<(Timeline, usize), i11::Taken>,
    /// And a timeline was made twice after that: who owns what can no longer be known.
    pub(super) made_twice: bool,
    /// A leader's data was lost, and nobody has led since: what is left may be too old for anybody to lead with.
    pub(super) leader_data_lost: bool,
    /// An operator puts keys back just now: whose name stands in the leader key has not taken it.
    pub(super) put_back: bool,
    /// An operator deleted `initialize`: another cluster may be founded.
    pub(super) initialize_wiped: bool,
    /// The last hand-over in place, and the last by a server that was stopped for it.
    pub(super) handed_over: Option<HandedOver>,
    pub(super) stopped_for: Option<HandedOver>,
    /// What is scheduled.
    pub(super) appointments: i17::Appointments,
    /// How many there were, and how many demotions in place without one.
    pub(super) handovers: u64,
    pub(super) demotions_in_place: u64,
    pub(super) failovers: u64,
    pub(super) promotions: u64,
    pub(super) newest_history: Timeline,
    /// Who took writes last, since when nobody does, and how long it took each time until another did.
    pub(super) writer: Option<usize>,
    pub(super) nobody_since: Option<u64>,
    pub(super) failover_ms: Vec<u64>,
    pub(super) settled_since: Option<u64>,
    pub(super) settled_after: Option<u64>,
}

impl Judge {
    pub(super) fn report(&mut self, invariant: &'static str, text: String) {
        if self.violation.is_none() {
            self.violation = Some(Broken { invariant, text, at: 0 });
        }
    }

    fn takes_writes(&mut self, writer: Option<usize>, now: u64) {
        match writer {
            None if self.writer.is_some() => {
                self.nobody_since.get_or_insert(now);
            }
            None => {}
            Some(_) if self.writer == writer => self.nobody_since = None,
            Some(_) => {
                self.failover_ms.extend(self.nobody_since.take().map(|since| now - since));
                self.writer = writer;
            }
        }
    }

    pub(super) fn verdict(&mut self, invariant: &'static str, result: Result<(), String>) {
        if let Err(text) = result {
            self.report(invariant, text);
        }
    }
}

pub(super) fn after_every_event(world: &mut World) {
    match i01::one_open_fence(world) {
        Ok(writer) => world.judge.takes_writes(writer, world.now),
        Err(text) => world.judge.report("I1", text),
    }
    let stays_out = i08::stays_out(world);
    world.judge.verdict("I8", stays_out);
    let now = world.now;
    if let Some(broken) = &mut world.judge.violation
        && broken.at == 0
    {
        broken.at = now;
        let text = format!("*** {} is broken: {}", broken.invariant, broken.text);
        world.log.line(now, "judge", &text);
    }
}

/// A fence was opened, or its deadline moved.
pub(super) fn deadline_stored(world: &mut World, node: usize) {
    let result = i02::deadline_within_lease(world, node);
    world.judge.verdict("I2", result);
}

pub(super) fn fence_opens(world: &mut World, node: usize) {
    // Whatever was lost before: somebody leads with what is left.
    world.judge.leader_data_lost = false;
    leads(world, node);
    let result = i16::is_watched(world, node, "opens its fence");
    world.judge.verdict("I16", result);
}

/// A node told a leader that it stays away from the leader key.
pub(super) fn promised(world: &mut World, node: usize, to: usize, lasts: Millis) {
    let until = world.nodes[node].clock.true_time(world.local(node) + lasts);
    // One that was given while the `ttl` was longer lasts.
    let known = world.judge.promises.entry((node, to)).or_default();
    *known = until.max(*known);
}

/// A fence stays open by promises.
pub(super) fn extended(world: &mut World, node: usize) {
    let result = i02::promised_by_all(world, node);
    world.judge.verdict("I2", result);
    world.judge.extensions += 1;
}

/// A fence has no deadline any more.
pub(super) fn unbound(world: &mut World, node: usize) {
    let result = i07::told(world, node);
    world.judge.verdict("I7", result);
}

pub(super) fn acknowledged(world: &mut World, ack: &Ack) {
    let result = i02::flushed_before_deadline(world, ack);
    world.judge.verdict("I2", result);
    world.judge.acks_total += 1;
    if paused::is_excused(world, ack.node) {
        world.judge.stale_total += 1;
        return;
    }
    world.judge.acks.entry(ack.position.branch).or_default().push(ack.clone());
}

/// The memory of a server is gone. Who did not wait for a flush may lose by a crash what was only there.
pub(super) fn memory_lost(world: &mut World, node: usize, crash: bool) {
    let gone = i05::gone_with_memory(world, node);
    let result = i05::nothing_lost_with_memory(world, node, &gone, crash);
    world.judge.verdict("I5", result);
    world.judge.unflushed_total += gone.len() as u64;
}

pub(super) fn promoting(world: &mut World, node: usize, lease: &Lease, timeline: Timeline) {
    world.judge.promotions += 1;
    let result = i03::may_promote(world, node, lease, timeline);
    world.judge.verdict("I3", result);
    let result = i07::promotes_nobody(world, node);
    world.judge.verdict("I7", result);
    let result = i16::is_watched(world, node, "promotes");
    world.judge.verdict("I16", result);
}

/// A watchdog was armed or fed.
pub(super) fn watchdog_fed(world: &mut World, who: Who) {
    let result = i16::resets_in_time(world, who);
    world.judge.verdict("I16", result);
}

pub(super) fn watchdog_stopped(world: &mut World, node: usize) {
    let result = i16::nothing_can_write(world, node);
    world.judge.verdict("I16", result);
}

pub(super) fn watchdog_resets(world: &mut World, node: usize) {
    let result = i16::had_to_reset(world, node);
    world.judge.verdict("I16", result);
}

pub(super) fn starting_as_primary(world: &mut World, node: usize, lease: &Lease) {
    let result = i03::may_start_as_primary(world, node, lease);
    world.judge.verdict("I3", result);
    let result = i16::is_watched(world, node, "starts as primary");
    world.judge.verdict("I16", result);
}

pub(super) fn branched(world: &mut World, node: usize, branch: BranchId, from: Position) {
    let result = i11::one_owner(world, node, branch);
    world.judge.verdict("I11", result);
    world.judge.failovers += 1;
    world.judge.outrun.insert(branch);
    let holds_key = world.store.leader().is_some_and(|leader| leader.name == world.nodes[node].name);
    let beside_leader = world.nodes[node].server.as_ref().is_some_and(|server| server.beside_leader);
    if beside_leader {
        world.judge.beside_leader.insert(branch, world.now);
    } else if world.judge.made_by_hand.contains(&branch) {
        world.judge.wanted.insert(branch);
    }
    if holds_key {
        leads_by(world, node, branch, from);
    }
}

/// The cluster goes on along this branch, which its owner made from there on: what is not part of it is lost. A promotion that outlasts its
/// lease, as in a machine that was paused, makes a branch that nobody follows, and so does one by hand: it is judged only if its owner leads or
/// acknowledges after all, by what is lost then.
fn leads_by(world: &mut World, node: usize, branch: BranchId, from: Position) {
    if !world.judge.outrun.remove(&branch) {
        return;
    }
    let lost = i05::goes_on_from(world, node, branch, from);
    let result = i14::goes_on_there(world, node, from, &lost);
    world.judge.verdict("I14", result);
    let Judge { handed_over, stopped_for, .. } = &mut world.judge;
    for over in [handed_over, stopped_for].into_iter().flatten() {
        over.over = true;
    }
}

/// A node leads, or may acknowledge, with what it has.
fn leads(world: &mut World, node: usize) {
    let Some(at) = world.nodes[node].disk.data().map(|data| data.at) else { return };
    if let Some((parent, lsn)) = world.wal.branch(at.branch).parent {
        leads_by(world, node, at.branch, Position { branch: parent, lsn });
    }
}

pub(super) fn released(world: &mut World, node: usize, lease: &Lease) {
    let result = i08::released_when_fenced(world, node);
    world.judge.verdict("I8", result);
    world.judge.released.push((node, lease.id));
    world.judge.stopped_for = i14::announce_stopped(world, node);
    if let Some(over) = i14::announce(world, node) {
        let result = i14::log_has_ended(world, &over);
        world.judge.verdict("I14", result);
        world.judge.handovers += 1;
        world.judge.handed_over = Some(over);
    }
}

/// The leader key is to be given to a candidate while the server is up. Before it arrives the supervisor may die.
pub(super) fn handing_over(world: &mut World, node: usize) {
    let now = world.local(node);
    let stage = &world.nodes[node].worker.memory.stage;
    // What is sent once more says nothing new.
    if matches!(stage, Stage::HandingOver { since, .. } if *since == now) {
        let result = i12::nothing_waits(world, node);
        world.judge.verdict("I12", result);
    }
}

/// A server goes on as a standby in the same postmaster.
pub(super) fn demoting_in_place(world: &mut World, node: usize, reason: &LeaveReason) {
    world.judge.demotions_in_place += 1;
    if *reason == LeaveReason::Switchover {
        let result = i12::nothing_waits(world, node);
        world.judge.verdict("I12", result);
    }
    let result = i14::nothing_cut_off(world, node, reason);
    world.judge.verdict("I14", result);
}

/// Recovery is about to end.
pub(super) fn came_up(world: &mut World, node: usize) {
    let result = i13::recovers_all(world, node);
    world.judge.verdict("I13", result);
}

pub(super) fn reads_begin(world: &mut World, node: usize) {
    let result = i13::withheld(world, node);
    world.judge.verdict("I13", result);
}

pub(super) fn reads_served(world: &mut World, node: usize) {
    let result = i13::compared(world, node);
    world.judge.verdict("I13", result);
}

pub(super) fn step_begins(world: &mut World, node: usize, step: &Step) {
    let result = i14::needs_no_mending(world, node, step);
    world.judge.verdict("I14", result);
    let result = i07::leaves_alone(world, node, step);
    world.judge.verdict("I7", result);
}

pub(super) fn leader_changed(world: &mut World, before: Option<&LeaderKey>, after: Option<&LeaderKey>) {
    if let Some(leader) = after.filter(|_| !world.judge.put_back) {
        let taker = world.nodes.iter().position(|node| node.name == leader.name);
        let moved = before.is_some_and(|before| before.created == leader.created && before.lease != leader.lease);
        if let Some(node) = taker.filter(|_| moved) {
            let result = i02::moved_lease_lasts(world, node);
            world.judge.verdict("I2", result);
        }
        world.judge.released.retain(|(node, _)| Some(*node) != taker);
        if before.is_none_or(|before| before.created != leader.created) {
            world.judge.unprotected.retain(|node| Some(*node) != taker);
        }
        let result = i01::taker_is_alone(world, taker);
        world.judge.verdict("I1", result);
        if let Some(taker) = taker {
            leads(world, taker);
        }
        if before.is_none_or(|before| before.created != leader.created) {
            world.judge.wanted.clear();
        }
    }
    if before.is_some() && before.map(|l| l.created) != after.map(|l| l.created) {
        let vanished = i05::snapshot(world);
        world.judge.vanished = Some(vanished);
    }
}

/// The initialize key was written.
pub(super) fn initialised(world: &mut World) {
    let result = i05::founded_once(world);
    world.judge.verdict("I5", result);
    i05::is_founded(world);
}

/// A node has written the list of failsafe mode.
pub(super) fn list_written(world: &mut World, node: usize) {
    world.judge.unprotected.remove(&node);
}

/// A node is about to write a key, having decided to.
pub(super) fn writes(world: &mut World, node: usize, edit: &KeyEdit) {
    let result = i17::in_time(world, node, edit);
    world.judge.verdict("I17", result);
}

/// A node has written the failover key.
pub(super) fn failover_written(world: &mut World, edit: &KeyEdit, before: Option<&RawKey>) {
    let result = i17::stood(world, edit, before);
    world.judge.verdict("I17", result);
}

/// A node has decided, and will remember this.
pub(super) fn decided(world: &mut World, node: usize, memory: &Memory) {
    let result = i17::decided(world, node, memory);
    world.judge.verdict("I17", result);
}

/// The history key was written.
pub(super) fn history_written(world: &mut World) {
    let result = i06::never_back(world);
    world.judge.verdict("I6", result);
}

/// Once a second after the faults have ended.
pub(super) fn liveness(world: &mut World) {
    if world.paused() {
        // As soon as whoever may acknowledge without a lease has taken that back.
        world.operator_pauses();
    }
    world.operator_ends_a_stalemate();
    let result = i09::settles(world);
    world.judge.verdict("I9", result);
    if !world.over {
        world.later(500, super::event::Event::Judge);
    }
}

/// Whether the supervisor or the worker of a node is frozen: such a node cannot be counted on.
pub(super) fn acts(world: &World, node: usize) -> bool {
    let here = &world.nodes[node];
    here.up && here.frozen.is_empty() && here.seat().is_some()
}
