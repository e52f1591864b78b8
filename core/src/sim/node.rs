//! One machine: its clock, its data directory, its server, and the two drivers that share the seat.

use super::clock::BootClock;
use super::event::{Event, Frozen};
use super::wal::Position;
use crate::clock::{Millis, Tick};
use crate::cluster::Cluster;
use crate::dcs::DcsCall;
use crate::effect::Step;
use crate::failsafe::PromiseView;
use crate::ids::{LeaseId, Lsn, NodeName, SystemId, Timeline};
use crate::local::{Control, ControlState, Marker, Seal, Upstream};
use crate::member::Identity;
use crate::memory::Memory;
use crate::outcome::Outcome;
use crate::peer::PeerView;
use crate::rule::Rule;
use crate::seat::LeaveReason;
use crate::settings::Settings;
use crate::view::Side;
use std::collections::BTreeSet;
use std::rc::Rc;

// Independent facts, not a state.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug)]
pub(super) struct Node {
    pub(super) name: NodeName,
    pub(super) identity: Identity,
    pub(super) settings: Settings,
    /// Maintenance mode, as the disk keeps it.
    pub(super) kept_pause: bool,
    /// `ttl`, `loop_wait` and `retry_timeout`, as they were kept on disk last.
    pub(super) kept_timing: Option<(u64, u64, u64)>,
    /// For how long promises may be given, as is kept beside the data.
    pub(super) kept_ttl: Millis,
    pub(super) clock: BootClock,
    /// How far its time of day is ahead of that.
    pub(super) wall_ms: i64,
    pub(super) up: bool,
    pub(super) boot: u64,
    pub(super) disk: Disk,
    pub(super) server: Option<Server>,
    pub(super) worker: Process,
    pub(super) supervisor: Process,
    /// The supervisor's copy of the worker's memory, from the last beat.
    pub(super) beat: Option<Rc<Memory>>,
    /// Since when the supervisor has the seat.
    pub(super) seat_since: Tick,
    /// A worker that has said hello and waits for the seat.
    pub(super) waiting: Option<u64>,
    /// When the supervisor last heard the worker, and since when it has been listening without a stall of its own.
    pub(super) heard_at: Tick,
    pub(super) attentive_since: Tick,
    /// When its supervisor began, by true time.
    pub(super) supervised_at: u64,
    pub(super) watched_at: Tick,
    pub(super) kept_at: Option<Tick>,
    /// Whether a service manager starts the supervisor again.
    pub(super) supervised: bool,
    pub(super) stop_requested: bool,
    /// What a worker without a supervisor left for the next one in the same postmaster.
    pub(super) carried: Option<Rc<Memory>>,
    pub(super) step: Option<RunningStep>,
    pub(super) cannot_write: bool,
    /// What it was seen as last, and by which memory: `GET /patroni` is answered from that.
    pub(super) published: Option<super::observe::Seen>,
    pub(super) frozen: Vec<(Frozen, u64)>,
    /// Events for processes that are frozen now, in order, and when each was due.
    pub(super) parked: Vec<(u64, Event)>,
    /// What a hypervisor, or a lid, does to it.
    pub(super) guest: super::hypervisor::Guest,
    /// For a mutant: the members as they were first written down.
    pub(super) first_members: Option<std::collections::BTreeMap<NodeName, String>>,
    /// When something last went wrong with or around this node.
    pub(super) troubled_at: u64,
    /// The same, of its processes and devices alone.
    pub(super) hurt_at: u64,
    /// When an operator promoted it by hand beside a leader.
    pub(super) mistaken_at: u64,
    pub(super) watchdog: super::watchdog::Device,
}

/// A driver process.
// Independent facts, not a state.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) life: u64,
    pub(super) alive: bool,
    /// It believes that it has the seat. In a correct world one of the two does.
    pub(super) acting: bool,
    pub(super) memory: Rc<Memory>,
    /// What it saw of the store when it decided last with a view of it.
    pub(super) decided_by: Option<Rc<Cluster>>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) peers: Vec<PeerView>,
    pub(super) promises: Vec<PromiseView>,
    pub(super) questions: Vec<super::promises::Asked>,
    pub(super) tick_at: Option<u64>,
    pub(super) rule: Option<Rule>,
    pub(super) heartbeat: Tick,
    /// The seat is to be left as soon as no request is under way.
    pub(super) leaving: Option<LeaveReason>,
    /// Since when.
    pub(super) leaving_since: Option<u64>,
    /// And the server goes on as a standby.
    pub(super) leaves_in_place: bool,
    /// SIGTERM has come: it ends as soon as it has left the seat.
    pub(super) told_to_stop: bool,
    /// Maintenance mode, by the settings that this process has.
    pub(super) paused: Option<bool>,
    /// `ttl`, `loop_wait` and `retry_timeout` by those, in seconds.
    pub(super) timing: Option<(u64, u64, u64)>,
    /// What its file thread is to keep of that, and has not yet.
    pub(super) keeps_ttl: Option<Millis>,
    pub(super) store: StoreClient,
    /// The watchdog that it has open.
    pub(super) watchdog: Option<crate::watchdog::Running>,
    /// When the watchdog failed last.
    pub(super) watchdog_failed: Option<Tick>,
}

