//! What members of our kind write down under `ha_ext/`, beside what Patroni knows.

use crate::ids::{LeaseId, Lsn, NodeName, Revision, SystemId, Timeline};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The right to make one timeline (I11): written once, by the node that then promotes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineClaim {
    /// The node that makes it.
    pub node: NodeName,
    /// Its end of WAL when it claimed.
    pub lsn: Lsn,
    /// Distinguishes two claims of one name (two nodes with the same name).
    pub nonce: LeaseId,
    /// The data it is a timeline of: a claim that outlived its cluster says nothing about the next one of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<SystemId>,
    /// Somebody promoted a server by hand beside a leader: the number is taken, but it is no timeline of the cluster's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_hand: bool,
}

impl TimelineClaim {
    /// As it stands in the store.
    #[must_use]
    pub fn text(&self) -> String {
        let mut value = json!({"node": self.node.as_str(), "lsn": self.lsn.0, "nonce": self.nonce.0});
        if let Some(system) = self.system {
            value["system"] = json!(system.0);
        }
        if self.by_hand {
            value["by_hand"] = json!(true);
        }
        value.to_string()
    }
}

/// A release announced by the owner in the same transaction that deleted its leader key, so a taker
/// need not wait for the old lease to end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Released {
    /// Who released.
    pub leader: NodeName,
    /// The lease the deleted key hung on.
    pub lease: LeaseId,
    /// Create revision of the deleted key.
    pub created: Revision,
    /// Where the releasing server's shutdown checkpoint starts, if it ended in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// Where its log ends (END of the last record), if that was ended in a running server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<Lsn>,
    /// The timeline of either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// To whom it hands over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<NodeName>,
}

/// Who took the leader key last. It outlives the key, so that whoever finds no leader knows whose lease has to be over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastLeader {
    /// Who.
    pub leader: NodeName,
    /// The lease the leader key was put on.
    pub lease: LeaseId,
    /// Create revision of the leader key; none if this was written in the transaction that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Revision>,
    /// Which writing of its key this is. It tells the last one from an earlier one that somebody put back. None if the key was made by
    /// it: nobody knew its create revision then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edition: Option<Edition>,
}

/// Which writing of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edition {
    /// Create revision of the key.
    pub created: Revision,
    /// The how manyth since then.
    pub version: i64,
}

impl Released {
    /// A release that tells nothing of the log.
    #[must_use]
    pub fn by(leader: NodeName, lease: LeaseId, created: Revision) -> Self {
        Self { leader, lease, created, lsn: None, end: None, timeline: None, candidate: None }
    }

    /// As it stands in the store.
    #[must_use]
    pub fn text(&self) -> String {
        let mut value = json!({"leader": self.leader.as_str(), "lease": self.lease.0, "created": self.created.0});
        if let Some(lsn) = self.lsn {
            value["lsn"] = json!(lsn.0);
        }
        if let Some(end) = self.end {
            value["end"] = json!(end.0);
        }
        if let Some(timeline) = self.timeline {
            value["timeline"] = json!(timeline.0);
        }
        if let Some(candidate) = &self.candidate {
            value["candidate"] = json!(candidate.as_str());
        }
        value.to_string()
    }

    /// How far its log is known to reach.
    #[must_use]
    pub fn position(&self) -> Option<Lsn> {
        self.lsn.max(self.end)
    }

    /// Whether WAL up to `end` is all that it had.
    #[must_use]
    pub fn is_all_in(&self, end: Lsn) -> bool {
        self.lsn.is_some_and(|checkpoint| end > checkpoint) || self.end.is_some_and(|last| end >= last)
    }
}

impl LastLeader {
    /// As it stands in the store.
    #[must_use]
    pub fn text(&self) -> String {
        let mut value = json!({"leader": self.leader.as_str(), "lease": self.lease.0});
        if let Some(created) = self.created {
            value["created"] = json!(created.0);
        }
        if let Some(edition) = self.edition {
            value["edition"] = json!(edition);
        }
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_are_written() {
        let last = LastLeader { leader: NodeName::new("pg\"1"), lease: LeaseId(7), created: None, edition: None };
        let edition = Some(Edition { created: Revision(3), version: 2 });
        let again = LastLeader { created: Some(Revision(9)), edition, ..last.clone() };
        for last in [last.clone(), again] {
            assert_eq!(serde_json::from_str::<LastLeader>(&last.text()).ok(), Some(last));
        }
        for system in [None, Some(SystemId(u64::MAX))] {
            let claim = TimelineClaim {
                node: last.leader.clone(),
                lsn: Lsn(9),
                nonce: last.lease,
                system,
                by_hand: system.is_some(),
            };
            assert_eq!(serde_json::from_str::<TimelineClaim>(&claim.text()).ok(), Some(claim));
        }
        let bare = Released::by(last.leader.clone(), last.lease, Revision(3));
        let (timeline, candidate) = (Some(Timeline(2)), Some(NodeName::new("pg2")));
        let stopped = Released { lsn: Some(Lsn(9)), timeline, ..bare.clone() };
        let frozen = Released { end: Some(Lsn(9)), timeline, candidate, ..bare.clone() };
        assert!(!stopped.is_all_in(Lsn(9)) && stopped.is_all_in(Lsn(10)), "the checkpoint starts there");
        assert!(!frozen.is_all_in(Lsn(8)) && frozen.is_all_in(Lsn(9)), "the last record ends there");
        for released in [bare, stopped, frozen] {
            assert_eq!(serde_json::from_str::<Released>(&released.text()).ok(), Some(released));
        }
    }
}
