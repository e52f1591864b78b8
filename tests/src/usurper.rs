//! A leader key that was taken by somebody who is no member: the leader has to go, and for a while nobody can follow.

use crate::cluster::Cluster;

/// The key's false holder, and the lease it hangs on.
#[derive(Debug)]
pub struct Usurper {
    lease: String,
}

impl Usurper {
    /// Overwrites the leader key.
    #[must_use]
    pub fn seize(cluster: &Cluster) -> Self {
        let granted = cluster.etcd.ctl(&["lease", "grant", "120"]).expect("etcd grants leases");
        let lease = granted.split(' ').nth(1).expect("lease ID granted with TTL").to_owned();
        let put = ["put", &cluster.key("leader"), "somebody-else", &format!("--lease={lease}")];
        cluster.etcd.ctl(&put).expect("etcd takes keys");
        Self { lease }
    }

    /// Gives the key up, as one does that ends in good order.
    pub fn leave(self, cluster: &Cluster) {
        cluster.etcd.ctl(&["lease", "revoke", &self.lease]).expect("etcd revokes leases");
    }
}
