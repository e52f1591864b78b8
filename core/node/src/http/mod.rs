//! The HTTP server of the REST API. It lives in a process whose death restarts the database, so everything about
//! it is bounded: connections, header and body size, and the time a peer may take.

mod io;
mod service;
mod waiting;

#[cfg(test)]
mod tests;

pub use waiting::MovedWait;

use ha_core::api::{Asking, LiveNow, Snapshot, SwitchoverWait};
use ha_core::cluster::Cluster;
use ha_core::dcs::{DcsReply, KeyEdit};
use ha_core::failsafe;
use io::{BoundedIo, Phase};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// Connections at the same time. One more, and the oldest that has nothing under way must go.
const CONNECTIONS_MAX: usize = 256;
/// Request line and headers together.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Number of headers.
const HEADERS_MAX: usize = 64;
/// After an error of `accept` the next attempt waits this long, doubled each time up to the maximum.
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(10);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A future on the one thread that also runs the server.
pub type LocalFuture<T> = Pin<Box<dyn Future<Output = T>>>;

/// What the server needs from its node.
pub trait Backend {
    /// What the driver published last; `None` before its first tick.
    fn snapshot(&self) -> Option<Arc<Snapshot>>;
    /// What must be known at this very moment.
    fn live(&self) -> LiveNow;
    /// A conditional write to the store, with a deadline inside.
    fn write(&self, edit: KeyEdit) -> LocalFuture<DcsReply>;
    /// A linearizable read of the cluster, with a deadline inside.
    fn fresh(&self) -> LocalFuture<Result<Cluster, String>>;
    /// Has the driver decide whether this node stays away from the leader key; `None` if it did not in time.
    fn promise(&self, asking: Asking) -> LocalFuture<Option<failsafe::Reply>> {
        let _ = asking;
        Box::pin(std::future::ready(None))
    }
    /// Changes with every new view of the cluster.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// A running server. Dropping it stops it; clients that wait for a switchover are then told that it has begun.
pub struct Server {
    listener: TcpListener,
    accepting: AbortHandle,
    shared: Rc<Shared>,
}

/// What is left when a server stops.
pub struct Stopped {
    /// The listening socket; connections that wait in its queue stay there for whoever accepts next.
    pub listener: TcpListener,
    /// Clients that wait for a switchover: hand them to [`adopt`] in the process that goes on.
    pub waits: Vec<MovedWait>,
}

/// What all connections of one server share.
struct Shared {
    backend: Rc<dyn Backend>,
    connections: RefCell<BTreeMap<u64, Open>>,
    /// True once the server stops.
    leaving: watch::Sender<bool>,
}

/// An open connection.
struct Open {
    task: AbortHandle,
    stream: Rc<TcpStream>,
    phase: Rc<Cell<Phase>>,
    /// The switchover its client waits for.
    wait: Rc<RefCell<Option<SwitchoverWait>>>,
}

impl Server {
    /// Starts to accept. To be called on a `tokio` `LocalSet` of the net thread.
    pub fn start(listener: TcpListener, backend: Rc<dyn Backend>) -> std::io::Result<Self> {
        listener.set_nonblocking(true)?;
        let accepted = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
        let (leaving, _) = watch::channel(false);
        let shared = Rc::new(Shared { backend, connections: RefCell::default(), leaving });
        let accepting = tokio::task::spawn_local(accept(accepted, shared.clone())).abort_handle();
        Ok(Self { listener, accepting, shared })
    }

    /// Stops accepting at once. Requests under way are finished, idle connections closed; clients that wait for a
    /// switchover are not answered but handed out, connection and all.
    pub fn stop(self) -> std::io::Result<Stopped> {
        self.accepting.abort();
        let mut waits = Vec::new();
        for open in self.shared.connections.borrow().values() {
            let wait = open.wait.borrow().clone();
            if let Some(wait) = wait
                && let Ok(moved) = MovedWait::take(&open.stream, wait)
            {
                waits.push(moved);
                open.task.abort();
            }
        }
        Ok(Stopped { listener: self.listener.try_clone()?, waits })
    }
}

/// Goes on waiting for a client of the server that served before, here or in another process. No server is needed
/// for that, only the `LocalSet` of the net thread; when that ends first, the client is told that the switchover has
/// begun.
pub fn adopt(moved: MovedWait, backend: Rc<dyn Backend>) {
    tokio::task::spawn_local(moved.finish(backend));
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
        self.shared.leaving.send_replace(true);
    }
}

async fn accept(listener: tokio::net::TcpListener, shared: Rc<Shared>) {
    let mut pause = ACCEPT_PAUSE_MIN;
    let mut number = 0u64;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                pause = ACCEPT_PAUSE_MIN;
                number += 1;
                open(&shared, number, stream);
            }
            // The client was gone again: that says nothing about the next one.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of descriptors, most likely: what is open now has to end first.
                tracing::warn!("REST: cannot accept a connection: {error}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

fn open(shared: &Rc<Shared>, number: u64, stream: TcpStream) {
    if !make_room(shared) {
        return;
    }
    // Answers are small and written at once.
    let _ = stream.set_nodelay(true);
    let stream = Rc::new(stream);
    let phase = Rc::new(Cell::new(Phase::Idle));
    let wait = Rc::new(RefCell::new(None));
    let io = BoundedIo::new(stream.clone(), phase.clone());
    let service = service::Service { shared: shared.clone(), phase: phase.clone(), wait: wait.clone() };
    let closing = Closing { shared: shared.clone(), number };
    let leaving = shared.leaving.subscribe();
    let task = tokio::task::spawn_local(async move {
        let _closing = closing;
        service::connection(io, service, leaving).await;
    });
    shared.connections.borrow_mut().insert(number, Open { task: task.abort_handle(), stream, phase, wait });
}

/// Whether there is room for one more connection; the oldest one without a request under way makes room.
fn make_room(shared: &Shared) -> bool {
    let mut connections = shared.connections.borrow_mut();
    if connections.len() < CONNECTIONS_MAX {
        return true;
    }
    let idle = connections.iter().find(|(_, open)| open.phase.get() != Phase::Busy).map(|(number, _)| *number);
    match idle.and_then(|number| connections.remove(&number)) {
        Some(open) => {
            open.task.abort();
            true
        }
        None => false,
    }
}

/// Takes a connection off the list, however it ends.
struct Closing {
    shared: Rc<Shared>,
    number: u64,
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.shared.connections.borrow_mut().remove(&self.number);
    }
}
