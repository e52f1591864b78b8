//! What a seed decides before anything happens: size, settings, which faults come and how often.
//!
//! Each seed draws its own subset of faults ("swarm testing"): with every fault in every run, most runs would never
//! get past the first few.

use super::kinds::KINDS;
use super::rng::Rng;
use crate::clock::Millis;
use crate::settings::Settings;
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Params {
    pub(super) nodes: usize,
    pub(super) settings: Settings,
    /// Quiet time at the start; 0 disturbs the bootstrap itself.
    pub(super) quiet_ms: u64,
    /// Length of the phase with faults.
    pub(super) faults_ms: u64,
    pub(super) lost_reply_per_mille: u64,
    pub(super) lost_request_per_mille: u64,
    pub(super) slow_commit_per_mille: u64,
    pub(super) failing_step_per_mille: u64,
    /// Processes die between two effects of one decision.
    pub(super) kill_between_effects_per_mille: u64,
    pub(super) revoke_lag_ms: u64,
    pub(super) recovery_max_ms: u64,
    pub(super) clients: usize,
    pub(super) one_nofailover: bool,
    /// `archive_mode = on`, and how long a segment takes at most.
    pub(super) archive_max_ms: Option<u64>,
    /// Hypervisors may pause the machines; most have a hardware clock.
    #[serde(default)]
    pub(super) virtual_machines: bool,
    #[serde(default)]
    pub(super) watchdogs: super::watchdog::Watchdogs,
    /// An operator changes `ttl`.
    #[serde(default)]
    pub(super) changes_ttl: bool,
    /// How many commits are made with `synchronous_commit = off`.
    #[serde(default)]
    pub(super) asynchronous_per_mille: u64,
    /// How many are made in two phases.
    #[serde(default)]
    pub(super) two_phase_per_mille: u64,
    /// How many messages between members arrive twice.
    #[serde(default)]
    pub(super) twice_per_mille: u64,
    /// For how long replay stops at most; 0 for never.
    #[serde(default)]
    pub(super) replay_lag_max_ms: u64,
}

/// Which faults come, and how often.
#[derive(Clone, Debug)]
pub(super) struct Weather {
    /// Mean time between two faults.
    pub(super) every_ms: u64,
    /// Relative frequency of each kind, by `Kind as usize`.
    pub(super) weights: [u64; KINDS],
}

impl Params {
    pub(super) fn draw(rng: &mut Rng) -> (Self, Weather) {
        let settings = settings(rng);
        let nodes = [2, 3, 3, 3, 3, 3, 4, 4, 5, 5, 6, 7][rng.index(12)];
        let mut weights = [0; KINDS];
        for weight in &mut weights[..super::kinds::FIRST_APART] {
            *weight = [0, 0, 0, 1, 1, 3][rng.index(6)];
        }
        if rng.chance(30) {
            weights = super::kinds::wipes();
        } else if rng.chance(60) {
            weights = super::kinds::blindness();
        }
        if rng.chance(80) {
            weights = super::kinds::maintenance();
        }
        let handovers = rng.chance(120);
        if handovers {
            weights = super::kinds::handovers();
        }
        let rare = |rng: &mut Rng, value: u64| if rng.chance(350) { rng.between(1, value) } else { 0 };
        let plain = !handovers && rng.chance(80);
        if plain {
            weights = super::kinds::failovers();
        }
        let every_ms = match (plain, handovers) {
            // Far enough apart for the others to have been well for a while.
            (true, _) => rng.between(30_000, 60_000),
            (_, true) => rng.between(8000, 20_000),
            _ => rng.skewed(3_000, 50_000),
        };
        let params = Self {
            nodes,
            quiet_ms: if rng.chance(800) { rng.between(15_000, 40_000) } else { 0 },
            faults_ms: rng.between(120_000, 500_000),
            lost_reply_per_mille: rare(rng, 30),
            lost_request_per_mille: rare(rng, 30),
            slow_commit_per_mille: rare(rng, 30),
            failing_step_per_mille: rare(rng, 300),
            kill_between_effects_per_mille: rare(rng, if handovers { 60 } else { 10 }),
            revoke_lag_ms: [0, 500, 500][rng.index(3)],
            recovery_max_ms: [1_000, 5_000, 60_000, 300_000][rng.index(4)],
            clients: 1 + rng.index(3),
            one_nofailover: rng.chance(150),
            archive_max_ms: rng.chance(500).then(|| [200, 3000, 30_000][rng.index(3)]),
            virtual_machines: false,
            watchdogs: super::watchdog::Watchdogs::default(),
            changes_ttl: false,
            asynchronous_per_mille: 0,
            two_phase_per_mille: 0,
            twice_per_mille: 0,
            replay_lag_max_ms: 0,
            settings,
        };
        (params, Weather { every_ms, weights })
    }
}

impl Params {
    /// Three nodes of the shortest `ttl` for half an hour, on which nothing goes wrong by itself.
    pub(super) fn calm(rng: &mut Rng) -> Self {
        let (drawn, _) = Self::draw(rng);
        let (ttl_ms, loop_wait_ms, retry_timeout_ms) = (Millis(5000), Millis(1000), Millis(2000));
        Self {
            nodes: 3,
            settings: Settings { ttl_ms, loop_wait_ms, retry_timeout_ms, ..drawn.settings },
            quiet_ms: 20_000,
            faults_ms: 1_800_000,
            lost_reply_per_mille: 0,
            lost_request_per_mille: 0,
            slow_commit_per_mille: 0,
            failing_step_per_mille: 0,
            kill_between_effects_per_mille: 0,
            recovery_max_ms: 1000,
            clients: 1,
            one_nofailover: false,
            ..drawn
        }
    }
}

/// `ttl`, `loop_wait` and `retry_timeout`, in seconds.
pub(super) const TIMINGS: [(u64, u64, u64); 5] = [(30, 10, 10), (20, 1, 3), (10, 2, 3), (5, 1, 2), (15, 5, 5)];

fn settings(rng: &mut Rng) -> Settings {
    let (ttl, loop_wait, retry) = TIMINGS[rng.index(TIMINGS.len())];
    Settings {
        ttl_ms: Millis::from_secs(ttl),
        loop_wait_ms: Millis::from_secs(loop_wait),
        retry_timeout_ms: Millis::from_secs(retry),
        maximum_lag_on_failover_bytes: if rng.chance(200) { 20_000 } else { 1_048_576 },
        primary_start_timeout_ms: Millis::from_secs([0, 5, 30, 300, 300][rng.index(5)]),
        use_pg_rewind: rng.chance(850),
        replace_after_failed_rewind: rng.chance(700),
        replace_diverged: rng.chance(700),
        use_slots: true,
        demote_in_place: rng.chance(850),
        ..Settings::default()
    }
}
