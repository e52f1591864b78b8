//! A primary becomes a standby in the same postmaster: when that is possible, and how it is watched over.

use super::turn::{Turn, Verdict};
use super::{primary, release, watchdog};
use crate::clock::Millis;
use crate::effect::{DemoteMethod, Effect, Step, StopMode};
use crate::local::{PrimaryView, Server};
use crate::memory::{Memory, Stage};
use crate::rule::Rule;
use crate::view::Seat;

/// How long the files and settings of an emergency demotion may take before the server is stopped instead.
const PARK_WAIT: Millis = Millis(2000);
/// How long the first checkpoint after a promotion may take once the fence is closed. Nobody is acknowledged then, so it stalls nobody,
/// and a stop would have to write the same pages.
const CHECKPOINT_WAIT: Millis = Millis(3000);
/// How long either may take if the watchdog is about to reset the machine.
const WAIT_IN_HASTE: Millis = Millis(500);
/// How long after a failure what is left of the former primary is seen to again, and how often before the worker gets the seat all the
/// same.
pub(super) const STRAGGLERS_AGAIN: Millis = Millis(500);
const STRAGGLERS_ATTEMPTS: u32 = 3;
/// What recovery of its own log may take at least, before the server is stopped after all. The key is not held meanwhile, so nobody
/// waits for this node.
const COME_UP_WAIT: Millis = Millis(30_000);

/// Why this primary is not to be demoted in place now.
pub(super) fn obstacle(turn: &Turn<'_>, primary: &PrimaryView) -> Option<String> {
    lasting_obstacle(turn, primary).or_else(|| {
        // Recovery would begin after the promotion, and call itself consistent long before the end of the log.
        (!primary.checkpointed).then(|| "the first checkpoint after its promotion is not through".to_owned())
    })
}

/// One that no checkpoint removes.
pub(super) fn lasting_obstacle(turn: &Turn<'_>, primary: &PrimaryView) -> Option<String> {
    let chosen = turn.view.settings.demote_in_place;
    if chosen { primary.in_place.obstacle.clone() } else { Some("demote_method is restart".to_owned()) }
}

/// Whether an emergency demotion goes in place, after a checkpoint if need be. Nobody sees to waiting WAL without a supervisor.
pub(super) fn possible(turn: &Turn<'_>, primary: &PrimaryView) -> bool {
    let archived = turn.view.seat == (Seat::Inside { supervised: true }) || !primary.archive_waiting;
    archived && lasting_obstacle(turn, primary).is_none()
}

/// Whether the supervisor keeps the seat although a worker waits for it: the server is to be stopped, or what a demotion in place has
/// left is not seen to yet.
#[must_use]
pub fn keeps_seat(memory: &Memory) -> bool {
    let left = !memory.stragglers_ended && memory.step_failures < STRAGGLERS_ATTEMPTS;
    memory.stage.stops_server() || (memory.stage.in_place() && left)
}

/// The fence is closed and the stage says in place: prepare, then go.
pub(super) fn demote(turn: &mut Turn<'_>, primary: &PrimaryView, rule: Rule) -> Verdict {
    let Stage::Demoting { since, .. } = turn.memory.stage else {
        return primary::ask_to_demote(rule, primary::demotion_reason(turn));
    };
    let (now, reason) = (turn.now(), primary::demotion_reason(turn));
    let parked = primary.in_place.parked;
    if !primary.checkpointed && possible(turn, primary) {
        return checkpoint_first(turn, rule, now.since(since));
    }
    let since = if turn.memory.unchecked_since.take().is_some() { now } else { since };
    if let Stage::Demoting { since: begun, .. } = &mut turn.memory.stage {
        *begun = since;
    }
    let patience = if watchdog::is_due(turn) { WAIT_IN_HASTE } else { PARK_WAIT };
    if !possible(turn, primary) || (!parked && now.since(since) >= patience) {
        if let Stage::Demoting { in_place, since, .. } = &mut turn.memory.stage {
            *in_place = false;
            *since = now;
        }
        return primary::ask_to_demote(Rule::DemotionNotInPlace, reason);
    }
    if !parked {
        return Verdict::of(rule).with(Effect::CloseFence).with(Effect::Park).soon(2);
    }
    let demote = Effect::Demote { reason, method: DemoteMethod::InPlace };
    Verdict::of(rule).with(Effect::CloseFence).with(demote).soon(1000)
}

/// Nothing is prepared before the first checkpoint is through: a server that died prepared would begin recovery as a standby.
fn checkpoint_first(turn: &mut Turn<'_>, rule: Rule, waited: Millis) -> Verdict {
    turn.memory.unchecked_since.get_or_insert(turn.view.now);
    if waited < if watchdog::is_due(turn) { WAIT_IN_HASTE } else { CHECKPOINT_WAIT } {
        let rule = if rule == Rule::DemotionInPlace { Rule::DemotionCheckpointing } else { rule };
        return Verdict::of(rule).with(Effect::CloseFence).with(Effect::Checkpoint).soon(5);
    }
    // The stop goes on with the same checkpoint, and has what is left of its own time.
    if let Stage::Demoting { in_place, .. } = &mut turn.memory.stage {
        *in_place = false;
    }
    primary::ask_to_demote(Rule::DemotionNotInPlace, primary::demotion_reason(turn))
}

/// The supervisor has the seat while the server goes through its crash cycle. It stops nothing: the worker reports in once the server
/// is a standby.
pub(super) fn watch(turn: &mut Turn<'_>) -> Verdict {
    let now = turn.now();
    let since = *turn.memory.not_running_since.get_or_insert(now);
    let patience = turn.view.settings.primary_start_timeout_ms.max(COME_UP_WAIT);
    let stopping = matches!(turn.view.local.server, Server::Stopping { .. });
    if now.since(since) >= patience && !stopping {
        // To whom it goes is announced already, or will be decided by votes: this node takes nothing back.
        turn.memory.stage =
            Stage::Demoting { candidate: None, release: true, since: now, down_since: None, in_place: false };
        let stop = turn.run(Step::Stop { mode: StopMode::Immediate });
        return Verdict::of(Rule::DemotionNotInPlace).and(stop).soon(100);
    }
    let stragglers = if turn.memory.stragglers_ended || stopping { None } else { turn.run(Step::EndStragglers) };
    // Whoever was acknowledged was so before: the fence was closed before the server went down, and nobody is there to open it.
    // Somebody stops it: then the release waits until it is down.
    let release = (stragglers.is_none() && !stopping).then(|| left_to_release(turn)).flatten();
    Verdict::of(Rule::DemotionRecovering).and(stragglers.or(release)).soon(100)
}

/// The key, if it is not known to be given up: others should not wait for this node.
pub(super) fn left_to_release(turn: &Turn<'_>) -> Option<Effect> {
    let lease = turn.memory.lease?;
    turn.fresh()?;
    if turn.memory.fence_until.is_some_and(|until| turn.now() < until) {
        // The worker died before it saw its own fence closed.
        return None;
    }
    release::again(turn, lease)
}
