//! The seam to the store: keys, conditions and results, without any I/O. `ha_dcs` implements it.

use crate::clock::{Millis, Tick};
use crate::cluster::{Edition, Released, TimelineClaim};
use crate::ids::{LeaseId, Lsn, NodeName, Revision, SystemId, Timeline};
use crate::lease::Lease;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One key as the store holds it. `path` is relative to `/<namespace>/<scope>/`, e.g. `members/pg1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawKey {
    /// The value, text (JSON for most keys).
    pub value: String,
    /// Revision that made the key.
    pub created: Revision,
    /// Revision that last changed it.
    pub modified: Revision,
    /// How often it was written since it was made, that included.
    #[serde(default)]
    pub version: i64,
    /// The lease it hangs on.
    pub lease: Option<LeaseId>,
}

/// All keys at one revision; parsed by [`crate::parse::cluster`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawCluster {
    /// The store's revision.
    pub revision: Revision,
    /// Keys by relative path.
    pub keys: BTreeMap<String, RawKey>,
}

/// The keys of one cluster, relative to its base path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// `initialize`
    Initialize,
    /// `config`
    Config,
    /// `failover`
    Failover,
    /// `failsafe`
    Failsafe,
    /// `history`
    History,
    /// `status`
    Status,
    /// `members/<name>`
    Member(NodeName),
    /// `ha_ext/timeline/<n>`
    TimelineClaim(Timeline),
    /// `ha_ext/last_leader`
    LastLeader,
    /// `ha_ext/unbound`
    Unbound,
}

impl Key {
    /// The path relative to the cluster's base.
    #[must_use]
    pub fn path(&self) -> String {
        match self {
            Key::Initialize => "initialize".to_owned(),
            Key::Config => "config".to_owned(),
            Key::Failover => "failover".to_owned(),
            Key::Failsafe => "failsafe".to_owned(),
            Key::History => "history".to_owned(),
            Key::Status => "status".to_owned(),
            Key::Member(name) => format!("members/{name}"),
            Key::TimelineClaim(timeline) => format!("ha_ext/timeline/{timeline}"),
            Key::LastLeader => LAST_LEADER_PATH.to_owned(),
            Key::Unbound => UNBOUND_PATH.to_owned(),
        }
    }
}

/// `leader`, relative to the cluster's base. It is written by acquire, adopt and release alone, never as a [`KeyEdit`].
pub const LEADER_PATH: &str = "leader";
/// `ha_ext/released`, written in the transaction that releases the leader key.
pub const RELEASED_PATH: &str = "ha_ext/released";
/// `ha_ext/last_leader`: who took the leader key last, on which lease. Written in the transaction that takes (or moves) the
/// key, and left behind when the key goes.
pub const LAST_LEADER_PATH: &str = "ha_ext/last_leader";

/// `ha_ext/unbound`: the leaders whose fence maintenance mode keeps open without a lease.
pub const UNBOUND_PATH: &str = "ha_ext/unbound";

/// The condition of a write. There is no "whatever it holds": every write is a compare-and-swap (or hangs on our lease).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expect {
    /// The key does not exist.
    Absent,
    /// The key was last changed by this revision.
    Unchanged(Revision),
    /// We still hold the leader key of this lease (value, lease and create revision), whatever this key holds.
    WeLead(Lease),
    /// Our own member key: hangs on our node lease, nobody else writes it.
    Own,
}

/// One conditional write.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyEdit {
    /// Which key.
    pub key: Key,
    /// The new value; `None` deletes.
    pub value: Option<String>,
    /// Under which condition.
    pub expect: Expect,
    /// Whether the key vanishes with our node lease.
    pub leased: bool,
}

/// The timeline of the promotion that follows, claimed in the transaction that takes the leader key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimAlong {
    /// Which timeline.
    pub timeline: Timeline,
    /// Our end of WAL.
    pub lsn: Lsn,
    /// The data it is a timeline of.
    pub system: Option<SystemId>,
    /// The condition: as with a claim that is written by itself.
    pub expect: Expect,
}

impl ClaimAlong {
    /// Where it is written.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::TimelineClaim(self.timeline)
    }

    /// What is written, by this node under this lease.
    #[must_use]
    pub fn record(&self, node: &NodeName, lease: LeaseId) -> TimelineClaim {
        TimelineClaim { node: node.clone(), lsn: self.lsn, nonce: lease, system: self.system, by_hand: false }
    }
}

/// A request to the store. At most one is under way per node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DcsCall {
    /// Keep the node lease alive (grant one if there is none).
    KeepSession,
    /// Take the leader key if it does not exist and nobody has taken it since what was decided on was read.
    AcquireLeader {
        /// The revision of the snapshot that was decided on.
        seen: Revision,
        /// Claimed along. Both are written or neither: if the timeline is somebody else's, the key is not taken.
        claim: Option<ClaimAlong>,
        /// What the record of who led last will be then; none if there was no such key. It is a condition, too.
        edition: Option<Edition>,
    },
    /// Take over a leader key with our name that hangs on `old`, a lease of this node's earlier life.
    AdoptLeader {
        /// The lease named in the marker of this data directory.
        old: LeaseId,
        /// Create revision of the key as it was seen.
        created: Revision,
        /// What the record of who led last will be then, unless it changes meanwhile.
        edition: Option<Edition>,
    },
    /// Keepalive AND check that the leader key is still ours.
    RenewLeader(Lease),
    /// Delete the leader key if it is still ours and announce it in [`RELEASED_PATH`], in one transaction.
    ReleaseLeader {
        /// What is given up.
        lease: Lease,
        /// The announcement.
        announce: Released,
        /// The last `status` of this leader, written along: whoever stands for election is measured by it.
        status: Option<String>,
    },
    /// Delete a leader key that hangs on no lease.
    RemoveUnleasedLeader {
        /// Create revision of the key as it was seen.
        created: Revision,
    },
    /// Ask whether a lease of somebody else is still alive.
    CheckLease(LeaseId),
    /// A conditional write.
    Write(KeyEdit),
}

impl DcsCall {
    /// Whether this request may be given up so that the seat can be passed on. Whoever goes on without its outcome asks again, and it does no
    /// harm if it is carried out later: it only keeps something alive, asks, or writes a member key, which changes only as it was seen.
    #[must_use]
    pub fn may_be_given_up(&self) -> bool {
        match self {
            DcsCall::KeepSession | DcsCall::RenewLeader(_) | DcsCall::CheckLease(_) => true,
            DcsCall::Write(edit) => edit.expect == Expect::Own,
            DcsCall::AcquireLeader { .. }
            | DcsCall::AdoptLeader { .. }
            | DcsCall::ReleaseLeader { .. }
            | DcsCall::RemoveUnleasedLeader { .. } => false,
        }
    }
}

/// What became of a [`DcsCall`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DcsReply {
    /// The node lease lives: keepalive sent at, time to live returned.
    SessionKept {
        /// The node lease.
        lease: LeaseId,
        /// When the keepalive was sent.
        sent_at: Tick,
        /// Time to live in the answer.
        ttl: Millis,
    },
    /// Acquired or adopted.
    Won(Lease),
    /// Somebody else holds the key, or it is not what we expected. Proven.
    Lost,
    /// Renewed.
    Kept(Lease),
    /// The leader key is not ours any more. Proven.
    Refused,
    /// Released (or it was not ours any more, which is the same to us).
    Released,
    /// Whether the lease asked about is alive.
    LeaseAlive(bool),
    /// The write is in, at this revision.
    Written(Revision),
    /// The condition did not hold; nothing was written. Proven.
    Conflict,
    /// The request timed out or broke: it may or may not have happened.
    Unknown(String),
    /// The store refused the request for good (authentication, permissions): it did not happen.
    Denied(String),
}
