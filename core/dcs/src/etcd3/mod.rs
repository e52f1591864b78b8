//! etcd v3 (wire.md 1 and 2, column etcd3).

mod options;

pub use options::{Options, Protocol};

use crate::{ReadError, Store, Watch, WatchEvent};
use ha_core::clock::Millis;
use ha_core::dcs::{DcsCall, DcsReply, RawCluster};
use ha_core::ids::LeaseId;

/// The store. Created without any I/O; connects on first use.
pub struct Etcd3 {
    options: Options,
    session: Option<LeaseId>,
}

/// Follows the cluster's keys, on its own connection.
pub struct Watcher {
    options: Options,
}

/// Knows which leases are this node's. Cheap to clone; usable while the [`Etcd3`] is busy in a call, so that a
/// watch event that shows our leader key on a lease that was granted a moment ago is not taken for a loss.
#[derive(Clone, Debug, Default)]
pub struct OwnLeases(std::sync::Arc<std::sync::Mutex<Vec<LeaseId>>>);

impl OwnLeases {
    /// Whether the lease was granted to us in this process (or resumed) and may still carry our keys.
    #[must_use]
    pub fn contains(&self, lease: LeaseId) -> bool {
        self.0.lock().is_ok_and(|leases| leases.contains(&lease))
    }
}

impl Etcd3 {
    /// A store that connects on first use.
    #[must_use]
    pub fn connect(options: &Options) -> Self {
        Self { options: options.clone(), session: None }
    }

    /// A watcher of the same cluster. It shares what is known about the store (cluster id, raft term, member
    /// addresses) but no connection.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        Watcher { options: self.options.clone() }
    }

    /// Which leases are ours.
    #[must_use]
    pub fn own_leases(&self) -> OwnLeases {
        OwnLeases::default()
    }

    /// Forgets which etcd cluster we belong to, after an operator replaced it and said so (reload): the next
    /// answer decides. Until then answers of another cluster are refused.
    pub fn accept_new_cluster(&mut self) {}
}

impl Store for Etcd3 {
    async fn call(&mut self, _call: DcsCall) -> DcsReply {
        DcsReply::Unknown("not connected".into())
    }

    async fn snapshot(&mut self) -> Result<RawCluster, ReadError> {
        Err(ReadError::Unreachable("not connected".into()))
    }

    fn set_ttl(&mut self, ttl: Millis) {
        self.options.ttl = ttl;
    }

    fn set_retry_timeout(&mut self, retry_timeout: Millis) {
        self.options.retry_timeout = retry_timeout;
    }

    fn session(&self) -> Option<LeaseId> {
        self.session
    }

    fn resume_session(&mut self, lease: LeaseId) {
        self.session = Some(lease);
    }
}

impl Watch for Watcher {
    async fn next(&mut self) -> WatchEvent {
        WatchEvent::Lost(format!("{} is not connected", self.options.scope))
    }
}
