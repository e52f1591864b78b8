//! A postmaster that does not react to signals: it is stopped, or its processes hang in the kernel.

use super::event::Event;
use super::world::World;
use crate::effect::{Step, StopMode};

/// What a server does not react to; each includes what stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Deaf {
    Interrupt,
    Quit,
    /// Not even SIGKILL: a disk that never answers.
    Kill,
}

/// Such a state, and its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hang {
    deaf: Deaf,
    until: u64,
}

/// How often a pending signal is looked at again.
pub(super) const LOOK_AGAIN_MS: u64 = 200;
/// How long the supervisor waits for SIGQUIT before it kills, and for the end after that.
pub(super) const KILL_AFTER_MS: u64 = 1500;

impl World {
    pub(super) fn hang_server(&mut self, node: usize, lasts_ms: u64) {
        let deaf = [Deaf::Interrupt, Deaf::Quit, Deaf::Kill][self.rng.index(3)];
        let until = self.now + lasts_ms;
        if let Some(server) = &mut self.nodes[node].server {
            server.hang = Some(Hang { deaf, until });
            self.hurt(node);
        }
    }

    /// The walreceiver of a standby that is about to be promoted is stopped, or waits for its disk.
    pub(super) fn receiver_may_hang(&mut self, node: usize) {
        let receives = self.server(node).is_some_and(|server| server.receiver.is_some());
        if receives && self.healed_at.is_none() && self.rng.chance(120) {
            let lasts_ms = self.rng.skewed(500, 120_000);
            self.say(node, "--- its walreceiver hangs");
            self.hang_server(node, lasts_ms);
        }
    }

    /// Whether a promotion waits for it.
    pub(super) fn receiver_hangs(&self, node: usize) -> bool {
        let receives = self.server(node).is_some_and(|server| server.promoting && server.receiver.is_some());
        receives && self.is_deaf(node, Deaf::Interrupt)
    }

    pub(super) fn is_deaf(&self, node: usize, to: Deaf) -> bool {
        let hang = self.nodes[node].server.as_ref().and_then(|server| server.hang);
        self.healed_at.is_none() && hang.is_some_and(|hang| self.now < hang.until && hang.deaf >= to)
    }

    /// Whether a request to stop stays pending for now.
    pub(super) fn stop_is_pending(&mut self, node: usize, mode: StopMode) -> bool {
        let waits = match mode {
            StopMode::Fast => self.is_deaf(node, Deaf::Interrupt),
            StopMode::Immediate => self.is_deaf(node, Deaf::Kill),
        };
        if waits {
            let Some(server) = self.nodes[node].server.as_mut() else { return false };
            let life = server.life;
            let first = server.stop_pending.is_none();
            if mode == StopMode::Immediate || first {
                server.stop_pending = Some(mode);
            }
            if first {
                self.later(LOOK_AGAIN_MS, Event::StopPending { node, server: life });
            }
            let step = self.nodes[node].step.as_ref().filter(|s| s.step == Step::Stop { mode: StopMode::Immediate });
            if let Some(step) = step.map(|step| step.number) {
                self.later(2 * KILL_AFTER_MS, Event::StopFailed { node, step });
            }
        }
        waits
    }

    pub(super) fn stop_pending(&mut self, node: usize, life: u64) {
        let pending = self.nodes[node].server_of(life).and_then(|server| server.stop_pending.take());
        if let Some(mode) = pending {
            self.begin_stop(node, mode);
        }
    }
}
