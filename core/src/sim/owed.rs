//! What is owed by a `ttl` that is not in force any more: what the disk keeps of it, and an operator who lowers `ttl` while a leader without
//! the store counts on promises, just before whoever gave them starts anew.

use super::Mutant;
use super::event::{Event, Who};
use super::kinds::{self, Kind};
use super::leases::{timing, timing_in, write_timing};
use super::params::{Params, TIMINGS, Weather};
use super::rng::Rng;
use super::world::World;
use crate::clock::Millis;
use crate::view::Side;

/// What an operator sets before, and what he lowers it to.
const LONG: [(u64, u64, u64); 2] = [TIMINGS[0], TIMINGS[1]];
const SHORT: (u64, u64, u64) = TIMINGS[3];

impl World {
    /// What a process knows to be on disk. One mutant promises by the `ttl` in force, and knows of nothing else when it begins.
    pub(super) fn kept_ttl(&self, who: Who) -> Millis {
        let node = &self.nodes[who.node];
        if self.is(Mutant::LongerTtlForgotten) {
            return if node.settings.failsafe_mode { node.settings.ttl_ms } else { Millis(0) };
        }
        self.process(who).keeps_ttl.map_or(node.kept_ttl, |asked| asked.min(node.kept_ttl))
    }

    /// The supervisor waits for its disk, the worker has a thread for that.
    pub(super) fn keep_ttl(&mut self, who: Who, ttl: Millis) {
        if self.process(who).keeps_ttl.is_some() {
            return;
        }
        self.process_mut(who).keeps_ttl = Some(ttl);
        let life = self.process(who).life;
        if who.side == Side::Outside {
            self.ttl_kept(who, life);
            return;
        }
        let delay_ms = if self.params.changes_ttl { self.rng.skewed(1, 2000) } else { 5 };
        self.later(delay_ms, Event::TtlKept { who, life });
    }

    /// Nobody writes for a process that is gone, nor for one that has left the seat.
    pub(super) fn ttl_kept(&mut self, who: Who, life: u64) {
        let Some(process) = self.living(who, life) else { return };
        let (acting, asked) = (process.acting, process.keeps_ttl.take());
        let Some(ttl) = asked.filter(|_| acting && !self.nodes[who.node].cannot_write) else { return };
        self.nodes[who.node].kept_ttl = ttl;
        if self.params.changes_ttl && who.side == Side::Inside {
            self.wake(who);
        }
    }

    /// With a long `ttl` in force, a leader loses the store, and so has to count on promises; else `ttl` becomes long first.
    pub(super) fn lowers_ttl_under_promise(&mut self) {
        let cluster = self.store.cluster();
        let config = cluster.config.as_ref();
        let in_force = config.and_then(|config| timing_in(&config.value));
        if in_force.is_none_or(|in_force| in_force.0 < LONG[1].0) {
            let long = LONG[self.rng.index(LONG.len())];
            self.operator_sets_ttl(long);
            return;
        }
        let leader = cluster.leader.as_ref().and_then(|leader| self.nodes.iter().position(|n| n.name == leader.name));
        if let Some(leader) = leader {
            self.forgets_ttl = true;
            let lasts_ms = self.rng.between(60_000, 90_000);
            self.cut(vec![(leader, self.net.store())], lasts_ms);
        }
    }

    /// A leader was promised something.
    pub(super) fn promised_by_longer(&mut self, leader: usize, lasts: Millis) {
        if self.forgets_ttl && self.healed_at.is_none() && lasts.0 > SHORT.0 * 1000 {
            self.forgets_ttl = false;
            self.operator_sets_ttl(SHORT);
            // Until everybody has promised, and has read that.
            self.soon(200, 3000, Event::TtlForgotten { leader });
        }
    }

    /// The leader is out of everybody's sight, and all the others start anew, or one of them.
    pub(super) fn ttl_forgotten(&mut self, leader: usize) {
        if self.healed_at.is_some() {
            return;
        }
        self.say(leader, "--- isolated, and whoever promised it something starts anew");
        let places = (0..=self.net.store()).filter(|other| *other != leader);
        self.cut(places.map(|other| (leader, other)).collect(), LONG[0].0 * 2000);
        let mut members: Vec<usize> = (0..self.nodes.len()).filter(|node| *node != leader).collect();
        if self.rng.chance(500) {
            members = vec![members[self.rng.index(members.len())]];
        }
        for member in members {
            if self.rng.chance(200) {
                self.crash_node(member);
            } else {
                self.kill_supervisor(member);
                self.kill_worker(member);
            }
        }
    }
}

/// Some seeds in failsafe mode are worlds in which `ttl` is changed, and some of those in which little else happens. Drawn apart: the others
/// are what they would be without it.
pub(super) fn among_them(params: &mut Params, weather: &mut Weather, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x0_0ed7);
    // What a device, or an archive behind a hand-over, makes of another ttl is not looked at here.
    if params.watchdogs.present || params.changes_ttl || params.archive_max_ms.is_some() {
        return;
    }
    if rng.chance(40) && !params.virtual_machines {
        super::promises::failsafe_mode(params);
        weather.weights = kinds::forgotten_leases();
        weather.every_ms = rng.between(15_000, 30_000);
        // Whoever starts anew is to be there again before the promise is over.
        params.nodes = params.nodes.min(3);
        params.recovery_max_ms = params.recovery_max_ms.min(1000);
        (params.failing_step_per_mille, params.kill_between_effects_per_mille) = (0, 0);
        timing(&mut params.settings, LONG[rng.index(LONG.len())]);
    } else if params.settings.failsafe_mode && rng.chance(250) {
        weather.mix_in(&mut rng, &[Kind::ChangeTtl]);
    } else {
        return;
    }
    params.changes_ttl = true;
    write_timing(&mut params.settings);
}
