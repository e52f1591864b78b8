//! What only some seeds have, drawn apart from everything else: the seeds without it are what they would be if it did not exist.

use super::event::Event;
use super::invariants::i11;
use super::kinds::{self, Kind};
use super::params::{Params, Weather};
use super::rng::Rng;
use super::world::World;
use crate::clock::Millis;
use crate::dcs::Key;
use crate::ids::Timeline;
use std::collections::BTreeMap;

/// Adds what `seed` has of it.
pub(super) fn among_them(params: &mut Params, weather: &mut Weather, seed: u64) {
    let mut rng = Rng::new(seed ^ 0xa9a7);
    if rng.chance(200) {
        params.virtual_machines = true;
        if rng.chance(400) {
            weather.weights = kinds::hypervisor();
        } else {
            weather.mix_in(&mut rng, &[Kind::PauseMachine, Kind::Suspend]);
        }
    }
    if rng.chance(50) {
        params.settings.primary_race_backoff_ms = Millis(rng.between(2000, 10_000));
    }
    let mut rng = Rng::new(seed ^ 0x5_4027);
    if rng.chance(40) {
        params.virtual_machines = true;
        weather.weights = kinds::short_pauses();
        weather.every_ms = weather.every_ms.min(20_000);
    }
}

/// Some seeds are worlds in failsafe mode whose leaders are lost before they have written down who joined last.
pub(super) fn late_joiners(params: &mut Params, weather: &mut Weather, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x1a7e);
    if rng.chance(40) {
        super::promises::failsafe_mode(params);
        weather.weights = kinds::late_joiners();
        weather.every_ms = rng.between(30_000, 60_000);
    }
}

/// Some are such worlds in which only who is not written down has what was acknowledged last. Those in which machines are paused are left
/// alone.
pub(super) fn unlisted_ones(params: &mut Params, weather: &mut Weather, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x0_4e37);
    if rng.chance(30) && !params.virtual_machines {
        super::promises::failsafe_mode(params);
        params.nodes = params.nodes.max(3);
        weather.weights = kinds::newest_unlisted();
        weather.every_ms = rng.between(40_000, 70_000);
    }
}

/// Some are worlds in which an operator puts keys back as they were just before a promotion, whose leader is lost.
pub(super) fn undone_promotions(weather: &mut Weather, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x0_4d0e);
    if rng.chance(30) {
        weather.weights = kinds::undone_promotions();
        weather.every_ms = rng.between(20_000, 50_000);
    }
}

/// In some an operator promotes standbys by hand while another leads; in a few of them little else happens but that leaders are lost.
pub(super) fn promoted_by_mistake(params: &mut Params, weather: &mut Weather, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x0_b7a9);
    if rng.chance(60) {
        weather.mix_in(&mut rng, &[Kind::PromoteBesideLeader]);
    }
    let mut rng = Rng::new(seed ^ 0x0_b7aa);
    if rng.chance(30) {
        // Nothing brings such a server back.
        (params.settings.use_pg_rewind, params.settings.replace_diverged) = (false, false);
        params.nodes = params.nodes.max(3);
        weather.weights = kinds::promoted_by_mistake();
        weather.every_ms = rng.between(25_000, 50_000);
    }
}

/// At most three nodes, and faults for 20 to 60 s, which come at once.
pub(super) fn shorten(params: &mut Params, weather: &mut Weather) {
    params.nodes = params.nodes.min(3);
    params.quiet_ms = params.quiet_ms.min(15_000);
    params.faults_ms /= 8;
    params.recovery_max_ms = params.recovery_max_ms.min(5000);
    weather.every_ms = weather.every_ms.min(10_000);
}

impl World {
    /// Brings a promotion about, if nobody has asked for one, and dooms it.
    pub(super) fn undo_next_promotion(&mut self) {
        self.undoes_promotion = true;
        let leader = self.store.leader();
        if let Some(node) = self.nodes.iter().position(|node| leader.as_ref().is_some_and(|l| l.name == node.name)) {
            self.crash_node(node);
        }
    }

    /// A server has just been promoted: before anybody follows it the keys are as they were before, and its machine is gone.
    pub(super) fn undo_promotion(&mut self, node: usize, timeline: Timeline) {
        if !self.undoes_promotion || self.healed_at.is_some() {
            return;
        }
        self.undoes_promotion = false;
        let (before, keys) = (self.store.leader(), self.store.values());
        self.say(node, &format!("operator: puts back the keys from before timeline {timeline}"));
        self.store.delete(&Key::TimelineClaim(timeline).path());
        i11::claims_changed(self, &keys);
        self.store_changed(before.as_ref());
        self.crash_node(node);
    }

    /// All standbys but one lose their connection to the leader; it crashes before they have it back.
    pub(super) fn newest_unlisted(&mut self) {
        let Some(leader) = self.store.leader() else { return };
        let receives = |node: &usize| {
            let receiver = self.server(*node).and_then(|server| server.receiver.as_ref());
            receiver.is_some_and(|receiver| self.nodes[receiver.to].name == leader.name)
        };
        let mut standbys: Vec<usize> = (0..self.nodes.len()).filter(receives).collect();
        if standbys.len() > 1 {
            let spared = self.rng.index(standbys.len());
            standbys.remove(spared);
            for node in standbys {
                self.drop_receiver(node);
            }
            self.soon(100, 500, Event::JoinedLate);
        }
    }

    /// As if the member that has most had joined just now: the list is from before that, and its writer is gone.
    pub(super) fn joined_late(&mut self) {
        let Some(leader) = self.store.leader() else { return };
        let path = Key::Failsafe.path();
        let list = self.store.key(&path).and_then(|key| serde_json::from_str(&key.value).ok());
        let Some(mut list): Option<BTreeMap<String, String>> = list else { return };
        let Some(node) = self.nodes.iter().position(|node| node.name == leader.name) else { return };
        let others =
            self.nodes.iter().filter(|other| other.name != leader.name && list.contains_key(other.name.as_str()));
        let standbys =
            others.filter(|other| other.up).filter_map(|other| Some((other.disk.data()?.at.lsn, &other.name)));
        let Some((_, newest)) = standbys.max() else { return };
        let newest = newest.clone();
        list.remove(newest.as_str());
        self.crash_node(node);
        self.say(node, &format!("had not written down {newest}"));
        self.store.put(&path, &serde_json::json!(list).to_string(), None);
        self.store_changed(Some(&leader));
    }
}

impl Weather {
    /// Kinds that come about as often as each other kind of this seed does.
    pub(super) fn mix_in(&mut self, rng: &mut Rng, kinds: &[Kind]) {
        let others: u64 = self.weights.iter().sum();
        for kind in kinds {
            self.weights[*kind as usize] = 1 + others * rng.between(1, 3) / 12;
        }
    }
}
