//! What the answers say about this node, put together from the snapshot and the moment of the request.

use super::{LiveNow, Snapshot};
use crate::cluster::{Cluster, Initialize};
use crate::ids::{Lsn, SystemId};
use crate::local::{DataDir, PrimaryView, Receiver, Server, StandbyView};
use crate::member;

/// A snapshot seen at one moment.
#[derive(Clone, Copy)]
pub(super) struct Facts<'a> {
    pub snapshot: &'a Snapshot,
    pub live: LiveNow,
}

impl<'a> Facts<'a> {
    /// Whether this is a promoted primary that holds the leader key, its lease not yet over at this moment.
    pub fn leads(&self) -> bool {
        let memory = &self.snapshot.memory;
        let Server::Primary(primary) = &self.snapshot.local.server else { return false };
        (memory.lease.is_some() || primary.fence_unbound)
            && !memory.stage.resigning()
            && self.live.now < self.live.lease_deadline
            && !self.somebody_else_leads()
    }

    /// The store shows the leader key with another name.
    fn somebody_else_leads(&self) -> bool {
        let leader = self.cluster().and_then(|cluster| cluster.leader.as_ref());
        self.snapshot.cluster_fresh && leader.is_some_and(|leader| leader.name != self.snapshot.config.name)
    }

    /// The lease is ours and not over, whatever the server does.
    pub fn holds_lease(&self) -> bool {
        let lease = self.snapshot.memory.lease;
        lease.is_some_and(|lease| lease.valid_at(self.live.now)) && !self.somebody_else_leads()
    }

    /// Whether this leader goes on, or this member stays away from the leader key, because a store cannot be reached.
    pub fn failsafe_is_active(&self) -> bool {
        let (memory, now) = (&self.snapshot.memory, self.live.now);
        let leads = self.leads() && memory.lease.is_some_and(|lease| !lease.valid_at(now));
        let extended = memory.failsafe.extended.is_some_and(|until| now < until);
        (leads && extended) || memory.failsafe.binds(now).is_some()
    }

    pub fn state(&self) -> &'static str {
        member::state(&self.snapshot.local, &self.snapshot.memory)
    }

    /// `role` as of this moment: a server that may not acknowledge any more never says it is a primary, because
    /// peers would wait for it.
    pub fn role(&self) -> &'static str {
        match &self.snapshot.local.server {
            Server::Primary(_) if self.leads() => "primary",
            Server::Primary(_) => "demoted",
            Server::Starting { .. } if self.snapshot.memory.lease.is_some() && !self.holds_lease() => "demoted",
            _ => member::role(&self.snapshot.local, &self.snapshot.memory),
        }
    }

    pub fn primary(&self) -> Option<&'a PrimaryView> {
        match &self.snapshot.local.server {
            Server::Primary(primary) if self.leads() => Some(primary),
            _ => None,
        }
    }

    pub fn standby(&self) -> Option<&'a StandbyView> {
        match &self.snapshot.local.server {
            Server::Standby(standby) => Some(standby),
            _ => None,
        }
    }

    /// The newest view of the cluster.
    pub fn cluster(&self) -> Option<&'a Cluster> {
        self.snapshot.cluster.as_deref()
    }

    /// The view of the cluster, unless it is older than the leader lease lasts.
    pub fn current_cluster(&self) -> Option<&'a Cluster> {
        let age_ms = self.live.unix_ms.saturating_sub(self.snapshot.dcs_last_seen_unix_s.saturating_mul(1000));
        let current = self.snapshot.cluster_fresh || age_ms <= self.snapshot.settings.ttl_ms.0;
        self.cluster().filter(|_| current)
    }

    /// `replication_state` (wire.md 1.1).
    pub fn replication_state(&self) -> Option<&'static str> {
        let standby = self.standby()?;
        if standby.receiver == Receiver::Streaming {
            return Some("streaming");
        }
        let restore = self.snapshot.config.postgresql.parameters.get("restore_command");
        restore.is_some_and(|command| !command.is_empty()).then_some("in archive recovery")
    }

    /// A standby that clients may read from: consistent, and its WAL known to belong to the cluster's. One that was demoted in
    /// place serves nobody before its WAL was compared; one that was started without knowing a leader follows nobody until that is known; one that votes does so for a moment.
    pub fn readable(&self) -> bool {
        self.standby().is_some_and(|standby| {
            standby.consistent
                && !standby.reads_withheld
                && (standby.upstream.is_some() || self.snapshot.memory.voting_since.is_some())
        })
    }

    /// Position that lag is measured against.
    pub fn leader_position(&self) -> Lsn {
        self.current_cluster().and_then(|cluster| cluster.status.optime).unwrap_or_default()
    }

    pub fn system_id(&self) -> Option<SystemId> {
        match (&self.snapshot.local.data, self.cluster().map(|cluster| cluster.initialize)) {
            (DataDir::Present(control), _) => Some(control.system_id),
            (_, Some(Initialize::Done(id))) => Some(id),
            _ => None,
        }
    }
}
