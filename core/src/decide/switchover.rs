//! A leader that is asked to hand over: first checks, checkpoint, then the demotion that ends in a release.

use super::schedule::When;
use super::turn::{Turn, Verdict};
use super::{duties, handover, in_place, lease, pause, primary, schedule};
use crate::clock::{Millis, Tick};
use crate::cluster::{Cluster, FailoverRequest, Member, Versioned};
use crate::dcs::{Expect, Key};
use crate::effect::Effect;
use crate::ids::{Lsn, NodeName, Revision};
use crate::lease::Lease;
use crate::local::PrimaryView;
use crate::memory::Stage;
use crate::parse;
use crate::rule::Rule;
use crate::seat::LeaveReason;
use crate::view::Seat;

/// How far behind a candidate may be: what is left to send or to replay goes into the write gap one to one.
const LAG_MAX_BYTES: u64 = 64 << 20;
/// How long the checkpoint before the stop may take before the switchover goes on without it.
const CHECKPOINT_WAIT: Millis = Millis(30_000);
/// How long the archiver may take for what waits for it, if the supervisor sees to the rest.
const ARCHIVE_WAIT: Millis = Millis(1000);
/// And if nobody does. The server starts its archiver only every 10 s.
const ARCHIVE_WAIT_ALONE: Millis = Millis(15_000);
/// How long a candidate that lags may take to catch up, checkpoint included.
const CATCH_UP_WAIT: Millis = Millis(60_000);

/// After this long a switchover is not carried out any more, whatever held up its preparation: the store, a stall, the server.
pub(super) const PREPARING_MAX: Millis = Millis(CATCH_UP_WAIT.0 + 5000);

/// `None` when nothing is asked for now.
pub(super) fn decide(turn: &mut Turn<'_>, primary: &PrimaryView, lease: Lease) -> Option<Verdict> {
    let Some(cluster) = turn.fresh() else { return handover::store_lost(turn, primary) };
    if let Some(verdict) = handover::go_on(turn, cluster, primary, lease) {
        return Some(verdict);
    }
    let request = cluster.failover.as_ref();
    if let Stage::Preparing { request: prepared, candidate, since, checkpoint_after } = turn.memory.stage.clone() {
        let Some(request) = request.filter(|request| request.revision == prepared) else {
            turn.memory.stage = Stage::Steady;
            return Some(Verdict::of(Rule::SwitchoverWithdrawn));
        };
        if let Some(reason) = schedule::overtaken(turn, &request.value, since, PREPARING_MAX) {
            return Some(reject(turn, primary, prepared, reason));
        }
        let prepared = Prepared { candidate, since, checkpoint_after, request: prepared };
        return Some(go_on(turn, cluster, primary, lease, prepared));
    }
    let request = request?.clone();
    if turn.memory.rejected.as_ref().is_some_and(|(rejected, _)| *rejected == request.revision) {
        // Turned down, and the key is not emptied yet.
        let clear = clear(turn, request.revision);
        return Some(Verdict::of(Rule::SwitchoverRejected).and(clear));
    }
    let when = schedule::when(turn, &request.value);
    match when {
        When::Later(_) => return None,
        When::Due => return Some(schedule::ask(turn, &request)),
        When::Now | When::Never(_) => {}
    }
    if request.value.scheduled_at.is_none() && is_done(turn, cluster, &request) {
        // Where this timeline branched off is what the others wait for.
        let published = duties::history_published(turn, primary);
        let clear = if published { clear(turn, request.revision) } else { None };
        return Some(Verdict::of(Rule::SwitchoverDone).and(clear));
    }
    if let When::Never(reason) = when {
        return Some(reject(turn, primary, request.revision, reason));
    }
    Some(begin(turn, cluster, primary, &request.value, request.revision))
}

/// Whether it has come about: the named candidate leads, or another than the named leader after that one released the key.
fn is_done(turn: &Turn<'_>, cluster: &Cluster, request: &Versioned<FailoverRequest>) -> bool {
    let FailoverRequest { leader, member, .. } = &request.value;
    if leader.as_ref() == Some(turn.me()) {
        return false;
    }
    let released = cluster.released.as_ref().is_some_and(|released| Some(&released.leader) == leader.as_ref());
    let since = cluster.released_revision > Some(request.revision);
    member.as_ref() == Some(turn.me()) || (member.is_none() && released && since)
}

struct Prepared {
    candidate: NodeName,
    since: Tick,
    checkpoint_after: Lsn,
    request: Revision,
}

