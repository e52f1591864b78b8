//! Replay that is behind what was received: a long query, or `recovery_min_apply_delay`. A promotion first replays all of it.

use super::event::Event;
use super::node::{Phase, Server};
use super::params::Params;
use super::rng::Rng;
use super::world::World;
use crate::effect::Pressure;
use crate::ids::Lsn;

/// How often replay stops when something arrives.
const STOPS_PER_MILLE: u64 = 20;

/// In some seeds replay stops now and then, for so long at most.
pub(super) fn among_them(params: &mut Params, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x0_4e91);
    if rng.chance(200) {
        params.replay_lag_max_ms = [2000, 10_000, 40_000][rng.index(3)];
    }
}

/// What holds it up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    number: u64,
    at: Lsn,
    /// `recovery_min_apply_delay`, which a promotion ends, and not a query.
    by_delay: bool,
}

impl World {
    /// Up to where a standby has replayed.
    pub(super) fn replayed_to(&self, node: usize) -> Lsn {
        let end = self.nodes[node].disk.data().map_or(Lsn(0), |data| data.at.lsn);
        self.held_at(node).map_or(end, |at| at.min(end))
    }

    fn held_at(&self, node: usize) -> Option<Lsn> {
        self.server(node)?.replay.filter(|_| self.server(node).is_some_and(replays)).map(|held| held.at)
    }

    /// Whether it has received what it has not replayed.
    pub(super) fn replay_is_behind(&self, node: usize) -> bool {
        self.nodes[node].disk.data().is_some_and(|data| self.replayed_to(node) < data.at.lsn)
    }

    /// Something was received behind `before`.
    pub(super) fn replay_may_stop(&mut self, node: usize, before: Lsn) {
        let most_ms = self.params.replay_lag_max_ms;
        if most_ms == 0 || self.healed_at.is_some() || !self.rng.chance(STOPS_PER_MILLE) {
            return;
        }
        let (number, by_delay, lasts_ms) = (self.number(), self.rng.chance(300), self.rng.skewed(200, most_ms));
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        // Nobody reads before that, and nothing is delayed.
        if server.replay.is_none() && server.consistent && replays(server) && !server.promoting {
            server.replay = Some(Held { number, at: before, by_delay });
            let life = server.life;
            self.later(lasts_ms, Event::ReplayGoesOn { node, server: life, number });
        }
    }

    pub(super) fn replay_goes_on(&mut self, node: usize, life: u64, number: u64) {
        let Some(server) = self.nodes[node].server_of(life) else { return };
        if server.replay.is_some_and(|held| held.number == number) {
            server.replay = None;
            self.wake_seat(node);
        }
    }

    /// The startup process sees that it is to promote.
    pub(super) fn delay_ends(&mut self, node: usize) {
        if let Some(server) = self.nodes[node].server.as_mut() {
            server.replay = server.replay.filter(|held| !held.by_delay);
        }
    }

    /// Statements are cancelled, which some survive, or sessions ended.
    pub(super) fn press_on(&mut self, node: usize, pressure: Pressure) {
        if self.server(node).is_none_or(|server| server.replay.is_none()) {
            return;
        }
        let ends = pressure == Pressure::Terminate || self.rng.chance(500);
        if let Some(server) = self.nodes[node].server.as_mut().filter(|_| ends) {
            server.replay = None;
        }
    }
}

fn replays(server: &Server) -> bool {
    server.phase == Phase::Standby
}
