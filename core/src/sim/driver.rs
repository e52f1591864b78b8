//! A driver's tick, as in the product: one snapshot, one decision, its effects in order, the outcomes next time.
//! No rule lives here.

use super::Mutant;
use super::event::{Event, Who};
use super::hypervisor::Moment;
use super::observe::{self, Seen};
use super::world::World;
use crate::clock::{Millis, Tick};
use crate::cluster::Initialize;
use crate::dcs::{DcsCall, Key};
use crate::decide::{Decision, decide};
use crate::effect::{DemoteMethod, Effect};
use crate::failsafe::Question;
use crate::ids::SystemId;
use crate::local::LocalView;
use crate::outcome::Outcome;
use crate::seat::LeaveReason;
use crate::view::{DcsView, Seat, Side, View};
use crate::watchdog::Mode;
use std::rc::Rc;

pub(super) const SCOPE: &str = "demo";
/// A driver never decides more often than this.
const SHORTEST_PAUSE: Millis = Millis(1);
/// How soon it tries again after an effect failed.
const RETRY_AFTER_FAILURE: Millis = Millis(1000);

/// What an effect did to the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Went {
    On,
    /// The process died, or the effect failed: the rest is dropped.
    Wrong,
}

impl World {
    pub(super) fn has_seat(&self, who: Who) -> bool {
        self.process(who).alive && self.process(who).acting
    }

    /// Something happened that the driver has to look at.
    pub(super) fn wake(&mut self, who: Who) {
        let delay_ms = u64::from(self.rng.chance(200));
        self.wake_at(who, self.now + delay_ms);
    }

    pub(super) fn wake_seat(&mut self, node: usize) {
        for side in [Side::Inside, Side::Outside] {
            let who = Who { node, side };
            if self.has_seat(who) {
                self.wake(who);
            }
        }
    }

    fn wake_at(&mut self, who: Who, at: u64) {
        let process = self.process_mut(who);
        if !process.alive || process.tick_at.is_some_and(|planned| planned <= at) {
            return;
        }
        process.tick_at = Some(at);
        let life = process.life;
        self.queue.push(at, Event::Tick { who, life });
    }

    pub(super) fn tick(&mut self, who: Who, life: u64) {
        let now = self.now;
        let Some(process) = self.living(who, life) else { return };
        // An earlier wake replaced this one.
        if process.tick_at.is_none_or(|planned| planned > now) {
            return;
        }
        process.tick_at = None;
        if !self.has_seat(who) {
            return;
        }
        if who.side == Side::Inside && self.process(who).leaving.is_some() {
            // Whoever leaves the seat closes the fence first.
            self.close_fence(who.node);
        }
        self.ends_founding(who);
        let local = observe::local(self, who);
        let outcomes = std::mem::take(&mut self.process_mut(who).outcomes);
        let decision = self.decide(who, &local, &outcomes);
        self.takes_turn(who, decision.jumps.as_ref());
        if self.judge.violation.is_some() {
            return;
        }
        self.take_in(who, life, local, decision);
    }

    /// The system identifier of its data, once it is certain that these are the cluster's.
    fn own_data(&self, who: Who) -> Option<u64> {
        let store = &self.process(who).store;
        let cluster = store.cluster.as_ref().filter(|_| store.lost_since.is_none())?;
        let system = self.nodes[who.node].disk.data()?.system;
        (cluster.initialize == Initialize::Done(SystemId(system))).then_some(system)
    }

    /// The worker takes the mark of a bootstrap away once the store shows the cluster as founded with these data.
    fn ends_founding(&mut self, who: Who) {
        if who.side == Side::Inside && self.own_data(who).is_some() {
            self.nodes[who.node].disk.founding = None;
        }
    }

    /// Each process has the settings as it last read them, or as they were kept on disk when it began.
    fn read_settings(&mut self, who: Who) {
        self.read_timing(who);
        let cluster = self.process(who).store.cluster.clone();
        let node = &mut self.nodes[who.node];
        if let Some((paused, config)) =
            cluster.as_ref().and_then(|cluster| cluster.paused().zip(cluster.config.as_ref()))
        {
            node.kept_pause = paused;
            if node.settings.bootstrap_dcs != config.value {
                node.settings.bootstrap_dcs = config.value.clone();
            }
            self.process_mut(who).paused = Some(paused);
        }
        let kept = self.nodes[who.node].kept_pause;
        self.nodes[who.node].settings.pause = *self.process_mut(who).paused.get_or_insert(kept);
        if self.is(Mutant::WatchdogNotRequired) {
            self.nodes[who.node].settings.watchdog.mode = Mode::Automatic;
        }
    }

