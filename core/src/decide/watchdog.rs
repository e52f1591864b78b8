//! The watchdog: armed before a server may write, fed only by what the store has confirmed since, stopped only when nothing can write.
//!
//! It resets the machine of a leader whose processes hang, before another can lead. A leader that is only cut off from the store gives up
//! before it comes to that.

use super::turn::{Standing, Turn, Verdict};
use super::{failsafe, lease, pause};
use crate::clock::{Millis, Tick};
use crate::effect::{Effect, StartRole, Step};
use crate::lease::{Lease, margin};
use crate::local::{LocalView, Server};
use crate::memory::{Memory, Stage, Unfit};
use crate::rule::Rule;
use crate::settings::Settings;
use crate::view::{Seat, View};
use crate::watchdog::{Mode, Running, feed_by};

/// What there is to do about it before this node may write.
enum Need {
    /// Nothing: it runs as it is to, or none is wanted.
    Nothing,
    /// To be started, or set to another time.
    Arm(Millis),
    /// It is required, and this is why there is none.
    Failed(String),
}

/// Another `ttl` than that of the lease in force asks for another timeout once there is a lease of that length.
fn ttl(turn: &Turn<'_>) -> Millis {
    let settings = turn.view.settings.ttl_ms;
    turn.memory.lease.map_or(settings, |lease| lease.ttl.min(settings))
}

fn need(turn: &Turn<'_>) -> Need {
    let settings = turn.view.settings.watchdog;
    if settings.mode == Mode::Off || pause::is_on(turn) {
        return Need::Nothing;
    }
    let unusable = |why: String| if settings.mode == Mode::Required { Need::Failed(why) } else { Need::Nothing };
    let wanted = match settings.timeout(ttl(turn)) {
        Ok(wanted) => wanted,
        Err(why) => return unusable(why),
    };
    let view = &turn.view.local.watchdog;
    if let Some(why) = &view.obstacle {
        return unusable(why.clone());
    }
    if let Some(unfit) = turn.memory.watchdog_unfit.as_ref().filter(|unfit| unfit.asked_ms == wanted) {
        return unusable(unfit.why.clone());
    }
    match view.running {
        Some(running) if running.asked_ms == wanted => Need::Nothing,
        // Nobody could stop it once the server is down.
        None if turn.view.seat == (Seat::Inside { supervised: false }) => {
            unusable("this server runs without a supervisor".to_owned())
        }
        Some(_) | None => Need::Arm(wanted),
    }
}

/// What it says it was set to may not do.
pub(super) fn observe(turn: &mut Turn<'_>) {
    let Some(running) = turn.view.local.watchdog.running else { return };
    if turn.memory.watchdog_unfit.as_ref().is_some_and(|unfit| unfit.asked_ms != running.asked_ms) {
        turn.memory.watchdog_unfit = None;
    }
    let required = turn.view.settings.watchdog.mode == Mode::Required;
    let (asked_s, set_s) = (running.asked_ms.0 / 1000, running.timeout_ms.0 / 1000);
    if required && running.timeout_ms > running.asked_ms {
        let why = format!("it cannot be set to {asked_s} s: it takes {set_s} s, longer than the lease may last");
        turn.memory.watchdog_unfit = Some(Unfit { asked_ms: running.asked_ms, why });
    }
}

/// Why this node may not lead.
pub(super) fn failure(turn: &Turn<'_>) -> Option<String> {
    match need(turn) {
        Need::Failed(why) => Some(why),
        Need::Nothing | Need::Arm(_) => None,
    }
}

/// What has to be done before a server that holds `lease` is promoted or started, other than to give the key back.
pub(super) fn before_writing(turn: &Turn<'_>) -> Option<Verdict> {
    let Need::Arm(timeout) = need(turn) else { return None };
    let arm = arm(turn, timeout).or_else(|| lease::renew_now(turn));
    Some(Verdict::of(Rule::WatchdogArming).and(arm).soon(2))
}

/// Starts it, or sets it to the time that is wanted now, by a confirmation that is not too old for that.
fn arm(turn: &Turn<'_>, timeout_ms: Millis) -> Option<Effect> {
    let by = feed_by(timeout_ms, confirmed(&turn.memory, turn.view)?, ttl(turn));
    (turn.now() < by).then_some(Effect::ArmWatchdog { timeout_ms, by })
}

/// What a leader does about it: the effect, and whether it may open its fence before that is done.
pub(super) fn while_leading(turn: &Turn<'_>) -> (Option<Effect>, bool) {
    let Need::Arm(timeout) = need(turn) else { return (None, true) };
    (arm(turn, timeout), turn.view.settings.watchdog.mode != Mode::Required)
}

/// Whether a leader has to confirm its lease before it can arm the watchdog.
pub(super) fn waits_for_renewal(turn: &Turn<'_>) -> bool {
    matches!(need(turn), Need::Arm(timeout) if arm(turn, timeout).is_none())
}

