//! The supervisor's executors: steps on a server that is down, or is to be.

use super::event::{Event, Frozen};
use super::hang::Deaf;
use super::node::{Disk, DiskState, Pgdata, Phase, RunningStep};
use super::wal::{Branch, Position};
use super::world::World;
use crate::effect::{StartRole, Step, StopMode};
use crate::ids::{Lsn, SystemId, Timeline};
use crate::local::{ControlState, Marker, Upstream};
use crate::marker::lease_to_name;
use crate::memory::Memory;
use crate::outcome::Outcome;
use crate::view::Side;
use std::collections::BTreeSet;

/// `wal_segment_size`: where a new cluster's WAL begins.
const FIRST_LSN: u64 = 0x1000_0000;

impl World {
    pub(super) fn run_step(&mut self, node: usize, step: &Step) {
        if let Some(running) = &self.nodes[node].step {
            let overtakes = matches!(running.step, Step::Stop { mode: StopMode::Fast })
                && *step == Step::Stop { mode: StopMode::Immediate };
            if running.step == *step {
                return;
            }
            if !overtakes {
                let text = format!("{}: step {step} while {} runs", self.nodes[node].name, running.step);
                self.judge.report("contract", text);
                return;
            }
        }
        super::judge::step_begins(self, node, step);
        let number = self.number();
        let fails = self.healed_at.is_none() && self.rng.chance(self.params.failing_step_per_mille);
        let failure = fails.then(|| "the step failed".to_owned());
        if fails && *step == Step::EndStragglers && self.nodes[node].supervisor.memory.step_failures >= 2 {
            // It was the last attempt: the worker gets the seat all the same.
            self.hurt(node);
        }
        self.nodes[node].step = Some(RunningStep { number, step: step.clone(), source: None, result: None, failure });
        let takes = match step {
            Step::Initdb => self.rng.between(300, 3000),
            Step::BaseBackup { .. } => self.rng.skewed(500, 20_000),
            Step::Rewind { .. } => self.rng.skewed(200, 15_000),
            Step::CrashRecover => self.rng.skewed(100, 10_000),
            Step::Start { .. } => self.rng.between(30, 300),
            Step::EndStragglers | Step::ClearLeftover => self.rng.between(10, 300),
            Step::SetAside => self.rng.between(1, 30),
            Step::Stop { mode } => {
                self.stop_step(node, *mode);
                return;
            }
        };
        if matches!(step, Step::BaseBackup { .. } | Step::Rewind { .. }) {
            self.later(takes / 10 + 1, Event::StepBegun { node, step: number });
        }
        self.later(takes + 2, Event::StepEnd { node, step: number });
    }

    fn stop_step(&mut self, node: usize, mode: StopMode) {
        if self.nodes[node].server.is_none() {
            self.stop_step_ends(node);
        } else {
            self.begin_stop(node, mode);
        }
    }

    /// The postmaster is gone: whatever stop was waiting for it is over.
    pub(super) fn stop_step_ends(&mut self, node: usize) {
        if matches!(self.nodes[node].step.as_ref().map(|s| &s.step), Some(Step::Stop { .. })) {
            self.finish_step(node, Ok(()));
        }
    }

    /// Nothing made the postmaster go.
    pub(super) fn stop_failed(&mut self, node: usize, number: u64) {
        if self.running(node, number).is_some() {
            self.finish_step(node, Err("the postmaster cannot be killed".to_owned()));
        }
    }

    fn finish_step(&mut self, node: usize, result: Result<(), String>) {
        let at = self.local(node);
        let Some(running) = self.nodes[node].step.take() else { return };
        if result.is_err() {
            self.nodes[node].hurt_at = self.now;
        }
        let text = match &result {
            Ok(()) => format!("step done: {}", running.step),
            Err(why) => format!("step failed: {}: {why}", running.step),
        };
        self.say(node, &text);
        let here = &mut self.nodes[node];
        if here.supervisor.alive {
            here.supervisor.outcomes.push(Outcome::Step { step: running.step, result, at });
            self.wake(super::event::Who { node, side: Side::Outside });
        }
    }

    fn running(&mut self, node: usize, number: u64) -> Option<&mut RunningStep> {
        self.nodes[node].step.as_mut().filter(|running| running.number == number)
    }

