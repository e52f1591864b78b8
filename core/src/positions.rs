//! How far each member is, for people.

use crate::cluster::Cluster;
use crate::ids::{Lsn, NodeName};
use crate::local::Server;
use std::collections::BTreeMap;

impl Cluster {
    /// As this node's `server` sees it where it does: itself, and on a primary the standbys that are connected by their slots. Else as the
    /// member has written, or the leader of itself.
    #[must_use]
    pub fn positions(&self, me: &NodeName, server: &Server) -> BTreeMap<NodeName, Lsn> {
        let seen = |name: &NodeName| match server {
            Server::Primary(primary) if name == me => Some(primary.flushed),
            Server::Primary(primary) => {
                let slot = name.slot_name();
                let here = primary.standbys.iter().find(|standby| standby.slot == slot);
                here.map(|standby| standby.flushed).filter(|flushed| *flushed > Lsn(0))
            }
            Server::Standby(standby) if name == me => Some(standby.received.max(standby.replayed)),
            _ => None,
        };
        let leader = self.leader.as_ref().map(|leader| &leader.name);
        let told = |name: &NodeName, written: Option<Lsn>| {
            if Some(name) == leader { written.max(self.status.optime) } else { written }
        };
        let at = |name: &NodeName, written| seen(name).or_else(|| told(name, written));
        self.members.iter().filter_map(|(name, member)| Some((name.clone(), at(name, member.xlog_location)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{LeaderKey, Member};
    use crate::ids::{LeaseId, Revision};
    use crate::local::{PrimaryView, StandbyConnection, StandbyView};

    #[test]
    fn what_a_server_sees_is_newer_than_what_members_wrote() {
        let name = |name: &str| NodeName::new(name);
        let mut cluster = Cluster::default();
        for (member, at) in [("a", 100), ("b", 90), ("c", 80)] {
            cluster.members.insert(name(member), Member { xlog_location: Some(Lsn(at)), ..Member::default() }.into());
        }
        cluster.leader = Some(LeaderKey { name: name("a"), lease: LeaseId(1), created: Revision(1) });
        cluster.status.optime = Some(Lsn(150));
        let positions = |me: &str, server: &Server| -> Vec<u64> {
            cluster.positions(&name(me), server).values().map(|at| at.0).collect()
        };
        let standby = |slot: &str, flushed| StandbyConnection {
            slot: slot.to_owned(),
            streaming: true,
            flushed: Lsn(flushed),
            replayed: Lsn(0),
        };
        let standbys = vec![standby("b", 200), standby("c", 0)];
        let leader = Server::Primary(PrimaryView { flushed: Lsn(200), standbys, ..PrimaryView::default() });
        assert_eq!(positions("a", &leader), [200, 200, 80], "c has reported nothing yet");
        let view = StandbyView { received: Lsn(170), replayed: Lsn(160), ..StandbyView::default() };
        assert_eq!(positions("b", &Server::Standby(view)), [150, 170, 80]);
        assert_eq!(positions("b", &Server::Down), [150, 90, 80]);
    }
}
