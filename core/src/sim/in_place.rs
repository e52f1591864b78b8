//! Demotion in place: its files, the seal on commits, the end of the log, and the crash cycle that makes a standby.

use super::Mutant;
use super::event::{Event, Made};
use super::judge;
use super::node::{Cycle, Phase};
use super::world::World;
use crate::ids::{Lsn, Timeline};
use crate::local::{ControlState, InPlace, Seal};
use crate::memory::Stage;

/// `wal_segment_size`, small enough for the little that is written here.
pub(super) const SEGMENT_BYTES: u64 = 1 << 16;
/// A record of no effect.
const NOOP_BYTES: u64 = 24;
/// When a postmaster kills children that ignored SIGQUIT.
const STRAGGLER_MS: u64 = 5000;

impl World {
    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    // ---- what is observed ----

    pub(super) fn in_place(&self, node: usize) -> InPlace {
        let Some(data) = self.nodes[node].disk.data() else { return InPlace::default() };
        let newer = data.foreign_history.iter().any(|other| *other > self.wal.branch(data.at.branch).timeline);
        let hindered = newer && !self.is(Mutant::NewerHistoryIgnored);
        let obstacle = hindered.then(|| "a history file of a newer timeline is in pg_wal".to_owned());
        let parked = data.standby_signal && data.mark && data.upstream.is_none();
        InPlace { obstacle, parked, marked: data.standby_signal || data.mark }
    }

    pub(super) fn archive_waiting(&self, node: usize) -> bool {
        let Some(data) = self.nodes[node].disk.data() else { return false };
        self.params.archive_max_ms.is_some() && finished(data.at.lsn) > data.archived
    }

    // ---- files ----

    pub(super) fn park(&mut self, node: usize) {
        let first = if self.is(Mutant::SignalBeforeMark) { Made::NoSignal } else { Made::Mark };
        self.file_later(node, first);
    }

    pub(super) fn unpark(&mut self, node: usize) {
        self.file_later(node, Made::NoSignal);
    }

    fn file_later(&mut self, node: usize, made: Made) {
        let Some(life) = self.nodes[node].server_life() else { return };
        let takes = if self.rng.chance(30) { self.rng.skewed(20, 8000) } else { self.rng.between(1, 12) };
        self.later(takes, Event::Parked { node, server: life, made });
    }

    /// One file is there (or gone); the next follows.
    pub(super) fn park_file(&mut self, node: usize, life: u64, made: Made) {
        let primary = self.nodes[node].server_of(life).is_some_and(|server| server.phase == Phase::Primary);
        let leaves = self.nodes[node].worker.memory.stage.clone();
        let keeps = self.is(Mutant::PromoteFileLeft);
        let Some(data) = self.nodes[node].disk.data_mut().filter(|_| primary) else { return };
        // What was asked for before the mind changed is not carried on with.
        let wanted = leaves.in_place() || matches!(leaves, Stage::Sealing { .. });
        match made {
            Made::Mark if wanted => {
                data.mark = true;
                data.upstream = None;
                data.promote_file &= keeps;
                self.file_later(node, Made::All);
                return;
            }
            Made::All if wanted => data.standby_signal = true,
            Made::NoSignal if !wanted => {
                data.standby_signal = false;
                self.file_later(node, Made::Nothing);
                return;
            }
            // The wrong way round, for the mutant.
            Made::NoSignal if self.mutant == Some(Mutant::SignalBeforeMark) => {
                data.standby_signal = true;
                self.file_later(node, Made::Mark);
                return;
            }
            Made::Nothing if !wanted => data.mark = false,
            Made::Mark | Made::All | Made::NoSignal | Made::Nothing => {}
        }
        self.wake_seat(node);
    }

    // ---- commits and the log ----

    pub(super) fn seal(&mut self, node: usize) {
        if let Some(server) = self.nodes[node].server.as_mut()
            && server.phase == Phase::Primary
            && server.seal == Seal::Open
        {
            server.seal = Seal::Holding { in_flight: 0 };
        }
    }

    /// What a driver sees of it.
    pub(super) fn seen_seal(&self, node: usize) -> Seal {
        match self.server(node) {
            Some(server) if matches!(server.seal, Seal::Holding { .. }) => {
                let ignored = self.is(Mutant::InFlightIgnored) || self.is(Mutant::SealSkipped);
                let in_flight = if ignored { 0 } else { u32::try_from(server.passing.len()).unwrap_or(u32::MAX) };
                Seal::Holding { in_flight }
            }
            Some(server) => server.seal,
            None => Seal::Open,
        }
    }

    /// Ends the log if commits are held and none is under way: a last record, flushed, and nothing after it.
    pub(super) fn end_log(&mut self, node: usize) {
        if self.seen_seal(node) != (Seal::Holding { in_flight: 0 }) {
            return;
        }
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        server.insert = Lsn(server.insert.0 + NOOP_BYTES);
        let at = server.insert;
        server.seal = Seal::Frozen { at };
        if let Some(data) = self.nodes[node].disk.data_mut() {
            data.at.lsn = data.at.lsn.max(at);
        }
        self.hand_over_may_fail(node);
        self.comes_to(node, super::hypervisor::Moment::HandOver);
        self.pump(node);
        let text = format!("the log ends at {at}");
        self.say(node, &text);
    }

    /// The others do not get the end of the log, and the candidate is to die when the key is released for it.
    fn hand_over_may_fail(&mut self, node: usize) {
        let Stage::Sealing { candidate, .. } = self.nodes[node].worker.memory.stage.clone() else { return };
        if self.healed_at.is_some() || !self.rng.chance(60) {
            return;
        }
        let others = (0..self.nodes.len()).filter(|other| *other != node && self.nodes[*other].name != candidate);
        let links = others.map(|other| (node, other)).collect();
        let lasts_ms = self.rng.skewed(500, 20_000);
        self.cut(links, lasts_ms);
        self.doomed = Some(candidate);
    }

