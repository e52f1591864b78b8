//! A leader key that was taken by somebody who is no member: the leader has to go, and for a while nobody can follow.

use crate::cluster::{Cluster, Conclusion};
use crate::load::Load;
use crate::oracle::WINDOW;
use crate::wait::secs;
use std::time::{Duration, Instant};

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

    /// Takes the key, and gives it up so long after the leader has gone: one that has not would take it back at once. When
    /// that was.
    #[must_use]
    pub fn reign(cluster: &Cluster, leader: usize, away: Duration) -> Instant {
        let usurper = Self::seize(cluster);
        cluster.wait("the old leader to stop", secs(5), || (!cluster.nodes[leader].is("/primary")).then_some(()));
        std::thread::sleep(away);
        // Giving it up takes its time, and the next leader does not wait for the end of that.
        let freed = Instant::now();
        usurper.leave(cluster);
        freed
    }
}

/// Takes the leader's key away under load for so long; fails the test if more than the asynchronous window is lost.
#[allow(clippy::must_use_candidate)] // Mostly for the deed.
pub fn demote(cluster: &Cluster, leader: usize, away: Duration, story: &str) -> Conclusion {
    let load = Load::start(cluster, 4);
    let observation = cluster.observe();
    let fault = Instant::now();
    let healed = Usurper::reign(cluster, leader, away);
    cluster.wait("a write", secs(60), || observation.writers.first_ack_sent_after(healed));
    std::thread::sleep(secs(1));
    drop(load);
    let conclusion = cluster.conclude(observation);
    conclusion.verdict.expect_only_unreplicated_lost(story, fault, WINDOW);
    conclusion
}
