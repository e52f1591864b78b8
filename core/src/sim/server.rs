//! Starting, recovering, promoting and working of a server.

use super::event::Event;
use super::hang::LOOK_AGAIN_MS;
use super::judge;
use super::node::{Fence, Phase, Server};
use super::wal::{Branch, Position};
use super::world::World;
use crate::ids::{Lsn, Timeline};
use crate::local::{ControlState, Seal};
use std::collections::BTreeSet;

/// Length of a checkpoint record with its header.
pub(super) const CHECKPOINT_BYTES: u64 = 120;

impl World {
    /// A postmaster begins to run on this data directory.
    pub(super) fn start_server(&mut self, node: usize) {
        let life = self.number();
        let since = self.local(node);
        let Some(data) = self.nodes[node].disk.data_mut() else { return };
        data.promote_file = false;
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
            hang: None,
            stop_pending: None,
            sessions: 0,
            seal: Seal::Open,
            held: Vec::new(),
            told_end: Lsn(0),
            writer_due: false,
            replay: None,
            passing: BTreeSet::new(),
            unseen: BTreeSet::new(),
            withheld: false,
            uncompared: false,
            cycle: None,
            by_hand: false,
            beside_leader: false,
        };
        self.nodes[node].carried = None;
        self.nodes[node].server = Some(server);
        self.say(node, "postgres starts");
        self.soon(10, 100, Event::WorkerStart { node, server: life });
        self.begin_recovery(node);
    }

    /// Recovery: short after a clean stop, up to minutes after a crash.
    pub(super) fn begin_recovery(&mut self, node: usize) {
        let Some(data) = self.nodes[node].disk.data() else { return };
        let crashed = matches!(data.state, ControlState::InProduction | ControlState::InCrashRecovery);
        let planned = self.server(node).and_then(|server| server.cycle).is_some_and(|cycle| cycle.planned);
        let short = planned || self.healed_at.is_some();
        let most = if short { 3000 } else { self.params.recovery_max_ms };
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
        judge::came_up(self, node);
        if self.promotes_unasked(node) {
            self.judge.report("I3", format!("{} promotes without being asked", self.nodes[node].name));
        }
        let Some(data) = self.nodes[node].disk.data_mut() else { return };
        if data.standby_signal {
            let from_primary = matches!(data.state, ControlState::InProduction | ControlState::InCrashRecovery);
            let (uncompared, withheld) = (from_primary && !data.backup_label, data.mark);
            data.state = ControlState::InArchiveRecovery;
            data.backup_label = false;
            let consistent = data.at.lsn >= data.consistent_at && !replaying;
            data.min_recovery = data.min_recovery.max(data.consistent_at);
            if let Some(server) = self.nodes[node].server_of(life) {
                server.phase = Phase::Standby;
                server.consistent = consistent;
                server.withheld = withheld;
                server.uncompared |= uncompared;
                server.cycle = None;
            }
            judge::reads_begin(self, node);
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
                server.uncompared = false;
                server.cycle = None;
            }
            self.say(node, "postgres is a primary");
            self.soon(100, 3000, Event::Background { node, server: life });
            self.soon(100, 1000, Event::Archiver { node, server: life });
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
        self.receiver_may_hang(node);
        self.delay_ends(node);
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
        if self.receiver_hangs(node) || self.replay_is_behind(node) {
            self.later(LOOK_AGAIN_MS, Event::PromotionDone { node, server: life, attempt });
            return;
        }
        let Some(server) = self.nodes[node].server_of(life) else { return };
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
        self.undo_promotion(node, timeline);
        if let Some(server) = self.nodes[node].server_of(life) {
            server.by_hand = false;
            server.beside_leader = false;
        }
        let end = Lsn(at.lsn.0 + 50);
        // Asked for a second time while it ran: that file was created too late to be acted on.
        let promote_file = self.rng.chance(100);
        if let Some(data) = self.nodes[node].disk.data_mut() {
            data.at = Position { branch, lsn: end };
            data.state = ControlState::InProduction;
            data.min_recovery = end;
            data.standby_signal = false;
            data.promote_file = promote_file;
        }
        if let Some(server) = self.nodes[node].server_of(life) {
            server.phase = Phase::Primary;
            server.insert = end;
            server.checkpointed = false;
            server.uncompared = false;
            server.withheld = false;
        }
        if self.healed_at.is_none() && self.rng.chance(200) {
            self.history_spreads(node, timeline);
        }
        self.pump(node);
        self.soon(100, 3000, Event::Background { node, server: life });
        self.soon(100, 1000, Event::Archiver { node, server: life });
        // The server's own first checkpoint, spread.
        let spread = self.rng.skewed(2000, 250_000);
        self.later(spread, Event::CheckpointDone { node, server: life, attempt, redo: end });
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
        if matches!(server.seal, Seal::Frozen { .. }) {
            // Its record cannot be flushed.
            self.later(5, Event::CheckpointDone { node, server: life, attempt, redo });
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
        let flushes = !matches!(server.seal, Seal::Frozen { .. });
        if let Some(data) = self.nodes[node].disk.data_mut().filter(|_| flushes) {
            data.at.lsn = data.at.lsn.max(end);
        }
        self.pump(node);
        self.soon(500, 5000, Event::Background { node, server: life });
    }
}
