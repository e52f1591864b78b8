//! The two processes of a node, and how the seat passes between them.

use super::event::{Event, Frozen, Who};
use super::judge;
use super::node::{Phase, Process};
use super::world::World;
use crate::clock::{Millis, Tick};
use crate::dcs::DcsCall;
use crate::decide::keeps_seat;
use crate::effect::StopMode;
use crate::memory::Memory;
use crate::outcome::Outcome;
use crate::seat::{LeaveReason, PASS_ON_WITHIN};
use crate::view::Side;
use std::rc::Rc;

/// How long a new supervisor waits for the worker of a server that runs already.
const HELLO_MAX_MS: u64 = 5000;
/// How long a worker looks for its supervisor before it acts alone.
const ALONE_AFTER_MS: u64 = 3000;
/// How long a request that is under way may hold up the seat when the worker leaves.
const LEAVE_WAIT_MS: u64 = 500;
/// How long a worker that was asked to leave may take.
const LEAVE_MAX_MS: u64 = 10_000;

impl World {
    fn fresh_process(&mut self) -> Process {
        Process { life: self.number(), alive: true, ..Process::default() }
    }

    fn connect_store(&mut self, who: Who) {
        let life = self.process(who).life;
        self.soon(1, 30, Event::WatchConnect { who, life });
    }

    fn give_seat(&mut self, who: Who, memory: Rc<Memory>, reason: Option<LeaveReason>) {
        if reason.is_some() {
            let since = self.local(who.node);
            self.nodes[who.node].seat_since = since;
        }
        if *memory == Memory::default() {
            self.knows_nothing(who.node);
        }
        let process = self.process_mut(who);
        process.store.session = memory.session.or(process.store.session);
        process.store.tenure.taken_over(memory.lease);
        process.memory = memory;
        process.outcomes.clear();
        process.questions.clear();
        process.outcomes.extend(reason.map(Outcome::SeatTaken));
        process.leaving = None;
        process.leaving_since = None;
        process.acting = true;
        // What was to be written before the seat went was written by then, or is not any more.
        process.keeps_ttl = None;
        self.pass_on_watchdog(who.node, who.side);
        self.forget_promises(who.node, who.side);
        self.wake(who);
    }

    // ---- the supervisor ----

    pub(super) fn supervisor_start(&mut self, node: usize, boot: u64) {
        let ready = &self.nodes[node];
        if ready.boot != boot || !ready.up || ready.supervisor.alive || !ready.supervised {
            return;
        }
        self.nodes[node].supervisor = self.fresh_process();
        self.nodes[node].supervised_at = self.now;
        self.nodes[node].stop_requested = false;
        self.nodes[node].beat = None;
        self.nodes[node].waiting = None;
        self.say(node, "supervisor starts");
        let who = Who { node, side: Side::Outside };
        self.connect_store(who);
        let supervisor = self.nodes[node].supervisor.life;
        if self.nodes[node].server.is_some() {
            // A worker may be acting: it has a while to say so.
            if self.nodes[node].worker.alive {
                let worker = self.nodes[node].worker.life;
                self.soon(50, 1100, Event::Hello { node, worker, waited_ms: 0 });
            }
            self.later(HELLO_MAX_MS, Event::HelloMissed { node, supervisor });
        } else {
            self.give_seat(who, Rc::default(), None);
        }
        self.later(1000, Event::Silence { node, supervisor });
    }

    /// No worker has said hello to a new supervisor.
    pub(super) fn hello_missed(&mut self, node: usize, supervisor: u64) {
        let here = &self.nodes[node];
        let undecided = here.supervisor.alive
            && here.supervisor.life == supervisor
            && !here.supervisor.acting
            && here.beat.is_none();
        if undecided {
            self.say(node, "no worker has said hello: the supervisor takes the seat");
            self.give_seat(Who { node, side: Side::Outside }, Rc::default(), None);
        }
    }

