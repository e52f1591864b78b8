//! A worker that has the seat but is not heard: frozen, or stuck. Its lease is kept alive in the store, which does not
//! open the fence, so that a stall is no failover; it is killed only when nothing else can save the lease.

use crate::seat::Worker;
use ha_core::clock::{Millis, Tick};
use ha_core::memory::{Memory, Stage};
use ha_core::watchdog::Running;
use ha_node::driver::Driver;
use rustix::process::Signal;

/// A worker is never killed before it was silent for this long.
const KILL_MIN: Millis = Millis(3000);
/// How long a crash cycle takes until the fence is open again, at best.
const CRASH_CYCLE: Millis = Millis(500);
/// A loop that comes back this much later than it meant to has stalled itself.
const OWN_STALL: Millis = Millis(500);

/// What is known about the silence.
pub struct Silence {
    /// Since when we have been listening without a stall of our own.
    attentive_since: Tick,
    due_at: Tick,
    kept_at: Option<Tick>,
    killed: bool,
}

impl Silence {
    /// Listening from now on.
    #[must_use]
    pub fn new(now: Tick) -> Self {
        Self { attentive_since: now, due_at: now, kept_at: None, killed: false }
    }

    /// The loop is about to wait until then at the latest.
    pub fn about_to_wait(&mut self, next: Tick) {
        self.due_at = next;
    }

    /// The loop is back.
    pub fn waited(&mut self, now: Tick) {
        if now.since(self.due_at) >= OWN_STALL {
            self.attentive_since = now;
        }
    }

    /// Looks at the worker that has the seat; when to look again.
    pub fn watch(&mut self, worker: &Worker, driver: &mut Driver, watchdog: Option<Running>, now: Tick) -> Tick {
        let settings = driver.settings();
        let (ttl, loop_wait) = (settings.ttl_ms, settings.loop_wait_ms);
        let heard_at = worker.heard_at.max(self.attentive_since);
        let holds = holds_commits(&worker.memory);
        // While commits are held there is a beat every few milliseconds.
        let silent_from = heard_at + if holds { Millis(0) } else { beat_every(loop_wait, watchdog) } + Millis(1000);
        if now < silent_from {
            self.kept_at = None;
            return silent_from;
        }
        if self.kept_at.is_none() {
            tracing::warn!(pid = worker.process().id.pid, "the worker is silent: its lease is kept alive from here");
            driver.take_seat(worker.memory.clone());
        }
        let pause = Millis(ttl.0 / 4);
        if self.kept_at.is_none_or(|kept_at| now.since(kept_at) >= pause) {
            self.kept_at = Some(now);
            driver.keep_session();
        }
        // With the store out of reach the others may have promised it more time than the lease has.
        let promised = worker.memory.failsafe.extended;
        let deadline = worker.memory.lease.map(|lease| lease.deadline().max(promised.unwrap_or_default()));
        let deadline = first_of(deadline, watchdog);
        let kill_at = if holds { heard_at + KILL_MIN } else { kill_at(heard_at, deadline, ttl) };
        // In maintenance mode its lease may be over for long; to kill it would restart the server.
        if now >= kill_at && !self.killed && !worker.memory.paused {
            self.killed = true;
            tracing::error!(pid = worker.process().id.pid, "the worker is stuck and its lease at stake: it is killed");
            if let Err(error) = worker.process().signal(Signal::KILL) {
                tracing::error!(%error, "the worker cannot be killed");
            }
        }
        (now + pause).min(if self.killed || worker.memory.paused { now + pause } else { kill_at })
    }
}

/// Every client waits for this worker, and no other leader is made meanwhile.
fn holds_commits(memory: &Memory) -> bool {
    matches!(memory.stage, Stage::Sealing { sealed_at: Some(_), .. } | Stage::HandingOver { .. })
}

/// One loop without a beat is no silence yet: one comes with each tick, and whoever has a watchdog running feeds it within a third of the
/// time that it leaves.
fn beat_every(loop_wait: Millis, watchdog: Option<Running>) -> Millis {
    watchdog.map_or(loop_wait, |running| loop_wait.min(Millis(running.window().0 / 3)))
}

/// The deadline, or the moment from which the watchdog is about to reset this machine, whether there is a lease or not: one that cannot be
/// stopped is fed on by the worker of a standby, too.
fn first_of(deadline: Option<Tick>, watchdog: Option<Running>) -> Option<Tick> {
    deadline.into_iter().chain(watchdog.map(|running| running.give_up_at())).min()
}

/// When a silent worker is killed: as late as its lease allows, or, with nothing to lose, after two lifetimes.
fn kill_at(heard_at: Tick, deadline: Option<Tick>, ttl: Millis) -> Tick {
    match deadline {
        Some(deadline) => (deadline - CRASH_CYCLE).max(heard_at + KILL_MIN),
        None => heard_at + Millis(ttl.0.saturating_mul(2)).max(KILL_MIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_killed_late_but_not_too_late() {
        let at = |deadline| kill_at(Tick(100_000), deadline, Millis(30_000));
        assert_eq!(at(Some(Tick(128_500))), Tick(128_000));
        assert_eq!(at(Some(Tick(101_000))), Tick(103_000));
        assert_eq!(at(None), Tick(160_000));
    }

    #[test]
    fn a_watchdog_is_no_later_than_the_worker() {
        let running = |timeout_ms| {
            let (asked_ms, fed_at) = (Millis(timeout_ms), Tick(100_000));
            Some(Running { asked_ms, timeout_ms: asked_ms, fed_at, stays: false })
        };
        let loop_wait = Millis(10_000);
        assert_eq!(beat_every(loop_wait, None), loop_wait);
        assert_eq!(beat_every(loop_wait, running(25_000)), Millis(6666));
        assert_eq!(beat_every(loop_wait, running(5000)), Millis(1000));
        assert_eq!(first_of(Some(Tick(128_500)), running(25_000)), Some(Tick(120_000)));
        assert_eq!(first_of(None, running(25_000)), Some(Tick(120_000)), "on a standby");
        assert_eq!(first_of(Some(Tick(109_500)), running(25_000)), Some(Tick(109_500)));
        assert_eq!(first_of(None, None), None);
    }

    #[test]
    fn a_stall_of_our_own_restarts_the_clock() {
        let mut silence = Silence::new(Tick(0));
        silence.about_to_wait(Tick(1000));
        silence.waited(Tick(1100));
        assert_eq!(silence.attentive_since, Tick(0));
        silence.about_to_wait(Tick(2000));
        silence.waited(Tick(40_000));
        assert_eq!(silence.attentive_since, Tick(40_000));
    }
}
