//! What this node's Postgres and data directory look like, as one snapshot per tick.

use crate::clock::{Millis, Tick};
use crate::cluster::Address;
use crate::ids::{LeaseId, Lsn, NodeName, SystemId, Timeline};
use crate::watchdog::WatchdogView;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One snapshot of this node. The inside driver fills it from shared memory, the outside driver from the
/// control file and the process table.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalView {
    /// The data directory.
    pub data: DataDir,
    /// The server.
    pub server: Server,
    /// `ha_ext.marker` in the data directory.
    pub marker: Option<Marker>,
    /// The timelines this data directory descends from, oldest first: `(timeline, where it ended)`.
    pub history: Vec<(Timeline, Lsn)>,
    /// When the newest history file was written, ISO 8601 with zone.
    pub history_at: Option<String>,
    /// The step that runs now. No other may be begun.
    pub step_running: Option<crate::effect::Step>,
    /// The server's log or disk says it cannot write (disk full, I/O error): it must not lead.
    pub cannot_write: Option<String>,
    /// Settings that the running server takes only at its next start, by name.
    pub pending_restart: BTreeMap<String, PendingSetting>,
    /// This directory was made to found a cluster, and that it did has not been seen yet: nothing was ever
    /// acknowledged in it.
    pub founding: bool,
    /// This machine's watchdog.
    pub watchdog: WatchdogView,
    /// Kept on disk, so that whoever starts after both processes have ended stays away from the leader key for so long: no promise is
    /// given for longer. 0: nothing is kept.
    pub kept_ttl: Millis,
}

/// A setting that waits for a restart, as people read it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingSetting {
    /// In force.
    pub old_value: String,
    /// After the next start.
    pub new_value: String,
}

/// State of the data directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataDir {
    /// Missing, empty, or nothing but `lost+found` and dot files.
    Empty,
    /// Has files but no readable control file, or a mark says that an earlier copy, rewind or `initdb` was interrupted.
    Damaged {
        /// What was found, for the operator.
        reason: String,
        /// It is our own half-made copy: nothing in it can be missed.
        half_copied: bool,
        /// Our own mark says that we left it like this. Without one it may be anything, even another's: it is never touched.
        ours: bool,
    },
    /// A usable data directory.
    Present(Control),
}

/// What `pg_control` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Control {
    /// System identifier.
    pub system_id: SystemId,
    /// Cluster state.
    pub state: ControlState,
    /// Timeline of the latest checkpoint.
    pub timeline: Timeline,
    /// START of the latest checkpoint record. After a clean shutdown it is the last record.
    pub checkpoint: Lsn,
    /// `minRecoveryPoint`, zero on a primary.
    pub min_recovery_point: Lsn,
    /// Its timeline.
    pub min_recovery_timeline: Timeline,
    /// `wal_log_hints` or data checksums: the precondition of `pg_rewind`.
    pub can_be_rewound: bool,
    /// `backup_label` exists: a copy that was never started. Its control file shows the state of its source.
    pub backup_label: bool,
}

/// `pg_control`'s cluster state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ControlState {
    /// Clean shutdown of a primary.
    ShutDown,
    /// Clean shutdown of a standby.
    ShutDownInRecovery,
    /// A shutdown was under way.
    ShuttingDown,
    /// Crash recovery was under way.
    InCrashRecovery,
    /// A standby was running.
    InArchiveRecovery,
    /// A primary was running.
    InProduction,
}

/// State of the server process.
#[derive(Clone, Debug, PartialEq)]
pub enum Server {
    /// No process of this server is left (the tenancy lock is free).
    Down,
    /// The postmaster is gone, but processes of it still hold the tenancy lock.
    Leftover,
    /// The postmaster lives; the server is starting, in a crash cycle, or has not reported in yet.
    Starting {
        /// Since when the server has been starting.
        since: Tick,
    },
    /// Out of recovery.
    Primary(PrimaryView),
    /// In recovery.
    Standby(StandbyView),
    /// A shutdown is under way.
    Stopping {
        /// Since when.
        since: Tick,
    },
}

