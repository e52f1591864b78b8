//! What all connections of one node know about the store together: which etcd cluster it is, the newest raft
//! term and revision, the members' addresses, and which leases are ours.

use super::failure::Failure;
use super::options::{Options, Protocol};
use etcd_client::ResponseHeader;
use ha_core::clock::Millis;
use ha_core::ids::LeaseId;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// See the module's description. Locked for a few instructions at a time, never across an await.
pub(super) struct Shared {
    known: Mutex<Known>,
    protocol: Protocol,
    configured: Vec<String>,
    discovered: Mutex<Vec<String>>,
    answered: Notify,
    restored: Notify,
    ttl_ms: AtomicU64,
}

#[derive(Clone, Copy, Default)]
struct Known {
    cluster: Option<u64>,
    term: u64,
    revision: i64,
}

/// The newest revision that was known when a question was asked.
#[derive(Clone, Copy)]
pub(super) struct Asked(i64);

impl Shared {
    pub(super) fn new(options: &Options) -> Self {
        let mut configured: Vec<String> = Vec::new();
        for host in &options.hosts {
            let url = format!("{}://{}", options.protocol.scheme(), host.trim());
            if !configured.contains(&url) {
                configured.push(url);
            }
        }
        Self {
            known: Mutex::default(),
            protocol: options.protocol,
            configured,
            discovered: Mutex::default(),
            answered: Notify::new(),
            restored: Notify::new(),
            ttl_ms: AtomicU64::new(options.ttl.0),
        }
    }

    /// The `ttl` setting in force.
    pub(super) fn ttl(&self) -> Millis {
        Millis(self.ttl_ms.load(Ordering::Relaxed))
    }

    pub(super) fn set_ttl(&self, ttl: Millis) {
        self.ttl_ms.store(ttl.0, Ordering::Relaxed);
    }

    /// Lets an answer through unless it comes from another etcd cluster, or from a member that lives in an older
    /// raft term than one we have heard of (cut off from its peers, it may not know what they decided).
    pub(super) fn check(&self, header: Option<&ResponseHeader>) -> Result<(), Failure> {
        self.check_since(header, Asked(0))
    }

    /// To be taken before a question is sent whose answer [`Shared::check_since`] is to judge.
    pub(super) fn asked(&self) -> Asked {
        Asked(locked(&self.known).revision)
    }

    /// The same for the answer to a transaction or a linearizable read. It shows all that any member had shown before it was `asked`: a
    /// store that shows less was put back to an earlier state. Other answers tell what one member knows, which may lag.
    pub(super) fn check_since(&self, header: Option<&ResponseHeader>, asked: Asked) -> Result<(), Failure> {
        let header = header.ok_or_else(|| Failure::Unclear("an answer without a header".to_owned()))?;
        self.admit(header.cluster_id(), header.raft_term(), header.revision(), asked)
    }

    fn admit(&self, cluster: u64, term: u64, revision: i64, asked: Asked) -> Result<(), Failure> {
        let mut known = locked(&self.known);
        let ours = *known.cluster.get_or_insert(cluster);
        if ours != cluster {
            return Err(Failure::Foreign(format!(
                "the answer comes from etcd cluster {cluster:x}, but ours is {ours:x}: the store was replaced, \
                 or a host of another cluster is configured"
            )));
        }
        if revision < asked.0 {
            return Err(Failure::Foreign(format!(
                "the store is at revision {revision} and was at {} before: the store was replaced by an earlier state of its own",
                asked.0
            )));
        }
        if term < known.term {
            return Err(Failure::Unclear(format!("the member is in raft term {term}, others are in {}", known.term)));
        }
        known.term = term;
        known.revision = known.revision.max(revision);
        Ok(())
    }

    /// The newest raft term any answer came from.
    pub(super) fn term(&self) -> u64 {
        locked(&self.known).term
    }

    pub(super) fn forget_cluster(&self) {
        *locked(&self.known) = Known::default();
    }

    /// Addresses to try: the configured ones first, then members that only the store told us about.
    pub(super) fn urls(&self) -> Vec<String> {
        let mut urls = self.configured.clone();
        for url in locked(&self.discovered).iter() {
            if !urls.contains(url) {
                urls.push(url.clone());
            }
        }
        urls
    }

    /// Remembers the addresses the members advertise, as far as they can be of use to us.
    pub(super) fn discover(&self, advertised: impl Iterator<Item = String>) {
        let local_only = |url: &str| ["//localhost", "//127.", "//[::1]"].iter().any(|host| url.contains(host));
        let prefix = format!("{}://", self.protocol.scheme());
        // A member on another machine that advertises a loopback address would be looked for on ours.
        let we_use_loopback = self.configured.iter().any(|url| local_only(url));
        let urls: Vec<String> = advertised
            .map(|url| url.trim_end_matches('/').to_owned())
            .filter(|url| url.starts_with(&prefix))
            .filter(|url| !url.contains("//0.0.0.0") && !url.contains("//[::]"))
            .filter(|url| we_use_loopback || !local_only(url))
            .collect();
        if !urls.is_empty() {
            *locked(&self.discovered) = urls;
        }
    }