/// When the right to lead was last confirmed: the request for it was sent at that moment.
fn confirmed(memory: &Memory, view: &View<'_>) -> Option<Tick> {
    let lease = memory.lease.filter(|lease| memory.released != Some(lease.leader_created))?;
    let promised = memory.failsafe.extended.and_then(|_| failsafe::promised_since(memory, view));
    Some(lease.sent_at.max(promised.unwrap_or_default()))
}

/// The confirmation that it is to be fed by now: it was not fed since, and the machine would still be reset in time.
fn news(memory: &Memory, view: &View<'_>, ttl: Millis) -> Option<(Tick, Tick)> {
    let running = view.local.watchdog.running?;
    let confirmed = confirmed(memory, view)?;
    let by = running.feed_by(confirmed, ttl);
    let fresh = memory.watchdog_told.is_none_or(|told| told < confirmed);
    (fresh && view.now < by).then_some((confirmed, by))
}

/// How long the running watchdog allows between two confirmations.
pub(super) fn window(turn: &Turn<'_>) -> Option<Millis> {
    turn.view.local.watchdog.running.map(|running| running.window())
}

pub(super) fn running(view: &View<'_>) -> Option<Running> {
    view.local.watchdog.running
}

/// Whether it will reset this machine in a moment, unless this node gives up.
pub(super) fn is_due(turn: &Turn<'_>) -> bool {
    let watched = turn.view.settings.watchdog.mode != Mode::Off && !pause::is_on(turn);
    let due = running(turn.view).is_some_and(|running| turn.now() >= running.give_up_at());
    watched && due && news(&turn.memory, turn.view, ttl(turn)).is_none()
}

/// Whether no process of this node's server can write, or will.
fn nothing_can_write(memory: &Memory, local: &LocalView) -> bool {
    let starts = matches!(local.step_running, Some(Step::Start { role: StartRole::Primary { .. } }));
    match &local.server {
        Server::Down => !starts,
        Server::Standby(standby) => !standby.promoting,
        // Its worker ended it prepared as a standby, and nobody is left of those who were there before.
        Server::Starting { .. } => {
            let in_place = matches!(memory.stage, Stage::Demoting { in_place: true, .. } | Stage::HandingOver { .. });
            in_place && memory.left_closed && memory.stragglers_ended
        }
        Server::Primary(_) | Server::Stopping { .. } | Server::Leftover => false,
    }
}

/// Whether it may be stopped.
pub(super) fn may_stop(memory: &Memory, view: &View<'_>, paused: bool) -> bool {
    paused || view.settings.watchdog.mode == Mode::Off || nothing_can_write(memory, view.local)
}

/// Whether `by` is what the last confirmation allows.
pub(super) fn may_feed(memory: &Memory, view: &View<'_>, timeout: Millis, by: Tick) -> bool {
    let ttl = memory.lease.map_or(view.settings.ttl_ms, |lease| lease.ttl.min(view.settings.ttl_ms));
    confirmed(memory, view).is_some_and(|confirmed| view.now < by && by <= feed_by(timeout, confirmed, ttl))
}

/// Whether a node with these settings may write without one that runs as it is to.
pub(super) fn is_missed(settings: &Settings, local: &LocalView, paused: bool) -> bool {
    let fit = |running: &Running| running.timeout_ms <= running.asked_ms;
    settings.watchdog.mode == Mode::Required && !paused && local.watchdog.running.as_ref().is_none_or(|it| !fit(it))
}

/// Feeds it or stops it, whatever else is decided.
pub(super) fn add(turn: &mut Turn<'_>, verdict: &mut Verdict) {
    let arms = |effect: &Effect| matches!(effect, Effect::ArmWatchdog { .. });
    if verdict.effects.iter().any(arms) {
        turn.memory.watchdog_told = confirmed(&turn.memory, turn.view);
        return;
    }
    let runs = running(turn.view).is_some();
    if !runs && turn.memory.watchdog_told.is_none() {
        return;
    }
    let leads = matches!(turn.standing(), Standing::Leads(lease) if !turn.gave_up(lease));
    let wanted = leads && !turn.memory.stage.resigning();
    let paused = pause::is_on(turn);
    let off = paused || turn.view.settings.watchdog.mode == Mode::Off;
    // Also one that nobody here has open any more: it may run on from before.
    if off || (!wanted && may_stop(&turn.memory, turn.view, false)) {
        verdict.effects.insert(0, Effect::DisarmWatchdog);
        turn.memory.watchdog_told = None;
        return;
    }
    if let Some((confirmed, by)) = news(&turn.memory, turn.view, ttl(turn)) {
        verdict.effects.insert(0, Effect::FeedWatchdog { by });
        turn.memory.watchdog_told = Some(confirmed);
    }
}

/// The moment from which `until`, the end of what all members have promised, counts.
pub(super) fn counts_from(until: Tick, ttl: Millis) -> Tick {
    (until + margin(ttl)) - ttl
}

/// The end of `lease`, or the moment at which the watchdog makes this node give up, if that comes first.
pub(super) fn end(turn: &Turn<'_>, lease: &Lease) -> Tick {
    let end = lease.deadline();
    running(turn.view).map_or(end, |running| end.min(running.give_up_at()))
}
