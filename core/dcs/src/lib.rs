//! Stores for the cluster state. [`etcd3`] is the first; others join behind the same two traits and pass the
//! same conformance suite (`tests/conformance`).
//!
//! A store speaks the vocabulary of [`ha_core::dcs`] and nothing else: raw keys relative to
//! `/<namespace>/<scope>/`, conditional writes, leases. It holds no rule. It reads no configuration file.
//! Everything runs on one tokio `current_thread` runtime; no task outlives the call that needed it, so a loop
//! that stalls lets its lease run out.
#![forbid(unsafe_code)]

pub mod etcd3;

use ha_core::clock::Millis;
use ha_core::dcs::{DcsCall, DcsReply, RawCluster};
use ha_core::ids::LeaseId;
use std::fmt;
use std::future::Future;

/// The write side and the consistent read of one cluster in a store. One task owns it: at most one call at a time.
pub trait Store {
    /// Carries out one request within the `retry_timeout`. Never an error: what went wrong is part of the reply.
    ///
    /// Dropping the future before it is ready leaves the outcome unknown and the store usable.
    fn call(&mut self, call: DcsCall) -> impl Future<Output = DcsReply>;

    /// Reads all keys of the cluster, linearizable: it shows every write that was acknowledged before the call.
    fn snapshot(&mut self) -> impl Future<Output = Result<RawCluster, ReadError>>;

    /// A changed `ttl` setting. The next [`DcsCall::KeepSession`] or [`DcsCall::RenewLeader`] moves our keys to a
    /// new lease; its reply names that lease.
    fn set_ttl(&mut self, ttl: Millis);

    /// A changed `retry_timeout` setting: the budget of every later call.
    fn set_retry_timeout(&mut self, retry_timeout: Millis);

    /// The node lease in use, if there is one.
    fn session(&self) -> Option<LeaseId>;

    /// Goes on with a node lease that this node (its other seat, or its earlier life) was given before.
    /// If it turns out to be over, the next [`DcsCall::KeepSession`] grants a new one.
    fn resume_session(&mut self, lease: LeaseId);
}

/// Follows all keys of one cluster. Independent of the [`Store`]: it has its own connection and can run in
/// another task.
pub trait Watch {
    /// Waits for the next event. Cancel safe: dropping the future loses no event.
    fn next(&mut self) -> impl Future<Output = WatchEvent>;
}

/// What a [`Watch`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// The cluster as it is now. The first event, every change, and the event right before [`WatchEvent::Restored`].
    Changed(RawCluster),
    /// The store cannot be followed any more, and why: what was last seen may be out of date from here on.
    Lost(String),
    /// The store can be followed again. The fresh state came in the [`WatchEvent::Changed`] right before this.
    Restored,
}

/// A read failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// No answer in time, or none that can be trusted.
    Unreachable(String),
    /// The store refused us for good: authentication, permissions, another cluster's store.
    Denied(String),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Unreachable(why) => write!(f, "the store cannot be reached: {why}"),
            ReadError::Denied(why) => write!(f, "the store refuses us: {why}"),
        }
    }
}

impl std::error::Error for ReadError {}