    fn decide(&mut self, who: Who, local: &LocalView, outcomes: &[Outcome]) -> Decision {
        let jitter = u32::try_from(self.rng.next() >> 32).unwrap_or(0);
        let now = self.local(who.node);
        self.process_mut(who).heartbeat = now;
        let store = &mut self.process_mut(who).store;
        if store.cluster.is_none() {
            store.lost_since.get_or_insert(now);
        }
        self.read_settings(who);
        let node = &self.nodes[who.node];
        let process = self.process(who);
        let seat = match who.side {
            Side::Inside => Seat::Inside { supervised: node.supervisor.alive },
            Side::Outside => Seat::Outside,
        };
        let questions: Vec<Question> = process.questions.iter().map(|asked| asked.question.clone()).collect();
        let cluster = self.shown(who.node, process.store.cluster.as_ref());
        let cluster = cluster.as_deref();
        let heard = self.heard_of_listed(process);
        let dcs = match (process.store.lost_since, cluster) {
            (None, Some(cluster)) => DcsView::Fresh(cluster),
            (since, last) => DcsView::Unreachable { since: since.unwrap_or(Tick(0)), last },
        };
        let view = View {
            now,
            clocks: Some(self.clocks_read(who, self.clocks(who.node))),
            seat,
            me: &node.name,
            scope: SCOPE,
            identity: &node.identity,
            settings: &node.settings,
            dcs,
            local,
            peers: heard.as_deref().unwrap_or(&process.peers),
            promises: &process.promises,
            questions: &questions,
            outcomes,
            dcs_busy: process.store.flight.is_some() || process.leaving.is_some(),
            stop_requested: node.stop_requested && who.side == Side::Outside,
            jitter,
        };
        let mut decision = decide(&process.memory, &view);
        let decided_by = process.store.cluster.clone().filter(|_| process.store.lost_since.is_none());
        if let Some(mutant) = self.mutant {
            mutant.bend(&mut decision, &view);
            self.bend_members(who.node, &mut decision);
        } else if let Err(broken) = decision.check(&view) {
            let text = format!("{}: Decision::check: {broken} (rule {})", node.name, decision.rule.code());
            self.judge.report("contract", text);
        }
        if decided_by.is_some() {
            self.process_mut(who).decided_by = decided_by;
        }
        decision
    }

    fn take_in(&mut self, who: Who, life: u64, local: LocalView, decision: Decision) {
        let Decision { rule, memory, effects, wake_at, because: _, jumps: _ } = decision;
        self.rules[rule as usize] += 1;
        if self.process(who).rule != Some(rule) {
            self.process_mut(who).rule = Some(rule);
            self.digest(rule as u64);
            let text = format!("{} {}", side_name(who.side), rule.code());
            self.say(who.node, &text);
        }
        super::judge::decided(self, who.node, &memory);
        let memory = Rc::new(memory);
        self.process_mut(who).memory = memory.clone();
        if who.side == Side::Inside {
            self.rests_on_promises(who.node);
            if let Some(system) = self.own_data(who) {
                self.mark(who.node, system, &memory);
            }
        }
        let at = self.local(who.node);
        self.nodes[who.node].published = Some(Seen { local, memory, at });
        let mut went = Went::On;
        let promises = effects.iter().any(|effect| matches!(effect, Effect::AnswerFailsafe { .. }));
        let releases = effects.iter().any(|effect| matches!(effect, Effect::Dcs(DcsCall::ReleaseLeader { .. })));
        if who.side == Side::Inside && (releases || promises) {
            // Whoever goes on must know of it.
            self.beat(who.node);
        }
        for effect in &effects {
            if let Some(text) = self.log.on.then(|| telling(effect)).flatten() {
                let text = format!("{} -> {text}", side_name(who.side));
                self.say(who.node, &text);
            }
            went = self.execute(who, effect);
            if went == Went::Wrong || self.dies_between_effects(who, releases) {
                break;
            }
        }
        if self.living(who, life).is_none() {
            return;
        }
        if !self.has_seat(who) {
            return;
        }
        match who.side {
            Side::Inside => {
                self.beat(who.node);
                self.leave_if_ready(who.node);
            }
            Side::Outside => self.pass_on_seat(who.node),
        }
        let now = self.local(who.node);
        // Never in a tight loop, never later than the loop's period.
        let period = self.nodes[who.node].settings.loop_wait_ms;
        let period = if went == Went::Wrong { period.min(RETRY_AFTER_FAILURE) } else { period };
        let wake_at = wake_at.max(now + SHORTEST_PAUSE).min(now + period);
        let at = self.nodes[who.node].clock.true_time(wake_at);
        self.wake_at(who, at.max(self.now + 1));
    }

