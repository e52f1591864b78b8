//! The little that is remembered between ticks. It passes with the seat, so it is plain data.

use crate::clock::{Millis, Tick};
use crate::clocks::{Clocks, Lowest};
use crate::cluster::LeaderKey;
use crate::effect::Pressure;
use crate::failsafe::Failsafe;
use crate::ids::{LeaseId, Lsn, NodeName, Revision, SystemId, Timeline};
use crate::lease::Lease;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a node remembers. Everything else is observed anew each tick.
// Independent facts, not a state.
#[allow(clippy::struct_excessive_bools)]
// It passes between a supervisor and a worker that may be of different releases while the node is upgraded.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// The lease we lead by, as last confirmed. Kept past its deadline until the loss is dealt with.
    pub lease: Option<Lease>,
    /// The worker closed the fence before it gave up the seat: nobody opens it before the next one.
    pub left_closed: bool,
    /// The latest deadline that was ever confirmed: until then the fence of a server that is out of reach may be open.
    pub fence_until: Option<Tick>,
    /// The server was started as a standby and has not been a primary since.
    pub started_as_standby: bool,
    /// The postmaster is dead or restarting its children and the fence may be open: whoever asks is told "primary".
    pub may_acknowledge: bool,
    /// Maintenance mode, as of the last turn.
    pub paused: bool,
    /// Create revision of the leader key under which this node's server was a primary last.
    pub led_by: Option<Revision>,
    /// The revision at which the store was told that this node's fence has no deadline. What this memory did not write itself does not
    /// count: a request to take it back may still be on its way.
    pub unbound_told: Option<Revision>,
    /// Create revision of a leader key that the store said is no longer ours.
    pub refused: Option<Revision>,
    /// Create revision of a leader key whose release was sent: whatever became of the request, and it may arrive late, this node never
    /// leads by that key again.
    pub released: Option<Revision>,
    /// Since when the lease is past its deadline without being known to be lost.
    pub overdue_since: Option<Tick>,
    /// Where the other clocks of this machine stood in the last turn.
    pub clocks: Option<Clocks>,
    /// The least that they have shown since the last confirmed keepalive was sent, or earlier.
    pub clocks_lowest: Option<Clocks>,
    /// The same since a keepalive was sent that may be confirmed yet.
    pub clocks_next: Option<Lowest>,
    /// Set by the last jump of one of them.
    pub doubt: Option<Doubt>,
    /// How often one of them has jumped.
    pub clock_jumps: u64,
    /// The node lease, which also carries the member key.
    pub session: Option<LeaseId>,
    /// When the last confirmed keepalive of either kind was sent.
    pub kept_at: Option<Tick>,
    /// The revision of our last write of a permanent key, and when: a view from before it does not show it.
    pub last_write: Option<(Revision, Tick)>,
    /// When the last request to the store failed or ended unknown; requests are then spaced out.
    pub store_failed_at: Option<Tick>,
    /// The last leader that was seen, for as long as the key is gone.
    pub last_leader: Option<LeaderKey>,
    /// That leader is of our kind: once its lease is over it acknowledges nothing, whether it answers or not.
    pub last_leader_fenced: bool,
    /// When the leader key was first seen to be gone.
    pub leader_gone_at: Option<Tick>,
    /// The revision of the view that showed it first.
    pub leader_gone_revision: Option<Revision>,
    /// Whose leadership ended then: the revision at which `ha_ext/last_leader` was written.
    pub leader_gone_after: Option<Revision>,
    /// The `ttl` in force.
    pub ttl: Option<Millis>,
    /// One that was in force before and was longer, and until when it counts: a leader that is lost may have a lease of that length,
    /// whatever the configuration says now.
    pub longer_ttl: Option<(Millis, Tick)>,
    /// Leases of possible predecessors that were proven dead.
    pub dead_leases: BTreeSet<LeaseId>,
    /// When a foreign lease was last asked about.
    pub lease_checked_at: Option<Tick>,
    /// Members as of the last time there was a leader: name to `api_url` (lesson 1).
    #[serde(with = "shared")]
    pub known_peers: Arc<BTreeMap<NodeName, String>>,
    /// Peers found unreachable, since when: a vote does not wait long for them.
    pub unreachable: BTreeMap<NodeName, Tick>,
    /// When the peers were last asked.
    pub polled_at: Option<Tick>,
    /// The walreceiver was seen stopped for the present election: votes asked from here on count.
    pub voting_since: Option<Tick>,
    /// How far this standby had received when it was last looked at without a leader, and since when it stands there.
    pub received_since: Option<(Lsn, Tick)>,
    /// The newest timeline of these data that was seen claimed or made by anybody: it is never claimed again, whatever becomes of the keys.
    pub newest_timeline: Option<(SystemId, Timeline)>,
    /// The timeline of a running standby that holds no lease: what is newer when it is a primary was made by hand.
    pub standby_on: Option<Timeline>,
    /// The timeline that somebody promoted this server to by hand.
    pub by_hand: Option<Timeline>,
    /// This standby does not stand for election for that reason.
    pub out_by_hand: bool,
    /// Timeline claimed under the present lease.
    pub claim: Option<Timeline>,
    /// What is under way across ticks.
    pub stage: Stage,
    /// We won the race to initialise the cluster.
    pub bootstrapping: bool,
    /// The bootstrap we won failed: give up the `initialize` key and set the data aside.
    pub bootstrap_failed: bool,
    /// The failover request that was last turned down, and why, for the operator.
    pub rejected: Option<(Revision, String)>,
    /// What our member key was last written as.
    #[serde(with = "shared_option")]
    pub member_written: Option<Arc<serde_json::Value>>,
    /// When our member key was last written.
    pub member_written_at: Option<Tick>,
    /// When `status` was last written.
    pub status_written_at: Option<Tick>,
    /// When a step last failed, and how often in a row (lesson 38: once per loop).
    pub step_failed_at: Option<Tick>,
    /// Failures in a row.
    pub step_failures: u32,
    /// The reason of the last failed step, for the operator.
    pub step_error: Option<String>,
    /// When the server of a leader was first seen not running, for `primary_start_timeout`.
    pub not_running_since: Option<Tick>,
    /// What a demotion in place left running was ended.
    pub stragglers_ended: bool,
    /// Since when this primary is without its first checkpoint on its timeline.
    pub unchecked_since: Option<Tick>,
    /// When the leader by the key that was created at this revision was first seen to lead after a hand-over.
    pub successor_seen: Option<(Revision, Tick)>,
    /// Where replay stands still, in a promotion or before what the leader does not have.
    pub standstill: Option<Standstill>,
    /// Since when a promotion waits for a walreceiver that was told to stop.
    pub receiver_stops_since: Option<Tick>,
    /// This node must be rewound, and the leader's first checkpoint is all that is missing: its member key says so.
    pub awaits_checkpoint: bool,
    /// Promises made and given while the store cannot be reached.
    pub failsafe: Failsafe,
    /// The confirmation that the watchdog was fed by last: when the request for it was sent.
    pub watchdog_told: Option<Tick>,
    /// `watchdog_failed` of the REST API and the member key: this node may not lead, as far as the watchdog goes.
    pub watchdog_failed: bool,
    /// The watchdog cannot be set to a time that is asked for.
    pub watchdog_unfit: Option<Unfit>,
    /// A rewind onto this timeline failed: copy anew instead, if that is allowed.
    pub rewind_failed: bool,
}

