//! The net thread's side of the store: one task for the requests of decisions, one for the watch, and a connection of
//! its own for REST, so that no client of ours can hold up a renewal.

use super::guard::{Acting, Guard, OwnLease};
use super::{Hooks, Inbox, spawn_vital};
use crate::clock;
use crate::runtime::Died;
use ha_core::clock::Millis;
use ha_core::dcs::{DcsCall, DcsReply, Expect, KeyEdit};
use ha_core::ids::LeaseId;
use ha_core::lease::Lease;
use ha_core::outcome::Outcome;
use ha_core::parse;
use ha_dcs::etcd3::{Etcd3, Options, Watcher};
use ha_dcs::{Store, Watch, WatchEvent};
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex, watch};
use tokio::task::{AbortHandle, spawn_local};

/// The store as REST uses it.
pub(super) type RestStore = Rc<Mutex<Etcd3>>;

enum Work {
    Call(DcsCall),
    Resume(LeaseId),
    Timing { ttl: Millis, retry_timeout: Millis },
    Replace(Box<Etcd3>, Millis),
}

pub(super) struct Link {
    options: Options,
    work: UnboundedSender<Work>,
    /// How many requests were sent, and how many of those nobody waits for any more.
    calls: u64,
    given_up: Rc<watch::Sender<u64>>,
    rest: RestStore,
    guard: Rc<RefCell<Guard>>,
    inbox: Arc<Inbox>,
    changed: Rc<watch::Sender<u64>>,
    watcher: AbortHandle,
    died: Died,
}

impl Link {
    /// Starts the tasks. To be called within the thread's `LocalSet`.
    pub fn new(options: Options, hooks: &Hooks, inbox: Arc<Inbox>, acting: Acting) -> Self {
        let store = Etcd3::connect(&options);
        let guard = Guard::new(options.name.clone(), own(&store), acting, hooks.clone());
        let guard = Rc::new(RefCell::new(guard));
        let changed = Rc::new(watch::Sender::new(0));
        let died = hooks.died.clone();
        let watcher = follow(store.watcher(), guard.clone(), inbox.clone(), changed.clone());
        let watcher = spawn_vital(&died, watcher);
        let (work, receiver) = unbounded_channel();
        let given_up = Rc::new(watch::Sender::new(0));
        let calls = Calls { work: receiver, given_up: given_up.subscribe(), number: 0 };
        spawn_vital(&died, answer(store, options.retry_timeout, calls, guard.clone(), inbox.clone()));
        let rest = Rc::new(Mutex::new(Etcd3::connect(&options)));
        Self { options, work, calls: 0, given_up, rest, guard, inbox, changed, watcher, died }
    }

    pub fn rest_store(&self) -> RestStore {
        self.rest.clone()
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn call(&mut self, call: DcsCall) {
        self.calls += 1;
        self.send(Work::Call(call));
    }

    /// Nobody waits after this time for what was sent until now and may be given up.
    pub fn give_up(&self, after: Millis) {
        let (calls, given_up) = (self.calls, self.given_up.clone());
        spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(after.0)).await;
            given_up.send_modify(|known| *known = calls.max(*known));
        });
    }

    pub fn resume(&self, session: Option<LeaseId>, lease: Option<Lease>) {
        if let Some(session) = session {
            self.send(Work::Resume(session));
        }
        self.guard.borrow_mut().resume(lease);
    }

    pub fn set_timing(&mut self, ttl: Millis, retry_timeout: Millis) {
        self.options.ttl = ttl;
        self.options.retry_timeout = retry_timeout;
        self.send(Work::Timing { ttl, retry_timeout });
        let rest = self.rest.clone();
        spawn_local(async move { rest.lock().await.set_retry_timeout(retry_timeout) });
    }

    /// Connects anew. The node lease goes along.
    pub fn reconfigure(&mut self, options: Options) {
        self.watcher.abort();
        let store = Etcd3::connect(&options);
        self.guard.borrow_mut().reconnected(own(&store));
        let watcher = follow(store.watcher(), self.guard.clone(), self.inbox.clone(), self.changed.clone());
        self.watcher = spawn_vital(&self.died, watcher);
        self.send(Work::Replace(Box::new(store), options.retry_timeout));
        let (rest, replacement) = (self.rest.clone(), Etcd3::connect(&options));
        spawn_local(async move { *rest.lock().await = replacement });
        self.options = options;
    }

    fn send(&self, work: Work) {
        // The task ends only with this sender.
        let _ = self.work.send(work);
    }
}