    fn dies_between_effects(&mut self, who: Who, releases: bool) -> bool {
        let per_mille = self.params.kill_between_effects_per_mille * if releases { 4 } else { 1 };
        if self.healed_at.is_some() || !self.rng.chance(per_mille) {
            return false;
        }
        *self.faults.entry("killed between effects").or_default() += 1;
        match who.side {
            Side::Inside if self.rng.chance(500) => self.kill_worker(who.node),
            Side::Inside => self.kill_postmaster(who.node),
            Side::Outside => self.kill_supervisor(who.node),
        }
        true
    }

    fn execute(&mut self, who: Who, effect: &Effect) -> Went {
        match effect {
            Effect::Dcs(call) => {
                match call {
                    DcsCall::Write(edit) => super::judge::writes(self, who.node, edit),
                    DcsCall::ReleaseLeader { announce, .. }
                        if who.side == Side::Inside && announce.candidate.is_some() =>
                    {
                        super::judge::handing_over(self, who.node);
                    }
                    _ => {}
                }
                self.call(who, call.clone());
            }
            Effect::PollPeers { targets } => self.poll_peers(who, targets),
            Effect::AskFailsafe { targets, created } => self.ask_promises(who, targets, *created),
            Effect::AnswerFailsafe { question, reply } => self.answer_question(who, *question, reply),
            Effect::KeepTtl { ttl } => self.keep_ttl(who, *ttl),
            Effect::ExtendFence { until } => return self.extend_fence(who.node, *until),
            Effect::LimitFence { until } => self.limit_fence(who.node, *until),
            Effect::CloseFence => self.close_fence(who.node),
            Effect::OpenFence { lease } => return self.open_fence(who.node, lease),
            Effect::UnbindFence { .. } => return self.unbind_fence(who.node),
            Effect::Promote { lease, timeline, skip } => {
                self.comes_to(who.node, Moment::Promotion);
                return self.promote(who.node, lease, *timeline, skip);
            }
            Effect::PressOn(pressure) => self.press_on(who.node, *pressure),
            Effect::Checkpoint => self.checkpoint(who.node),
            Effect::Park => self.park(who.node),
            Effect::Unpark => self.unpark(who.node),
            Effect::Seal => self.seal(who.node),
            Effect::Unseal => self.unseal(who.node),
            Effect::Freeze => self.end_log(who.node),
            Effect::ServeReads => self.serve_reads(who.node),
            Effect::Follow { upstream } => self.follow(who.node, upstream.clone()),
            Effect::Demote { reason, method } => self.demote(who, reason.clone(), *method),
            Effect::ArmWatchdog { timeout_ms, by } => self.arm_watchdog(who, *timeout_ms, *by),
            Effect::FeedWatchdog { by } => self.feed_watchdog(who, *by),
            Effect::DisarmWatchdog => self.disarm_watchdog(who),
            Effect::Run(step) => self.run_step(who.node, step),
            Effect::Exit { .. } => {
                self.kill_supervisor(who.node);
                return Went::Wrong;
            }
        }
        Went::On
    }

    /// The worker gives the seat up, or stops the server itself where nobody else can.
    fn demote(&mut self, who: Who, reason: LeaveReason, method: DemoteMethod) {
        let in_place = method == DemoteMethod::InPlace;
        if in_place || self.nodes[who.node].supervisor.alive {
            self.nodes[who.node].worker.leaving = Some(reason);
            self.nodes[who.node].worker.leaves_in_place = in_place;
        } else {
            self.thaw_log(who.node);
            self.begin_stop(who.node, crate::effect::StopMode::Fast);
        }
    }
}

pub(super) fn side_name(side: Side) -> &'static str {
    match side {
        Side::Inside => "in ",
        Side::Outside => "out",
    }
}

/// The effect as text, unless it is one of those that come all the time.
fn telling(effect: &Effect) -> Option<String> {
    match effect {
        Effect::Dcs(DcsCall::KeepSession | DcsCall::RenewLeader(_)) => None,
        Effect::Dcs(DcsCall::Write(edit)) if matches!(edit.key, Key::Member(_) | Key::Status) => None,
        Effect::Dcs(DcsCall::Write(edit)) => Some(format!(
            "write {} {} ({:?})",
            edit.key.path(),
            edit.value.as_deref().unwrap_or("(delete)"),
            edit.expect
        )),
        other => Some(other.to_string()),
    }
}