    /// SIGKILL of the supervisor: the server lives on, a running step dies.
    pub(super) fn kill_supervisor(&mut self, node: usize) {
        if !self.nodes[node].supervisor.alive {
            return;
        }
        self.say(node, "supervisor is gone");
        self.nodes[node].supervisor.alive = false;
        self.nodes[node].supervisor.acting = false;
        self.nodes[node].frozen.retain(|(what, _)| *what != Frozen::Supervisor);
        self.break_step(node);
        self.hurt(node);
        let boot = self.nodes[node].boot;
        let delay_ms = self.rng.skewed(100, 60_000);
        let delay_ms = if self.healed_at.is_some() { delay_ms.min(2000) } else { delay_ms };
        self.later(delay_ms, Event::SupervisorStart { node, boot });
        if self.nodes[node].worker.alive && !self.nodes[node].worker.acting {
            // A worker that waits for the seat, or has left it, is cut off and looks for a supervisor.
            let worker = self.nodes[node].worker.life;
            self.later(1000, Event::Hello { node, worker, waited_ms: 0 });
        }
    }

    /// SIGTERM to the supervisor.
    pub(super) fn stop_node(&mut self, node: usize) {
        if !self.nodes[node].supervisor.alive {
            return;
        }
        self.nodes[node].stop_requested = true;
        self.hurt(node);
        if self.nodes[node].worker.acting {
            if self.nodes[node].worker.leaving.is_none() {
                self.nodes[node].worker.leaving = Some(LeaveReason::Shutdown);
                self.wake(Who { node, side: Side::Inside });
            }
            let supervisor = self.nodes[node].supervisor.life;
            self.later(LEAVE_MAX_MS, Event::LeaveMissed { node, supervisor });
        } else {
            self.wake(Who { node, side: Side::Outside });
        }
    }

    /// The worker was asked to leave and has not: the server is told to stop.
    pub(super) fn leave_missed(&mut self, node: usize, supervisor: u64) {
        let here = &self.nodes[node];
        if here.supervisor.alive && here.supervisor.life == supervisor && here.worker.acting && here.stop_requested {
            self.begin_stop(node, StopMode::Fast);
        }
    }

    /// Hands the seat to the worker that waits for it, once nothing of the supervisor's is under way.
    pub(super) fn pass_on_seat(&mut self, node: usize) {
        let here = &mut self.nodes[node];
        here.waiting = here.waiting.filter(|worker| here.worker.alive && here.worker.life == *worker);
        let busy = here.stop_requested
            || here.step.is_some()
            || !here.supervisor.outcomes.is_empty()
            || keeps_seat(&here.supervisor.memory);
        if here.waiting.is_none() || busy || !here.supervisor.acting {
            // Nobody is there to take it any more, or it is needed here: what was held back for that goes on.
            if here.supervisor.leaving.take().is_some() {
                self.wake(Who { node, side: Side::Outside });
            }
            return;
        }
        let begins = self.nodes[node].supervisor.leaving.replace(LeaveReason::WorkerLost).is_none();
        if let Some(flight) = &self.nodes[node].supervisor.store.flight {
            if begins && flight.call.may_be_given_up() {
                let (who, life) = (Who { node, side: Side::Outside }, self.nodes[node].supervisor.life);
                let reason = "given up: the seat is passed on";
                self.later(PASS_ON_WITHIN.0, Event::CallTimeout { who, life, flight: flight.number, reason });
            }
            return;
        }
        self.nodes[node].waiting = None;
        self.nodes[node].supervisor.leaving = None;
        let memory = self.nodes[node].supervisor.memory.clone();
        self.nodes[node].beat = Some(memory.clone());
        self.nodes[node].supervisor.acting = false;
        self.heard(node);
        self.say(node, "worker gets the seat");
        if !self.nodes[node].worker.acting {
            self.give_seat(Who { node, side: Side::Inside }, memory, None);
        }
    }

    // ---- the worker ----

