//! Clients that wait for a switchover, also across the change of the process that serves them: the leader's worker
//! goes away in the middle of it, its supervisor goes on with the connection.

use super::Backend;
use ha_core::api::{Reply, SwitchoverWait, reason};
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// The view of the cluster is looked at this often, even if nobody says that it changed.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// And the store itself is read this often: where the seat has been passed on, the view stands still.
const READ_EVERY: Duration = Duration::from_secs(1);

/// The answer to a client of a server that may stop first.
pub(super) async fn result_or_left(
    backend: &dyn Backend,
    wait: &SwitchoverWait,
    mut leaving: watch::Receiver<bool>,
) -> Reply {
    let result = pin!(result(backend, wait));
    let left = pin!(async { leaving.wait_for(|left| *left).await.is_ok() });
    either(result, left).await.unwrap_or_else(|| wait.left())
}

/// The answer to a client that waits for a switchover.
async fn result(backend: &dyn Backend, wait: &SwitchoverWait) -> Reply {
    let until = Instant::now() + Duration::from_millis(wait.limit_ms);
    let mut changes = backend.changes();
    let mut read_at = Instant::now() + READ_EVERY;
    loop {
        if let Some(snapshot) = backend.snapshot()
            && let Some(cluster) = &snapshot.cluster
            && let Some(reply) = wait.result(cluster, snapshot.memory.rejected.as_ref())
        {
            return reply;
        }
        let now = Instant::now();
        if now >= until {
            return wait.timed_out();
        }
        if now >= read_at {
            read_at = now + READ_EVERY;
            if let Ok(cluster) = backend.fresh().await
                && let Some(reply) = wait.result(&cluster, None)
            {
                return reply;
            }
        }
        look_again(&mut changes, LOOK_EVERY.min(until - now)).await;
    }
}

async fn look_again(changes: &mut watch::Receiver<u64>, pause: Duration) {
    match tokio::time::timeout(pause, changes.changed()).await {
        Ok(Ok(())) | Err(_) => {}
        // Nobody will say anything any more.
        Ok(Err(_)) => tokio::time::sleep(pause).await,
    }
}

/// The first future's output, or `None` if the second one ends first.
pub(super) async fn either<A: Future, B: Future>(mut first: Pin<&mut A>, mut second: Pin<&mut B>) -> Option<A::Output> {
    poll_fn(|cx| {
        if let Poll::Ready(output) = first.as_mut().poll(cx) {
            return Poll::Ready(Some(output));
        }
        second.as_mut().poll(cx).map(|_| None)
    })
    .await
}

/// A client that waits for a switchover, with its connection. Dropped before it was handed on, it tells the client
/// that the switchover has begun.
#[derive(Debug)]
pub struct MovedWait {
    stream: Option<OwnedFd>,
    wait: SwitchoverWait,
}

impl MovedWait {
    /// From what was received from the process that served before.
    #[must_use]
    pub fn new(stream: OwnedFd, wait: SwitchoverWait) -> Self {
        Self { stream: Some(stream), wait }
    }

    /// What to send to the process that goes on.
    #[must_use]
    pub fn parts(&self) -> Option<(BorrowedFd<'_>, &SwitchoverWait)> {
        Some((self.stream.as_ref()?.as_fd(), &self.wait))
    }

    /// It was sent: the other process answers.
    pub fn handed_on(mut self) {
        self.stream = None;
    }

    pub(super) fn take(stream: &tokio::net::TcpStream, wait: SwitchoverWait) -> io::Result<Self> {
        Ok(Self { stream: Some(stream.as_fd().try_clone_to_owned()?), wait })
    }

    pub(super) async fn finish(mut self, backend: Rc<dyn Backend>) {
        let reply = result(&*backend, &self.wait).await;
        self.answer(&reply);
    }

    fn answer(&mut self, reply: &Reply) {
        let Some(stream) = self.stream.take() else { return };
        if let Err(error) = send(stream, reply) {
            tracing::debug!("REST: a client did not wait for its switchover: {error}");
        }
    }
}

impl Drop for MovedWait {
    fn drop(&mut self) {
        let reply = self.wait.left();
        self.answer(&reply);
    }
}

/// The whole answer fits into the socket's buffer, to which nothing has been written yet.
fn send(stream: OwnedFd, reply: &Reply) -> io::Result<()> {
    use std::io::Write;
    let mut stream = TcpStream::from(stream);
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        reply.status,
        reason(reply.status),
        reply.content_type.as_deref().unwrap_or("text/html"),
        reply.body.len()
    );
    stream.write_all(format!("{head}{}", reply.body).as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)
}
