//! May this node lead, and if not, why not.

use super::turn::Turn;
use super::watchdog;
use super::{by_hand, duties::claim_on};
use crate::cluster::{Cluster, Initialize, Released};
use crate::ids::{LeaseId, Lsn, NodeName, Revision, Timeline};
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
    /// Somebody promoted it by hand beside a leader.
    PromotedByHand,
    /// It is not a consistent standby.
    NotReady,
    /// Its disk cannot be written.
    CannotWrite,
    /// Its watchdog is required and cannot be used.
    NoWatchdog,
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
            Obstacle::PromotedByHand => Rule::ElectionByHand,
            Obstacle::NotReady => Rule::ElectionNotReady,
            Obstacle::CannotWrite => Rule::LeaderCannotWrite,
            Obstacle::NoWatchdog => Rule::ElectionNoWatchdog,
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
            obstacle: match turn.view.dcs.newest() {
                _ if turn.view.local.cannot_write.is_some() => Some(Obstacle::CannotWrite),
                Some(cluster) if turn.memory.lease.is_none() && by_hand::has_left(turn, cluster, primary.timeline) => {
                    Some(Obstacle::PromotedByHand)
                }
                _ => None,
            },
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
    if watchdog::failure(turn).is_some() {
        return Some(Obstacle::NoWatchdog);
    }
    if !standby.consistent || turn.view.local.step_running.is_some() {
        return Some(Obstacle::NotReady);
    }
    if cluster.history_timeline().is_some_and(|newest| newest.is_plausibly_after(standby.timeline)) {
        return Some(Obstacle::OldTimeline);
    }
    if !named && by_hand::has_left(turn, cluster, standby.timeline) {
        return Some(Obstacle::PromotedByHand);
    }
    let end = standby.received.max(standby.replayed);
    // A leader that stopped in order says where it ended; what it wrote before is up to a loop old.
    let ended = turn.last_release(cluster).and_then(Released::position);
    let optime = cluster.status.optime.filter(|_| !led_after_status(turn, cluster, standby.timeline));
    let lag_bytes = optime.max(ended).map_or(0, |position| position.ahead_of(end));
    if !named && lag_bytes > turn.view.settings.maximum_lag_on_failover_bytes {
        return Some(Obstacle::Lagging { lag_bytes });
    }
    None
}

/// Whether this node took the leader key last, and `status` is of a leader before it: it was near enough to that, or was named, and may have made
/// the timeline that it is on, over which nobody else is elected. One that gave the key up before that is as far behind as it was.
fn led_after_status(turn: &Turn<'_>, cluster: &Cluster, on: Timeline) -> bool {
    let ours = turn.last_taken(cluster).filter(|last| last.value.leader == *turn.me());
    let taken = ours.map(|last| last.value.created.unwrap_or(last.revision));
    // Where the claim was put back as it was before, it is nobody's.
    let anothers = claim_on(turn, cluster, on).is_some_and(|claim| claim.node != *turn.me());
    !anothers && cluster.status_revision.is_some_and(|status| taken.is_some_and(|taken| status < taken))
}

/// Who may still lead by a lease that is alive although the leader key is gone: deleted by a tool or lost in a restore.
/// A release is announced by the owner, an expiry is proven by the lease; anything else must be waited for.
///
/// Suspected are whoever took the key last, by the record (one that somebody put back tells nothing), and members of a kind that leaves no record: the last leader that was seen to
/// take the key after what the record tells, and whoever calls itself primary: its member key hangs on the lease of its leader key.
pub(super) fn predecessor(turn: &Turn<'_>, cluster: &Cluster) -> Option<LeaseId> {
    suspects(turn, cluster).map(|(_, lease)| lease).find(|lease| !turn.memory.dead_leases.contains(lease))
}

/// Whether somebody else may go on without the store although its lease is over, by the promises of those that are written down.
pub(super) fn another_may_lean(turn: &Turn<'_>, cluster: &Cluster) -> bool {
    let unknown = turn.last_taken(cluster).is_none();
    !led_until_now(turn) && (unknown || suspects(turn, cluster).next().is_some())
}

