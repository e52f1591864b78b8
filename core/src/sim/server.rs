//! Starting, recovering, promoting, stopping and dying of a server.

use super::event::{Event, Who};
use super::judge;
use super::node::{Fence, Phase, Server};
use super::wal::{Branch, Position};
use super::world::World;
use crate::effect::StopMode;
use crate::ids::{Lsn, Timeline};
use crate::local::ControlState;
use crate::seat::LeaveReason;
use crate::view::Side;

/// Length of a checkpoint record with its header.
pub(super) const CHECKPOINT_BYTES: u64 = 120;

impl World {
    /// A postmaster begins to run on this data directory.
    pub(super) fn start_server(&mut self, node: usize) {
        let life = self.number();
        let since = self.local(node);
        let Some(data) = self.nodes[node].disk.data() else { return };
        let server = Server {
            life,
            phase: Phase::Starting,
            since,
            insert: data.at.lsn,
            upstream: data.upstream.clone().filter(|_| data.standby_signal),
            receiver: None,
            attempt: 0,
            promoting: false,
            consistent: false,
            checkpointed: false,
            checkpointing: false,
            redo: data.checkpoint,
            fence: Fence::default(),
            sessions: 0,
        };
        self.nodes[node].server = Some(server);
        self.say(node, "postgres starts");
        self.soon(10, 100, Event::WorkerStart { node, server: life });
        self.begin_recovery(node);
    }

    /// Recovery: short after a clean stop, up to minutes after a crash.
    fn begin_recovery(&mut self, node: usize) {
        let Some(data) = self.nodes[node].disk.data() else { return };
        let crashed = matches!(data.state, ControlState::InProduction | ControlState::InCrashRecovery);
        let most = if self.healed_at.is_some() { 3000 } else { self.params.recovery_max_ms };
        let takes = if crashed { self.rng.skewed(100, most) } else { self.rng.skewed(20, 800) };
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        server.attempt += 1;
        let (life, attempt) = (server.life, server.attempt);
        self.later(takes, Event::ServerReady { node, server: life, attempt });
    }

    pub(super) fn server_ready(&mut self, node: usize, life: u64, attempt: u64) {
        let replaying = self.rng.chance(150);
        let Some(server) = self.nodes[node].server_of(life) else { return };
        if server.phase != Phase::Starting || server.attempt != attempt {
            return;
        }
        let Some(data) = self.nodes[node].disk.data_mut() else { return };
        if data.standby_signal {
            data.state = ControlState::InArchiveRecovery;
            data.backup_label = false;
            let consistent = data.at.lsn >= data.consistent_at && !replaying;
            data.min_recovery = data.min_recovery.max(data.consistent_at);
            if let Some(server) = self.nodes[node].server_of(life) {
                server.phase = Phase::Standby;
                server.consistent = consistent;
            }
            self.say(node, "postgres is a standby");
            let takes = if replaying { self.rng.skewed(10, 3000) } else { self.rng.below(50) };
            self.later(takes, Event::Replayed { node, server: life });
        } else {
            let crashed = data.state != ControlState::ShutDown;
            data.state = ControlState::InProduction;
            data.min_recovery = Lsn(0);
            if crashed {
                self.write_checkpoint(node);
            }
            let end = self.nodes[node].disk.data().map_or(Lsn(0), |data| data.at.lsn);
            if let Some(server) = self.nodes[node].server_of(life) {
                server.phase = Phase::Primary;
                server.insert = end;
                server.checkpointed = true;
                server.consistent = true;
            }
            self.say(node, "postgres is a primary");
            self.soon(100, 3000, Event::Background { node, server: life });
        }
        if !self.nodes[node].worker.alive {
            self.soon(5, 150, Event::WorkerStart { node, server: life });
        }
        self.wake_seat(node);
    }

    /// A standby has replayed what it has, and asks for more.
    pub(super) fn replayed(&mut self, node: usize, life: u64) {
        let consistent = self.nodes[node].disk.data().is_some_and(|data| data.at.lsn >= data.consistent_at);
        let Some(server) = self.nodes[node].server_of(life) else { return };
        if server.phase == Phase::Standby && !server.promoting {
            server.consistent |= consistent;
            self.wake_seat(node);
            self.receiver_connect(node, life);
        }
    }

    /// A checkpoint record at the end of WAL; its start is what the control file shows.
    pub(super) fn write_checkpoint(&mut self, node: usize) {
        let Some(data) = self.nodes[node].disk.data() else { return };
        let timeline = self.wal.branch(data.at.branch).timeline;
        let Some(data) = self.nodes[node].disk.data_mut() else { return };
        data.checkpoint = data.at.lsn;
        data.checkpoint_timeline = timeline;
        data.at.lsn = Lsn(data.at.lsn.0 + CHECKPOINT_BYTES);
        data.min_recovery = Lsn(0);
    }

    // ---- promotion and checkpoints ----

    pub(super) fn begin_promotion(&mut self, node: usize) {
        let takes = self.rng.skewed(10, 300);
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        server.promoting = true;
        server.attempt += 1;
        let (life, attempt) = (server.life, server.attempt);
        self.later(takes, Event::PromotionDone { node, server: life, attempt });
    }

