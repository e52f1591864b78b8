//! The supervisor has the seat: the server is coming, going or gone.

use super::turn::{Standing, Turn, Verdict};
use super::{data, in_place, lease, pause, release, upkeep, watchdog};
use crate::clock::{Millis, Tick};
use crate::effect::{Effect, Step, StopMode};
use crate::local::Server;
use crate::memory::Stage;
use crate::rule::Rule;

/// A fast stop that takes longer is cut short: a demotion must end.
const FAST_STOP_MAX: Millis = Millis(30_000);
/// What a fast stop may take at least: sessions end and a checkpoint is written.
const FAST_STOP_MIN: Millis = Millis(2000);
/// What a start may take at least, whatever `primary_start_timeout` says.
pub(super) const START_MIN: Millis = Millis(1000);
/// After the lease was lost nothing is gained by a drained shutdown.
const FAST_STOP_MAX_LEASE_LOST: Millis = Millis(5000);

/// And if the watchdog is about to reset the machine, even less.
const FAST_STOP_IN_HASTE: Millis = Millis(500);

/// How long after the server has gone a node that is told to stop still writes to the store.
const FAREWELL_MAX: Millis = Millis(6000);

/// The postmaster lives and its worker does not have the seat.
pub(super) fn server_alive(turn: &mut Turn<'_>) -> Verdict {
    let left_alone = pause::is_on(turn) && !turn.memory.stage.resigning();
    if turn.view.stop_requested && left_alone {
        return exit(Rule::PauseLeaving, 0);
    }
    if turn.view.stop_requested && !turn.memory.stage.stops_server() {
        let release = turn.memory.lease.is_some();
        turn.memory.stage =
            Stage::Demoting { candidate: None, release, since: turn.now(), down_since: None, in_place: false };
    }
    if turn.memory.stage.in_place() {
        return in_place::watch(turn);
    }
    if let Stage::Demoting { release, since, .. } = turn.memory.stage {
        return stopping(turn, release, since);
    }
    let now = turn.now();
    if watchdog::is_due(turn) && !left_alone {
        let release = turn.memory.lease.is_some();
        turn.memory.stage = Stage::Demoting { candidate: None, release, since: now, down_since: None, in_place: false };
        let stop = turn.run(Step::Stop { mode: StopMode::Immediate });
        return Verdict::of(Rule::LeaderWatchdogDue).and(stop).soon(100);
    }
    let renewal = lease::renewal(turn);
    if matches!(turn.standing(), Standing::None) {
        return Verdict::of(Rule::OutsideWaitingForWorker).soon(1000);
    }
    let since = *turn.memory.not_running_since.get_or_insert(now);
    let patience = turn.view.settings.primary_start_timeout_ms.max(START_MIN);
    if now.since(since) >= patience && release::others_could_lead(turn) && !left_alone {
        turn.memory.stage =
            Stage::Demoting { candidate: None, release: true, since: now, down_since: None, in_place: false };
        let stop = turn.run(Step::Stop { mode: StopMode::Immediate });
        return Verdict::of(Rule::StartTimedOut).and(stop).soon(100);
    }
    Verdict::of(Rule::OutsideLeaderStarting).and(renewal).soon(1000)
}

/// How long a fast stop may take. One that hangs must not cost more than a failover, which takes a ttl: half of that, so that the other
/// half is left for what follows. With nobody to take over, nothing is gained by haste.
fn patience(turn: &Turn<'_>, release: bool) -> Millis {
    let standby = turn.control().is_some_and(data::was_standby);
    match (release, release::others_could_lead(turn)) {
        // It was to be promoted, and has nothing to write that anybody waits for.
        (true, true) if standby => FAST_STOP_MIN,
        (true, true) => Millis(turn.view.settings.ttl_ms.0 / 2).clamp(FAST_STOP_MIN, FAST_STOP_MAX),
        (true, false) => FAST_STOP_MAX,
        (false, _) => FAST_STOP_MAX_LEASE_LOST,
    }
}

/// Nothing makes the server go, not even SIGKILL: its processes hang in the kernel. The key must not be released while they
/// exist, but once the lease is over no backend of it acknowledges anything, and another may lead.
fn cannot_be_stopped(turn: &Turn<'_>, since: Tick, patience: Millis) -> bool {
    let at_most = Millis(patience.0.saturating_add(turn.view.settings.ttl_ms.0 / 2));
    turn.now().since(since) >= at_most && release::others_could_lead(turn)
}

