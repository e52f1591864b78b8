//! Everything that can happen in the world, and which process has to be running for it to happen.

use super::appointments::Change;
use super::client::Commit;
use super::store::{Answer, Request};
use super::wal::Position;
use crate::clock::Tick;
use crate::cluster::Cluster;
use crate::failsafe::PromiseAnswer;
use crate::ids::{LeaseId, Lsn, Revision};
use crate::local::Upstream;
use crate::peer::PeerAnswer;
use crate::view::Side;
use std::rc::Rc;

/// One driver: the worker or the supervisor of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) node: usize,
    pub(super) side: Side,
}

/// `life` tells one incarnation of a process from the next: what was meant for a dead one is dropped.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Tick { who: Who, life: u64 },
    StoreArrive { who: Who, life: u64, flight: u64, request: Box<Request>, retried: bool },
    StoreAnswer { who: Who, life: u64, flight: u64, answer: Answer },
    CallTimeout { who: Who, life: u64, flight: u64, reason: &'static str },
    Watch { who: Who, life: u64, stream: u64, cluster: Rc<Cluster> },
    WatchCheck { who: Who, life: u64, stream: u64 },
    WatchConnect { who: Who, life: u64 },
    PeerAsk { from: Who, life: u64, asked_at: Tick, to: usize },
    PeerAnswered { from: Who, life: u64, asked_at: Tick, to: usize, answer: Box<PeerAnswer> },
    PeerTimeout { from: Who, life: u64, asked_at: Tick },
    PromiseAsk { from: Who, life: u64, asked_at: Tick, to: usize, created: Revision },
    PromiseAnswered { from: Who, life: u64, asked_at: Tick, to: usize, answer: PromiseAnswer },
    PromiseTimeout { from: Who, life: u64, asked_at: Tick },
    PromiseTested { leader: usize, member: usize },
    LeaseDue(LeaseId),
    WatchdogResets { node: usize, number: u64 },

    Boot { node: usize, boot: u64 },
    SupervisorStart { node: usize, boot: u64 },
    UnitStart { node: usize, boot: u64 },
    WorkerStart { node: usize, server: u64 },
    WorkerExit { who: Who, life: u64 },
    WorkerGone { node: usize, supervisor: u64 },
    Hello { node: usize, worker: u64, waited_ms: u64 },
    HelloMissed { node: usize, supervisor: u64 },
    LeaveMissed { node: usize, supervisor: u64 },
    Silence { node: usize, supervisor: u64 },
    ServerReady { node: usize, server: u64, attempt: u64 },
    Replayed { node: usize, server: u64 },
    FollowApplied { node: usize, server: u64, upstream: Option<Box<Upstream>> },
    PromotionDone { node: usize, server: u64, attempt: u64 },
    CheckpointDone { node: usize, server: u64, attempt: u64, redo: Lsn },
    StopCheckpoint { node: usize, server: u64 },
    StopDone { node: usize, server: u64, give_up: u64 },
    StopPending { node: usize, server: u64 },
    StopFailed { node: usize, step: u64 },
    LeftoverGone { node: usize, server: u64 },
    StepEnd { node: usize, step: u64 },
    StepBegun { node: usize, step: u64 },

    Connect { node: usize, server: u64 },
    WalArrive { node: usize, server: u64, connection: u64, position: Position },
    Feedback { node: usize, server: u64, connection: u64, flushed: Lsn },
    ReceiverTimeout { node: usize, server: u64, connection: u64 },
    Background { node: usize, server: u64 },
    Archiver { node: usize, server: u64 },
    WalWriter { node: usize, server: u64 },
    ReplayGoesOn { node: usize, server: u64, number: u64 },
    Parked { node: usize, server: u64, made: Made },
    CycleBegins { node: usize, server: u64 },

    ClientTry { client: usize, attempt: u64 },
    ClientLooks { client: usize },
    CommitFlush(Commit),
    CommitAck(Commit),

    SecondThoughts { revision: Revision, change: Change },
    MachinePaused { node: usize, lasts_ms: u64 },
    HardwareRead { node: usize },
    TimeSet { node: usize, by_ms: i64 },

    Fault(usize),
    JoinedLate,
    TtlKept { who: Who, life: u64 },
    TtlForgotten { leader: usize },
    Thaw { node: usize, what: Frozen, number: u64 },
    Undo(Undo),
    Heal,
    Judge,
}