    /// A member answered: whoever pauses before the next attempt need not wait any longer.
    pub(super) fn announce_answer(&self) {
        self.answered.notify_waiters();
    }

    /// The watch is up again after nobody had answered it.
    pub(super) fn announce_return(&self) {
        self.restored.notify_waiters();
    }

    /// Waits until the store is back after it was lost.
    pub(super) async fn restored(&self) {
        self.restored.notified().await;
    }

    /// Sleeps, but not beyond the moment another connection gets an answer.
    pub(super) async fn pause(&self, time: Duration) {
        let _ = tokio::time::timeout(time, self.answered.notified()).await;
    }
}

/// Knows which leases are this node's. Cheap to clone; usable while the [`super::Etcd3`] is busy in a call, so that a
/// watch event that shows our leader key on a lease that was granted a moment ago is not taken for a loss.
#[derive(Clone, Debug, Default)]
pub struct OwnLeases(Arc<Mutex<Vec<LeaseId>>>);

impl OwnLeases {
    /// Whether the lease was granted to us in this process (or resumed) and may still carry our keys.
    #[must_use]
    pub fn contains(&self, lease: LeaseId) -> bool {
        locked(&self.0).contains(&lease)
    }

    pub(super) fn add(&self, lease: LeaseId) {
        let mut leases = locked(&self.0);
        if !leases.contains(&lease) {
            leases.push(lease);
        }
        // Older ones are over; the list must not grow with the life of the process.
        if leases.len() > 8 {
            leases.remove(0);
        }
    }

    pub(super) fn remove(&self, lease: LeaseId) {
        locked(&self.0).retain(|own| *own != lease);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The guarded values are plain data that is never left half written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_core::clock::Tick;
    use ha_core::ids::NodeName;

    fn shared(hosts: &[&str]) -> Shared {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Shared::new(&Options::new(hosts, "s", NodeName::new("n"), || Tick(0)))
    }

    #[test]
    fn discovered_members_come_after_the_configured_ones() {
        let shared = shared(&["10.0.0.1:2379", "10.0.0.1:2379"]);
        let advertised =
            ["http://10.0.0.2:2379/", "http://10.0.0.1:2379", "https://10.0.0.3:2379", "http://localhost:2379"];
        shared.discover(advertised.iter().map(|url| (*url).to_owned()));
        assert_eq!(shared.urls(), ["http://10.0.0.1:2379", "http://10.0.0.2:2379"]);
        shared.discover(std::iter::empty());
        assert_eq!(shared.urls().len(), 2, "an empty list teaches nothing");
    }

    #[test]
    fn answers_of_older_terms_and_other_clusters_do_not_count() {
        let shared = shared(&["h:1"]);
        let admit = |cluster, term| shared.admit(cluster, term, 0, shared.asked());
        assert_eq!(admit(7, 3), Ok(()));
        assert_eq!(admit(7, 5), Ok(()));
        assert!(matches!(admit(7, 4), Err(Failure::Unclear(_))));
        assert!(matches!(admit(8, 9), Err(Failure::Foreign(_))));
        assert_eq!(shared.term(), 5, "a foreign cluster teaches nothing");
        shared.forget_cluster();
        assert_eq!(admit(8, 1), Ok(()));
    }

    #[test]
    fn a_store_that_shows_less_than_before_was_put_back() {
        let shared = shared(&["h:1"]);
        let early = shared.asked();
        assert_eq!(shared.admit(7, 3, 50, early), Ok(()));
        assert_eq!(shared.admit(7, 3, 40, early), Ok(()), "asked before the other was answered");
        assert_eq!(shared.admit(7, 3, 40, Asked(0)), Ok(()), "what one member knows");
        let late = shared.asked();
        assert!(matches!(shared.admit(7, 3, 49, late), Err(Failure::Foreign(_))));
        assert!(matches!(shared.admit(7, 2, 49, late), Err(Failure::Foreign(_))), "whatever the term");
        assert_eq!(shared.admit(7, 3, 50, late), Ok(()), "nothing was written meanwhile");
        shared.forget_cluster();
        assert_eq!(shared.admit(7, 1, 40, shared.asked()), Ok(()));
    }

    #[test]
    fn own_leases_are_bounded() {
        let own = OwnLeases::default();
        for id in 0..20 {
            own.add(LeaseId(id));
        }
        assert!(own.contains(LeaseId(19)) && !own.contains(LeaseId(1)));
        own.remove(LeaseId(19));
        assert!(!own.contains(LeaseId(19)));
    }
}
