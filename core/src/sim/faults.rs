//! What goes wrong. When and what is planned; each fault that lasts plans its own end.

use super::event::{Event, Frozen, Undo};
use super::kinds::{Kind, name};
use super::node::{DiskState, Phase};
use super::rng::Rng;
use super::world::World;
use crate::effect::StopMode;
use crate::ids::NodeName;

use super::kinds::Kind::{
    BadLinks, CannotWrite, ChangeTtl, ClockRate, CrashNode, CutFromPeers, CutFromStore, DeleteKeys, DeleteLeaderKey,
    Failover, ForgetTtl, FreezeNode, FreezeSupervisor, FreezeWorker, HangServer, Isolate, JoinedLate, KillPostmaster,
    KillSupervisor, KillWorker, LoseData, LostOutcomes, NewestUnlisted, NoSupervisor, Pause, PauseMachine,
    PromoteBesideLeader, PromoteByHand, RestoreKeys, ShortPauses, StallMain, StartByHand, StopNode, StopServer,
    StoreDown, StoreElection, Suspend, Switchover, UndonePromotion,
};

impl World {
    /// A planned fault. What it draws is its own: without the others it does the same.
    pub(super) fn fault(&mut self, number: usize) {
        let Some(planned) = self.plan.get(number).copied() else { return };
        if let Some(next) = self.plan.get(number + 1) {
            self.queue.push(next.at_ms.max(self.now), Event::Fault(number + 1));
        }
        if self.healed_at.is_some() {
            return;
        }
        *self.faults.entry(name(planned.kind)).or_default() += 1;
        let world = std::mem::replace(&mut self.rng, Rng::new(planned.draw));
        self.strike(planned.kind, planned.lasts_ms);
        self.rng = world;
    }

    /// The leader half of the time: that is where it hurts.
    fn victim(&mut self) -> usize {
        let leader = self.store.leader().and_then(|key| self.nodes.iter().position(|node| node.name == key.name));
        match leader {
            Some(leader) if self.rng.chance(500) => leader,
            _ => self.rng.index(self.nodes.len()),
        }
    }

