//! A switchover that is scheduled waits for its time by the clock of whoever leads then. At its time the leader turns it into a request for
//! now, on condition that nobody has changed it: that happens once, whatever the clocks of others say, and whoever cancels it either comes
//! first or is told that there is none.

use super::turn::{Turn, Verdict};
use super::{handover, lease, pause, switchover};
use crate::clock::{Millis, Tick};
use crate::cluster::{FailoverRequest, Versioned};
use crate::dcs::{Expect, Key, KeyEdit};
use crate::memory::Stage;
use crate::rule::Rule;
use crate::schedule::unix_ms;
use crate::view::View;

/// By how much the clock of a leader of another kind may be ahead of this node's when its time comes.
const CLOCKS_DIFFER: Millis = Millis(1000);
/// Where the clocks could not be read.
const LOOK_AGAIN: Millis = Millis(1000);
/// What a hand-over may take between its beginning and the moment at which commits are held: as long as a candidate may take to catch up,
/// and the files and settings after that.
const PREPARATION_MAX: Millis = Millis(switchover::PREPARING_MAX.0 + handover::PARKING_MAX.0);

/// Where a request stands.
pub(super) enum When {
    /// It asks for now, or its time came a moment ago.
    Now,
    /// Its time has come.
    Due,
    /// Not yet; look again after this long at the latest.
    Later(Millis),
    /// Never, and why.
    Never(String),
}

/// The time of day, if it is known.
fn wall_ms(view: &View<'_>) -> Option<i64> {
    let ahead_ms = view.clocks?.wall_ms;
    i64::try_from(view.now.0).ok()?.checked_add(ahead_ms)
}

/// A loop and a half after its time it is too late (lesson 148): whoever chose a time meant that one.
fn too_late(turn: &Turn<'_>, now_ms: i64, at_ms: i64, prepared_for: Millis) -> Option<String> {
    let late_ms = u64::try_from(now_ms.saturating_sub(at_ms)).unwrap_or(0);
    let late = late_ms > latest(turn).0.saturating_add(prepared_for.0);
    late.then(|| format!("its time was {}.{:03} s ago", late_ms / 1000, late_ms % 1000))
}

/// How late something may be begun.
pub(super) fn latest(turn: &Turn<'_>) -> Millis {
    Millis(turn.view.settings.loop_wait_ms.0.saturating_mul(3) / 2)
}

/// Why what was begun in time is not carried out: maintenance mode has begun since, or its preparation outlasted its time, whatever held
/// it up.
pub(super) fn overtaken(turn: &Turn<'_>, request: &FailoverRequest, since: Tick, at_most: Millis) -> Option<String> {
    if pause::is_on(turn) && (request.due.is_some() || request.member.is_none()) {
        return Some("maintenance mode began before commits were held".to_owned());
    }
    let took_ms = turn.now().since(since).0;
    if took_ms >= at_most.0 {
        return Some(format!("its preparation took {}.{:03} s", took_ms / 1000, took_ms % 1000));
    }
    let at_ms = unix_ms(request.due.as_ref()?).ok()?;
    too_late(turn, wall_ms(turn.view)?, at_ms, PREPARATION_MAX)
}

pub(super) fn when(turn: &Turn<'_>, request: &FailoverRequest) -> When {
    let Some(text) = request.scheduled_at.as_ref().or(request.due.as_ref()) else { return When::Now };
    let at_ms = match unix_ms(text) {
        Ok(at_ms) => at_ms,
        Err(problem) => return When::Never(format!("scheduled_at {problem}: {text}")),
    };
    let due = request.scheduled_at.is_none();
    let now_ms = wall_ms(turn.view);
    match (pause::is_on(turn), due) {
        (true, true) => return When::Never("maintenance mode began just at its time".to_owned()),
        (true, false) => return When::Later(turn.view.settings.loop_wait_ms),
        (false, _) => {}
    }
    let Some(now_ms) = now_ms else {
        // Without a time of day nothing can be said; it may be known again in time.
        return if due { When::Now } else { When::Later(LOOK_AGAIN) };
    };
    if let Some(reason) = too_late(turn, now_ms, at_ms, Millis(0)) {
        return When::Never(reason);
    }
    match u64::try_from(at_ms.saturating_sub(now_ms)) {
        // It was by the clock of whoever led when it came.
        _ if due => When::Now,
        Ok(left_ms @ 1..) => When::Later(Millis(left_ms)),
        Ok(0) | Err(_) => When::Due,
    }
}

/// Whether a leader of another kind carried this schedule out when it gave up the leader key: it does so at the time, leaves the request as
/// it is for the candidate, and takes back what is no longer to be done.
pub(super) fn was_carried_out(turn: &Turn<'_>, request: &FailoverRequest) -> bool {
    let at_ms = request.scheduled_at.as_deref().and_then(|text| unix_ms(text).ok());
    let led = turn.memory.last_leader.as_ref().filter(|_| !turn.memory.last_leader_fenced);
    let by_it = led.is_some_and(|leader| request.leader.as_ref() == Some(&leader.name));
    let gone_for_ms = turn.memory.leader_gone_at.map(|gone| turn.now().since(gone).0);
    let gone_for_ms = gone_for_ms.and_then(|gone_for_ms| i64::try_from(gone_for_ms).ok());
    let (Some(at_ms), Some(gone_for_ms), Some(now_ms), true) = (at_ms, gone_for_ms, wall_ms(turn.view), by_it) else {
        return false;
    };
    now_ms.saturating_sub(gone_for_ms).saturating_add(CLOCKS_DIFFER.0.cast_signed()) >= at_ms
}

/// How long the request that stands in the store still waits.
pub(super) fn waits(turn: &Turn<'_>) -> Option<Millis> {
    let request = turn.fresh()?.failover.as_ref()?;
    let rejected = turn.memory.rejected.as_ref().is_some_and(|(rejected, _)| *rejected == request.revision);
    match when(turn, &request.value) {
        When::Later(left) if !rejected && turn.memory.stage == Stage::Steady => Some(left),
        _ => None,
    }
}

/// It is asked for now.
pub(super) fn ask(turn: &Turn<'_>, request: &Versioned<FailoverRequest>) -> Verdict {
    let FailoverRequest { leader, member, scheduled_at, .. } = request.value.clone();
    let now = FailoverRequest { leader, member, scheduled_at: None, due: scheduled_at };
    // Without a value the request would be deleted.
    let write =
        || turn.write(Key::Failover, Some(serde_json::to_string(&now).ok()?), Expect::Unchanged(request.revision));
    let effect = lease::renewal(turn).or_else(write);
    Verdict::of(Rule::SwitchoverDue).and(effect).soon(20)
}

/// Whether a write of the failover key asks for something whose time has not come.
pub(super) fn is_early(view: &View<'_>, edit: &KeyEdit) -> bool {
    let text = edit.value.as_deref().filter(|_| edit.key == Key::Failover);
    let request = text.and_then(|text| serde_json::from_str::<FailoverRequest>(text).ok());
    let due = request.and_then(|request| request.due);
    due.is_some_and(|due| unix_ms(&due).ok() > wall_ms(view) || unix_ms(&due).is_err())
}

/// Whether a hand-over was begun for a request that is still scheduled.
pub(super) fn begun_early(view: &View<'_>, stage: &Stage) -> bool {
    let (Stage::Preparing { request, .. } | Stage::Sealing { request, .. }) = stage else { return false };
    let asked = view.dcs.fresh().and_then(|cluster| cluster.failover.as_ref());
    asked.is_some_and(|asked| asked.revision == *request && asked.value.scheduled_at.is_some())
}