/// The store's side of a driver: the one request under way, and the watch.
#[derive(Debug, Default)]
pub(super) struct StoreClient {
    pub(super) session: Option<LeaseId>,
    pub(super) tenure: super::leases::Tenure,
    pub(super) flight: Option<Flight>,
    pub(super) cluster: Option<Rc<Cluster>>,
    /// `None` while the watch is up.
    pub(super) lost_since: Option<Tick>,
    /// Identifies the watch connection.
    pub(super) stream: u64,
    pub(super) streaming: bool,
    /// An event of this stream did not get through; nothing later may overtake it.
    pub(super) stalled: bool,
    /// Events of one stream arrive in order.
    pub(super) not_before: u64,
}

/// A call under way.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) number: u64,
    pub(super) call: DcsCall,
    /// When its keepalive (or its first request) was sent, by the node's clock.
    pub(super) sent_at: Tick,
    /// What the keepalive brought.
    pub(super) kept: Option<(LeaseId, u64)>,
    pub(super) regranted: bool,
    pub(super) replacing: Option<super::leases::Replacing>,
    pub(super) deadline: u64,
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) state: DiskState,
    pub(super) marker: Option<Marker>,
    /// The mark of an unfinished bootstrap: the identifier of what `initdb` made, until the store shows it.
    pub(super) founding: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) enum DiskState {
    #[default]
    Empty,
    Damaged {
        reason: String,
        half_copied: bool,
        ours: bool,
    },
    Present(Pgdata),
}

/// A data directory with a control file.
// Files that are there or not.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug)]
pub(super) struct Pgdata {
    pub(super) system: u64,
    /// Durable end of WAL.
    pub(super) at: Position,
    pub(super) state: ControlState,
    pub(super) checkpoint: Lsn,
    pub(super) checkpoint_timeline: Timeline,
    pub(super) min_recovery: Lsn,
    /// Recovery is not consistent before this.
    pub(super) consistent_at: Lsn,
    pub(super) can_be_rewound: bool,
    pub(super) standby_signal: bool,
    /// A copy that was never started.
    pub(super) backup_label: bool,
    pub(super) upstream: Option<Upstream>,
    /// `ha_ext.demoted`: whoever reads waits until the WAL was compared.
    pub(super) mark: bool,
    /// A `promote` file that nobody has acted on.
    pub(super) promote_file: bool,
    /// Up to where finished segments are in the archive.
    pub(super) archived: Lsn,
    /// History files in `pg_wal` that are not of our ancestors: Postgres skips their numbers.
    pub(super) foreign_history: BTreeSet<Timeline>,
}

impl Pgdata {
    pub(super) fn control(&self, timeline: Timeline) -> Control {
        Control {
            system_id: SystemId(self.system),
            state: self.state,
            timeline: self.checkpoint_timeline,
            checkpoint: self.checkpoint,
            min_recovery_point: self.min_recovery,
            min_recovery_timeline: if self.min_recovery > Lsn(0) { timeline } else { Timeline(0) },
            can_be_rewound: self.can_be_rewound,
            backup_label: self.backup_label,
        }
    }
}

impl Disk {
    pub(super) fn data(&self) -> Option<&Pgdata> {
        match &self.state {
            DiskState::Present(data) => Some(data),
            DiskState::Empty | DiskState::Damaged { .. } => None,
        }
    }

    pub(super) fn data_mut(&mut self) -> Option<&mut Pgdata> {
        match &mut self.state {
            DiskState::Present(data) => Some(data),
            DiskState::Empty | DiskState::Damaged { .. } => None,
        }
    }
}

