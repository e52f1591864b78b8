//! The end of the safety phase.

use super::event::{Event, Undo};
use super::node::Phase;
use super::world::World;

impl World {
    /// Everything that was broken is mended; from here on the cluster must find itself.
    pub(super) fn heal(&mut self) {
        self.healed_at = Some(self.now);
        self.log.line(self.now, "world", "=== all faults end");
        self.net.heal();
        self.outcome_trouble = 1;
        self.undo(&Undo::StoreDown);
        for node in 0..self.nodes.len() {
            self.nodes[node].cannot_write = false;
            if !self.nodes[node].frozen.is_empty() {
                // It goes on just now, as in any other thaw.
                self.hurt(node);
                self.nodes[node].frozen.clear();
            }
            self.machine_resumes(node);
            self.release_parked(node);
            self.nodes[node].supervised = true;
            let boot = self.nodes[node].boot;
            self.soon(10, 2000, Event::Boot { node, boot });
            self.soon(2000, 3000, Event::SupervisorStart { node, boot });
            if let Some(server) = self.nodes[node].server.as_ref().filter(|server| server.phase == Phase::Starting) {
                let event = Event::ServerReady { node, server: server.life, attempt: server.attempt };
                self.soon(10, 3000, event);
            }
            self.check_watches(node);
        }
        self.pump_all();
        self.later(1000, Event::Judge);
    }
}
