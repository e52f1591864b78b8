//! A device in each machine that resets it unless it is fed: closed by nobody it runs on, whatever becomes of the processes.

use super::Mutant;
use super::event::{Event, Who};
use super::judge;
use super::params::Params;
use super::rng::Rng;
use super::world::World;
use crate::clock::{Millis, Tick};
use crate::decide::Decision;
use crate::effect::Effect;
use crate::memory::Stage;
use crate::rule::Rule;
use crate::view::{Side, View};
use crate::watchdog::{Mode, Running, WatchdogView};
use serde::{Deserialize, Serialize};

/// How long a process does not try again after the device has failed.
const FAILED_FOR: Millis = Millis(60_000);
/// The shortest timeout of a device that knows no shorter one.
const COARSE: Millis = Millis(60_000);

/// Which devices there are, beside the settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Watchdogs {
    /// The machines have them.
    pub(super) present: bool,
    /// The last one has none, and the second takes a minute at least.
    pub(super) odd: bool,
    /// They cannot be stopped.
    pub(super) stay: bool,
    /// How often an attempt to arm or feed one fails.
    pub(super) failing_per_mille: u64,
}

/// Some seeds are worlds with watchdogs. Drawn apart: the others are what they would be without.
pub(super) fn among_them(params: &mut Params, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x00d0_6000);
    // The shortest ttl is too short for any device, and what a pause does to one of a guest is its hypervisor's business.
    if !(30..380).contains(&rng.below(1000)) || params.settings.ttl_ms <= Millis(5000) || params.virtual_machines {
        return;
    }
    let settings = &mut params.settings.watchdog;
    settings.mode = if rng.chance(600) { Mode::Required } else { Mode::Automatic };
    settings.safety_margin_s = [5, 5, -1][rng.index(3)];
    params.watchdogs = Watchdogs {
        present: true,
        odd: rng.chance(300),
        failing_per_mille: if rng.chance(300) { rng.between(1, 5) } else { 0 },
        stay: rng.chance(250),
    };
}

/// A device.
#[derive(Debug, Default)]
pub(super) struct Device {
    pub(super) absent: bool,
    pub(super) shortest: Millis,
    stays: bool,
    /// That it cannot be stopped is known before it is tried.
    says_so: bool,
    pub(super) live: Option<Live>,
}

/// One that runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Live {
    number: u64,
    pub(super) set: Running,
    /// By true time.
    pub(super) resets_at: u64,
}

pub(super) fn device(params: &Params, index: usize) -> Device {
    let Watchdogs { present, odd, stay, .. } = params.watchdogs;
    let coarse = odd && index == 1;
    Device {
        absent: !present || (odd && index > 1 && index + 1 == params.nodes),
        shortest: if coarse { COARSE } else { Millis(0) },
        stays: stay,
        says_so: index.is_multiple_of(2),
        live: None,
    }
}

impl World {
    /// Whether a node's device keeps it from leading for good.
    pub(super) fn watchdog_bars(&self, node: usize) -> bool {
        let device = &self.nodes[node].watchdog;
        let coarse = device.shortest > self.params.settings.ttl_ms;
        self.params.settings.watchdog.mode == Mode::Required && (device.absent || coarse)
    }

    pub(super) fn seen_watchdog(&self, who: Who) -> WatchdogView {
        let (device, process) = (&self.nodes[who.node].watchdog, self.process(who));
        if device.absent {
            return WatchdogView { obstacle: Some("there is no device".to_owned()), ..WatchdogView::default() };
        }
        let failed = process.watchdog_failed.filter(|at| self.local(who.node).since(*at) < FAILED_FOR);
        let mut running = process.watchdog;
        if let (Some(running), true) = (&mut running, self.is(Mutant::WatchdogTimeoutUnread)) {
            running.timeout_ms = running.asked_ms;
        }
        let left = device.live.is_some() && !self.watchdog_is_open(who.node);
        WatchdogView { obstacle: failed.map(|_| "Input/output error".to_owned()), running, left }
    }

    fn watchdog_is_open(&self, node: usize) -> bool {
        let has = |process: &super::node::Process| process.alive && process.watchdog.is_some();
        has(&self.nodes[node].worker) || has(&self.nodes[node].supervisor)
    }

    pub(super) fn arm_watchdog(&mut self, who: Who, asked_ms: Millis, by: Tick) {
        let now = self.local(who.node);
        if now <= by && !self.watchdog_fails(who) {
            let timeout_ms = asked_ms.max(self.nodes[who.node].watchdog.shortest);
            let device = &self.nodes[who.node].watchdog;
            let stays = device.stays && (device.says_so || self.process(who).watchdog.is_some_and(|it| it.stays));
            self.set_watchdog(who, Running { asked_ms, timeout_ms, fed_at: now, stays });
        }
    }