fn begin(
    turn: &mut Turn<'_>,
    cluster: &Cluster,
    primary: &PrimaryView,
    request: &FailoverRequest,
    revision: Revision,
) -> Verdict {
    match chosen(turn, cluster, primary, request) {
        Err(reason) => reject(turn, primary, revision, reason),
        Ok(candidate) => {
            turn.memory.rejected = None;
            turn.memory.stage =
                Stage::Preparing { request: revision, candidate, since: turn.now(), checkpoint_after: primary.flushed };
            Verdict::of(Rule::SwitchoverPreparing).with(Effect::Checkpoint).soon(10)
        }
    }
}

/// The candidate, or why the request changes nothing.
fn chosen(
    turn: &Turn<'_>,
    cluster: &Cluster,
    primary: &PrimaryView,
    request: &FailoverRequest,
) -> Result<NodeName, String> {
    if let Some(leader) = &request.leader
        && leader != turn.me()
    {
        return Err(format!("leader name does not match: {leader} is not the leader"));
    }
    if !supervised(turn)
        && let Some(obstacle) = in_place::lasting_obstacle(turn, primary)
    {
        return Err(needs_supervisor(&obstacle));
    }
    match &request.member {
        Some(name) if name == turn.me() => Err(format!("{name} is already the leader")),
        Some(name) => may_take_over(turn, cluster, primary, name, true).map(|_| name.clone()),
        None if pause::is_on(turn) => Err("in maintenance mode a switchover needs a candidate".to_owned()),
        None => {
            let able = cluster.members.iter().filter_map(|(name, member)| {
                let progress = may_take_over(turn, cluster, primary, name, false).ok()?;
                Some((member.tags.failover_priority(), progress, name))
            });
            let best = able.max_by_key(|(priority, progress, _)| (*priority, *progress));
            best.map(|(_, _, name)| name.clone())
                .ok_or_else(|| "no member can take over: none streams with little lag".to_owned())
        }
    }
}

pub(super) fn supervised(turn: &Turn<'_>) -> bool {
    turn.view.seat == (Seat::Inside { supervised: true })
}

fn needs_supervisor(obstacle: &str) -> String {
    format!("a switchover needs the supervisor here (start this node with ha_bootstrap run): {obstacle}")
}

/// How far a standby of this server has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Progress {
    pub replayed: Lsn,
    pub flushed: Lsn,
    /// It gets what is written as it is written; before, it catches up.
    pub streaming: bool,
}

/// As the server sees it, or else as the member says. `None` if it does not stream from here.
fn progress(turn: &Turn<'_>, primary: &PrimaryView, name: &NodeName, member: &Member) -> Option<Progress> {
    let position = |key: &str| member.json.get(key).and_then(serde_json::Value::as_u64).map(Lsn);
    let flushed = member.xlog_location.unwrap_or_default();
    let published = Progress { replayed: position("replay_lsn").unwrap_or(flushed), flushed, streaming: true };
    let slot = name.slot_name();
    match primary.standbys.iter().find(|standby| standby.slot == slot) {
        // It has just connected and reported nothing yet.
        Some(standby) if standby.flushed == Lsn(0) => Some(Progress { streaming: standby.streaming, ..published }),
        Some(standby) => {
            Some(Progress { replayed: standby.replayed, flushed: standby.flushed, streaming: standby.streaming })
        }
        // Without slots the server cannot tell who is who.
        None => {
            let streams = member.json.get("replication_state").is_some_and(|state| state == "streaming");
            (streams && !turn.view.settings.use_slots).then_some(published)
        }
    }
}

pub(super) fn may_take_over(
    turn: &Turn<'_>,
    cluster: &Cluster,
    primary: &PrimaryView,
    name: &NodeName,
    named: bool,
) -> Result<Progress, String> {
    let member =
        cluster.members.get(name).ok_or_else(|| format!("candidate does not exist: no member is called {name}"))?;
    if name == turn.me() {
        return Err(format!("{name} is already the leader"));
    }
    if member.tags.nofailover() {
        return Err(format!("{name} is not allowed to promote"));
    }
    if member.watchdog_failed() {
        return Err(format!("{name} may not lead without a watchdog, and its own cannot be used"));
    }
    if member.cannot_write() {
        return Err(format!("{name} cannot write to its disk"));
    }
    if member.state != "running" {
        return Err(format!("{name} is in state \"{}\"", member.state));
    }
    // One that was named may still be catching up.
    let Some(progress) = progress(turn, primary, name, member).filter(|progress| progress.streaming || named) else {
        return Err(format!("{name} does not stream from this leader"));
    };
    // An operator who names a candidate knows that it lags (lesson 6): it is given the time to catch up.
    let allowed = turn.view.settings.maximum_lag_on_failover_bytes;
    let most = allowed.max(LAG_MAX_BYTES);
    let lag = primary.flushed.ahead_of(progress.flushed);
    if lag > if named { most } else { allowed } {
        return Err(format!("{name} lags {lag} bytes behind"));
    }
    let replay = primary.flushed.ahead_of(progress.replayed);
    if replay > most {
        return Err(format!("{name} has {replay} bytes left to replay"));
    }
    Ok(progress)
}

