//! What the store says about the cluster: one consistent snapshot of all its keys.

mod member;
mod records;

pub use member::{Address, Member};
pub use records::{Edition, LastLeader, Released, TimelineClaim};

use crate::ids::{LeaseId, Lsn, NodeName, Revision, SystemId, Timeline};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Everything under `/<namespace>/<scope>/`, parsed leniently (wire.md 12.7) by [`crate::parse::cluster`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cluster {
    /// The store's revision this snapshot shows.
    pub revision: Revision,
    /// The `initialize` key.
    pub initialize: Initialize,
    /// The revision that last changed it.
    pub initialize_changed: Option<Revision>,
    /// The lease it hangs on while a bootstrap runs.
    pub initialize_lease: Option<LeaseId>,
    /// The `leader` key.
    pub leader: Option<LeaderKey>,
    /// Create revision of a `leader` key that hangs on no lease: a tool or a restore made it. Nobody leads by it, and nobody can lead
    /// while it is there.
    pub unleased_leader: Option<Revision>,
    /// `members/*`, by name.
    pub members: BTreeMap<NodeName, Arc<Member>>,
    /// The revision of a `config` key that is no JSON object.
    pub config_unreadable: Option<Revision>,
    /// The `config` key: dynamic configuration as JSON, with its modification revision.
    pub config: Option<Versioned<serde_json::Value>>,
    /// The `failover` key if it asks for anything.
    pub failover: Option<Versioned<FailoverRequest>>,
    /// Revision of the `failover` key if it exists, also when it asks for nothing: a new request replaces that.
    pub failover_revision: Option<Revision>,
    /// The request that was turned down last, and why, as the leader left it in the `failover` key.
    pub refused: Option<(Revision, String)>,
    /// The `status` key.
    pub status: Status,
    /// The revision at which it was written last.
    pub status_revision: Option<Revision>,
    /// The `failsafe` key: names and `api_url`s, if it holds any.
    pub failsafe: Option<Arc<Versioned<BTreeMap<NodeName, String>>>>,
    /// The revision of that key.
    pub failsafe_revision: Option<Revision>,
    /// The `history` key; empty when absent.
    pub history: Vec<HistoryRow>,
    /// `ha_ext/timeline/<n>`: who made which timeline.
    pub claims: BTreeMap<Timeline, Versioned<TimelineClaim>>,
    /// `ha_ext/released`: the last release that an owner announced itself.
    pub released: Option<Released>,
    /// The revision of that key.
    pub released_revision: Option<Revision>,
    /// `ha_ext/last_leader`: who took the leader key last, whether it is still there or not.
    pub last_leader: Option<Versioned<LastLeader>>,
    /// Which writing of that key it is, whatever it says.
    pub last_leader_edition: Option<Edition>,
    /// `ha_ext/unbound`: whose fence maintenance mode keeps open without a lease, with the create revision of the leader key it had.
    pub unbound: BTreeMap<NodeName, Revision>,
    /// The revision of that key.
    pub unbound_revision: Option<Revision>,
}

/// A value with the revision that last changed it, for compare-and-swap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// Its modification revision.
    pub revision: Revision,
}

/// The `initialize` key (wire.md 1.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Initialize {
    /// Never initialised.
    #[default]
    Absent,
    /// A member is running the bootstrap now.
    Running,
    /// Done; the identifier of the cluster's data.
    Done(SystemId),
}

/// The `leader` key: its liveness is the lease alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderKey {
    /// Who leads.
    pub name: NodeName,
    /// The lease the key hangs on.
    pub lease: LeaseId,
    /// When the key was made; changes with every acquisition.
    pub created: Revision,
}

/// The `failover` key (wire.md 1.7).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailoverRequest {
    /// Present for a switchover: who must lead now for the request to count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<NodeName>,
    /// The candidate; absent in a switchover to any eligible member.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<NodeName>,
    /// ISO 8601 with zone; absent means now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
    /// What `scheduled_at` was, once that time has come: the leader then turns the schedule into a request for now, so that it counts once.
    #[serde(default, rename = "ha_ext_due", skip_serializing_if = "Option::is_none")]
    pub due: Option<String>,
}

impl FailoverRequest {
    /// Whether it names its candidate for an election: what was scheduled is for the leader alone to carry out.
    #[must_use]
    pub fn is_for_now(&self) -> bool {
        self.scheduled_at.is_none() && self.due.is_none()
    }
}

/// The `status` key (wire.md 1.5).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// WAL position of the leader.
    pub optime: Option<Lsn>,
    /// Slot name to position.
    pub slots: BTreeMap<String, Lsn>,
    /// Slots kept for absent members.
    pub retain_slots: Vec<String>,
}

/// One row of `history` (wire.md 1.8): timeline `timeline` ended at `switch_lsn`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// Where the next one branched off.
    pub switch_lsn: Lsn,
    /// Why, from the history file.
    pub reason: String,
    /// ISO 8601 time, when known.
    pub at: Option<String>,
    /// Who led the next timeline, when known.
    pub new_leader: Option<NodeName>,
}

impl Cluster {
    /// The release that ended the leadership `last` tells of, if it was one that did.
    #[must_use]
    pub fn release_of(&self, last: &Versioned<LastLeader>) -> Option<&Released> {
        let created = last.value.created.unwrap_or(last.revision);
        self.released.as_ref().filter(|released| released.leader == last.value.leader && released.created == created)
    }

