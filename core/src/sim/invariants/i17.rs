//! I17: a scheduled switchover is asked for, and begun, by a leader whose clock says that its time has come, and not that it is long over, in no
//! maintenance mode, once, and only if it stands as it was then; commits are held for it no later than its preparation may take, and not
//! if maintenance mode has begun by then; and it is not left behind.
//!
//! Why: whoever chose a time has told others when their connections will end, and whoever was told that it is taken back relies on that.
//! Source: wire.md 1.7 and 3.3; lesson 148.

use crate::clock::Tick;
use crate::cluster::FailoverRequest;
use crate::dcs::{Expect, Key, KeyEdit, RawKey};
use crate::ids::Revision;
use crate::memory::{Memory, Stage};
use crate::sim::world::World;
use std::collections::BTreeMap;

/// How long after its time a schedule may stand: the store may just have come back, a leader just have been elected.
const LEFT_OVER_MS: i64 = 60_000;

/// How long a hand-over may be prepared before commits are held: candidates may catch up for a minute, and files take their time.
const PREPARED_MS: u64 = 85_000;

/// What operators have scheduled, by the revision at which it was written.
#[derive(Debug, Default)]
pub(in crate::sim) struct Appointments {
    /// The time of each.
    at_ms: BTreeMap<Revision, i64>,
    /// Those that were asked for at their time: the revision of the request for now, and of the schedule.
    asked: BTreeMap<Revision, Revision>,
    /// When a leader began with a request, by its clock.
    began: BTreeMap<(usize, Revision), Tick>,
}

impl Appointments {
    pub(in crate::sim) fn made(&mut self, revision: Revision, at_ms: i64) {
        self.at_ms.insert(revision, at_ms);
    }
}

fn is_due(edit: &KeyEdit) -> bool {
    let request = || serde_json::from_str::<FailoverRequest>(edit.value.as_deref()?).ok();
    edit.key == Key::Failover && request().is_some_and(|request| request.due.is_some())
}

/// How late a node says it is.
fn late_ms(world: &World, node: usize, at_ms: i64) -> i64 {
    world.wall_ms(node) - at_ms
}

fn too_late(world: &World, node: usize, at_ms: i64, prepared_ms: u64) -> bool {
    let loop_ms = world.nodes[node].settings.loop_wait_ms.0;
    late_ms(world, node, at_ms) > i64::try_from(loop_ms * 3 / 2 + prepared_ms).unwrap_or(i64::MAX)
}

/// A leader is about to ask for it.
pub(in crate::sim) fn in_time(world: &World, node: usize, edit: &KeyEdit) -> Result<(), String> {
    let name = &world.nodes[node].name;
    let newest = world.judge.appointments.at_ms.last_key_value().map(|(revision, _)| *revision);
    let revision = match &edit.expect {
        Expect::Unchanged(revision) => Some(*revision),
        _ => newest,
    };
    let at_ms = revision.and_then(|revision| world.judge.appointments.at_ms.get(&revision));
    let Some(at_ms) = at_ms.filter(|_| is_due(edit)) else { return Ok(()) };
    if late_ms(world, node, *at_ms) < 0 {
        return Err(format!("{name} asks for a switchover {} ms before its time", -late_ms(world, node, *at_ms)));
    }
    if too_late(world, node, *at_ms, 0) {
        return Err(format!("{name} asks for a switchover {} ms after its time", late_ms(world, node, *at_ms)));
    }
    if world.nodes[node].kept_pause {
        return Err(format!("{name} asks for a scheduled switchover in maintenance mode"));
    }
    Ok(())
}

/// It was asked for: `before` is what stood in the failover key.
pub(in crate::sim) fn stood(world: &mut World, edit: &KeyEdit, before: Option<&RawKey>) -> Result<(), String> {
    if !is_due(edit) {
        return Ok(());
    }
    let appointments = &mut world.judge.appointments;
    let revision = before.map(|key| key.modified).filter(|revision| appointments.at_ms.contains_key(revision));
    let Some(revision) = revision else {
        return Err("a switchover is asked for that was taken back, changed, or asked for before".to_owned());
    };
    appointments.asked.insert(world.store.revision(), revision);
    *world.faults.entry("scheduled switchover asked for").or_default() += 1;
    Ok(())
}

/// A hand-over begins, or is carried out.
pub(in crate::sim) fn decided(world: &mut World, node: usize, memory: &Memory) -> Result<(), String> {
    match &memory.stage {
        Stage::Preparing { request, since, .. } if *since == world.local(node) => begins(world, node, *request),
        Stage::Sealing { request, sealed_at: Some(_), .. } if !holds(&world.nodes[node].worker.memory) => {
            carried_out(world, node, *request)
        }
        Stage::Demoting { candidate: Some(_), since, .. } if *since == world.local(node) => {
            match world.nodes[node].worker.memory.stage {
                Stage::Preparing { request, .. } => carried_out(world, node, request),
                _ => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

/// Commits were held before this decision.
fn holds(before: &Memory) -> bool {
    matches!(before.stage, Stage::Sealing { sealed_at: Some(_), .. })
}

fn begins(world: &mut World, node: usize, request: Revision) -> Result<(), String> {
    let name = &world.nodes[node].name;
    let appointments = &world.judge.appointments;
    if appointments.at_ms.contains_key(&request) {
        return Err(format!("{name} carries out what is only scheduled"));
    }
    if let Some(at_ms) = asked_for(world, request).filter(|at_ms| too_late(world, node, *at_ms, 0)) {
        return Err(format!("{name} begins a switchover {} ms after its time", late_ms(world, node, at_ms)));
    }
    let now = world.local(node);
    world.judge.appointments.began.insert((node, request), now);
    Ok(())
}

/// The time of what was scheduled, and asked for by this request.
fn asked_for(world: &World, request: Revision) -> Option<i64> {
    let appointments = &world.judge.appointments;
    appointments.at_ms.get(appointments.asked.get(&request)?).copied()
}

/// Commits are held from here on.
fn carried_out(world: &World, node: usize, request: Revision) -> Result<(), String> {
    let name = &world.nodes[node].name;
    let began = world.judge.appointments.began.get(&(node, request));
    if let Some(took) = began.map(|began| world.local(node).since(*began).0).filter(|took| *took > PREPARED_MS) {
        return Err(format!("{name} carries out a switchover {took} ms after it was begun"));
    }
    let Some(at_ms) = asked_for(world, request) else { return Ok(()) };
    if too_late(world, node, at_ms, PREPARED_MS) {
        return Err(format!("{name} carries out a switchover {} ms after its time", late_ms(world, node, at_ms)));
    }
    if world.nodes[node].worker.paused == Some(true) {
        return Err(format!("{name} carries out a scheduled switchover in maintenance mode"));
    }
    Ok(())
}

/// At the end of a run: a schedule whose time has passed still stands, though somebody leads.
pub(in crate::sim) fn left_over(world: &World, leader: usize) -> Option<String> {
    let revision = world.store.key(&Key::Failover.path())?.modified;
    let appointments = &world.judge.appointments;
    let at_ms = appointments.at_ms.get(appointments.asked.get(&revision).unwrap_or(&revision))?;
    let late_ms = late_ms(world, leader, *at_ms);
    (late_ms > LEFT_OVER_MS).then(|| format!("a switchover that was scheduled {late_ms} ms ago still stands"))
}