/// Turns the request down: the key is emptied, what was prepared is undone, and the reason stays visible.
pub(super) fn reject(turn: &mut Turn<'_>, primary: &PrimaryView, revision: Revision, reason: String) -> Verdict {
    turn.memory.rejected = Some((revision, reason.clone()));
    turn.memory.stage = Stage::Steady;
    let clear = clear(turn, revision);
    Verdict::of(Rule::SwitchoverRejected).and(handover::undo(primary)).and(clear).because(reason)
}

/// Empties the failover key, as Patroni does (wire.md 1.7); the reason of a refusal stays there for whoever asked, on whatever node.
pub(super) fn clear(turn: &Turn<'_>, revision: Revision) -> Option<Effect> {
    let refused = turn.memory.rejected.as_ref().filter(|(request, _)| *request == revision);
    turn.write(Key::Failover, Some(parse::refusal_json(refused).to_string()), Expect::Unchanged(revision))
}

fn go_on(turn: &mut Turn<'_>, cluster: &Cluster, primary: &PrimaryView, lease: Lease, prepared: Prepared) -> Verdict {
    let waited = turn.now().since(prepared.since);
    if primary.checkpoint_redo < prepared.checkpoint_after && waited < CHECKPOINT_WAIT {
        // Asked for again, since one that ran already may have begun too early; the executor asks the server once at a time.
        return Verdict::of(Rule::SwitchoverPreparing).with(Effect::Checkpoint).soon(10);
    }
    let progress = match may_take_over(turn, cluster, primary, &prepared.candidate, true) {
        Err(reason) => return reject(turn, primary, prepared.request, reason),
        Ok(progress) => progress,
    };
    // What it has not got when the stop begins might be lost if the stop is cut short.
    let lag = primary.flushed.ahead_of(progress.flushed);
    if !progress.streaming || lag > turn.view.settings.maximum_lag_on_failover_bytes {
        if waited < CATCH_UP_WAIT {
            return Verdict::of(Rule::SwitchoverPreparing).soon(10);
        }
        let how = if progress.streaming { "lags" } else { "is catching up:" };
        let reason = format!("{} {how} {lag} bytes behind", prepared.candidate);
        return reject(turn, primary, prepared.request, reason);
    }
    let obstacle = match method(turn, primary, &prepared.candidate, waited) {
        Method::InPlace => return handover::begin(turn, prepared.request, prepared.candidate),
        Method::Wait => return Verdict::of(Rule::SwitchoverAwaitingArchive).soon(10),
        Method::Refuse(reason) => return reject(turn, primary, prepared.request, reason),
        Method::Restart(obstacle) => obstacle,
    };
    if !lease::enough_left(turn, &lease) || turn.view.dcs_busy {
        return Verdict::of(Rule::SwitchoverPreparing).soon(5);
    }
    turn.memory.stage = Stage::Demoting {
        candidate: Some(prepared.candidate),
        release: true,
        since: turn.now(),
        down_since: None,
        in_place: false,
    };
    primary::ask_to_demote(Rule::SwitchoverHandingOver, LeaveReason::Switchover).because(obstacle)
}

enum Method {
    InPlace,
    /// And why not in place.
    Restart(String),
    Wait,
    Refuse(String),
}

/// In place if nothing stands in the way; by a stop and a start otherwise.
fn method(turn: &Turn<'_>, primary: &PrimaryView, candidate: &NodeName, waited: Millis) -> Method {
    let obstacle = in_place::obstacle(turn, primary).or_else(|| {
        let slot = candidate.slot_name();
        let seen = primary.standbys.iter().any(|standby| standby.slot == slot);
        (!seen).then(|| format!("{candidate} uses no slot of its own, so nobody can tell what it has"))
    });
    match obstacle {
        Some(obstacle) if supervised(turn) => Method::Restart(obstacle),
        Some(obstacle) => Method::Refuse(needs_supervisor(&obstacle)),
        None if !primary.archive_waiting => Method::InPlace,
        None if waited < if supervised(turn) { ARCHIVE_WAIT } else { ARCHIVE_WAIT_ALONE } => Method::Wait,
        // The supervisor archives, or keeps, what the archiver has not come to.
        None if supervised(turn) => Method::InPlace,
        None => Method::Refuse("WAL waits for the archiver".to_owned()),
    }
}