/// Those that may have led last, with their leases, but for who says itself that it leads no more.
fn suspects<'a>(turn: &'a Turn<'_>, cluster: &'a Cluster) -> impl Iterator<Item = (&'a NodeName, LeaseId)> {
    let taken = turn.last_taken(cluster);
    let recorded = taken.filter(|_| turn.last_release(cluster).is_none());
    let recorded = recorded.into_iter().map(|last| (&last.value.leader, last.value.lease));
    let newer = move |created: Revision| taken.is_none_or(|last| created > last.revision);
    let released = cluster.released.as_ref();
    let seen = turn.memory.last_leader.iter().filter(move |last| newer(last.created));
    let seen = seen.filter(move |last| !released.is_some_and(|r| r.leader == last.name && r.created == last.created));
    let others =
        cluster.members.iter().filter(|(_, member)| member.ha_ext_version.is_none() && member.role == "primary");
    let others = others.filter_map(|(name, member)| Some((name, member.lease?)));
    let stands = move |(name, _): &(&NodeName, LeaseId)| *name != turn.me() && !resigned(turn, name);
    recorded.chain(seen.map(|last| (&last.name, last.lease))).chain(others).filter(stands)
}

/// Whether somebody may lead of whom nothing is known here: there is no record of who led last, so an operator removed it, or what there is
/// was put back from an earlier time. Whoever it was lost the right to acknowledge by one ttl after the key was gone.
pub(super) fn may_be_blind(turn: &Turn<'_>, cluster: &Cluster) -> bool {
    let last = turn.memory.last_leader.as_ref();
    // Other kinds leave no record; all that can be known of them was seen.
    let other_kind = cluster.last_leader.is_none()
        && last.is_some_and(|last| last.name != *turn.me())
        && !turn.memory.last_leader_fenced
        && cluster.initialize != Initialize::Absent;
    turn.last_taken(cluster).is_none()
        && !led_until_now(turn)
        && !other_kind
        && !turn.passed(turn.memory.leader_gone_at, turn.longest_ttl())
}

/// Whether our own lease still ran when the key went, and this server has led on since: nobody else can have.
pub(super) fn led_until_now(turn: &Turn<'_>) -> bool {
    let last = turn.memory.last_leader.as_ref();
    last.is_some_and(|last| last.name == *turn.me() && turn.memory.released != Some(last.created))
        && matches!(turn.view.local.server, Server::Primary(_))
        // What was asked before a jump of the clocks may have ended sooner than this says; a ttl later that has ended in any case.
        && turn.memory.doubt.is_none_or(|doubt| turn.passed(Some(doubt.since), turn.longest_ttl()))
        && turn.memory.fence_until.is_some_and(|until| turn.now() < until)
}

/// Whether a cluster that is about to be founded may have been led until a moment ago: its keys were deleted, and a member
/// that still has data shows it.
pub(super) fn may_be_refounding(turn: &Turn<'_>, cluster: &Cluster) -> bool {
    let with_data = |(name, member): (&NodeName, &std::sync::Arc<crate::cluster::Member>)| {
        name != turn.me() && (member.timeline.is_some() || member.xlog_location.is_some())
    };
    cluster.members.iter().any(with_data) && may_be_blind(turn, cluster)
}

/// No primary, and nothing of one left: a server that died or is stopping may have backends that still acknowledge. One that starts may be
/// recovering as a primary, unless it says that it is a standby (which cannot stand for election yet, and may never without a leader).
fn is_fenced(status: &PeerStatus) -> bool {
    let may_have_backends = matches!(status.state.as_str(), "crashed" | "stopping" | "starting");
    !status.is_primary && (status.in_recovery || !may_have_backends)
}

/// A peer that says itself that it is no primary has fenced itself before.
fn resigned(turn: &Turn<'_>, name: &NodeName) -> bool {
    turn.view.peers.iter().any(|peer| {
        let after = turn.memory.leader_gone_at.is_some_and(|gone| peer.asked_at >= gone);
        peer.name == *name && after && matches!(&peer.answer, PeerAnswer::Status(status) if is_fenced(status))
    })
}
