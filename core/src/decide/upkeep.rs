//! What every node does besides: keep its lease alive and its member key true.

use super::turn::{Turn, Verdict};
use super::{by_hand, duties, handover, lease, pause, standby, watchdog};
use crate::clock::{Millis, Tick};
use crate::dcs::{DcsCall, Expect, Key, KeyEdit};
use crate::effect::Effect;
use crate::local::Server;
use crate::member;
use crate::rule::Rule;
use serde_json::Value;

/// What is due and could not be done now is looked at again after this long. A rule that waits for something asks for its own time.
const DUE_AGAIN: Millis = Millis(5);
/// Fields that change all the time: alone they are written once per `loop_wait`.
const POSITIONS: [&str; 3] = ["xlog_location", "receive_lsn", "replay_lsn"];

pub(super) fn add(turn: &mut Turn<'_>, verdict: &mut Verdict) {
    if verdict.closed() || turn.view.stop_requested || handover::needs_quiet(turn) {
        return;
    }
    let effect = if turn.memory.lease.is_none() { standby::session_due(turn) } else { None };
    let effect = effect.or_else(|| pause::tell(turn)).or_else(|| by_hand::tell(turn)).or_else(|| member_key(turn));
    verdict.effects.extend(effect);
}

fn member_key(turn: &Turn<'_>) -> Option<Effect> {
    // Only then is it worth looking.
    turn.may_ask().then(|| member_due(turn)).flatten().and_then(|write| turn.store(write))
}

/// That a promotion is over is told before anything else: the clients of the old leader wait for it.
pub(super) fn leads_now(turn: &Turn<'_>) -> Option<Effect> {
    let promoted = turn.memory.member_written.as_ref().is_some_and(|known| known["role"] != "primary");
    if promoted { member_key(turn) } else { None }
}

/// The write that our member key needs.
pub(super) fn member_due(turn: &Turn<'_>) -> Option<DcsCall> {
    let cluster = turn.fresh()?;
    let view = turn.view;
    let mut record = member::fields(view.identity, view.settings, view.local, &turn.memory);
    if let Server::Primary(primary) = &view.local.server
        && !duties::history_published(turn, primary)
    {
        // Whoever sees it takes the published history for complete.
        record.remove("timeline");
    }
    // One that somebody put there hangs on no lease: it would outlive this member.
    let known = cluster.members.get(turn.me()).filter(|member| member.lease.is_some());
    let in_store = known.map(|member| &member.json);
    let written = turn.memory.member_written.as_deref();
    let same = |known: Option<&Value>| known.is_some_and(|known| record.says(known, &[]));
    let missing = in_store.is_none() && turn.passed(turn.memory.member_written_at, Millis(1000));
    let recent = !turn.passed(turn.memory.member_written_at, view.settings.loop_wait_ms);
    let moved_only = || written.or(in_store).is_some_and(|known| record.says(known, &POSITIONS));
    if recent && !missing && moved_only() {
        return None;
    }
    if same(in_store) || (same(written) && !missing) {
        return None;
    }
    Some(DcsCall::Write(KeyEdit {
        key: Key::Member(turn.me().clone()),
        value: Some(record.text()),
        expect: Expect::Own,
        leased: true,
    }))
}

/// The next moment at which something is due, should nothing happen before.
pub(super) fn wake_at(turn: &Turn<'_>, verdict: &Verdict) -> Tick {
    let now = turn.now();
    let settings = turn.view.settings;
    // The net thread extends the deadline only while the main thread's heartbeat is younger than half a ttl.
    let mut next = now + Millis(settings.loop_wait_ms.0.min(settings.ttl_ms.0 / 4));
    if let Some(soon) = verdict.soon {
        next = next.min(now + soon);
    }
    if let Some(held) = turn.memory.lease {
        // With a request under way its end is the event to wait for; a lease that is left to end needs none.
        let left_to_end = matches!(verdict.rule, Rule::DemotionCannotStop | Rule::ReleaseDataLost);
        if !turn.view.dcs_busy && !left_to_end && !turn.memory.stage.in_place() && !turn.gave_up(held) {
            let due = turn.store_ready_at().max(lease::due_at(turn, &held));
            next = next.min(due.max(now + DUE_AGAIN));
        }
        if held.valid_at(now) {
            next = next.min(held.deadline());
        }
    }
    if let Some(at) = watchdog::next_at(turn) {
        next = next.min(at);
    }
    next.max(now + Millis(1))
}