    pub(super) fn promotion_done(&mut self, node: usize, life: u64, attempt: u64) {
        let Some(server) = self.nodes[node].server_of(life) else { return };
        if server.phase != Phase::Standby || !server.promoting || server.attempt != attempt {
            return;
        }
        server.promoting = false;
        server.receiver = None;
        server.upstream = None;
        let Some(data) = self.nodes[node].disk.data() else { return };
        let at = data.at;
        let parent = self.wal.branch(at.branch);
        let mut timeline = Timeline(parent.timeline.0 + 1);
        while data.foreign_history.contains(&timeline) {
            timeline.0 += 1;
        }
        let made = Branch { system: parent.system, timeline, owner: node, parent: Some((at.branch, at.lsn)) };
        let branch = self.wal.add(made);
        let text = format!("postgres is promoted to timeline {timeline} at {}", at.lsn);
        self.say(node, &text);
        judge::branched(self, node, branch, at);
        let end = Lsn(at.lsn.0 + 50);
        if let Some(data) = self.nodes[node].disk.data_mut() {
            data.at = Position { branch, lsn: end };
            data.state = ControlState::InProduction;
            data.min_recovery = end;
            data.standby_signal = false;
        }
        if let Some(server) = self.nodes[node].server_of(life) {
            server.phase = Phase::Primary;
            server.insert = end;
            server.checkpointed = false;
        }
        self.pump(node);
        self.soon(100, 3000, Event::Background { node, server: life });
        self.wake_seat(node);
    }

    pub(super) fn checkpoint(&mut self, node: usize) {
        let takes = self.rng.skewed(10, 2000);
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        if server.checkpointing || server.phase != Phase::Primary {
            return;
        }
        server.checkpointing = true;
        let (life, attempt, redo) = (server.life, server.attempt, server.insert);
        self.later(takes, Event::CheckpointDone { node, server: life, attempt, redo });
    }

    pub(super) fn checkpoint_done(&mut self, node: usize, life: u64, attempt: u64, redo: Lsn) {
        let Some(server) = self.nodes[node].server_of(life) else { return };
        if server.phase != Phase::Primary || server.attempt != attempt {
            return;
        }
        server.checkpointing = false;
        server.checkpointed = true;
        server.redo = redo;
        let insert = server.insert;
        if let Some(data) = self.nodes[node].disk.data_mut() {
            data.at.lsn = data.at.lsn.max(insert);
        }
        self.write_checkpoint(node);
        let end = self.nodes[node].disk.data().map_or(insert, |data| data.at.lsn);
        if let Some(server) = self.nodes[node].server_of(life) {
            server.insert = end;
        }
        self.pump(node);
        self.wake_seat(node);
    }

    /// Work nobody waits for: vacuum, aborted transactions, running-xacts records. It is written fenced or not.
    pub(super) fn background(&mut self, node: usize, life: u64) {
        let bytes = self.rng.between(50, 3000);
        let Some(server) = self.nodes[node].server_of(life) else { return };
        if server.phase != Phase::Primary {
            return;
        }
        server.insert = Lsn(server.insert.0 + bytes);
        let end = server.insert;
        if let Some(data) = self.nodes[node].disk.data_mut() {
            data.at.lsn = data.at.lsn.max(end);
        }
        self.pump(node);
        self.soon(500, 5000, Event::Background { node, server: life });
    }

    // ---- stopping ----

    /// SIGINT or SIGQUIT to the postmaster, by whomever.
    pub(super) fn begin_stop(&mut self, node: usize, mode: StopMode) {
        let since = self.local(node);
        let takes = match mode {
            StopMode::Fast => self.rng.skewed(10, 1500),
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
                    server.sessions += 1;
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
        server.sessions += 1;
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
        self.trouble(node);
        self.say(node, "loop worker is killed: crash cycle");
        self.worker_ends(node);
        self.drop_standbys_of(node);
        let since = self.local(node);
        let fresh_claim = self.rng.chance(300);
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        if server.phase == Phase::Stopping {
            return;
        }
        let promoting = server.promoting;
        server.phase = Phase::Starting;
        server.since = since;
        server.fence = Fence::default();
        server.receiver = None;
        server.promoting = false;
        server.checkpointing = false;
        server.sessions += 1;
        let upstream = self.nodes[node].disk.data().and_then(|d| d.upstream.clone().filter(|_| d.standby_signal));
        let end = self.nodes[node].disk.data().map_or(Lsn(0), |data| data.at.lsn);
        if let Some(server) = self.nodes[node].server.as_mut() {
            server.insert = end;
            server.upstream = upstream;
        }
        if promoting && fresh_claim {
            self.leave_history_file(node);
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
        self.trouble(node);
        self.worker_ends(node);
        self.drop_standbys_of(node);
        let lasts = if orphans { self.rng.skewed(20, 6000) } else { self.rng.between(5, 100) };
        self.later(lasts, Event::LeftoverGone { node, server: life });
        self.wake(Who { node, side: Side::Outside });
    }

    pub(super) fn leftover_gone(&mut self, node: usize, life: u64) {
        let gone = self.nodes[node].server_of(life).is_some_and(|server| server.phase == Phase::Leftover);
        if gone {
            self.end_server(node);
        }
    }
}