    /// The record of who took the leader key last, if it is the one that was written then: an earlier one that somebody put back is another
    /// writing of its key than it says.
    #[must_use]
    pub fn last_taken(&self) -> Option<&Versioned<LastLeader>> {
        let original = |last: &&Versioned<LastLeader>| {
            last.value.edition.is_some() && last.value.edition == self.last_leader_edition
        };
        self.last_leader.as_ref().filter(original)
    }

    /// The same of a record that names no edition (the first of its key, or one of a release that wrote none), for whoever saw the leader key
    /// `seen` itself: written at the revision that made that key, it was written with it.
    #[must_use]
    pub fn taken_with(&self, seen: &LeaderKey) -> Option<&Versioned<LastLeader>> {
        let with = |last: &&Versioned<LastLeader>| {
            let (value, none) = (&last.value, last.value.edition.is_none() && last.value.created.is_none());
            none && (&value.leader, value.lease, last.revision) == (&seen.name, seen.lease, seen.created)
        };
        self.last_leader.as_ref().filter(with)
    }

    /// Which writing the next one of that record is; none if there is no such key.
    #[must_use]
    pub fn next_edition(&self) -> Option<Edition> {
        self.last_leader_edition.map(|now| Edition { version: now.version.saturating_add(1), ..now })
    }

    /// Whether the member that calls itself this leads: one that has won the key and is not promoted yet is none that clients could
    /// write to.
    #[must_use]
    pub fn leads(&self, name: &NodeName, member: &Member) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.name == *name) && member.role != "replica"
    }

    /// Maintenance mode; `None` while there is no dynamic configuration.
    #[must_use]
    pub fn paused(&self) -> Option<bool> {
        let config = self.config.as_ref()?;
        Some(config.value.get("pause").and_then(crate::parse::boolean) == Some(true))
    }

    /// Who may acknowledge commits without a lease, by what stands here: maintenance mode has taken the deadline from their fences. A leader
    /// that released its key itself had closed its fence before.
    pub fn unbound_fences(&self) -> impl Iterator<Item = &NodeName> {
        let released = |name: &NodeName, created: Revision| {
            self.released.as_ref().is_some_and(|released| released.leader == *name && released.created == created)
        };
        self.unbound.iter().filter(move |(name, created)| !released(name, **created)).map(|(name, _)| name)
    }

    /// The leader's member key, if both exist.
    #[must_use]
    pub fn leader_member(&self) -> Option<(&LeaderKey, &Member)> {
        let leader = self.leader.as_ref()?;
        Some((leader, self.members.get(&leader.name)?.as_ref()))
    }

    /// The timeline the history says the cluster is on; `None` when no history was written.
    #[must_use]
    pub fn history_timeline(&self) -> Option<Timeline> {
        self.history.last().map(|row| Timeline(row.timeline.0.saturating_add(1)))
    }

    /// The claims on timelines of these data, in order.
    #[must_use]
    pub fn claims_of(&self, system: Option<SystemId>) -> impl DoubleEndedIterator<Item = (Timeline, &TimelineClaim)> {
        let ours = move |claim: &TimelineClaim| claim.system.is_none() || system.is_none() || claim.system == system;
        self.claims.iter().map(|(timeline, claim)| (*timeline, &claim.value)).filter(move |(_, claim)| ours(claim))
    }

    /// Whether a timeline of these data was made by hand, beside a leader.
    #[must_use]
    pub fn is_by_hand(&self, timeline: Timeline, system: Option<SystemId>) -> bool {
        self.claims_of(system).any(|(claimed, claim)| claimed == timeline && claim.by_hand)
    }

    /// The newest timeline of these data that anybody has used or claimed, if that is above `local`.
    #[must_use]
    pub fn newest_timeline(&self, local: Timeline, system: Option<SystemId>) -> Option<Timeline> {
        let claimed = self.claims_of(system).rev().map(|(timeline, _)| timeline);
        let used = claimed.take_while(|timeline| *timeline > local).chain(self.history_timeline());
        let used = used.chain(self.members.values().filter_map(|member| member.timeline));
        used.filter(|timeline| timeline.is_plausibly_after(local)).max()
    }

    /// The smallest timeline of these data that nobody has used or claimed and that is above `local`.
    #[must_use]
    pub fn next_timeline(&self, local: Timeline, system: Option<SystemId>) -> Timeline {
        let newest = self.newest_timeline(local, system).unwrap_or(local);
        Timeline(newest.0.saturating_add(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timelines_out_of_all_proportion_are_ignored() {
        let value = TimelineClaim {
            node: NodeName::new("ghost"),
            lsn: Lsn(1),
            nonce: LeaseId(5),
            system: None,
            by_hand: false,
        };
        let claim = Versioned { value, revision: Revision(1) };
        let member = Member { timeline: Some(Timeline(u32::MAX)), ..Member::default() };
        let mut cluster = Cluster::default();
        cluster.claims.insert(Timeline(200_000_000), claim.clone());
        cluster.members.insert(NodeName::new("ghost"), Arc::new(member));
        assert_eq!(cluster.next_timeline(Timeline(3), None), Timeline(4));
        cluster.claims.insert(Timeline(5), claim);
        assert_eq!(cluster.next_timeline(Timeline(3), None), Timeline(6));
        if let Some(claim) = cluster.claims.get_mut(&Timeline(5)) {
            claim.value.system = Some(SystemId(1));
        }
        assert_eq!(cluster.next_timeline(Timeline(3), Some(SystemId(1))), Timeline(6));
        assert_eq!(cluster.next_timeline(Timeline(3), Some(SystemId(2))), Timeline(4), "of another cluster");
    }
}