fn own(store: &Etcd3) -> OwnLease {
    let leases = store.own_leases();
    Box::new(move |lease| leases.contains(lease))
}

/// What is to be carried out.
struct Calls {
    work: UnboundedReceiver<Work>,
    given_up: watch::Receiver<u64>,
    /// Of the last request that was taken from there.
    number: u64,
}

impl Calls {
    /// The request that was taken last. To drop it in the middle leaves the store usable ([`Store::call`]).
    async fn carry_out(&mut self, store: &mut Etcd3, call: &DcsCall, retry_timeout: Millis) -> DcsReply {
        self.number += 1;
        let number = self.number;
        let mut reply = pin!(bounded(store, call.clone(), retry_timeout));
        let mut given_up = pin!(self.given_up.wait_for(|given_up| *given_up >= number));
        let either = poll_fn(|context| match reply.as_mut().poll(context) {
            Poll::Pending if call.may_be_given_up() && given_up.as_mut().poll(context).is_ready() => {
                Poll::Ready(DcsReply::Unknown("given up: the seat is passed on".to_owned()))
            }
            reply => reply,
        });
        either.await
    }
}

/// Carries out one request after the other.
async fn answer(
    mut store: Etcd3,
    mut retry_timeout: Millis,
    mut calls: Calls,
    guard: Rc<RefCell<Guard>>,
    inbox: Arc<Inbox>,
) {
    while let Some(work) = calls.work.recv().await {
        match work {
            Work::Call(call) => {
                if let DcsCall::AdoptLeader { old, .. } = &call {
                    guard.borrow_mut().adopting(*old);
                }
                let reply = calls.carry_out(&mut store, &call, retry_timeout).await;
                judge(&mut guard.borrow_mut(), &call, &reply);
                inbox.outcome(Outcome::Dcs { call, reply, at: clock::now() });
            }
            Work::Resume(session) => store.resume_session(session),
            Work::Timing { ttl, retry_timeout: new } => {
                retry_timeout = new;
                guard.borrow_mut().limit(ttl, clock::now());
                store.set_ttl(ttl);
                store.set_retry_timeout(new);
            }
            Work::Replace(mut new, new_retry_timeout) => {
                if let Some(session) = store.session() {
                    new.resume_session(session);
                }
                guard.borrow_mut().limit(new.ttl(), clock::now());
                store = *new;
                retry_timeout = new_retry_timeout;
            }
        }
    }
}

/// One request. The store keeps its own deadline; this one is for the day it does not, because a request without an
/// end would stop every later one.
pub(super) async fn bounded(store: &mut Etcd3, call: DcsCall, retry_timeout: Millis) -> DcsReply {
    match tokio::time::timeout(request_limit(retry_timeout), store.call(call)).await {
        Ok(reply) => reply,
        Err(_) => DcsReply::Unknown("the request did not end by its deadline".to_owned()),
    }
}

/// No request takes longer than this.
pub(crate) fn request_limit(retry_timeout: Millis) -> Duration {
    Duration::from_millis(retry_timeout.0.saturating_mul(2).saturating_add(2000))
}

/// What a reply proves about our lease.
fn judge(guard: &mut Guard, call: &DcsCall, reply: &DcsReply) {
    match (call, reply) {
        (_, DcsReply::Won(lease) | DcsReply::Kept(lease)) => {
            guard.confirmed(*lease);
        }
        (DcsCall::RenewLeader(lease), DcsReply::Refused)
        | (DcsCall::Write(KeyEdit { expect: Expect::WeLead(lease), .. }), DcsReply::Conflict) => guard.refused(lease),
        _ => {}
    }
}

/// Follows the cluster's keys.
async fn follow(mut watcher: Watcher, guard: Rc<RefCell<Guard>>, inbox: Arc<Inbox>, changed: Rc<watch::Sender<u64>>) {
    loop {
        match watcher.next().await {
            WatchEvent::Changed(raw) => {
                // Before anything else: the fence must not wait for a parser.
                guard.borrow_mut().seen(&raw);
                inbox.cluster(Arc::new(parse::cluster(&raw)));
                changed.send_modify(|count| *count += 1);
            }
            WatchEvent::Lost(why) => {
                inbox.lost(clock::now(), why);
                // A watch that fails at once must not keep the thread busy.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            // Said by the `Changed` before it.
            WatchEvent::Restored => {}
        }
    }
}
