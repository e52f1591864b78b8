//! Faults of the network and of the store, and how they end.

use super::event::{Event, Undo};
use super::world::World;

impl World {
    /// Cuts links, in one direction or both.
    pub(super) fn cut(&mut self, links: Vec<(usize, usize)>, lasts_ms: u64) {
        let way = self.rng.below(4);
        let mut pairs = Vec::new();
        for (a, b) in links {
            if way != 1 {
                pairs.push((a, b));
            }
            if way != 0 {
                pairs.push((b, a));
            }
        }
        for (from, to) in &pairs {
            self.net.set_cut(*from, *to, true);
            self.trouble_around(*from, *to);
        }
        self.later(lasts_ms, Event::Undo(Undo::Cut { pairs }));
    }

    fn trouble_around(&mut self, from: usize, to: usize) {
        let store = self.net.store();
        for place in [from, to] {
            if place < store {
                self.trouble(place);
            }
        }
        if from != store && to != store {
            return;
        }
        let node = if from == store { to } else { from };
        self.check_watches(node);
    }

    pub(super) fn check_watches(&mut self, node: usize) {
        for side in [crate::view::Side::Inside, crate::view::Side::Outside] {
            let who = super::event::Who { node, side };
            let (life, stream) = (self.process(who).life, self.process(who).store.stream);
            self.soon(2000, 10_000, Event::WatchCheck { who, life, stream });
        }
    }

    pub(super) fn bad_links(&mut self, node: usize, lasts_ms: u64) {
        let (delay, loss) = (self.rng.skewed(20, 1500), self.rng.between(0, 200));
        let pairs: Vec<(usize, usize)> =
            (0..=self.net.store()).filter(|other| *other != node).flat_map(|o| [(node, o), (o, node)]).collect();
        for (from, to) in &pairs {
            self.net.set_quality(*from, *to, delay, loss);
        }
        self.trouble(node);
        self.later(lasts_ms, Event::Undo(Undo::Quality { pairs }));
    }

    pub(super) fn store_down(&mut self, lasts_ms: u64) {
        self.store.up = false;
        for node in 0..self.nodes.len() {
            self.trouble(node);
            self.check_watches(node);
        }
        self.later(lasts_ms, Event::Undo(Undo::StoreDown));
    }

    pub(super) fn undo(&mut self, undo: &Undo) {
        match undo {
            Undo::Cut { pairs } => {
                for (from, to) in pairs {
                    self.net.set_cut(*from, *to, false);
                    self.trouble_around(*from, *to);
                }
                self.log.line(self.now, "net", "links are back");
                self.pump_all();
            }
            Undo::Quality { pairs } => {
                for (from, to) in pairs {
                    self.net.set_quality(*from, *to, 0, 0);
                }
            }
            Undo::StoreDown => {
                if !self.store.up {
                    self.store.up = true;
                    self.log.line(self.now, "store", "is back");
                    self.store_renews_leases();
                }
            }
            Undo::CannotWrite { node } => {
                self.nodes[*node].cannot_write = false;
                self.wake_seat(*node);
            }
            Undo::Outcomes => self.outcome_trouble = 1,
        }
    }

    pub(super) fn pump_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.pump(node);
        }
    }
}