    /// Held commits go on as if nothing had happened.
    pub(super) fn unseal(&mut self, node: usize) {
        self.thaw_log(node);
        self.let_held_go(node);
    }

    /// What waited in memory may become durable again.
    pub(super) fn thaw_log(&mut self, node: usize) {
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        server.seal = Seal::Open;
        let insert = server.insert;
        if server.phase == Phase::Primary
            && let Some(data) = self.nodes[node].disk.data_mut()
        {
            data.at.lsn = data.at.lsn.max(insert);
            self.pump(node);
        }
    }

    /// Whoever waits in the seal goes on, or fails at a closed fence.
    pub(super) fn let_held_go(&mut self, node: usize) {
        let open = self.nodes[node].fence_open(self.now);
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        if server.seal != Seal::Open && open {
            return;
        }
        for (client, attempt) in std::mem::take(&mut server.held) {
            self.held_goes_on(node, client, attempt, open);
        }
    }

    // ---- the crash cycle ----

    /// The worker has left by `_exit(2)`: every child is told to go, and recovery begins in the same postmaster.
    pub(super) fn demote_in_place(&mut self, node: usize, planned: bool) {
        let tail = self.server(node).map_or(Lsn(0), |server| server.insert);
        if self.is(Mutant::TailNotZeroed)
            && let Some(data) = self.nodes[node].disk.data_mut()
        {
            // The rest of the last page was written along, records in it included.
            data.at.lsn = data.at.lsn.max(Lsn(tail.0.min(data.at.lsn.0 / 8192 * 8192 + 8192)));
        }
        let straggles = self.healed_at.is_none() && self.rng.chance(150);
        self.flush_before_demotion(node);
        self.say(node, "the worker exits: the server becomes a standby in place");
        self.worker_ends(node);
        self.drop_standbys_of(node);
        let since = self.local(node);
        if self.server(node).is_none_or(|server| server.phase == Phase::Stopping) {
            return;
        }
        self.memory_goes(node, false);
        let end = self.nodes[node].disk.data().map_or(Lsn(0), |data| data.at.lsn);
        let Some(server) = self.nodes[node].server.as_mut() else { return };
        server.crash_cycle(since, end);
        server.cycle = Some(Cycle { planned, begun: false });
        let life = server.life;
        let takes = if straggles { STRAGGLER_MS } else { self.rng.between(1, 20) };
        self.later(takes, Event::CycleBegins { node, server: life });
    }

    pub(super) fn stragglers_ended(&mut self, node: usize) {
        if self.params.archive_max_ms.is_some()
            && let Some(data) = self.nodes[node].disk.data_mut()
        {
            data.archived = data.archived.max(finished(data.at.lsn));
        }
        if let Some(server) = &self.nodes[node].server {
            let life = server.life;
            self.cycle_begins(node, life);
        }
    }

    pub(super) fn cycle_begins(&mut self, node: usize, life: u64) {
        let Some(server) = self.nodes[node].server_of(life) else { return };
        let waits = server.cycle.as_mut().is_some_and(|cycle| !std::mem::replace(&mut cycle.begun, true));
        if waits && server.phase == Phase::Starting {
            self.begin_recovery(node);
        }
    }

    // ---- afterwards ----

    pub(super) fn serve_reads(&mut self, node: usize) {
        judge::reads_served(self, node);
        if let Some(server) = self.nodes[node].server.as_mut() {
            server.withheld = false;
            server.uncompared = false;
        }
        if let Some(data) = self.nodes[node].disk.data_mut() {
            data.mark = false;
        }
    }

    /// The archiver of a primary.
    pub(super) fn archiver(&mut self, node: usize, life: u64) {
        let Some(most) = self.params.archive_max_ms else { return };
        let primary = self.nodes[node].server_of(life).is_some_and(|server| server.phase == Phase::Primary);
        if !primary {
            return;
        }
        if let Some(data) = self.nodes[node].disk.data_mut() {
            data.archived = data.archived.max(finished(data.at.lsn));
        }
        let most = if self.healed_at.is_some() { 200 } else { most };
        let takes = self.rng.skewed(50, most);
        self.later(takes, Event::Archiver { node, server: life });
    }

    /// A script of the site copies the new history file from the archive to every primary it finds, by `standby.signal`.
    pub(super) fn history_spreads(&mut self, from: usize, timeline: Timeline) {
        for node in (0..self.nodes.len()).filter(|node| *node != from) {
            let primary = self.server(node).is_some_and(|server| server.phase == Phase::Primary);
            if let Some(data) = self.nodes[node].disk.data_mut().filter(|data| primary && !data.standby_signal) {
                data.foreign_history.insert(timeline);
                self.hurt(node);
            }
        }
    }

    /// A server that comes up with a `promote` file does what it says, whoever wrote that and when.
    pub(super) fn promotes_unasked(&mut self, node: usize) -> bool {
        let Some(data) = self.nodes[node].disk.data_mut() else { return false };
        let unclean = matches!(data.state, ControlState::InProduction | ControlState::InCrashRecovery);
        data.standby_signal && unclean && std::mem::take(&mut data.promote_file)
    }
}

/// The end of the last segment that is complete.
pub(super) fn finished(at: Lsn) -> Lsn {
    Lsn(at.0 / SEGMENT_BYTES * SEGMENT_BYTES)
}