/// A postmaster and its children (or what is left of them).
// Independent facts beside the phase.
#[allow(clippy::struct_excessive_bools)]
#[derive(Debug)]
pub(super) struct Server {
    pub(super) life: u64,
    pub(super) phase: Phase,
    pub(super) since: Tick,
    /// End of WAL in memory; what is not flushed is lost with the server.
    pub(super) insert: Lsn,
    /// `primary_conninfo` as it is loaded.
    pub(super) upstream: Option<Upstream>,
    pub(super) receiver: Option<Connection>,
    /// Numbers starts of recovery, promotions, checkpoints, so that an event of an earlier one is dropped.
    pub(super) attempt: u64,
    pub(super) promoting: bool,
    pub(super) consistent: bool,
    pub(super) checkpointed: bool,
    pub(super) checkpointing: bool,
    pub(super) redo: Lsn,
    pub(super) fence: Fence,
    /// It does not react to signals.
    pub(super) hang: Option<super::hang::Hang>,
    /// A signal to stop that it has not reacted to.
    pub(super) stop_pending: Option<crate::effect::StopMode>,
    /// Backends of sessions that were open; a crash cycle ends them all.
    pub(super) sessions: u64,
    /// What a hand-over in place has made of commits and of the log.
    pub(super) seal: Seal,
    /// Commits that wait in the seal: client and attempt.
    pub(super) held: Vec<(usize, u64)>,
    /// Up to where commits were acknowledged that did not wait for their flush, and whether the walwriter is about to see to that.
    pub(super) told_end: Lsn,
    pub(super) writer_due: bool,
    /// Commits that passed it and have not ended.
    pub(super) passing: BTreeSet<(usize, u64)>,
    /// For a mutant: those that are not counted.
    pub(super) unseen: BTreeSet<(usize, u64)>,
    /// Sessions cannot read: its WAL was not compared yet.
    pub(super) withheld: bool,
    /// It came up from the WAL of a primary, and nothing says that this is part of the cluster's.
    pub(super) uncompared: bool,
    /// The crash cycle that runs was asked for.
    pub(super) cycle: Option<Cycle>,
    /// Replay stands still.
    pub(super) replay: Option<super::replay::Held>,
    /// The promotion that runs was begun by hand.
    pub(super) by_hand: bool,
    /// And while another led.
    pub(super) beside_leader: bool,
}

/// A demotion in place under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cycle {
    /// A checkpoint was made just before it.
    pub(super) planned: bool,
    /// Recovery has begun; it waits for the last child to go.
    pub(super) begun: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Starting,
    Primary,
    Standby,
    Stopping,
    /// The postmaster is gone; orphaned backends go on.
    Leftover,
}

/// What shared memory says about commits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fence {
    /// The main thread opened it and has not closed it since: the net thread may move the deadline.
    pub(super) open: bool,
    /// Zero: closed.
    pub(super) deadline: Tick,
    pub(super) lease: Option<LeaseId>,
    /// Open without a deadline: maintenance mode.
    pub(super) unbound: bool,
    /// The deadline is that of promises.
    pub(super) promised: bool,
}

/// A walreceiver that streams.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) number: u64,
    pub(super) to: usize,
    pub(super) to_life: u64,
    /// A batch of WAL is on its way.
    pub(super) in_flight: bool,
    /// Flush position as the upstream knows it.
    pub(super) reported: Lsn,
    /// Nothing has come through since.
    pub(super) silent_since: Option<u64>,
}

/// A step of the supervisor.
#[derive(Debug)]
pub(super) struct RunningStep {
    pub(super) number: u64,
    pub(super) step: Step,
    /// The server it copies from, as it was when the step began.
    pub(super) source: Option<(usize, u64)>,
    /// The data directory as it will be if all goes well.
    pub(super) result: Option<Pgdata>,
    pub(super) failure: Option<String>,
}

impl Node {
    pub(super) fn is_frozen(&self, what: Frozen) -> bool {
        self.frozen.iter().any(|(frozen, _)| {
            *frozen == what || *frozen == Frozen::Node || (what == Frozen::Main && *frozen == Frozen::Worker)
        })
    }

    /// The side that has the seat; the worker if both believe so, since it has the REST socket then.
    pub(super) fn seat(&self) -> Option<Side> {
        match (self.worker.acting, self.supervisor.acting) {
            (true, _) => Some(Side::Inside),
            (false, true) => Some(Side::Outside),
            (false, false) => None,
        }
    }

    pub(super) fn server_life(&self) -> Option<u64> {
        self.server.as_ref().map(|server| server.life)
    }

    pub(super) fn server_of(&mut self, life: u64) -> Option<&mut Server> {
        self.server.as_mut().filter(|server| server.life == life)
    }

    /// Whether a commit that ends now would be acknowledged.
    pub(super) fn fence_open(&self, now: u64) -> bool {
        self.up
            && self
                .server
                .as_ref()
                .is_some_and(|server| server.fence.unbound || self.clock.at(now) < server.fence.deadline)
    }
}

impl Server {
    /// Every session ends; what it had under way ends with it.
    pub(super) fn end_sessions(&mut self) {
        self.sessions += 1;
        self.held.clear();
        self.passing.clear();
        self.unseen.clear();
    }

    /// All children go, shared memory is new, and what was not flushed up to `end` is gone.
    pub(super) fn crash_cycle(&mut self, since: Tick, end: Lsn) {
        self.end_sessions();
        self.phase = Phase::Starting;
        self.since = since;
        self.fence = Fence::default();
        self.receiver = None;
        self.upstream = None;
        self.replay = None;
        self.promoting = false;
        self.checkpointing = false;
        self.withheld = false;
        self.seal = Seal::Open;
        self.insert = end;
    }
}
