//! etcd v3 (wire.md 1 and 2, column etcd3).
//!
//! One lease per node carries its leader key and its member key. Two rules hold everywhere:
//! * a deadline is counted from a clock reading taken BEFORE the keepalive was sent, and only together with an
//!   answer of the same raft term that shows the leader key as ours: a member that was deposed without knowing it
//!   can answer one of the two, never both;
//! * a request whose answer is missing is repeated only in a form in which a second execution does nothing, and an
//!   earlier attempt that may have happened is never reported as a proven failure.

mod budget;
mod edit;
mod failure;
mod join;
mod leader;
mod link;
mod members;
mod options;
mod read;
mod session;
mod shared;
mod watcher;

pub use options::{Options, Protocol};
pub use shared::OwnLeases;
pub use watcher::Watcher;

use crate::{ReadError, Store};
use budget::Budget;
use etcd_client::{PutOptions, TxnOp};
use failure::Failure;
use ha_core::clock::Millis;
use ha_core::cluster::LastLeader;
use ha_core::dcs::{DcsCall, DcsReply, LAST_LEADER_PATH, LEADER_PATH, RawCluster};
use ha_core::ids::{LeaseId, Revision};
use members::{Members, Stopped};
use session::{Kept, Session};
use shared::Shared;
use std::sync::Arc;

/// The store. Created without any I/O; connects on first use and stays connected.
pub struct Etcd3 {
    options: Options,
    base: String,
    shared: Arc<Shared>,
    members: Members,
    session: Option<Session>,
    own: OwnLeases,
    /// Revision of our member key as we last wrote or saw it; 0 when it was absent.
    member_seen: Revision,
}

impl Etcd3 {
    /// A store that connects on first use.
    #[must_use]
    pub fn connect(options: &Options) -> Self {
        let shared = Arc::new(Shared::new(options));
        Self {
            base: options.base_path(),
            options: options.clone(),
            members: Members::new(Arc::clone(&shared)),
            shared,
            session: None,
            own: OwnLeases::default(),
            member_seen: Revision(0),
        }
    }

    /// A watcher of the same cluster. It shares what is known about the store (cluster id, raft term, member
    /// addresses) but no connection, so it can run in another task of the same runtime.
    #[must_use]
    pub fn watcher(&self) -> Watcher {
        Watcher::new(self.options.clone(), Arc::clone(&self.shared))
    }

    /// Which leases are ours.
    #[must_use]
    pub fn own_leases(&self) -> OwnLeases {
        self.own.clone()
    }

    /// What leases are asked for with.
    #[must_use]
    pub fn ttl(&self) -> Millis {
        self.options.ttl
    }

    /// Forgets which etcd cluster we belong to, after an operator replaced it and said so (reload): the next
    /// answer decides. Until then answers of another cluster are refused.
    pub fn accept_new_cluster(&mut self) {
        self.shared.forget_cluster();
        self.session = None;
    }

    fn budget(&self) -> Budget {
        Budget::new(self.options.retry_timeout, self.options.request_timeout)
    }

    fn leader_key(&self) -> String {
        format!("{}{LEADER_PATH}", self.base)
    }

    async fn carry_out(&mut self, call: DcsCall) -> Result<DcsReply, Stopped> {
        let mut budget = self.budget();
        match call {
            DcsCall::KeepSession => {
                let Kept { lease, sent_at, ttl } = self.keep_session(&mut budget).await?;
                Ok(DcsReply::SessionKept { lease, sent_at, ttl })
            }
            DcsCall::AcquireLeader { seen, claim, edition } => self.acquire(seen, claim, edition, &mut budget).await,
            DcsCall::AdoptLeader { old, created, edition } => self.adopt(old, created, edition, &mut budget).await,
            DcsCall::RenewLeader(lease) => self.renew(lease, &mut budget).await,
            DcsCall::ReleaseLeader { lease, announce, status } => {
                self.release(lease, &announce, status.as_deref(), &mut budget).await
            }
            DcsCall::RemoveUnleasedLeader { created } => self.remove_unleased(created, &mut budget).await,
            DcsCall::CheckLease(lease) => self.check_lease(lease, &mut budget).await,
            DcsCall::Write(edit) => self.write(&edit, &mut budget).await,
        }
    }
}

impl Store for Etcd3 {
    async fn call(&mut self, call: DcsCall) -> DcsReply {
        // Boxed: tens of kilobytes of state machine would otherwise lie in every caller's future.
        match Box::pin(self.carry_out(call)).await {
            Ok(reply) => reply,
            Err(Stopped { failure, doubt }) => match failure {
                // A refusal that follows an attempt without an answer does not prove that nothing happened.
                Failure::Denied(why) | Failure::Unauthenticated(why) | Failure::Foreign(why) if !doubt => {
                    DcsReply::Denied(why)
                }
                other => DcsReply::Unknown(other.to_string()),
            },
        }
    }

    async fn snapshot(&mut self) -> Result<RawCluster, ReadError> {
        let mut budget = self.budget();
        let base = &self.base;
        let shared = &self.shared;
        let read =
            self.members.settle(&self.options, &mut budget, async |link| read::cluster(link, shared, base).await);
        match Box::pin(read).await {
            Ok(settled) => Ok(settled.answer),
            Err(stopped) => Err(read::error(stopped.failure)),
        }
    }

    fn set_ttl(&mut self, ttl: Millis) {
        self.options.ttl = ttl;
        self.shared.set_ttl(ttl);
    }

    fn set_retry_timeout(&mut self, retry_timeout: Millis) {
        self.options.retry_timeout = retry_timeout;
    }

    fn session(&self) -> Option<LeaseId> {
        self.session.map(|session| session.lease)
    }

    fn resume_session(&mut self, lease: LeaseId) {
        self.take_session(lease);
    }
}

/// The record of who leads, to be written together with the leader key.
fn record_leader(base: &str, record: &LastLeader) -> TxnOp {
    TxnOp::put(format!("{base}{LAST_LEADER_PATH}"), record.text(), None)
}

fn put_on_lease(lease: LeaseId) -> PutOptions {
    PutOptions::new().with_lease(lease.0)
}