/// A clock has jumped: what was confirmed before may be older than its time says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubt {
    /// When it was noticed. What was asked of the store from here on is not in doubt.
    pub since: Tick,
    /// How much older, by this jump and by those before it that may count for something that is still on its way.
    pub unseen: Millis,
}

impl Doubt {
    /// A lease as an answer of the store confirms it: what was asked before the jump counts from earlier than was thought.
    #[must_use]
    pub fn believed(&self, lease: Lease) -> Lease {
        if lease.sent_at < self.since { lease.older_by(self.unseen) } else { lease }
    }
}

/// A watchdog that takes another time than it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unfit {
    /// What it was asked for.
    pub asked_ms: Millis,
    /// Why that is not good enough.
    pub why: String,
    /// Until when that counts where one is required.
    pub until: Tick,
}

/// Replay that does not go on although there is more to replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standstill {
    /// Where.
    pub at: Lsn,
    /// Since when.
    pub since: Tick,
    /// What was done about it last.
    pub done: Option<Pressure>,
}

/// A change of role that takes more than one tick.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Nothing.
    #[default]
    Steady,
    /// A switchover passed its first checks: a checkpoint runs before the stop.
    Preparing {
        /// The request.
        request: Revision,
        /// To whom.
        candidate: NodeName,
        /// Since when.
        since: Tick,
        /// The checkpoint must reach this position.
        checkpoint_after: Lsn,
    },
    /// The planned hand-over in place has begun: prepare the files, hold commits, end the log, wait for the candidate to have all
    /// of it. Until here everything can be undone without an error for any client.
    Sealing {
        /// The request.
        request: Revision,
        /// To whom.
        candidate: NodeName,
        /// Since when.
        since: Tick,
        /// Since when commits are held.
        sealed_at: Option<Tick>,
        /// Since when the log is seen to have ended.
        frozen_at: Option<Tick>,
    },
    /// The release was sent and announced where the log ends. There is no way back, whether its outcome is known or not: the server
    /// goes on as a standby in the same postmaster.
    HandingOver {
        /// To whom.
        candidate: NodeName,
        /// End of the log.
        at: Lsn,
        /// Its timeline.
        timeline: Timeline,
        /// Since when.
        since: Tick,
    },
    /// The server is to become a standby: it is stopped and started as one, or goes on as one in the same postmaster.
    Demoting {
        /// To whom the leader key goes; `None` when it is lost already or goes to whoever is best.
        candidate: Option<NodeName>,
        /// The lease is given up once the server is down (false: it is lost).
        release: bool,
        /// Since when.
        since: Tick,
        /// Since when the server is down.
        down_since: Option<Tick>,
        /// It goes on as a standby in the same postmaster.
        #[serde(default)]
        in_place: bool,
    },
}

impl Stage {
    /// The server becomes a standby in the same postmaster: nobody stops it, and its worker gets the seat back.
    #[must_use]
    pub fn in_place(&self) -> bool {
        matches!(self, Stage::HandingOver { .. } | Stage::Demoting { in_place: true, .. })
    }

    /// The server is being stopped.
    #[must_use]
    pub fn stops_server(&self) -> bool {
        matches!(self, Stage::Demoting { in_place: false, .. })
    }

    /// This node leads no more, whatever its server still does.
    #[must_use]
    pub fn resigning(&self) -> bool {
        self.in_place() || self.stops_server()
    }
}

/// What changes seldom is shared between one memory and the next; on its way it is as if it were not.
mod shared {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub fn serialize<T: Serialize, S: Serializer>(value: &Arc<T>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_ref().serialize(serializer)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<T>, D::Error> {
        T::deserialize(deserializer).map(Arc::new)
    }
}

/// The same for what may be absent.
pub(crate) mod shared_option {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    // The form that serde asks for.
    #[allow(clippy::ref_option)]
    pub fn serialize<T: Serialize, S: Serializer>(value: &Option<Arc<T>>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_deref().serialize(serializer)
    }

    pub fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Arc<T>>, D::Error> {
        Ok(Option::deserialize(deserializer)?.map(Arc::new))
    }
}