    /// The postmaster starts the loop worker: with the server, or once recovery after a crash is through.
    pub(super) fn worker_start(&mut self, node: usize, server: u64) {
        let runs = self.nodes[node].server_of(server).is_some_and(|server| server.phase != Phase::Stopping);
        if !runs || self.nodes[node].worker.alive {
            return;
        }
        self.nodes[node].worker = self.fresh_process();
        let worker = self.nodes[node].worker.life;
        self.connect_store(Who { node, side: Side::Inside });
        self.soon(1, 30, Event::Hello { node, worker, waited_ms: 0 });
    }

    /// The worker reports to the supervisor, or looks for one.
    pub(super) fn hello(&mut self, node: usize, worker: u64, waited_ms: u64) {
        let here = &self.nodes[node];
        if !here.worker.alive || here.worker.life != worker || here.worker.told_to_stop {
            return;
        }
        if !here.supervisor.alive {
            if here.worker.acting {
                return;
            }
            if waited_ms < ALONE_AFTER_MS {
                self.later(1000, Event::Hello { node, worker, waited_ms: waited_ms + 1000 });
                return;
            }
            self.say(node, "worker acts alone");
            let carried = self.nodes[node].carried.take().unwrap_or_default();
            self.give_seat(Who { node, side: Side::Inside }, carried, None);
            return;
        }
        if here.worker.acting && !here.supervisor.acting {
            // It acted all along, and knows more than the supervisor.
            self.beat(node);
            self.wake(Who { node, side: Side::Inside });
            return;
        }
        self.nodes[node].waiting = Some(worker);
        if !here_acts(self, node) && self.nodes[node].beat.is_none() {
            // The supervisor was still waiting for this hello.
            self.give_seat(Who { node, side: Side::Outside }, Rc::default(), None);
        }
        self.pass_on_seat(node);
    }

    /// What the supervisor needs to go on at any moment.
    pub(super) fn beat(&mut self, node: usize) {
        if self.nodes[node].supervisor.alive {
            self.nodes[node].beat = Some(self.nodes[node].worker.memory.clone());
            self.pauses_noted(node);
            self.share_watchdog(node);
            self.heard(node);
        }
    }

    fn heard(&mut self, node: usize) {
        let now = self.local(node);
        if !self.nodes[node].is_frozen(Frozen::Supervisor) {
            self.nodes[node].heard_at = now;
        }
    }

    /// The worker hands the seat over once its last request to the store has ended and was taken into its memory.
    pub(super) fn leave_if_ready(&mut self, node: usize) {
        let worker = &self.nodes[node].worker;
        let quiet = worker.store.flight.is_none()
            && !worker.outcomes.iter().any(|outcome| matches!(outcome, Outcome::Dcs { .. }));
        let Some(reason) = worker.leaving.clone().filter(|_| worker.alive && worker.acting) else { return };
        let now = self.now;
        let until = *self.nodes[node].worker.leaving_since.get_or_insert(now) + LEAVE_WAIT_MS;
        if !quiet {
            if now >= until {
                // A real one does not wait for longer than this; here it does, and it is not to blame for what comes of that.
                self.nodes[node].hurt_at = now;
            }
            return;
        }
        let worker = &self.nodes[node].worker;
        let (in_place, planned) = (worker.leaves_in_place, reason == LeaveReason::Switchover);
        let supervised = self.nodes[node].supervisor.alive;
        if !supervised && !in_place {
            return;
        }
        self.say(node, "worker leaves the seat");
        self.nodes[node].worker.acting = false;
        let mut memory = self.nodes[node].worker.memory.clone();
        let session = self.nodes[node].worker.store.session.or(memory.session);
        Rc::make_mut(&mut memory).session = session;
        if in_place {
            judge::demoting_in_place(self, node, &reason);
        } else {
            self.thaw_log(node);
        }
        if supervised {
            self.give_seat(Who { node, side: Side::Outside }, memory, Some(reason));
        } else {
            self.nodes[node].carried = Some(memory);
        }
        if in_place {
            self.demote_in_place(node, planned);
        }
    }