    pub(super) fn feed_watchdog(&mut self, who: Who, by: Tick) {
        let now = self.local(who.node);
        let Some(running) = self.process(who).watchdog else { return };
        if now <= by && !self.watchdog_fails(who) {
            self.set_watchdog(who, Running { fed_at: now, ..running });
        }
    }

    fn watchdog_fails(&mut self, who: Who) -> bool {
        let per_mille = self.params.watchdogs.failing_per_mille;
        let fails = per_mille > 0 && self.healed_at.is_none() && self.rng.chance(per_mille);
        let now = self.local(who.node);
        self.process_mut(who).watchdog_failed = fails.then_some(now);
        if fails {
            *self.faults.entry("watchdog fails").or_default() += 1;
            self.say(who.node, "--- the watchdog fails");
            self.hurt(who.node);
        }
        fails
    }

    fn set_watchdog(&mut self, who: Who, set: Running) {
        let number = self.number();
        let resets_at = self.nodes[who.node].clock.true_time(set.fed_at + set.timeout_ms);
        self.nodes[who.node].watchdog.live = Some(Live { number, set, resets_at });
        self.process_mut(who).watchdog = Some(set);
        let delay_ms = resets_at.saturating_sub(self.now);
        self.later(delay_ms, Event::WatchdogResets { node: who.node, number });
        judge::watchdog_fed(self, who);
    }

    pub(super) fn disarm_watchdog(&mut self, who: Who) {
        judge::watchdog_stopped(self, who.node);
        if let (true, Some(live)) = (self.nodes[who.node].watchdog.stays, self.nodes[who.node].watchdog.live) {
            // The attempt feeds it.
            let fed_at = self.local(who.node);
            self.set_watchdog(who, Running { fed_at, stays: true, ..live.set });
            return self.share_watchdog(who.node);
        }
        self.nodes[who.node].watchdog.live = None;
        self.process_mut(who).watchdog = None;
        self.share_watchdog(who.node);
    }

    /// The supervisor has the worker's device open, too, as of its last beat.
    pub(super) fn share_watchdog(&mut self, node: usize) {
        if self.nodes[node].worker.acting && self.nodes[node].supervisor.alive {
            self.nodes[node].supervisor.watchdog = self.nodes[node].worker.watchdog;
        }
    }

    /// The seat goes to the other side, and the device with it.
    pub(super) fn pass_on_watchdog(&mut self, node: usize, to: Side) {
        match to {
            Side::Inside => self.nodes[node].worker.watchdog = self.nodes[node].supervisor.watchdog,
            Side::Outside => {
                let its = self.nodes[node].worker.watchdog.take();
                let supervisor = &mut self.nodes[node].supervisor;
                supervisor.watchdog = its.or(supervisor.watchdog);
            }
        }
    }

    pub(super) fn watchdog_resets(&mut self, node: usize, number: u64) {
        let live = self.nodes[node].watchdog.live.filter(|live| live.number == number);
        if live.is_none() || !self.nodes[node].up {
            return;
        }
        *self.faults.entry("reset by its watchdog").or_default() += 1;
        self.say(node, "--- the watchdog resets the machine");
        judge::watchdog_resets(self, node);
        self.crash_node(node);
    }

    /// Something other than the network or the store is wrong with a node.
    pub(super) fn hurt(&mut self, node: usize) {
        self.trouble(node);
        self.nodes[node].hurt_at = self.now;
    }
}

/// What a mutant makes of a decision about the watchdog.
pub(super) fn bend(mutant: Mutant, decision: &mut Decision, view: &View<'_>) {
    let runs = view.local.watchdog.running.is_some();
    match mutant {
        Mutant::WatchdogFedBlindly if runs => {
            decision.effects.insert(0, Effect::FeedWatchdog { by: Tick(u64::MAX) });
        }
        Mutant::WatchdogStoppedEarly if runs && decision.memory.stage.resigning() => {
            decision.effects.insert(0, Effect::DisarmWatchdog);
        }
        Mutant::WatchdogLetGo if view.local.watchdog.running.is_some_and(|running| running.stays) => {
            let leads = decision.memory.lease.is_some_and(|lease| lease.valid_at(view.now));
            decision.effects.retain(|effect| leads || !matches!(effect, Effect::FeedWatchdog { .. }));
        }
        Mutant::WatchdogAwaited if decision.rule == Rule::LeaderWatchdogDue => {
            decision.memory.stage = Stage::Steady;
            decision.effects.clear();
        }
        _ => {}
    }
}
