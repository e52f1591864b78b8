//! May this node lead, and if not, why not.

use super::turn::Turn;
use crate::cluster::{Cluster, Initialize};
use crate::ids::{LeaseId, Lsn, NodeName, Timeline};
use crate::local::{Server, StandbyView};
use crate::peer::{PeerAnswer, PeerStatus};
use crate::rule::Rule;

/// What stands in the way of this node leading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// Tag `nofailover`, or `failover_priority: 0`.
    NotAllowed,
    /// The cluster's data is not this node's.
    ForeignData,
    /// It lags more than `maximum_lag_on_failover` behind the last known leader position.
    Lagging {
        /// By how many bytes.
        lag_bytes: u64,
    },
    /// Its timeline is older than the cluster's history says.
    OldTimeline,
    /// It is not a consistent standby.
    NotReady,
    /// Its disk cannot be written.
    CannotWrite,
}

impl Obstacle {
    /// The rule that says so.
    #[must_use]
    pub fn rule(self) -> Rule {
        match self {
            Obstacle::NotAllowed => Rule::ElectionNotAllowed,
            Obstacle::ForeignData => Rule::ForeignSystemId,
            Obstacle::Lagging { .. } => Rule::ElectionLagging,
            Obstacle::OldTimeline => Rule::ElectionOldTimeline,
            Obstacle::NotReady => Rule::ElectionNotReady,
            Obstacle::CannotWrite => Rule::LeaderCannotWrite,
        }
    }
}

/// Whether this node may lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eligibility {
    /// Its end of WAL.
    pub lsn: Lsn,
    /// Its timeline.
    pub timeline: Timeline,
    /// The first thing that stands in the way.
    pub obstacle: Option<Obstacle>,
}

pub(super) fn of_this_node(turn: &Turn<'_>) -> Eligibility {
    match &turn.view.local.server {
        Server::Standby(standby) => Eligibility {
            lsn: standby.received.max(standby.replayed),
            timeline: standby.timeline,
            obstacle: turn.view.dcs.newest().and_then(|cluster| obstacle(turn, standby, cluster, false)),
        },
        Server::Primary(primary) => Eligibility {
            lsn: primary.flushed,
            timeline: primary.timeline,
            obstacle: turn.view.local.cannot_write.is_some().then_some(Obstacle::CannotWrite),
        },
        Server::Starting { .. } | Server::Stopping { .. } | Server::Down | Server::Leftover => {
            Eligibility { lsn: Lsn(0), timeline: Timeline(0), obstacle: Some(Obstacle::NotReady) }
        }
    }
}

/// The first thing that keeps this standby from leading. `named`: an operator named it, so lag is his choice (lesson 6).
pub(super) fn obstacle(turn: &Turn<'_>, standby: &StandbyView, cluster: &Cluster, named: bool) -> Option<Obstacle> {
    if turn.view.settings.tags.nofailover() {
        return Some(Obstacle::NotAllowed);
    }
    match (cluster.initialize, turn.control()) {
        (Initialize::Done(id), Some(control)) if id != control.system_id => return Some(Obstacle::ForeignData),
        _ => {}
    }
    if turn.view.local.cannot_write.is_some() {
        return Some(Obstacle::CannotWrite);
    }
    if !standby.consistent || turn.view.local.step_running.is_some() {
        return Some(Obstacle::NotReady);
    }
    if cluster.history_timeline().is_some_and(|newest| newest.is_plausibly_after(standby.timeline)) {
        return Some(Obstacle::OldTimeline);
    }
    let end = standby.received.max(standby.replayed);
    let lag_bytes = cluster.status.optime.map_or(0, |optime| optime.ahead_of(end));
    if !named && lag_bytes > turn.view.settings.maximum_lag_on_failover_bytes {
        return Some(Obstacle::Lagging { lag_bytes });
    }
    None
}

/// Who may still lead by a lease that is alive although the leader key is gone: deleted by a tool or lost in a restore.
/// A release is announced by the owner, an expiry is proven by the lease; anything else must be waited for.
///
/// Suspected are the last leader that was seen and, since a watch shows only the newest state and a restart forgets, every
/// member that calls itself primary: its member key hangs on the lease that its leader key hung on.
pub(super) fn predecessor(turn: &Turn<'_>, cluster: &Cluster) -> Option<LeaseId> {
    let seen = turn.memory.last_leader.iter().filter(|last| {
        let released = cluster.released.as_ref();
        !released.is_some_and(|r| r.leader == last.name && r.created == last.created)
    });
    let seen = seen.map(|last| (&last.name, last.lease));
    let primaries = cluster.members.iter().filter_map(|(name, member)| {
        let lease = member.lease.filter(|_| member.role == "primary")?;
        let released = cluster.released.as_ref().is_some_and(|r| r.leader == *name && r.lease == lease);
        (!released).then_some((name, lease))
    });
    let lives = |(name, lease): &(&NodeName, LeaseId)| {
        *name != turn.me() && turn.memory.dead_lease != Some(*lease) && !resigned(turn, name)
    };
    seen.chain(primaries).find(lives).map(|(_, lease)| lease)
}

/// Whether somebody may lead of whom nothing is known here: the store is empty where it should not be, and this process
/// may have missed who led last. Whoever did lost the right to acknowledge by one ttl after the keys were gone.
pub(super) fn may_be_blind(turn: &Turn<'_>, cluster: &Cluster) -> bool {
    cluster.initialize == Initialize::Absent
        && turn.memory.last_leader.as_ref().is_none_or(|last| last.name != *turn.me())
        && !turn.passed(turn.memory.leader_gone_at, turn.view.settings.ttl_ms)
}

/// No primary, and nothing of one left: a server that died or is stopping may have backends that still acknowledge.
fn is_fenced(status: &PeerStatus) -> bool {
    !status.is_primary && !matches!(status.state.as_str(), "crashed" | "stopping" | "starting")
}

/// A peer that says itself that it is no primary has fenced itself before.
fn resigned(turn: &Turn<'_>, name: &NodeName) -> bool {
    turn.view.peers.iter().any(|peer| {
        let after = turn.memory.leader_gone_at.is_some_and(|gone| peer.asked_at >= gone);
        peer.name == *name && after && matches!(&peer.answer, PeerAnswer::Status(status) if is_fenced(status))
    })
}
