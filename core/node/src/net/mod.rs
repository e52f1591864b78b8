//! The net thread: the store, the watch, REST and the peers, on one `tokio` thread with every signal blocked.
//!
//! It decides nothing and renews nothing by itself: one request to the store for each that the main thread sends, so
//! a main thread that is stuck lets its lease run out. Two things it does at once, without the main thread, because
//! they may only ever be late, never wrong: see [`Hooks`].

mod guard;
mod inbox;
mod rest;
mod store;
#[cfg(test)]
mod tests;

pub use guard::Acting;
pub use inbox::{Inbox, News, RestWait, StoreHealth};
pub(crate) use store::request_limit;

use crate::http;
use crate::peers::Asker;
use crate::runtime::{self, Died};
use ha_core::api::Snapshot;
use ha_core::clock::{Millis, Tick};
use ha_core::dcs::{DcsCall, DcsReply, KeyEdit};
use ha_core::failsafe::{self, PromiseAnswer, PromiseView};
use ha_core::ids::{LeaseId, NodeName, Revision};
use ha_core::lease::Lease;
use ha_core::peer::{PeerAnswer, PeerView};
use serde_json::Value;
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::AbortHandle;

/// Makes the main thread tick soon. Callable from any thread; must not block.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// What the net thread calls directly. Each call must be short, must not block and must not call Postgres
/// (an atomic store in shared memory is fine).
#[derive(Clone)]
pub struct Hooks {
    /// The store has confirmed our lease a moment ago, or its `ttl` was lowered: the fence's deadline is [`Lease::deadline`] now.
    ///
    /// Called only while the driver is [`Acting`]: between its `OpenFence` and its `CloseFence`. That alone does not
    /// suffice, so the hook itself
    /// * must only ever move a deadline that is **not zero** (compare-and-swap): a closed fence is opened by the main
    ///   thread alone, whatever confirmation is still on its way;
    /// * must not push it out when the main thread's heartbeat is older than `ttl / 2`: a stuck main thread must not keep the fence open.
    pub confirmed: Arc<dyn Fn(&Lease) + Send + Sync>,
    /// The leader key is proven not to be ours any more: set the fence's deadline to zero.
    pub leader_lost: Arc<dyn Fn() + Send + Sync>,
    /// The fence's deadline as it is now, for health checks; zero when closed, and always zero outside.
    pub lease_deadline: Arc<dyn Fn() -> Tick + Send + Sync>,
    /// There is news for the main thread.
    pub wake: Wake,
    /// A thread died: leave the process.
    pub died: Died,
}

/// What the net thread is to know from the start.
#[derive(Clone)]
pub struct Options {
    /// The store.
    pub store: ha_dcs::etcd3::Options,
    /// How the other members are asked.
    pub asker: Asker,
    /// The direct calls.
    pub hooks: Hooks,
}

/// From the main thread.
pub(crate) enum Command {
    /// Send this request; the reply comes back as an outcome.
    Call(DcsCall),
    /// Give the request that is under way up after this time if it may be: its outcome is unknown then.
    GiveUpCall { after: Millis },
    /// Ask these peers, all at once.
    Poll { targets: Vec<(NodeName, String)>, asked_at: Tick },
    /// Ask these members to stay away from the leader key, all at once.
    AskFailsafe { targets: Vec<(NodeName, String)>, created: Revision, asked_at: Tick, body: Value },
    /// What this node answers to the question of that number.
    AnswerFailsafe { question: u64, reply: failsafe::Reply },
    /// The seat came with this: go on with it.
    Resume { session: Option<LeaseId>, lease: Option<Lease> },
    /// `ttl` and `retry_timeout` have changed.
    Timing { ttl: Millis, retry_timeout: Millis },
    /// The store or the way to ask peers is configured anew.
    Reconfigure { store: Box<ha_dcs::etcd3::Options>, asker: Asker },
    /// Accept REST connections on this socket (instead of on the one before).
    Serve(TcpListener),
    /// Accept no more REST connections; clients that wait for a switchover come back in the news.
    StopServing,
    /// Go on waiting for these clients of the other seat.
    AdoptWaits(Vec<RestWait>),
    /// A write that is no decision's: a command given in SQL. The reply comes back under this number.
    Write { ticket: u64, edit: KeyEdit },
    /// End the thread.
    Shutdown,
}

