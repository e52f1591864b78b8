//! When which fault strikes: drawn from a seed, and from nothing else.

use std::fmt;

/// Kinds of faults: those of the simulator, as far as real processes can suffer them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of the loop worker.
    KillWorker,
    /// SIGKILL of the postmaster.
    KillPostmaster,
    /// SIGKILL of the supervisor, which comes back later.
    KillSupervisor,
    /// SIGKILL of everybody on a node, which comes back later.
    CrashNode,
    /// SIGSTOP of the loop worker.
    FreezeWorker,
    /// SIGSTOP of the postmaster.
    HangServer,
    /// SIGSTOP of the supervisor.
    FreezeSupervisor,
    /// SIGSTOP of everybody on a node.
    FreezeNode,
    /// No packets between a node and the store.
    CutFromStore,
    /// A node hears the store, which does not hear it.
    DeafStore,
    /// The store hears a node, which hears no answers.
    LostOutcomes,
    /// No packets between a node and some other nodes.
    CutFromPeers,
    /// A node is not heard by the others, but hears them.
    CutOneWay,
    /// Both: no peers, no store.
    Isolate,
    /// Packets are lost by chance.
    BadLinks,
    /// One member of etcd is killed.
    KillStoreMember,
    /// One member of etcd is frozen.
    FreezeStoreMember,
    /// One member of etcd is cut off from the other members.
    SplitStore,
    /// Two of the three members are killed.
    KillStoreMajority,
    /// Two of the three members are frozen.
    FreezeStoreMajority,
    /// Somebody deletes the leader key.
    DeleteLeaderKey,
    /// Somebody deletes other keys.
    DeleteKeys,
    /// `POST /switchover`.
    Switchover,
    /// `POST /failover`.
    Failover,
    /// A node's disk is full.
    DiskFull,
    /// An operator stops a node, and starts it later.
    StopNode,
    /// An operator stops a server behind its supervisor's back.
    StopServer,
    /// A standby's machine is replaced by an empty one.
    LoseData,
}

use Kind::{
    BadLinks, CrashNode, CutFromPeers, CutFromStore, CutOneWay, DeafStore, DeleteKeys, DeleteLeaderKey, DiskFull,
    Failover, FreezeNode, FreezeStoreMajority, FreezeStoreMember, FreezeSupervisor, FreezeWorker, HangServer, Isolate,
    KillPostmaster, KillStoreMajority, KillStoreMember, KillSupervisor, KillWorker, LoseData, LostOutcomes, SplitStore,
    StopNode, StopServer, Switchover,
};

/// All of them.
pub const ALL: [Kind; 28] = [
    KillWorker,
    KillPostmaster,
    KillSupervisor,
    CrashNode,
    FreezeWorker,
    HangServer,
    FreezeSupervisor,
    FreezeNode,
    CutFromStore,
    DeafStore,
    LostOutcomes,
    CutFromPeers,
    CutOneWay,
    Isolate,
    BadLinks,
    KillStoreMember,
    FreezeStoreMember,
    SplitStore,
    KillStoreMajority,
    FreezeStoreMajority,
    DeleteLeaderKey,
    DeleteKeys,
    Switchover,
    Failover,
    DiskFull,
    StopNode,
    StopServer,
    LoseData,
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KillWorker => "loop worker killed",
            KillPostmaster => "postmaster killed",
            KillSupervisor => "supervisor killed",
            CrashNode => "node killed",
            FreezeWorker => "loop worker frozen",
            HangServer => "postmaster frozen",
            FreezeSupervisor => "supervisor frozen",
            FreezeNode => "node frozen",
            CutFromStore => "cut off from etcd",
            DeafStore => "requests to etcd lost",
            LostOutcomes => "answers of etcd lost",
            CutFromPeers => "cut off from peers",
            CutOneWay => "not heard by peers",
            Isolate => "isolated",
            BadLinks => "lossy links",
            KillStoreMember => "etcd member killed",
            FreezeStoreMember => "etcd member frozen",
            SplitStore => "etcd member cut off from the others",
            KillStoreMajority => "majority of etcd killed",
            FreezeStoreMajority => "majority of etcd frozen",
            DeleteLeaderKey => "leader key deleted",
            DeleteKeys => "keys deleted",
            Switchover => "switchover requested",
            Failover => "failover requested",
            DiskFull => "disk full",
            StopNode => "node stopped",
            StopServer => "server stopped by hand",
            LoseData => "data lost",
        })
    }
}

