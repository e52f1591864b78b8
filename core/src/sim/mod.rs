//! A seeded, deterministic world that drives [`crate::decide::decide`] through faults and watches the invariants.
//!
//! Two to seven machines, each with both drivers, a model Postgres, a model network and clocks that are wrong, around a
//! model store. A driver here does what a real one does and nothing more: no rule of high availability is written in
//! this module. One `u64` decides everything that happens: the same seed gives the same log, to the byte.
//!
//! A run has a safety phase with faults, in which invariants are checked after every event, and then heals and must
//! come to one leader that everybody follows.

mod apart;
mod appointments;
mod asynchronous;
mod bent;
mod campaign;
mod client;
mod clock;
mod driver;
mod event;
mod faults;
mod faults_net;
mod genesis;
mod hang;
mod heal;
mod hypervisor;
mod in_place;
mod inside;
mod invariants;
mod judge;
mod kinds;
mod leases;
mod log;
mod mutant;
mod net;
mod node;
mod noticed;
mod observe;
mod operator;
mod owed;
mod params;
mod peers;
mod promises;
mod queue;
mod replay;
mod restores;
mod rng;
mod schedule;
mod seats;
mod server;
mod server_end;
mod shrink;
mod steps;
mod store;
mod store_client;
mod store_side;
mod stream;
mod two_phase;
mod wal;
mod watchdog;
mod world;

pub use campaign::{Campaign, record};
pub use mutant::Mutant;
pub use schedule::{SHORT_FROM, Schedule};
pub use shrink::{Shrunk, shrink};

use crate::rule::Rule;
use std::collections::BTreeMap;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Decides everything.
    pub schedule: Schedule,
    /// A deliberate fault in the product, to prove that the world sees it.
    pub mutant: Option<Mutant>,
    /// Whether to write down what happens.
    pub log: bool,
}

impl Options {
    /// The product as it is, in the world that `seed` draws.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self::with(Schedule::of(seed))
    }

    /// The product as it is, under this schedule.
    #[must_use]
    pub fn with(schedule: Schedule) -> Self {
        Self { schedule, mutant: None, log: false }
    }
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Everything that happened, as text, if it was asked for.
    pub log: String,
    /// A digest of everything that happened: every event's time, every number drawn, every rule.
    pub digest: u64,
    /// The broken invariant, if one was broken.
    pub broken: Option<Broken>,
    /// How often each rule was the reason of a decision.
    pub rules: BTreeMap<Rule, u64>,
    /// How often each fault struck.
    pub faults: BTreeMap<&'static str, u64>,
    /// Promotions that ended.
    pub failovers: u64,
    /// Planned hand-overs in place.
    pub handovers: u64,
    /// Demotions in place, planned or not.
    pub demotions_in_place: u64,
    /// Commits acknowledged, and how many of them were not on the next leader.
    pub acknowledged: u64,
    /// Acknowledged commits that no node had when another was promoted.
    pub lost: u64,
    /// Commits acknowledged by machines that had been paused and could not know it: what I2 excuses, and what may be lost without being counted.
    pub excused: u64,
    /// Commits that were acknowledged before they were flushed, as their clients wanted, and went with a crash of their server.
    pub unflushed: u64,
    /// How often promises of the members moved a deadline.
    pub extensions: u64,
    /// Virtual time that passed.
    pub virtual_ms: u64,
    /// Virtual time from the end of all faults until everybody followed one leader.
    pub settled_after_ms: Option<u64>,
    /// Each time from when nobody took writes any more until somebody else did.
    pub failover_ms: Vec<u64>,
    /// Events handled.
    pub events: u64,
}

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Its name, as in `docs/invariants.md`.
    pub invariant: &'static str,
    /// What happened.
    pub text: String,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
}

impl Report {
    /// What a person needs to see of a failed run: what broke, the last events, and the command that replays it.
    #[must_use]
    pub fn explain(&self) -> String {
        let what = self.broken.as_ref().map_or_else(String::new, |b| format!("{}: {}", b.invariant, b.text));
        format!(
            "{}\n{what}\nreplay: SIM_SEED={} cargo test --profile simulator -p ha_core --features sim --test seeds no_seed -- --nocapture",
            log::tail(&self.log, 80),
            self.seed
        )
    }
}

/// Runs one seed to its end.
#[must_use]
pub fn run(options: &Options) -> Report {
    let mut world = world::World::new(options);
    world.run();
    Report {
        seed: options.schedule.seed,
        broken: world.judge.violation.take().map(|broken| Broken {
            invariant: broken.invariant,
            text: broken.text,
            at_ms: broken.at,
        }),
        rules: Rule::ALL.iter().copied().zip(world.rules).filter(|(_, count)| *count > 0).collect(),
        faults: world.faults,
        failovers: world.judge.failovers,
        handovers: world.judge.handovers,
        demotions_in_place: world.judge.demotions_in_place,
        acknowledged: world.judge.acks_total,
        lost: world.judge.lost_total,
        excused: world.judge.stale_total,
        unflushed: world.judge.unflushed_total,
        extensions: world.judge.extensions,
        virtual_ms: world.now,
        failover_ms: std::mem::take(&mut world.judge.failover_ms),
        settled_after_ms: world.judge.settled_after,
        events: world.events,
        digest: world.digest,
        log: world.log.into_text(),
    }
}