    /// The worker's end: the seat goes to the supervisor if that lives.
    pub(super) fn worker_ends(&mut self, node: usize) {
        if !self.nodes[node].worker.alive {
            return;
        }
        let acted = self.nodes[node].worker.acting;
        self.nodes[node].worker.alive = false;
        self.nodes[node].worker.acting = false;
        self.nodes[node].frozen.retain(|(what, _)| !matches!(what, Frozen::Worker | Frozen::Main));
        if self.nodes[node].supervisor.alive && acted {
            let supervisor = self.nodes[node].supervisor.life;
            self.soon(1, 20, Event::WorkerGone { node, supervisor });
        }
    }

    pub(super) fn worker_gone(&mut self, node: usize, supervisor: u64) {
        let here = &self.nodes[node];
        if !here.supervisor.alive || here.supervisor.life != supervisor || here.supervisor.acting {
            return;
        }
        let memory = self.nodes[node].beat.clone().unwrap_or_default();
        self.knows_what_was_noted(node);
        self.say(node, "supervisor takes the seat");
        self.give_seat(Who { node, side: Side::Outside }, memory, Some(LeaveReason::WorkerLost));
        self.pass_on_seat(node);
    }

    // ---- a worker that is not heard ----

    /// The supervisor's watch over a silent worker: its lease is kept alive, which opens no fence; it is killed
    /// only when nothing else can save the lease.
    pub(super) fn silence(&mut self, node: usize, supervisor: u64) {
        let now = self.local(node);
        let here = &mut self.nodes[node];
        if !here.supervisor.alive || here.supervisor.life != supervisor {
            return;
        }
        self.later(500, Event::Silence { node, supervisor });
        let here = &mut self.nodes[node];
        // A loop that comes back late has stalled itself.
        if now.since(here.watched_at) >= Millis(1500) {
            here.attentive_since = now;
        }
        here.watched_at = now;
        if here.supervisor.acting || !here.worker.alive || !here.worker.acting || here.beat.is_none() {
            here.kept_at = None;
            return;
        }
        let (ttl, loop_wait) = (here.settings.ttl_ms, here.settings.loop_wait_ms);
        let heard_at = here.heard_at.max(here.attentive_since);
        let fed_every = here.supervisor.watchdog.map_or(loop_wait, |running| Millis(running.window().0 / 3));
        if now < heard_at + loop_wait.min(fed_every) + Millis(1000) {
            here.kept_at = None;
            return;
        }
        let memory = here.beat.clone().unwrap_or_default();
        if here.kept_at.is_none_or(|kept_at| now.since(kept_at) >= Millis(ttl.0 / 4)) {
            here.kept_at = Some(now);
            here.supervisor.store.session = memory.session.or(here.supervisor.store.session);
            here.supervisor.store.tenure.taken_over(memory.lease);
            if here.supervisor.store.flight.is_none() {
                self.call(Who { node, side: Side::Outside }, DcsCall::KeepSession);
            }
        }
        let promised = memory.failsafe.extended.unwrap_or_default();
        let deadline = memory.lease.map(|lease| lease.deadline().max(promised));
        let reset_at = self.nodes[node].supervisor.watchdog.map(|running| running.give_up_at());
        let deadline = deadline.into_iter().chain(reset_at).min();
        if now >= kill_at(heard_at, deadline, ttl) {
            self.say(node, "the worker is stuck: the supervisor kills it");
            self.kill_worker(node);
        }
    }
}

fn here_acts(world: &World, node: usize) -> bool {
    world.nodes[node].supervisor.acting
}

/// When a silent worker is killed: as late as its lease allows, or, with nothing to lose, after two lifetimes.
fn kill_at(heard_at: Tick, deadline: Option<Tick>, ttl: Millis) -> Tick {
    match deadline {
        Some(deadline) => (deadline - Millis(500)).max(heard_at + Millis(3000)),
        None => heard_at + Millis(ttl.0.saturating_mul(2)).max(Millis(3000)),
    }
}