    /// A copy or rewind has looked at its source and begins to change the directory.
    pub(super) fn step_begun(&mut self, node: usize, number: u64) {
        let Some(step) = self.running(node, number).map(|running| running.step.clone()) else { return };
        let (Step::BaseBackup { from } | Step::Rewind { from }) = &step else { return };
        let rewind = matches!(step, Step::Rewind { .. });
        let disk = &self.nodes[node].disk;
        let whole = disk.data().is_some_and(|data| disk.founding != Some(data.system));
        let source = self.source(node, from, rewind || whole);
        let Some((index, life, copy)) = source else {
            self.finish_step(node, Err("the source cannot be reached".to_owned()));
            return;
        };
        if rewind && !self.rewind_needed(node, index) {
            // Same timeline in both control files: pg_rewind says that nothing is to be done.
            self.finish_step(node, Ok(()));
            return;
        }
        if rewind && !self.nodes[node].disk.data().is_some_and(|data| data.can_be_rewound) {
            self.finish_step(node, Err("target server needs wal_log_hints".to_owned()));
            return;
        }
        let reason = format!("{step} was interrupted");
        self.nodes[node].disk.state = DiskState::Damaged { reason, half_copied: !rewind, ours: true };
        if !rewind {
            self.nodes[node].disk.founding = None;
        }
        if let Some(running) = self.running(node, number) {
            running.source = Some((index, life));
            running.result = Some(copy);
        }
    }

    /// The server to copy from, and the data directory as the copy starts out. What is whole only gives way to what a primary has.
    fn source(&self, node: usize, from: &Upstream, of_primary: bool) -> Option<(usize, u64, Pgdata)> {
        let index = self.nodes.iter().position(|other| other.name == from.name)?;
        let there = &self.nodes[index];
        let server = there.server.as_ref()?;
        let can_serve =
            server.phase == Phase::Primary || (!of_primary && server.phase == Phase::Standby && server.consistent);
        let reachable = index != node && there.up && !there.is_frozen(Frozen::Node) && self.net.reachable(node, index);
        let data = there.disk.data()?;
        (can_serve && reachable).then(|| {
            let mut copy = data.clone();
            copy.standby_signal = false;
            copy.mark = false;
            copy.promote_file = false;
            copy.backup_label = true;
            copy.upstream = None;
            copy.foreign_history = BTreeSet::new();
            (index, server.life, copy)
        })
    }

    fn rewind_needed(&self, node: usize, source: usize) -> bool {
        let (Some(here), Some(there)) = (self.nodes[node].disk.data(), self.nodes[source].disk.data()) else {
            return false;
        };
        let timeline = self.wal.branch(here.at.branch).timeline;
        let own = if here.min_recovery > Lsn(0) { timeline } else { here.checkpoint_timeline };
        own != there.checkpoint_timeline
    }

    pub(super) fn step_end(&mut self, node: usize, number: u64) {
        let Some(running) = self.running(node, number) else { return };
        let step = running.step.clone();
        let failure = running.failure.take();
        let result = match failure {
            Some(why) => Err(why),
            None => self.complete(node, &step),
        };
        if result.is_err() && step == Step::Initdb {
            let reason = "initdb failed".to_owned();
            self.nodes[node].disk.state = DiskState::Damaged { reason, half_copied: false, ours: true };
        }
        self.finish_step(node, result);
    }

    fn complete(&mut self, node: usize, step: &Step) -> Result<(), String> {
        match step {
            Step::Initdb => self.initdb(node),
            Step::BaseBackup { .. } | Step::Rewind { .. } => return self.copied(node, step),
            Step::CrashRecover => self.crash_recovered(node),
            Step::Start { role } => return self.started(node, role),
            Step::ClearLeftover => {
                let leftover = self.server(node).is_some_and(|server| server.phase == Phase::Leftover);
                if leftover && self.is_deaf(node, Deaf::Kill) {
                    return Err("processes are left that cannot be killed".to_owned());
                }
                if leftover {
                    self.end_server(node);
                }
            }
            Step::SetAside => {
                self.nodes[node].disk = Disk::default();
            }
            Step::EndStragglers => self.stragglers_ended(node),
            Step::Stop { .. } => {}
        }
        Ok(())
    }

    fn initdb(&mut self, node: usize) {
        let system = 7_300_000_000_000_000_000 + self.rng.below(1 << 40);
        let branch = self.wal.add(Branch { system, timeline: Timeline(1), owner: node, parent: None });
        self.nodes[node].disk.state = DiskState::Present(Pgdata {
            system,
            at: Position { branch, lsn: Lsn(FIRST_LSN + super::server::CHECKPOINT_BYTES) },
            state: ControlState::ShutDown,
            checkpoint: Lsn(FIRST_LSN),
            checkpoint_timeline: Timeline(1),
            min_recovery: Lsn(0),
            consistent_at: Lsn(0),
            can_be_rewound: true,
            standby_signal: false,
            mark: false,
            promote_file: false,
            archived: Lsn(FIRST_LSN),
            backup_label: false,
            upstream: None,
            foreign_history: BTreeSet::new(),
        });
        self.nodes[node].disk.founding = Some(system);
        self.write_marker(node, system);
    }

