//! The kinds of faults, and how often each comes in a seed with a theme.

use serde::{Deserialize, Serialize};

/// Kinds of faults, in the order of their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    KillWorker,
    KillPostmaster,
    KillSupervisor,
    CrashNode,
    FreezeWorker,
    StallMain,
    FreezeSupervisor,
    FreezeNode,
    CutFromStore,
    CutFromPeers,
    Isolate,
    BadLinks,
    StoreDown,
    StoreElection,
    LostOutcomes,
    DeleteLeaderKey,
    DeleteKeys,
    Switchover,
    Failover,
    CannotWrite,
    StopNode,
    StopServer,
    LoseData,
    NoSupervisor,
    ClockRate,
    HangServer,
    Pause,
    PromoteByHand,
    StartByHand,
    RestoreKeys,
    PauseMachine,
    Suspend,
    JoinedLate,
    ShortPauses,
    UndonePromotion,
    NewestUnlisted,
    PromoteBesideLeader,
    ChangeTtl,
    ForgetTtl,
}

use Kind::{
    BadLinks, CannotWrite, ChangeTtl, ClockRate, CrashNode, CutFromPeers, CutFromStore, DeleteKeys, DeleteLeaderKey,
    Failover, ForgetTtl, FreezeNode, FreezeSupervisor, FreezeWorker, HangServer, Isolate, JoinedLate, KillPostmaster,
    KillSupervisor, KillWorker, LoseData, LostOutcomes, NewestUnlisted, NoSupervisor, Pause, PauseMachine,
    PromoteBesideLeader, PromoteByHand, RestoreKeys, ShortPauses, StallMain, StartByHand, StopNode, StopServer,
    StoreDown, StoreElection, Suspend, Switchover, UndonePromotion,
};

pub(super) const ALL: [Kind; 39] = [
    KillWorker,
    KillPostmaster,
    KillSupervisor,
    CrashNode,
    FreezeWorker,
    StallMain,
    FreezeSupervisor,
    FreezeNode,
    CutFromStore,
    CutFromPeers,
    Isolate,
    BadLinks,
    StoreDown,
    StoreElection,
    LostOutcomes,
    DeleteLeaderKey,
    DeleteKeys,
    Switchover,
    Failover,
    CannotWrite,
    StopNode,
    StopServer,
    LoseData,
    NoSupervisor,
    ClockRate,
    HangServer,
    Pause,
    PromoteByHand,
    StartByHand,
    RestoreKeys,
    PauseMachine,
    Suspend,
    JoinedLate,
    ShortPauses,
    UndonePromotion,
    NewestUnlisted,
    PromoteBesideLeader,
    ChangeTtl,
    ForgetTtl,
];

pub(super) const KINDS: usize = ALL.len();

/// Those before this one are drawn for every seed, those from it on only where a theme has them.
pub(super) const FIRST_APART: usize = RestoreKeys as usize;

/// The weights of a seed in which keys and data are lost all the time.
pub(super) fn wipes() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        DeleteKeys | LoseData => 3,
        CrashNode | StopServer | KillSupervisor => 1,
        _ => 0,
    })
}

/// The weights of a seed in which an operator deletes keys while leaders cannot see it.
pub(super) fn blindness() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        DeleteLeaderKey | DeleteKeys | FreezeNode => 3,
        CutFromStore | KillSupervisor | StallMain | Isolate => 1,
        _ => 0,
    })
}

/// The weights of a seed in which an operator puts keys back as they were, while leaders cannot see it.
pub(super) fn restores() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        RestoreKeys => 8,
        FreezeNode | CutFromStore => 3,
        Isolate | Switchover => 2,
        KillSupervisor | StallMain | CrashNode | KillPostmaster | DeleteLeaderKey | CutFromPeers => 1,
        _ => 0,
    })
}

/// The weights of a seed in which the lead is handed over all the time, and processes die on the way.
pub(super) fn handovers() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        Switchover => 16,
        KillWorker | KillPostmaster | KillSupervisor | LostOutcomes | NoSupervisor | CutFromStore | CrashNode
        | FreezeWorker | FreezeNode | StallMain | HangServer => 1,
        _ => 0,
    })
}

/// The weights of a seed in which operators work in maintenance mode, and leaders and the store are lost meanwhile.
pub(super) fn maintenance() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        Pause => 4,
        PromoteByHand | StartByHand | StopServer | CutFromStore | StoreDown | Failover => 2,
        KillWorker | KillPostmaster | KillSupervisor | CrashNode | FreezeNode | Isolate | Switchover | StopNode
        | DeleteKeys | DeleteLeaderKey => 1,
        _ => 0,
    })
}

