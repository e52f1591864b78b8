//! Stopping and dying of a server, and of the children it has.

use super::event::{Event, Who};
use super::hang::{Deaf, KILL_AFTER_MS};
use super::node::Phase;
use super::world::World;
use crate::effect::StopMode;
use crate::ids::{Lsn, Timeline};
use crate::local::ControlState;
use crate::seat::LeaveReason;
use crate::view::Side;

impl World {
    // ---- stopping ----

    /// SIGINT or SIGQUIT to the postmaster, by whomever.
    pub(super) fn begin_stop(&mut self, node: usize, mode: StopMode) {
        let since = self.local(node);
        if self.stop_is_pending(node, mode) {
            return;
        }
        let takes = match mode {
            StopMode::Fast => self.rng.skewed(10, 1500),
            StopMode::Immediate if self.is_deaf(node, Deaf::Quit) => KILL_AFTER_MS,
            StopMode::Immediate => self.rng.between(5, 200),
        };
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        let life = server.life;
        if mode == StopMode::Immediate {
            if server.phase != Phase::Leftover {
                self.later(takes, Event::StopDone { node, server: life, give_up: 0 });
                if let Some(server) = self.nodes[node].server.as_mut() {
                    server.phase = Phase::Stopping;
                    server.receiver = None;
                    server.end_sessions();
                }
            }
            return;
        }
        let checkpoints = server.phase == Phase::Primary;
        if matches!(server.phase, Phase::Stopping | Phase::Leftover) {
            return;
        }
        server.phase = Phase::Stopping;
        server.since = since;
        server.end_sessions();
        server.promoting = false;
        server.receiver = None;
        self.say(node, "postgres is stopping");
        self.worker_told_to_stop(node);
        let event = if checkpoints {
            Event::StopCheckpoint { node, server: life }
        } else {
            if let Some(data) = self.nodes[node].disk.data_mut()
                && data.state == ControlState::InArchiveRecovery
            {
                data.state = ControlState::ShutDownInRecovery;
                data.min_recovery = data.at.lsn;
            }
            // Nothing to drain, but the worker is waited for.
            Event::StopDone { node, server: life, give_up: 1 }
        };
        self.later(takes, event);
    }

    /// SIGTERM to the loop worker, with which the postmaster begins a shutdown.
    fn worker_told_to_stop(&mut self, node: usize) {
        let worker = &mut self.nodes[node].worker;
        worker.told_to_stop = true;
        if worker.acting && worker.leaving.is_none() {
            worker.leaving = Some(LeaveReason::Shutdown);
        }
        let who = Who { node, side: Side::Inside };
        self.later(1, Event::WorkerExit { who, life: self.nodes[node].worker.life });
        self.wake(who);
    }

    /// The worker ends once it has left the seat, or at once if it has none or nobody takes it.
    pub(super) fn worker_exit(&mut self, who: Who, life: u64) {
        let supervised = self.nodes[who.node].supervisor.alive;
        let Some(worker) = self.living(who, life) else { return };
        if worker.acting && (supervised || worker.store.flight.is_some()) {
            // It may have got the seat only after it was told to stop.
            worker.leaving.get_or_insert(LeaveReason::Shutdown);
            self.wake(who);
            self.later(10, Event::WorkerExit { who, life });
        } else {
            self.worker_ends(who.node);
        }
    }

    pub(super) fn stop_checkpoint(&mut self, node: usize, life: u64) {
        let stopping = self.nodes[node].server_of(life).is_some_and(|server| server.phase == Phase::Stopping);
        if !stopping {
            return;
        }
        // Workers are told to stop together with the backends, before the checkpoint.
        if self.nodes[node].worker.alive {
            self.later(10, Event::StopCheckpoint { node, server: life });
            return;
        }
        if let Some(insert) = self.server(node).map(|server| server.insert)
            && let Some(data) = self.nodes[node].disk.data_mut()
        {
            data.at.lsn = data.at.lsn.max(insert);
            data.state = ControlState::ShutDown;
        }
        self.write_checkpoint(node);
        self.pump(node);
        // Walsenders wait for what is connected, but not for ever (wal_sender_timeout).
        let give_up = self.now + self.rng.between(1000, 60_000);
        self.later(1, Event::StopDone { node, server: life, give_up });
    }