/// A server that is out of recovery.
#[derive(Clone, Debug, Default, PartialEq)]
// Independent facts, not a state.
#[allow(clippy::struct_excessive_bools)]
pub struct PrimaryView {
    /// Its timeline.
    pub timeline: Timeline,
    /// Flush position.
    pub flushed: Lsn,
    /// The first checkpoint on this timeline has completed (`minRecoveryPoint` is zero).
    pub checkpointed: bool,
    /// Redo position of the latest completed checkpoint.
    pub checkpoint_redo: Lsn,
    /// Connected standbys.
    pub standbys: Vec<StandbyConnection>,
    /// The fence is open: commits are acknowledged until the deadline.
    pub fence_open: bool,
    /// Its deadline, as it stands in shared memory; zero of a closed one.
    pub fence_until: Tick,
    /// It is open without a deadline: [`crate::effect::Effect::UnbindFence`].
    pub fence_unbound: bool,
    /// Whether commits are held for a planned switchover, and how far that has come.
    pub seal: Seal,
    /// Whether this server could be demoted in place.
    pub in_place: InPlace,
    /// A finished segment or history file waits for the archiver, which ends with a demotion in place.
    pub archive_waiting: bool,
}

/// How far the end of writing for a planned switchover has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seal {
    /// Commits go through.
    #[default]
    Open,
    /// Commits are held and new sessions refused.
    Holding {
        /// Commits that had passed before: each is acknowledged when it is through.
        in_flight: u32,
    },
    /// Every commit that was or will be acknowledged is in the log, which is flushed and ends here; nothing more becomes durable.
    Frozen {
        /// End of the log.
        at: Lsn,
    },
}

/// A demotion in place: what stands in its way, and whether it is prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InPlace {
    /// Why it is not possible, for the operator.
    pub obstacle: Option<String>,
    /// [`crate::effect::Effect::Park`] is through: both files are there, and the settings are in force.
    pub parked: bool,
    /// `standby.signal` or the mark is there, also if [`crate::effect::Effect::Park`] did not get through.
    pub marked: bool,
}

/// A connected standby, from the walsender array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyConnection {
    /// Name of the slot it uses (the walsender's `application_name` is not in shared memory).
    pub slot: String,
    /// Streaming (not catching up, not a base backup).
    pub streaming: bool,
    /// What it has flushed.
    pub flushed: Lsn,
    /// What it has replayed.
    pub replayed: Lsn,
}

/// A server that is in recovery.
// Independent facts, not a state.
#[allow(clippy::struct_excessive_bools)]
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StandbyView {
    /// Timeline being replayed.
    pub timeline: Timeline,
    /// Received and flushed (`max` of walreceiver's flush position and replay).
    pub received: Lsn,
    /// Replayed.
    pub replayed: Lsn,
    /// The walreceiver.
    pub receiver: Receiver,
    /// Where `primary_conninfo` points now (loaded by the startup process); `None` when it is empty.
    pub upstream: Option<Upstream>,
    /// Commit time of the last replayed transaction, as text for REST.
    pub replayed_at: Option<String>,
    /// Replay is paused.
    pub replay_paused: bool,
    /// A promotion has been triggered and cannot be cancelled.
    pub promoting: bool,
    /// Hot standby has reached consistency.
    pub consistent: bool,
    /// Demoted in place, and its WAL was not compared with the leader's yet: sessions cannot read.
    pub reads_withheld: bool,
    /// With these settings commits of a leader wait for its standbys.
    pub commits_wait: bool,
}

/// State of the walreceiver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Receiver {
    /// No walreceiver runs.
    #[default]
    Stopped,
    /// Starting, waiting or restarting: connected to nobody that sends.
    Connecting,
    /// Told to stop, and not gone yet. Recovery waits for it.
    Stopping,
    /// Streaming.
    Streaming,
}

/// Whom a standby follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// The member.
    pub name: NodeName,
    /// Where it listens.
    pub address: Address,
    /// Slot to use there; `None` with `use_slots: false`.
    pub slot: Option<String>,
}

impl Upstream {
    /// Whether both lead to the same server and slot; the name is only for people.
    #[must_use]
    pub fn same_target(&self, other: &Upstream) -> bool {
        self.address == other.address && self.slot == other.slot
    }
}

/// `ha_ext.marker`: this data directory belongs to a cluster, and what this node last held there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The cluster.
    pub scope: String,
    /// Its data.
    pub system_id: SystemId,
    /// The member name.
    pub member: NodeName,
    /// The last node lease this data directory held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<LeaseId>,
}
