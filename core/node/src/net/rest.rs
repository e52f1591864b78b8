//! What the REST server gets from its node.

use super::store::{RestStore, bounded};
use crate::clock;
use crate::http::{Backend, LocalFuture};
use ha_core::api::{LiveNow, Snapshot};
use ha_core::clock::{Millis, Tick};
use ha_core::cluster::Cluster;
use ha_core::dcs::{DcsCall, DcsReply, KeyEdit};
use ha_core::parse;
use ha_dcs::Store;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A client of ours gives up long before this.
const LIMIT: Millis = Millis::from_secs(10);

pub(super) struct Rest {
    snapshot: Arc<Mutex<Option<Arc<Snapshot>>>>,
    lease_deadline: Arc<dyn Fn() -> Tick + Send + Sync>,
    store: RestStore,
    changes: watch::Receiver<u64>,
}

impl Rest {
    pub fn new(
        snapshot: Arc<Mutex<Option<Arc<Snapshot>>>>,
        lease_deadline: Arc<dyn Fn() -> Tick + Send + Sync>,
        store: RestStore,
        changes: watch::Receiver<u64>,
    ) -> Self {
        Self { snapshot, lease_deadline, store, changes }
    }
}

impl Backend for Rest {
    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn live(&self) -> LiveNow {
        LiveNow { now: clock::now(), lease_deadline: (self.lease_deadline)(), unix_ms: clock::wall_ms() }
    }

    fn write(&self, edit: KeyEdit) -> LocalFuture<DcsReply> {
        let store = self.store.clone();
        Box::pin(async move { bounded(&mut *store.lock().await, DcsCall::Write(edit), LIMIT).await })
    }

    fn fresh(&self) -> LocalFuture<Result<Cluster, String>> {
        let store = self.store.clone();
        Box::pin(async move {
            let mut store = store.lock().await;
            match tokio::time::timeout(Duration::from_millis(LIMIT.0), store.snapshot()).await {
                Ok(Ok(raw)) => Ok(parse::cluster(&raw)),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("the store did not answer in time".to_owned()),
            }
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}
