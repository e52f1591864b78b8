//! `GET /patroni` between members: asked all at once, answered by whoever holds the seat, given up after 2 s.

use super::Mutant;
use super::event::{Event, Frozen, Who};
use super::params::Params;
use super::rng::Rng;
use super::world::World;
use crate::clock::Tick;
use crate::ids::NodeName;
use crate::peer::{PeerAnswer, PeerView};
use crate::view::Side;

const TIMEOUT_MS: u64 = 2000;
/// How much later a message may arrive a second time.
const AGAIN_WITHIN_MS: u64 = 15_000;

/// In some worlds what members say to each other arrives twice now and then: a proxy, or a client that sends once more what may have got
/// through.
pub(super) fn among_them(params: &mut Params, seed: u64) {
    let mut rng = Rng::new(seed ^ 0x0_2d0b);
    // In a seventh of them; the lowest draws are those of seeds that another mutant needs as they were.
    if (3..150).contains(&rng.below(1000)) {
        params.twice_per_mille = [50, 300][rng.index(2)];
    }
}

impl World {
    /// A question or an answer between members, on its way.
    pub(super) fn send_to_member(&mut self, from: usize, to: usize, event: Event) {
        let delay_ms = self.net.delay(&mut self.rng, from, to);
        let per_mille = self.params.twice_per_mille;
        let again = (per_mille > 0 && self.healed_at.is_none() && self.rng.chance(per_mille)).then(|| event.clone());
        self.later(delay_ms, event);
        if let Some(again) = again {
            let later_ms = self.rng.skewed(1, AGAIN_WITHIN_MS);
            self.later(delay_ms + later_ms, again);
        }
    }

    pub(super) fn poll_peers(&mut self, who: Who, targets: &[(NodeName, String)]) {
        let asked_at = self.local(who.node);
        let process = self.process_mut(who);
        let life = process.life;
        for (name, _) in targets {
            process.peers.retain(|peer| peer.name != *name);
            process.peers.push(PeerView { name: name.clone(), asked_at, answer: PeerAnswer::Pending });
        }
        process.peers.sort_by(|a, b| a.name.cmp(&b.name));
        for (name, _) in targets {
            let Some(to) = self.nodes.iter().position(|node| node.name == *name) else { continue };
            if !self.net.cut(who.node, to) {
                self.send_to_member(who.node, to, Event::PeerAsk { from: who, life, asked_at, to });
            }
        }
        self.later(TIMEOUT_MS, Event::PeerTimeout { from: who, life, asked_at });
    }

    /// The question arrives. A frozen peer says nothing; one without a server or supervisor refuses at once.
    pub(super) fn peer_ask(&mut self, from: Who, life: u64, asked_at: Tick, to: usize) {
        let node = &self.nodes[to];
        let frozen = node.is_frozen(Frozen::Node)
            || match node.seat() {
                Some(Side::Inside) => node.is_frozen(Frozen::Worker),
                Some(Side::Outside) => node.is_frozen(Frozen::Supervisor),
                None => node.worker.alive || node.supervisor.alive,
            };
        if frozen || !node.up || self.net.cut(to, from.node) {
            return;
        }
        let answer = match node.seat() {
            None => PeerAnswer::Unreachable("connection refused".to_owned()),
            Some(_) => PeerAnswer::Status(super::observe::status(node, self.is(Mutant::ReplayTold))),
        };
        let answer = Box::new(answer);
        self.send_to_member(to, from.node, Event::PeerAnswered { from, life, asked_at, to, answer });
    }

    pub(super) fn peer_answered(&mut self, from: Who, life: u64, asked_at: Tick, to: usize, answer: PeerAnswer) {
        let name = self.nodes[to].name.clone();
        let Some(process) = self.living(from, life) else { return };
        let waits =
            |peer: &&mut PeerView| peer.name == name && peer.asked_at == asked_at && peer.answer == PeerAnswer::Pending;
        let waiting = process.peers.iter_mut().find(waits);
        if let Some(peer) = waiting {
            peer.answer = answer;
            self.wake(from);
        }
    }

    pub(super) fn peer_timeout(&mut self, from: Who, life: u64, asked_at: Tick) {
        let Some(process) = self.living(from, life) else { return };
        let mut late = false;
        let waits = |peer: &&mut PeerView| peer.asked_at == asked_at && peer.answer == PeerAnswer::Pending;
        for peer in process.peers.iter_mut().filter(waits) {
            peer.answer = PeerAnswer::Unreachable("timed out".to_owned());
            late = true;
        }
        if late {
            self.wake(from);
        }
    }
}
