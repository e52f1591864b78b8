//! The worker's executors: everything that touches a running server.

use super::driver::Went;
use super::event::Event;
use super::judge;
use super::node::{Fence, Phase};
use super::world::World;
use crate::clock::Tick;
use crate::ids::Timeline;
use crate::lease::Lease;
use crate::local::Upstream;

impl World {
    pub(super) fn close_fence(&mut self, node: usize) {
        if let Some(server) = &mut self.nodes[node].server {
            server.fence = Fence::default();
        }
        self.let_held_go(node);
    }

    pub(super) fn open_fence(&mut self, node: usize, lease: &Lease) -> Went {
        let now = self.local(node);
        let leaving = self.nodes[node].worker.leaving.is_some();
        let deadline = self.mutant.map_or(lease.deadline(), |mutant| mutant.deadline(lease, now));
        let Some(server) = &mut self.nodes[node].server else { return Went::Wrong };
        // A worker that is leaving the seat opens nothing any more.
        if !matches!(server.phase, Phase::Primary | Phase::Standby) || leaving {
            return Went::Wrong;
        }
        let opens = !server.fence.open;
        server.fence = Fence { open: true, deadline, lease: Some(lease.id), ..Fence::default() };
        self.reckoned(node, lease.sent_at);
        judge::deadline_stored(self, node);
        if opens {
            judge::fence_opens(self, node);
        }
        Went::On
    }

    pub(super) fn extend_fence(&mut self, node: usize, until: Tick) -> Went {
        let leaving = self.nodes[node].worker.leaving.is_some();
        let Some(server) = &mut self.nodes[node].server else { return Went::Wrong };
        if server.phase != Phase::Primary || leaving {
            return Went::Wrong;
        }
        let fence = &mut server.fence;
        if fence.open && fence.deadline.0 > 0 && fence.deadline < until {
            (fence.deadline, fence.promised) = (until, true);
            self.leaned(node);
            judge::extended(self, node);
        }
        Went::On
    }

    pub(super) fn limit_fence(&mut self, node: usize, until: Tick) {
        if let Some(server) = &mut self.nodes[node].server
            && until < server.fence.deadline
        {
            server.fence.deadline = until;
            self.limited(node);
            self.rests_on_promises(node);
        }
    }

    /// What is believed of the lease ends sooner than the deadline, and the promises do not.
    pub(super) fn rests_on_promises(&mut self, node: usize) {
        let here = &mut self.nodes[node];
        let Some(server) = &mut here.server else { return };
        let (fence, memory) = (&mut server.fence, &here.worker.memory);
        let deadline = Some(fence.deadline);
        if fence.open && memory.lease.map(|lease| lease.deadline()) < deadline && deadline <= memory.failsafe.extended {
            fence.promised = true;
            self.leaned(node);
        }
    }

    pub(super) fn unbind_fence(&mut self, node: usize) -> Went {
        let leaving = self.nodes[node].worker.leaving.is_some();
        let Some(server) = &mut self.nodes[node].server else { return Went::Wrong };
        if server.phase != Phase::Primary || leaving || !server.fence.open {
            return Went::Wrong;
        }
        server.fence.unbound = true;
        self.judge.overruled.remove(&node);
        judge::unbound(self, node);
        Went::On
    }

    /// Placeholders for the timelines of others, the `promote` file, SIGUSR1 to the postmaster.
    pub(super) fn promote(&mut self, node: usize, lease: &Lease, timeline: Timeline, skip: &[Timeline]) -> Went {
        judge::promoting(self, node, lease, timeline);
        let Some(server) = &self.nodes[node].server else { return Went::Wrong };
        if server.phase != Phase::Standby || server.promoting {
            return Went::Wrong;
        }
        if let Some(data) = self.nodes[node].disk.data_mut() {
            data.foreign_history.extend(skip);
            // A promotion of ours that died half way may have left this very file.
            data.foreign_history.remove(&timeline);
        }
        self.begin_promotion(node);
        Went::On
    }

    /// Writes `ha_ext.conf` and reloads; the startup process acts on it a moment later.
    pub(super) fn follow(&mut self, node: usize, upstream: Option<Upstream>) {
        if let Some(data) = self.nodes[node].disk.data_mut() {
            data.upstream.clone_from(&upstream);
            // History files that hold nothing would keep the real ones from being fetched.
            data.foreign_history.clear();
        }
        let upstream = upstream.map(Box::new);
        if let Some(life) = self.nodes[node].server_life() {
            self.soon(1, 40, Event::FollowApplied { node, server: life, upstream });
        }
    }

    pub(super) fn follow_applied(&mut self, node: usize, life: u64, upstream: Option<&Upstream>) {
        let Some(server) = self.nodes[node].server_of(life) else { return };
        if server.phase != Phase::Standby || server.promoting || server.upstream.as_ref() == upstream {
            return;
        }
        server.upstream = upstream.cloned();
        server.receiver = None;
        if upstream.is_some() {
            self.soon(1, 30, Event::Connect { node, server: life });
        }
        self.wake_seat(node);
    }
}