    fn strike(&mut self, kind: Kind, short_or_long: u64) {
        let node = self.victim();
        let store = self.net.store();
        let text = format!("--- {} ({short_or_long} ms)", name(kind));
        self.say(node, &text);
        match kind {
            KillWorker => self.kill_worker(node),
            KillPostmaster => self.kill_postmaster(node),
            KillSupervisor => self.kill_supervisor(node),
            CrashNode => self.crash_node(node),
            FreezeWorker => self.freeze(node, Frozen::Worker, short_or_long),
            StallMain => self.freeze(node, Frozen::Main, short_or_long),
            FreezeSupervisor => self.freeze(node, Frozen::Supervisor, short_or_long),
            FreezeNode => self.freeze(node, Frozen::Node, short_or_long),
            CutFromStore => self.cut(vec![(node, store)], short_or_long),
            CutFromPeers => {
                let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != node).collect();
                let some = self.rng.between(1, others.len() as u64);
                let pairs = others.into_iter().take(usize::try_from(some).unwrap_or(1)).map(|other| (node, other));
                self.cut(pairs.collect(), short_or_long);
            }
            Isolate => {
                let places = (0..=store).filter(|other| *other != node);
                self.cut(places.map(|other| (node, other)).collect(), short_or_long);
            }
            BadLinks => self.bad_links(node, short_or_long),
            StoreDown => self.store_down(short_or_long),
            StoreElection => self.store_renews_leases(),
            LostOutcomes => {
                self.outcome_trouble = 30;
                self.later(short_or_long, Event::Undo(Undo::Outcomes));
            }
            DeleteLeaderKey => self.operator_deletes_leader(),
            DeleteKeys => self.operator_deletes_keys(),
            RestoreKeys => self.operator_puts_back(),
            Switchover => self.operator_asks(true),
            Failover => self.operator_asks(false),
            // Now, or just when somebody has won the leader key.
            CannotWrite if self.rng.chance(300) => self.ambush = Some(short_or_long),
            CannotWrite => self.fill_disk(node, short_or_long),
            StopNode => {
                self.stop_node(node);
            }
            StopServer => {
                self.hurt(node);
                self.begin_stop(node, StopMode::Fast);
            }
            LoseData => self.lose_data(node),
            NoSupervisor => {
                self.nodes[node].supervised = false;
                self.kill_supervisor(node);
            }
            HangServer => self.hang_server(node, short_or_long),
            Pause => self.operator_pauses(),
            PromoteByHand => self.promotes_by_hand(node),
            PromoteBesideLeader => self.promotes_beside_leader(node),
            StartByHand => self.starts_by_hand(node),
            PauseMachine => self.pause_machine(node, short_or_long),
            Suspend => self.suspend(node, short_or_long),
            JoinedLate => self.joined_late(),
            ShortPauses => self.short_pauses(node),
            UndonePromotion => self.undo_next_promotion(),
            NewestUnlisted => self.newest_unlisted(),
            ChangeTtl => self.operator_changes_ttl(),
            ForgetTtl => self.lowers_ttl_under_promise(),
            ClockRate => {
                let rate = super::genesis::rate_ppm(&mut self.rng);
                let now = self.now;
                self.nodes[node].clock.change_rate(now, rate);
                // Whoever mends a rate sets the time of day too.
                self.nodes[node].wall_ms += rate;
            }
        }
    }

    fn fill_disk(&mut self, node: usize, lasts_ms: u64) {
        self.nodes[node].cannot_write = true;
        self.trouble(node);
        self.wake_seat(node);
        self.later(lasts_ms, Event::Undo(Undo::CannotWrite { node }));
    }

    /// The leader key has a new owner: its disk may be full from this moment on.
    pub(super) fn spring_ambush(&mut self, taker: &NodeName) {
        let node = self.nodes.iter().position(|node| node.name == *taker);
        if let (Some(node), Some(lasts_ms)) = (node, self.ambush.take()) {
            self.say(node, "--- disk full, at the worst moment");
            self.fill_disk(node, lasts_ms);
        }
    }

    /// The key was released for a candidate.
    pub(super) fn strike_the_doomed(&mut self) {
        let doomed = self.doomed.take().and_then(|name| self.nodes.iter().position(|node| node.name == name));
        if let Some(node) = doomed.filter(|_| self.healed_at.is_none()) {
            *self.faults.entry("candidate crashes at the release").or_default() += 1;
            self.say(node, "--- machine crashes, just when it was given the key");
            self.crash_node(node);
        }
    }

    // ---- machines ----

    pub(super) fn crash_node(&mut self, node: usize) {
        if !self.nodes[node].up {
            return;
        }
        self.hurt(node);
        self.break_step(node);
        self.memory_goes(node, true);
        let here = &mut self.nodes[node];
        here.up = false;
        here.worker.alive = false;
        here.worker.acting = false;
        here.supervisor.alive = false;
        here.supervisor.acting = false;
        here.server = None;
        here.heard_at = crate::clock::Tick(0);
        here.attentive_since = crate::clock::Tick(0);
        here.watched_at = crate::clock::Tick(0);
        here.kept_at = None;
        here.parked.clear();
        here.frozen.clear();
        here.guest.booted();
        here.watchdog.live = None;
        here.boot += 1;
        let boot = here.boot;
        self.drop_standbys_of(node);
        let delay_ms = self.rng.skewed(2_000, 200_000);
        let delay_ms = if self.healed_at.is_some() { delay_ms.min(20_000) } else { delay_ms };
        self.later(delay_ms, Event::Boot { node, boot });
    }

    pub(super) fn boot(&mut self, node: usize, boot: u64) {
        if self.nodes[node].up || self.nodes[node].boot != boot {
            return;
        }
        // A machine that reboots counts from zero again.
        let now = self.now;
        if boot > 0 {
            let rate = super::genesis::rate_ppm(&mut self.rng);
            let clock = super::clock::BootClock::new(now, self.rng.between(3000, 20_000), rate);
            self.nodes[node].clock = clock;
            if let Some(marker) = &mut self.nodes[node].disk.marker {
                // It counts only in the life of the machine in which it was written.
                marker.lease = None;
            }
            self.nodes[node].wall_ms = super::appointments::about_right(&clock, now, node);
        }
        self.nodes[node].up = true;
        self.say(node, "machine boots");
        if self.nodes[node].supervised {
            self.soon(10, 2000, Event::SupervisorStart { node, boot });
        } else {
            self.soon(10, 2000, Event::UnitStart { node, boot });
        }
    }

    pub(super) fn freeze(&mut self, node: usize, what: Frozen, lasts_ms: u64) {
        let here = &self.nodes[node];
        let there = match what {
            Frozen::Worker | Frozen::Main => here.worker.alive,
            Frozen::Supervisor => here.supervisor.alive,
            Frozen::Node => here.up,
        };
        if !there || here.frozen.iter().any(|(frozen, _)| *frozen == what) {
            return;
        }
        self.hurt(node);
        let number = self.number();
        self.nodes[node].frozen.push((what, number));
        self.later(lasts_ms, Event::Thaw { node, what, number });
    }

    pub(super) fn thaw(&mut self, node: usize, what: Frozen, number: u64) {
        let before = self.nodes[node].frozen.len();
        self.nodes[node].frozen.retain(|frozen| *frozen != (what, number));
        if self.nodes[node].frozen.len() < before {
            self.hurt(node);
            self.say(node, "goes on after a freeze");
            if what == Frozen::Node {
                self.machine_resumes(node);
            }
            self.release_parked(node);
        }
    }

    pub(super) fn release_parked(&mut self, node: usize) {
        for (_, event) in std::mem::take(&mut self.nodes[node].parked) {
            self.later(0, event);
        }
    }

    /// An operator wipes or damages the data directory of a stopped standby, or a disk breaks.
    fn lose_data(&mut self, node: usize) {
        let leader = self.store.leader();
        let holder = leader.and_then(|key| self.nodes.iter().position(|other| other.name == key.name));
        let healthy_elsewhere =
            holder.is_some_and(|at| at != node && self.server(at).is_some_and(|s| s.phase == Phase::Primary));
        // A leader whose server is down may lose its data too, if somebody has a copy that is not much older.
        let copy_elsewhere = holder == Some(node) && self.has_close_copy(node);
        if !(healthy_elsewhere || copy_elsewhere)
            || self.nodes[node].server.is_some()
            || self.nodes[node].step.is_some()
        {
            return;
        }
        self.judge.leader_data_lost |= copy_elsewhere;
        self.hurt(node);
        let damaged =
            DiskState::Damaged { reason: "global/pg_control is missing".to_owned(), half_copied: false, ours: false };
        self.nodes[node].disk.state = if self.rng.chance(500) { damaged } else { DiskState::Empty };
        self.nodes[node].disk.marker = None;
        self.wake_seat(node);
    }

    fn has_close_copy(&self, node: usize) -> bool {
        let Some(lost) = self.nodes[node].disk.data().map(|data| data.at) else { return false };
        self.nodes.iter().enumerate().any(|(index, other)| {
            let may_lead = index != node && !other.settings.tags.nofailover() && !self.watchdog_bars(index);
            other.disk.data().is_some_and(|data| {
                may_lead && data.at.branch == lost.branch && lost.lsn.ahead_of(data.at.lsn) < 10_000
            })
        })
    }
}
