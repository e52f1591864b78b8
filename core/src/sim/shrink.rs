//! Cuts a schedule that breaks an invariant down to what it takes to break the same one.
//!
//! Deterministic: what is tried, and in which order, depends on nothing but the schedule.

use super::params::Params;
use super::schedule::Schedule;
use super::{Mutant, Options, Report, run};

/// Runs that one reduction may take.
const RUNS_MAX: u32 = 600;

/// What is left of a schedule.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest that was found.
    pub schedule: Schedule,
    /// What it does, with its log.
    pub report: Report,
    /// How many runs that took.
    pub runs: u32,
}

struct Reduction {
    invariant: &'static str,
    mutant: Option<Mutant>,
    best: Schedule,
    runs: u32,
}

/// Reduces `schedule`; `None` if it breaks nothing.
#[must_use]
pub fn shrink(schedule: &Schedule, mutant: Option<Mutant>) -> Option<Shrunk> {
    let broken = run(&Options { schedule: schedule.clone(), mutant, log: false }).broken?;
    let mut reduction = Reduction { invariant: broken.invariant, mutant, best: schedule.clone(), runs: 1 };
    // What comes after the end decided nothing.
    reduction.with(|best| best.faults.retain(|fault| fault.at_ms <= broken.at_ms));
    loop {
        let before = reduction.best.clone();
        reduction.drop_faults();
        reduction.simplify();
        reduction.shorten();
        if reduction.best == before || reduction.runs >= RUNS_MAX {
            break;
        }
    }
    let Reduction { best: schedule, runs, .. } = reduction;
    let report = run(&Options { schedule: schedule.clone(), mutant, log: true });
    Some(Shrunk { schedule, report, runs })
}

impl Reduction {
    /// Changes the schedule, if it still breaks the same invariant then. True if that made a difference.
    fn with(&mut self, change: impl FnOnce(&mut Schedule)) -> bool {
        let mut changed = self.best.clone();
        change(&mut changed);
        if changed == self.best || self.runs >= RUNS_MAX {
            return false;
        }
        self.runs += 1;
        let report = run(&Options { schedule: changed.clone(), mutant: self.mutant, log: false });
        let same = report.broken.is_some_and(|broken| broken.invariant == self.invariant);
        if same {
            self.best = changed;
        }
        same
    }

    /// Half of the faults, a quarter of them, and so on to single ones.
    fn drop_faults(&mut self) {
        let mut size = self.best.faults.len();
        while size > 0 {
            let mut from = 0;
            while from < self.best.faults.len() {
                let gone = self.with(|best| {
                    let to = (from + size).min(best.faults.len());
                    best.faults.drain(from..to);
                });
                // What follows has moved up.
                from += if gone { 0 } else { size };
            }
            size /= 2;
        }
    }

    /// Everything that goes wrong unplanned, then clients and nodes.
    fn simplify(&mut self) {
        let changes: [fn(&mut Params); 14] = [
            |params| params.kill_between_effects_per_mille = 0,
            |params| params.lost_reply_per_mille = 0,
            |params| params.lost_request_per_mille = 0,
            |params| params.slow_commit_per_mille = 0,
            |params| params.failing_step_per_mille = 0,
            |params| params.one_nofailover = false,
            |params| {
                params.watchdogs = super::watchdog::Watchdogs::default();
                params.settings.watchdog = crate::watchdog::WatchdogSettings::default();
            },
            |params| params.asynchronous_per_mille = 0,
            |params| params.two_phase_per_mille = 0,
            |params| params.twice_per_mille = 0,
            |params| params.replay_lag_max_ms = 0,
            |params| params.archive_max_ms = None,
            |params| params.revoke_lag_ms = 0,
            |params| params.recovery_max_ms = params.recovery_max_ms.min(1000),
        ];
        for change in changes {
            self.with(|best| change(&mut best.params));
        }
        while self.best.params.clients > 1 && self.with(|best| best.params.clients -= 1) {}
        while self.best.params.nodes > 2 && self.with(|best| best.params.nodes -= 1) {}
    }

    /// Shorter faults, and an earlier end of them.
    fn shorten(&mut self) {
        for number in 0..self.best.faults.len() {
            while self.best.faults[number].lasts_ms > 200 && self.with(|best| best.faults[number].lasts_ms /= 2) {}
        }
        let last = self.best.faults.last().map_or(0, |fault| fault.at_ms);
        let begin = self.best.params.quiet_ms;
        self.with(|best| best.params.faults_ms = (last + 1).saturating_sub(begin).max(1));
    }
}