fn stopping(turn: &mut Turn<'_>, release: bool, since: Tick) -> Verdict {
    let patience = patience(turn, release);
    let given_up = cannot_be_stopped(turn, since, patience);
    let renewal = if given_up { None } else { lease::renewal(turn) };
    // A reset of the machine would be a sharper stop still.
    let in_haste = watchdog::is_due(turn) && turn.now().since(since) >= FAST_STOP_IN_HASTE;
    if in_haste || turn.now().since(since) >= patience {
        let already = turn.view.local.step_running == Some(Step::Stop { mode: StopMode::Immediate });
        // Sharper than the stop that runs: the executor lets it overtake.
        let stop = (!already).then_some(Effect::Run(Step::Stop { mode: StopMode::Immediate }));
        let rule = if given_up { Rule::DemotionCannotStop } else { Rule::DemotionStoppingAtOnce };
        return Verdict::of(rule).and(renewal.or(stop)).soon(1000);
    }
    let renewing = renewal.is_some();
    let stop = if renewing { None } else { turn.run(Step::Stop { mode: StopMode::Fast }) };
    let stopping = matches!(turn.view.local.server, Server::Stopping { .. });
    let rule = if stopping { Rule::DemotionDraining } else { Rule::DemotionStopping };
    Verdict::of(rule).and(stop.or(renewal)).soon(if renewing { 5 } else { 1000 })
}

/// The postmaster is gone, but not all of its processes.
pub(super) fn leftover(turn: &mut Turn<'_>) -> Verdict {
    let clear = turn.run(Step::ClearLeftover);
    let since = match turn.memory.stage {
        Stage::Demoting { since, .. } | Stage::HandingOver { since, .. } => since,
        Stage::Steady | Stage::Preparing { .. } | Stage::Sealing { .. } => {
            *turn.memory.not_running_since.get_or_insert(turn.view.now)
        }
    };
    if cannot_be_stopped(turn, since, patience(turn, true)) {
        return Verdict::of(Rule::DemotionCannotStop).and(clear).soon(250);
    }
    let effect = clear.or_else(|| lease::renewal(turn));
    Verdict::of(Rule::OutsideClearingLeftover).and(effect).soon(250)
}

/// Nothing of the server is left.
pub(super) fn server_down(turn: &mut Turn<'_>) -> Verdict {
    if turn.view.local.step_running.is_some() {
        let renewal = lease::renewal(turn);
        return Verdict::of(Rule::OutsideStepRunning).and(renewal).soon(1000);
    }
    let now = turn.now();
    if let Stage::Demoting { down_since, .. } = &mut turn.memory.stage {
        down_since.get_or_insert(now);
    }
    if turn.view.stop_requested {
        return leaving(turn);
    }
    if pause::is_on(turn) && !turn.memory.stage.resigning() && !turn.memory.bootstrapping {
        return pause::down(turn);
    }
    if let Some(verdict) = release::decide(turn) {
        return verdict;
    }
    data::decide(turn)
}

/// The node is to be stopped and its server is: give the key up, then end.
fn leaving(turn: &mut Turn<'_>) -> Verdict {
    if !matches!(turn.memory.stage, Stage::Demoting { .. }) {
        let now = turn.now();
        turn.memory.stage = Stage::Demoting {
            candidate: None,
            release: turn.memory.lease.is_some(),
            since: now,
            down_since: Some(now),
            in_place: false,
        };
    }
    // With the store out of reach the lease ends by itself.
    match turn.fresh() {
        Some(_) => release::decide(turn).unwrap_or_else(|| farewell(turn)),
        None => exit(Rule::NodeStopped, 0),
    }
}

/// The member key outlives this process by its lease: until then it should not say that a server runs here.
fn farewell(turn: &Turn<'_>) -> Verdict {
    let Stage::Demoting { down_since: Some(down), .. } = turn.memory.stage else { return exit(Rule::NodeStopped, 0) };
    let there = turn.memory.session.is_some() && turn.now().since(down) < FAREWELL_MAX;
    let Some(write) = upkeep::member_due(turn).filter(|_| there) else {
        return exit(Rule::NodeStopped, 0);
    };
    match turn.store(write) {
        Some(write) => Verdict::of(Rule::NodeSayingGoodbye).with(write).soon(20),
        None if turn.view.dcs_busy => Verdict::of(Rule::NodeSayingGoodbye).soon(20),
        None => exit(Rule::NodeStopped, 0),
    }
}

pub(super) fn exit(rule: Rule, code: i32) -> Verdict {
    Verdict::of(rule).with(Effect::Exit { code })
}
