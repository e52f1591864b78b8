//! `GET /patroni` between members: asked all at once, answered by whoever holds the seat, given up after 2 s.

use super::event::{Event, Frozen, Who};
use super::world::World;
use crate::clock::Tick;
use crate::ids::NodeName;
use crate::peer::{PeerAnswer, PeerView};
use crate::view::Side;

const TIMEOUT_MS: u64 = 2000;

impl World {
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
                let delay_ms = self.net.delay(&mut self.rng, who.node, to);
                self.later(delay_ms, Event::PeerAsk { from: who, life, asked_at, to });
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
            Some(_) => PeerAnswer::Status(super::observe::status(node)),
        };
        let answer = Box::new(answer);
        let delay_ms = self.net.delay(&mut self.rng, to, from.node);
        self.later(delay_ms, Event::PeerAnswered { from, life, asked_at, to, answer });
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