/// The weights of a seed in which leaders and members lose the store, and processes die meanwhile.
pub(super) fn blackouts() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        StoreDown | CutFromStore => 6,
        BadLinks => 2,
        KillWorker | KillPostmaster | KillSupervisor | CrashNode | FreezeWorker | StallMain | FreezeSupervisor
        | FreezeNode | CutFromPeers | Isolate | StoreElection | LostOutcomes | Switchover | Failover | StopNode
        | ClockRate => 1,
        _ => 0,
    })
}

/// The weights of a seed in which leaders stand still without knowing it, and are cut off.
pub(super) fn hypervisor() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        PauseMachine => 8,
        CutFromStore | Isolate | Switchover => 2,
        Suspend | CrashNode | StoreDown | BadLinks | StallMain | KillWorker | KillPostmaster | StoreElection => 1,
        _ => 0,
    })
}

/// The weights of a seed in which leaders stand still again and again, each time too shortly to tell.
pub(super) fn short_pauses() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        ShortPauses => 8,
        PauseMachine => 2,
        CutFromStore | Isolate | Switchover | StallMain | KillWorker | StoreElection => 1,
        _ => 0,
    })
}

/// The weights of a seed in which leaders are lost, one at a time, and nothing else happens: what a vote must save is clear then.
pub(super) fn failovers() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        CrashNode => 3,
        Isolate | FreezeNode => 1,
        _ => 0,
    })
}

/// The weights of a seed in which leaders are lost before they have written down in failsafe mode who joined last.
pub(super) fn late_joiners() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        JoinedLate => 4,
        CrashNode => 1,
        _ => 0,
    })
}

/// The weights of a seed in which claims are put back as they were just before a promotion, and the new leader is lost.
pub(super) fn undone_promotions() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        UndonePromotion => 4,
        CrashNode | Switchover | Isolate => 1,
        _ => 0,
    })
}

/// The weights of a seed in which only who is not written down yet has what a leader acknowledged last.
pub(super) fn newest_unlisted() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        NewestUnlisted => 4,
        CrashNode => 1,
        _ => 0,
    })
}

/// The weights of a seed in which standbys are promoted by hand while another leads, and leaders are lost.
pub(super) fn promoted_by_mistake() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        PromoteBesideLeader | CrashNode => 3,
        Isolate | KillPostmaster => 1,
        _ => 0,
    })
}

/// The weights of a seed in which an operator changes `ttl` all the time, while leaders lose the store and processes die.
pub(super) fn other_leases() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        ChangeTtl => 12,
        CutFromStore | BadLinks | LostOutcomes => 3,
        Isolate | StoreDown | Switchover | KillWorker | KillSupervisor => 2,
        KillPostmaster | CrashNode | FreezeWorker | StallMain | FreezeNode | StoreElection | DeleteLeaderKey
        | RestoreKeys | Pause => 1,
        _ => 0,
    })
}

/// The weights of a seed in which `ttl` is lowered while leaders are without the store, and who has promised them something starts anew.
pub(super) fn forgotten_leases() -> [u64; KINDS] {
    ALL.map(|kind| match kind {
        ForgetTtl => 8,
        ChangeTtl => 3,
        CutFromStore | StoreDown | KillWorker | KillSupervisor | CrashNode | CannotWrite | Switchover => 1,
        _ => 0,
    })
}

pub(super) fn name(kind: Kind) -> &'static str {
    match kind {
        KillWorker => "loop worker killed",
        KillPostmaster => "postmaster killed",
        KillSupervisor => "supervisor killed",
        CrashNode => "machine crashes",
        FreezeWorker => "loop worker frozen",
        StallMain => "main thread stalled",
        FreezeSupervisor => "supervisor frozen",
        FreezeNode => "machine frozen",
        CutFromStore => "cut off from the store",
        CutFromPeers => "cut off from peers",
        Isolate => "isolated",
        BadLinks => "slow and lossy links",
        StoreDown => "store down",
        StoreElection => "store elects a leader",
        LostOutcomes => "outcomes lost",
        DeleteLeaderKey => "leader key deleted",
        DeleteKeys => "keys deleted",
        Switchover => "switchover requested",
        Failover => "failover requested",
        CannotWrite => "disk full",
        StopNode => "node stopped",
        StopServer => "server stopped by hand",
        LoseData => "data lost",
        NoSupervisor => "supervisor gone for good",
        ClockRate => "clock rate changes, time of day set",
        HangServer => "postmaster hangs",
        Pause => "maintenance mode begins or ends",
        PromoteByHand => "promoted by hand",
        PromoteBesideLeader => "promoted by hand beside a leader",
        StartByHand => "started by hand",
        RestoreKeys => "keys put back",
        PauseMachine => "machine paused by its hypervisor",
        Suspend => "machine suspended",
        JoinedLate => "leader crashes just after a member joined",
        ShortPauses => "several short pauses",
        NewestUnlisted => "leader crashes with the news at a member that has just joined",
        UndonePromotion => "keys put back as they were before a promotion",
        ChangeTtl => "ttl changed",
        ForgetTtl => "ttl lowered under a promise",
    }
}