    fn write_marker(&mut self, node: usize, system: u64) {
        let memory = self.nodes[node].supervisor.memory.clone();
        self.mark(node, system, &memory);
    }

    /// In `ha_ext.marker`, as the product does.
    pub(super) fn mark(&mut self, node: usize, system: u64, memory: &Memory) {
        let here = &mut self.nodes[node];
        let lease = lease_to_name(here.disk.marker.as_ref(), &here.name, memory);
        let (system_id, member) = (SystemId(system), &here.name);
        match &mut here.disk.marker {
            // It has the scope that all of them have.
            Some(marker) if marker.system_id == system_id && marker.member == *member => marker.lease = lease,
            marker => {
                let scope = super::driver::SCOPE.to_owned();
                *marker = Some(Marker { scope, system_id, member: member.clone(), lease });
            }
        }
    }

    /// The end of a copy or rewind: it holds what the source had at the start, and is consistent at what it has now.
    fn copied(&mut self, node: usize, step: &Step) -> Result<(), String> {
        let running = self.nodes[node].step.as_mut();
        let Some((source, mut copy)) = running.and_then(|running| Some((running.source?, running.result.take()?)))
        else {
            return Err("the copy never began".to_owned());
        };
        let (index, life) = source;
        let there = &self.nodes[index];
        let alive = there.server.as_ref().is_some_and(|s| s.life == life && s.phase != Phase::Leftover);
        let now = there.disk.data().filter(|_| alive && self.net.reachable(node, index)).map(|data| data.at);
        let Some(now) = now.filter(|now| self.wal.contains(*now, copy.at)) else {
            if matches!(step, Step::BaseBackup { .. }) && self.rng.chance(500) {
                self.nodes[node].disk.state = DiskState::Empty;
            }
            return Err("the connection to the source broke".to_owned());
        };
        copy.consistent_at = now.lsn;
        copy.min_recovery = if matches!(step, Step::Rewind { .. }) { now.lsn } else { Lsn(0) };
        // The last segment was copied as it was; streaming brings the rest.
        copy.at =
            Position { branch: now.branch, lsn: if copy.at.branch == now.branch { copy.at.lsn } else { now.lsn } };
        if matches!(step, Step::Rewind { .. }) {
            copy.state = ControlState::InArchiveRecovery;
        }
        // Made before anything else can happen, so that one that somebody starts by hand is a standby.
        copy.standby_signal = true;
        if let Step::Rewind { from } | Step::BaseBackup { from } = step {
            copy.upstream = Some(from.clone());
        }
        let system = copy.system;
        self.nodes[node].disk.state = DiskState::Present(copy);
        self.write_marker(node, system);
        Ok(())
    }

    fn crash_recovered(&mut self, node: usize) {
        let Some(data) = self.nodes[node].disk.data_mut() else { return };
        if matches!(data.state, ControlState::InProduction | ControlState::InCrashRecovery | ControlState::ShuttingDown)
        {
            data.state = ControlState::ShutDown;
            // It is compared before it starts, and single-user mode starts nothing that has these files.
            data.standby_signal = false;
            data.mark = false;
            self.write_checkpoint(node);
        }
    }

    fn started(&mut self, node: usize, role: &StartRole) -> Result<(), String> {
        if self.nodes[node].server.is_some() {
            return Err("a server runs already".to_owned());
        }
        if let StartRole::Primary { lease } = role {
            super::judge::starting_as_primary(self, node, lease);
        }
        let Some(data) = self.nodes[node].disk.data_mut() else { return Err("no data directory".to_owned()) };
        match role {
            StartRole::Primary { .. } => {
                data.standby_signal = false;
                data.mark = false;
            }
            StartRole::Standby { upstream } => {
                data.standby_signal = true;
                data.upstream.clone_from(upstream);
                data.foreign_history.clear();
            }
        }
        let system = data.system;
        self.write_marker(node, system);
        self.start_server(node);
        Ok(())
    }

    /// The supervisor died in the middle of a step: its child dies too. A stop that was begun goes on.
    pub(super) fn break_step(&mut self, node: usize) {
        let Some(running) = self.nodes[node].step.take() else { return };
        match running.step {
            Step::Initdb => {
                let reason = "initdb was interrupted".to_owned();
                self.nodes[node].disk.state = DiskState::Damaged { reason, half_copied: true, ours: true };
            }
            Step::CrashRecover => {
                if let Some(data) = self.nodes[node].disk.data_mut() {
                    data.state = ControlState::InCrashRecovery;
                }
            }
            _ => {}
        }
    }
}