/// The main thread's end of it. Dropping it ends the thread.
pub struct Net {
    commands: UnboundedSender<Command>,
    inbox: Arc<Inbox>,
    snapshot: Arc<Mutex<Option<Arc<Snapshot>>>>,
    acting: Acting,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Net {
    /// Starts the thread.
    pub fn start(options: Options) -> io::Result<Self> {
        let (commands, receiver) = unbounded_channel();
        let inbox = Arc::new(Inbox::new(options.hooks.wake.clone()));
        let snapshot = Arc::new(Mutex::new(None));
        let acting = Acting::default();
        let (inner_inbox, inner_snapshot, inner_acting) = (inbox.clone(), snapshot.clone(), acting.clone());
        let died = options.hooks.died.clone();
        let thread = runtime::spawn("ha_net", died, move || {
            run(options, receiver, inner_inbox, inner_snapshot, inner_acting);
        })?;
        Ok(Self { commands, inbox, snapshot, acting, thread: Some(thread) })
    }

    pub(crate) fn send(&self, command: Command) {
        // It fails only when the thread is gone, which `died` has told the process already.
        let _ = self.commands.send(command);
    }

    pub(crate) fn take_news(&self) -> News {
        self.inbox.take()
    }

    pub(crate) fn publish(&self, snapshot: Arc<Snapshot>) {
        *self.snapshot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(snapshot);
    }

    /// What was published last is no answer any more.
    pub(crate) fn forget_snapshot(&self) {
        *self.snapshot.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }

    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    pub(crate) fn acting(&self) -> &Acting {
        &self.acting
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.send(Command::Shutdown);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(
    options: Options,
    commands: UnboundedReceiver<Command>,
    inbox: Arc<Inbox>,
    snapshot: Arc<Mutex<Option<Arc<Snapshot>>>>,
    acting: Acting,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(16)
        .thread_name("ha_net_blocking")
        .build()
        .expect("epoll and a timer are always to be had");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(options, commands, inbox, snapshot, acting));
    drop(local);
    // Peers that do not answer must not hold up the end of the process.
    runtime.shutdown_background();
}

async fn serve(
    options: Options,
    mut commands: UnboundedReceiver<Command>,
    inbox: Arc<Inbox>,
    snapshot: Arc<Mutex<Option<Arc<Snapshot>>>>,
    acting: Acting,
) {
    let mut asker = options.asker;
    let mut store = store::Link::new(options.store, &options.hooks, inbox.clone(), acting);
    let backend = rest::Rest::new(snapshot, options.hooks.lease_deadline.clone(), store.rest_store(), store.changes());
    let backend = Rc::new(backend.asking(inbox.clone()));
    let mut server: Option<http::Server> = None;
    while let Some(command) = commands.recv().await {
        match command {
            Command::Call(call) => store.call(call),
            Command::GiveUpCall { after } => store.give_up(after),
            Command::Poll { targets, asked_at } => poll(&asker, targets, asked_at, &inbox),
            Command::AskFailsafe { targets, created, asked_at, body } => {
                let body = Arc::new(body);
                for (name, api_url) in targets {
                    let open = PromiseView { name, asked_at, created, answer: PromiseAnswer::Pending };
                    promise(&asker, open, api_url, body.clone(), &inbox);
                }
            }
            Command::AnswerFailsafe { question, reply } => backend.answer(question, reply),
            Command::Resume { session, lease } => store.resume(session, lease),
            Command::Timing { ttl, retry_timeout } => store.set_timing(ttl, retry_timeout),
            Command::Reconfigure { store: options, asker: anew } => {
                asker = anew;
                store.reconfigure(*options);
            }
            Command::Serve(listener) => {
                // Clients that wait for a switchover do not notice that the server is replaced.
                let stopped = server.take().and_then(|server| server.stop().ok());
                match http::Server::start(listener, backend.clone()) {
                    Ok(started) => server = Some(started),
                    Err(error) => tracing::warn!("the REST API cannot be served: {error}"),
                }
                for wait in stopped.into_iter().flat_map(|stopped| stopped.waits) {
                    http::adopt(wait, backend.clone());
                }
            }
            Command::StopServing => {
                let stopped = server.take().and_then(|server| server.stop().ok());
                let waits = stopped.map(|stopped| stopped.waits).unwrap_or_default();
                inbox.rest_stopped(waits);
            }
            Command::AdoptWaits(waits) => {
                for wait in waits {
                    http::adopt(wait, backend.clone());
                }
            }
            Command::Write { ticket, edit } => {
                let (backend, inbox) = (backend.clone(), inbox.clone());
                tokio::task::spawn_local(async move {
                    let reply: DcsReply = http::Backend::write(&*backend, edit).await;
                    inbox.written(ticket, reply);
                });
            }
            Command::Shutdown => break,
        }
    }
}

fn poll(asker: &Asker, targets: Vec<(NodeName, String)>, asked_at: Tick, inbox: &Arc<Inbox>) {
    for (name, api_url) in targets {
        let (asker, inbox, whom) = (asker.clone(), inbox.clone(), name.clone());
        let question = tokio::task::spawn_blocking(move || asker.ask(whom, &api_url, asked_at));
        tokio::task::spawn_local(async move {
            // Whatever became of it, the question must not stay open for ever.
            let failed = |error| PeerView { name, asked_at, answer: PeerAnswer::Unreachable(format!("{error}")) };
            inbox.peer(question.await.unwrap_or_else(failed));
        });
    }
}

/// Asks one member to stay away from the leader key.
fn promise(asker: &Asker, open: PromiseView, api_url: String, body: Arc<Value>, inbox: &Arc<Inbox>) {
    let (asker, inbox, whom) = (asker.clone(), inbox.clone(), open.clone());
    let question = tokio::task::spawn_blocking(move || asker.promise(whom, &api_url, &body));
    tokio::task::spawn_local(async move {
        let failed = |error| PromiseView { answer: PromiseAnswer::Refused(format!("{error}")), ..open };
        inbox.promise(question.await.unwrap_or_else(failed));
    });
}

/// Starts a task that the thread cannot do without. `tokio` keeps a panic to itself; this one tells it.
fn spawn_vital(died: &Died, task: impl Future<Output = ()> + 'static) -> AbortHandle {
    let died = died.clone();
    let running = tokio::task::spawn_local(task);
    let handle = running.abort_handle();
    tokio::task::spawn_local(async move {
        if let Err(error) = running.await
            && let Ok(panic) = error.try_into_panic()
        {
            died("ha_net", runtime::panic_text(panic.as_ref()));
        }
    });
    handle
}