/// One fault to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// When, after the round's begin.
    pub at_ms: u64,
    /// Which kind.
    pub kind: Kind,
    /// How long it lasts, if it does.
    pub lasts_ms: u64,
    /// Decides whom it hits, given who leads by then.
    pub dice: u64,
}

/// What happens in one round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// In order of time.
    pub strikes: Vec<Strike>,
    /// When everything heals.
    pub ends_ms: u64,
}

impl Schedule {
    /// The schedule of this round of this seed, of the kinds whose name contains `only`. Every round favours some kinds, so that
    /// those meet each other often.
    pub fn of(seed: u64, round: u64, only: &str) -> Self {
        let mut dice = seed.wrapping_mul(0x2545_F491_4F6C_DD1D) ^ round.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let weights = ALL.map(|kind| {
            let weight = if draw(&mut dice, 3) == 0 { 6 } else { 1 };
            if kind.to_string().contains(only) { weight } else { 0 }
        });
        let ends_ms = 20_000 + draw(&mut dice, 25_000);
        let mean_ms = [1500, 3000, 6000][usize::try_from(draw(&mut dice, 3)).unwrap_or(0)];
        let mut strikes: Vec<Strike> = Vec::new();
        let mut at_ms = 1000 + draw(&mut dice, 1000);
        while at_ms + 2000 < ends_ms {
            let kind = pick(&mut dice, &weights);
            let lasts_ms = skewed(&mut dice, 200, 15_000);
            strikes.push(Strike { at_ms, kind, lasts_ms, dice: draw(&mut dice, u64::MAX) });
            at_ms += mean_ms / 4 + draw(&mut dice, mean_ms * 2);
        }
        Self { strikes, ends_ms }
    }
}

fn pick(dice: &mut u64, weights: &[u64; 28]) -> Kind {
    let mut at = draw(dice, weights.iter().sum());
    for (kind, weight) in ALL.iter().zip(weights) {
        if at < *weight {
            return *kind;
        }
        at -= weight;
    }
    KillWorker
}

/// Mostly short, sometimes long.
fn skewed(dice: &mut u64, least: u64, most: u64) -> u64 {
    let half = draw(dice, most - least).max(1);
    least + draw(dice, half)
}

/// A number below `below`.
pub fn draw(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (mixed ^ (mixed >> 31)) % below.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn one_seed_is_one_schedule_and_every_kind_occurs() {
        assert_eq!(Schedule::of(7, 3, ""), Schedule::of(7, 3, ""));
        assert_ne!(Schedule::of(7, 3, ""), Schedule::of(7, 4, ""));
        assert_ne!(Schedule::of(7, 3, ""), Schedule::of(8, 3, ""));
        let rounds = (0..60).flat_map(|round| Schedule::of(1, round, "").strikes);
        let kinds: BTreeSet<Kind> = rounds.map(|strike| strike.kind).collect();
        assert_eq!(kinds.len(), ALL.len());
    }

    /// The seed of CI, which has time for some six rounds.
    #[test]
    fn six_rounds_of_the_fixed_seed_have_every_kind() {
        let rounds = (0..6).flat_map(|round| Schedule::of(36, round, "").strikes);
        assert_eq!(rounds.map(|strike| strike.kind).collect::<BTreeSet<Kind>>().len(), ALL.len());
    }

    #[test]
    fn faults_come_in_order_and_end_with_the_round() {
        for round in 0..100 {
            let schedule = Schedule::of(5, round, "");
            assert!(schedule.strikes.len() > 1 && schedule.strikes.is_sorted_by_key(|strike| strike.at_ms));
            assert!(schedule.strikes.iter().all(|strike| strike.at_ms < schedule.ends_ms && strike.lasts_ms < 15_200));
        }
    }
}
