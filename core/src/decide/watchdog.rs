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
use crate::watchdog::{Mode, Running, Useless, feed_by};
use std::fmt::Display;

/// For how long one that was found unfit is not tried again: a member that holds the key and finds it so once more gives the key back,
/// which costs a moment each time.
const UNFIT_FOR: Millis = Millis(60_000);

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
fn ttl(memory: &Memory, view: &View<'_>) -> Millis {
    memory.lease.map_or(view.settings.ttl_ms, |lease| lease.ttl.min(view.settings.ttl_ms))
}

/// What it is to be set to, or why it is of no use with these settings.
fn wanted(settings: &Settings, ttl: Millis) -> Result<Millis, Useless> {
    let timeout = settings.watchdog.timeout(ttl)?;
    settings.watchdog.too_short(timeout, settings.retry_timeout_ms).map_or(Ok(timeout), Err)
}

fn need(turn: &Turn<'_>) -> Need {
    let settings = turn.view.settings.watchdog;
    if settings.mode == Mode::Off || pause::is_on(turn) {
        return Need::Nothing;
    }
    let required = settings.mode == Mode::Required;
    let unusable = |why: &dyn Display| if required { Need::Failed(why.to_string()) } else { Need::Nothing };
    let wanted = match wanted(turn.view.settings, ttl(&turn.memory, turn.view)) {
        Ok(wanted) => wanted,
        Err(why) => return unusable(&why),
    };
    let view = &turn.view.local.watchdog;
    if let Some(why) = &view.obstacle {
        return unusable(why);
    }
    let unfit = turn.memory.watchdog_unfit.as_ref().filter(|unfit| unfit.asked_ms == wanted);
    // Whoever has to have one looks again: somebody may have mended it. Where none is required nothing is lost without.
    if let Some(unfit) = unfit.filter(|unfit| !required || turn.now() < unfit.until) {
        return unusable(&unfit.why);
    }
    match view.running {
        Some(running) if running.asked_ms == wanted && unfit.is_none() && resets_in_time(turn, &running) => {
            Need::Nothing
        }
        // Nobody could stop it once the server is down.
        None if turn.view.seat == (Seat::Inside { supervised: false }) => {
            unusable(&"this server runs without a supervisor")
        }
        Some(_) | None => Need::Arm(wanted),
    }
}

/// One that was fed on while nothing could write may reset this machine too late for a lease that was confirmed before.
fn resets_in_time(turn: &Turn<'_>, running: &Running) -> bool {
    let latest = |confirmed| running.feed_by(confirmed, ttl(&turn.memory, turn.view));
    !running.stays || confirmed(&turn.memory, turn.view).is_none_or(|confirmed| running.fed_at <= latest(confirmed))
}

/// Why a device that runs so may not be the one that watches a leader.
fn misfit(settings: &Settings, running: &Running) -> Option<String> {
    let required = settings.watchdog.mode == Mode::Required;
    let (asked_s, set_s) = (running.asked_ms.0 / 1000, running.timeout_ms.0 / 1000);
    if required && running.timeout_ms > running.asked_ms {
        return Some(format!("it cannot be set to {asked_s} s: it takes {set_s} s, longer than the lease may last"));
    }
    settings.watchdog.too_short(running.timeout_ms, settings.retry_timeout_ms).map(|why| why.to_string())
}