    pub(super) fn stop_done(&mut self, node: usize, life: u64, give_up: u64) {
        let Some(server) = self.nodes[node].server_of(life) else { return };
        if server.phase != Phase::Stopping {
            return;
        }
        let drained = give_up == 0 || self.now >= give_up || self.drained(node);
        if !drained || (give_up != 0 && self.nodes[node].worker.alive) {
            self.later(5, Event::StopDone { node, server: life, give_up });
            return;
        }
        self.say(node, "postgres has stopped");
        self.end_server(node);
    }

    /// The last process of the server is gone.
    pub(super) fn end_server(&mut self, node: usize) {
        self.worker_ends(node);
        let clean = self.nodes[node].disk.data().is_some_and(|data| data.state == ControlState::ShutDown);
        self.memory_goes(node, !clean);
        self.nodes[node].server = None;
        self.drop_standbys_of(node);
        self.stop_step_ends(node);
        self.wake_seat(node);
        let boot = self.nodes[node].boot;
        if !self.nodes[node].supervisor.alive {
            // Without a supervisor a unit or an operator starts the server again.
            self.soon(1000, 40_000, Event::UnitStart { node, boot });
        }
    }

    pub(super) fn unit_start(&mut self, node: usize, boot: u64) {
        let here = &self.nodes[node];
        let ready = here.up && here.boot == boot && here.server.is_none() && !here.supervisor.alive && !here.supervised;
        if ready && here.disk.data().is_some() {
            self.start_server(node);
        }
    }

    // ---- dying ----

    /// A child died: every backend goes, shared memory is made anew, recovery runs, and only then the worker again.
    pub(super) fn kill_worker(&mut self, node: usize) {
        if !self.nodes[node].worker.alive {
            return;
        }
        self.hurt(node);
        self.say(node, "loop worker is killed: crash cycle");
        self.worker_ends(node);
        self.drop_standbys_of(node);
        let since = self.local(node);
        let fresh_claim = self.rng.chance(300);
        let upstream = self.nodes[node].disk.data().and_then(|d| d.upstream.clone().filter(|_| d.standby_signal));
        let end = self.nodes[node].disk.data().map_or(Lsn(0), |data| data.at.lsn);
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        if server.phase == Phase::Stopping {
            return;
        }
        let promoting = server.promoting;
        server.cycle = None;
        self.memory_goes(node, true);
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        server.crash_cycle(since, end);
        server.upstream = upstream;
        if promoting && fresh_claim {
            self.leave_history_file(node);
        }
        if promoting && let Some(data) = self.nodes[node].disk.data_mut() {
            data.promote_file = false;
        }
        self.begin_recovery(node);
    }

    /// A promotion that died after it wrote its history file: Postgres would skip that number next time.
    fn leave_history_file(&mut self, node: usize) {
        let Some(data) = self.nodes[node].disk.data() else { return };
        let next = Timeline(self.wal.branch(data.at.branch).timeline.0 + 1);
        if let Some(data) = self.nodes[node].disk.data_mut() {
            data.foreign_history.insert(next);
        }
    }

    /// SIGKILL of the postmaster: backends that sleep end at once, busy ones go on for a while.
    pub(super) fn kill_postmaster(&mut self, node: usize) {
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        if server.phase == Phase::Leftover {
            return;
        }
        let orphans = server.phase == Phase::Primary;
        server.phase = Phase::Leftover;
        server.receiver = None;
        server.promoting = false;
        let life = server.life;
        self.say(node, "postmaster is killed");
        self.hurt(node);
        self.worker_ends(node);
        self.drop_standbys_of(node);
        let lasts = if orphans { self.rng.skewed(20, 6000) } else { self.rng.between(5, 100) };
        self.later(lasts, Event::LeftoverGone { node, server: life });
        self.wake(Who { node, side: Side::Outside });
    }

    pub(super) fn leftover_gone(&mut self, node: usize, life: u64) {
        let gone = self.nodes[node].server_of(life).is_some_and(|server| server.phase == Phase::Leftover);
        if gone && self.is_deaf(node, Deaf::Kill) {
            self.later(500, Event::LeftoverGone { node, server: life });
        } else if gone {
            self.end_server(node);
        }
    }
}
