//! What the REST server gets from its node.

use super::Inbox;
use super::store::{RestStore, bounded};
use crate::clock;
use crate::http::{Backend, LocalFuture};
use ha_core::api::{Asking, LiveNow, Snapshot};
use ha_core::clock::{Millis, Tick};
use ha_core::cluster::Cluster;
use ha_core::dcs::{DcsCall, DcsReply, KeyEdit};
use ha_core::failsafe::{self, Question};
use ha_core::parse;
use ha_dcs::Store;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Whoever asks for a promise gives up after this.
const PROMISE_LIMIT: Duration = Duration::from_secs(2);
/// A client of ours gives up long before this.
const LIMIT: Millis = Millis::from_secs(10);

pub(super) struct Rest {
    snapshot: Arc<Mutex<Option<Arc<Snapshot>>>>,
    lease_deadline: Arc<dyn Fn() -> Tick + Send + Sync>,
    store: RestStore,
    changes: watch::Receiver<u64>,
    inbox: Option<Arc<Inbox>>,
    /// Questions that the main thread has to decide, and who waits for the answer.
    asked: Rc<RefCell<BTreeMap<u64, oneshot::Sender<failsafe::Reply>>>>,
    questions: Cell<u64>,
}

impl Rest {
    /// Questions go to the main thread this way.
    pub fn asking(self, inbox: Arc<Inbox>) -> Self {
        Self { inbox: Some(inbox), ..self }
    }

    /// The main thread has decided.
    pub fn answer(&self, question: u64, reply: failsafe::Reply) {
        if let Some(waits) = self.asked.borrow_mut().remove(&question) {
            // Whoever asked may be gone.
            let _ = waits.send(reply);
        }
    }

    pub fn new(
        snapshot: Arc<Mutex<Option<Arc<Snapshot>>>>,
        lease_deadline: Arc<dyn Fn() -> Tick + Send + Sync>,
        store: RestStore,
        changes: watch::Receiver<u64>,
    ) -> Self {
        let (asked, questions) = (Rc::default(), Cell::new(0));
        Self { snapshot, lease_deadline, store, changes, inbox: None, asked, questions }
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

    fn promise(&self, asking: Asking) -> LocalFuture<Option<failsafe::Reply>> {
        let Some(inbox) = self.inbox.clone() else { return Box::pin(async { None }) };
        let number = self.questions.get();
        self.questions.set(number + 1);
        let (sender, receiver) = oneshot::channel();
        let asked = self.asked.clone();
        asked.borrow_mut().insert(number, sender);
        inbox.question(Question { number, from: asking.from, created: asking.created });
        Box::pin(async move {
            let reply = tokio::time::timeout(PROMISE_LIMIT, receiver).await;
            asked.borrow_mut().remove(&number);
            reply.ok()?.ok()
        })
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }
}