/// The files of a demotion in place, in the order in which they are made; they go in the opposite one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Mark,
    All,
    NoSignal,
    Nothing,
}

/// What a SIGSTOP (or a stalled thread) holds up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frozen {
    /// The loop worker, all its threads.
    Worker,
    /// The worker's main thread alone: its net thread goes on.
    Main,
    /// The supervisor.
    Supervisor,
    /// All processes of the machine.
    Node,
}

/// The end of a fault that is not a freeze.
#[derive(Clone, Debug)]
pub(super) enum Undo {
    Cut { pairs: Vec<(usize, usize)> },
    Quality { pairs: Vec<(usize, usize)> },
    StoreDown,
    CannotWrite { node: usize },
    Outcomes,
}

/// The process that must run for an event to be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Addressee {
    /// The world itself: the store, the network, an operator.
    World,
    /// A thread of a driver; `main` for its main thread.
    Driver(Who, bool),
    /// Postgres, or a step, on this machine.
    Machine(usize),
}

impl Event {
    pub(super) fn addressee(&self) -> Addressee {
        let supervisor = |node| Addressee::Driver(Who { node, side: Side::Outside }, true);
        match self {
            Event::Tick { who, .. } | Event::WorkerExit { who, .. } => Addressee::Driver(*who, true),
            Event::StoreAnswer { who, .. }
            | Event::CallTimeout { who, .. }
            | Event::Watch { who, .. }
            | Event::WatchCheck { who, .. }
            | Event::WatchConnect { who, .. }
            | Event::TtlKept { who, .. } => Addressee::Driver(*who, false),
            Event::PeerAnswered { from, .. }
            | Event::PeerTimeout { from, .. }
            | Event::PromiseAnswered { from, .. }
            | Event::PromiseTimeout { from, .. } => Addressee::Driver(*from, false),
            Event::WorkerGone { node, .. }
            | Event::Hello { node, .. }
            | Event::HelloMissed { node, .. }
            | Event::LeaveMissed { node, .. }
            | Event::Silence { node, .. } => supervisor(*node),
            Event::SupervisorStart { node, .. }
            | Event::UnitStart { node, .. }
            | Event::WorkerStart { node, .. }
            | Event::ServerReady { node, .. }
            | Event::Replayed { node, .. }
            | Event::FollowApplied { node, .. }
            | Event::PromotionDone { node, .. }
            | Event::CheckpointDone { node, .. }
            | Event::StopCheckpoint { node, .. }
            | Event::StopDone { node, .. }
            | Event::StopPending { node, .. }
            | Event::StopFailed { node, .. }
            | Event::LeftoverGone { node, .. }
            | Event::StepEnd { node, .. }
            | Event::StepBegun { node, .. }
            | Event::Connect { node, .. }
            | Event::WalArrive { node, .. }
            | Event::ReceiverTimeout { node, .. }
            | Event::Background { node, .. }
            | Event::Archiver { node, .. }
            | Event::WalWriter { node, .. }
            | Event::ReplayGoesOn { node, .. }
            | Event::Parked { node, .. }
            | Event::HardwareRead { node }
            | Event::TimeSet { node, .. }
            | Event::CycleBegins { node, .. } => Addressee::Machine(*node),
            Event::CommitFlush(commit) | Event::CommitAck(commit) => Addressee::Machine(commit.node()),
            Event::StoreArrive { .. }
            | Event::PeerAsk { .. }
            | Event::PromiseAsk { .. }
            | Event::PromiseTested { .. }
            | Event::LeaseDue(_)
            | Event::WatchdogResets { .. }
            | Event::Boot { .. }
            | Event::MachinePaused { .. }
            | Event::Feedback { .. }
            | Event::ClientTry { .. }
            | Event::ClientLooks { .. }
            | Event::SecondThoughts { .. }
            | Event::Fault(_)
            | Event::JoinedLate
            | Event::TtlForgotten { .. }
            | Event::Thaw { .. }
            | Event::Undo(_)
            | Event::Heal
            | Event::Judge => Addressee::World,
        }
    }
}