/// What it says it was set to may not do. Tells the others, too, who would else wait for this member.
pub(super) fn observe(turn: &mut Turn<'_>) {
    if let Some(running) = turn.view.local.watchdog.running {
        let known = turn.memory.watchdog_unfit.as_ref();
        if known.is_none_or(|unfit| unfit.asked_ms != running.asked_ms) {
            let why = misfit(turn.view.settings, &running);
            let until = turn.now() + UNFIT_FOR;
            turn.memory.watchdog_unfit = why.map(|why| Unfit { asked_ms: running.asked_ms, why, until });
        }
    }
    turn.memory.watchdog_failed = failure(turn).is_some();
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
    let by = feed_by(timeout_ms, confirmed(&turn.memory, turn.view)?, ttl(&turn.memory, turn.view));
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
    // Told, but not fed since: what was told did not reach it.
    let fresh = running.fed_at < confirmed || memory.watchdog_told.is_none_or(|told| told < confirmed);
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
    let watched = !is_off(&turn.memory, turn.view, pause::is_on(turn));
    let due = running(turn.view).is_some_and(|running| turn.now() >= running.give_up_at());
    watched && due && !is_fed_on(turn) && news(&turn.memory, turn.view, ttl(&turn.memory, turn.view)).is_none()
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

/// Whether it watches nobody: maintenance mode, `mode: off`, or of no use where none is required.
fn is_off(memory: &Memory, view: &View<'_>, paused: bool) -> bool {
    let running = view.local.watchdog.running;
    let useless = || {
        wanted(view.settings, ttl(memory, view)).is_err()
            || running.is_some_and(|it| misfit(view.settings, &it).is_some())
    };
    match view.settings.watchdog.mode {
        Mode::Off => true,
        Mode::Automatic => paused || useless(),
        Mode::Required => paused,
    }
}

/// Whether it may be stopped.
pub(super) fn may_stop(memory: &Memory, view: &View<'_>, paused: bool) -> bool {
    is_off(memory, view, paused) || nothing_can_write(memory, view.local)
}

/// Whether `by` is what the last confirmation allows.
pub(super) fn may_arm(memory: &Memory, view: &View<'_>, timeout: Millis, by: Tick) -> bool {
    let latest = |confirmed| feed_by(timeout, confirmed, ttl(memory, view));
    confirmed(memory, view).is_some_and(|confirmed| view.now < by && by <= latest(confirmed))
}

/// The same of one that runs; one that cannot be stopped may be fed on where it could be stopped otherwise.
pub(super) fn may_feed(memory: &Memory, view: &View<'_>, by: Tick) -> bool {
    view.local.watchdog.running.is_some_and(|running| {
        let fed_on = running.stays && may_stop(memory, view, memory.paused);
        fed_on || may_arm(memory, view, running.timeout_ms, by)
    })
}

/// Whether a node with these settings may write without one that runs as it is to.
pub(super) fn is_missed(settings: &Settings, local: &LocalView, paused: bool) -> bool {
    let fit = |running: &Running| misfit(settings, running).is_none();
    settings.watchdog.mode == Mode::Required && !paused && local.watchdog.running.as_ref().is_none_or(|it| !fit(it))
}

/// Whether it is to run no longer: it watches nobody, or this node does not lead and nothing can write.
fn is_over(turn: &Turn<'_>) -> bool {
    let leads = matches!(turn.standing(), Standing::Leads(lease) if !turn.gave_up(lease));
    let leads_on = leads && !turn.memory.stage.resigning();
    is_off(&turn.memory, turn.view, pause::is_on(turn)) || (!leads_on && may_stop(&turn.memory, turn.view, false))
}

/// Whether it is fed by nothing but the time: it cannot be stopped, and nothing can write, if only until this node leads on.
fn is_fed_on(turn: &Turn<'_>) -> bool {
    let stays = running(turn.view).is_some_and(|running| running.stays);
    stays && may_stop(&turn.memory, turn.view, pause::is_on(turn))
}

/// Feeds it or stops it, whatever else is decided.
pub(super) fn add(turn: &mut Turn<'_>, verdict: &mut Verdict) {
    let arms = |effect: &Effect| matches!(effect, Effect::ArmWatchdog { .. });
    if verdict.effects.iter().any(arms) {
        turn.memory.watchdog_told = confirmed(&turn.memory, turn.view);
        turn.memory.watchdog_unfit = None;
        return;
    }
    let running = running(turn.view);
    if running.is_none() && turn.memory.watchdog_told.is_none() && !turn.view.local.watchdog.left {
        return;
    }
    let news = news(&turn.memory, turn.view, ttl(&turn.memory, turn.view)).filter(|_| !is_over(turn));
    if let Some((confirmed, by)) = news {
        verdict.effects.insert(0, Effect::FeedWatchdog { by });
        turn.memory.watchdog_told = Some(confirmed);
    } else if let (true, Some(running)) = (is_fed_on(turn), running) {
        // Let go it would reset a machine with which nothing is wrong.
        let due = turn.now() >= running.feed_on_at();
        let feed = due.then_some(Effect::FeedWatchdog { by: turn.now() + running.timeout_ms });
        verdict.effects.splice(0..0, feed);
        turn.memory.watchdog_told = None;
    } else if is_over(turn) {
        // Also one that nobody here has open any more: it may run on from before.
        verdict.effects.insert(0, Effect::DisarmWatchdog);
        turn.memory.watchdog_told = None;
    }
}

/// When there is something to do about it next.
pub(super) fn next_at(turn: &Turn<'_>) -> Option<Tick> {
    let (running, now) = (running(turn.view)?, turn.now());
    if is_fed_on(turn) {
        let at = running.feed_on_at();
        // It was fed just now, or that failed.
        return Some(if at > now { at } else { now + Millis(500) });
    }
    Some(running.give_up_at()).filter(|at| *at > now)
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
