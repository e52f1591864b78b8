//! A socket whose peer must not keep us waiting.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// From its first byte on a request's head must be complete within this time; the first request must also begin
/// within it. The same for each part of a body, and of an answer that the peer does not take.
pub(super) const PEER_PATIENCE: Duration = Duration::from_secs(5);
/// A connection may idle this long between requests.
pub(super) const IDLE_PATIENCE: Duration = Duration::from_secs(30);

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing of a request has arrived.
    Idle,
    /// A part of a request's head has arrived.
    Head,
    /// A request is under way.
    Busy,
    /// A request has just been answered.
    Answered,
}

/// The socket.
pub(super) struct BoundedIo {
    stream: Rc<TcpStream>,
    phase: Rc<Cell<Phase>>,
    read_by: Pin<Box<Sleep>>,
    write_by: Option<Pin<Box<Sleep>>>,
}

impl BoundedIo {
    pub fn new(stream: Rc<TcpStream>, phase: Rc<Cell<Phase>>) -> Self {
        Self { stream, phase, read_by: Box::pin(tokio::time::sleep(PEER_PATIENCE)), write_by: None }
    }

    fn read_by(&mut self, patience: Duration) {
        self.read_by.as_mut().reset(Instant::now() + patience);
    }

    /// The socket cannot be written to: how long may that last?
    fn blocked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let write_by = self.write_by.get_or_insert_with(|| Box::pin(tokio::time::sleep(PEER_PATIENCE)));
        ready!(write_by.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for BoundedIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.stream.poll_read_ready(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    if self.phase.get() == Phase::Answered {
                        self.phase.set(Phase::Idle);
                        self.read_by(IDLE_PATIENCE);
                    }
                    if self.phase.get() == Phase::Busy {
                        return Poll::Pending;
                    }
                    ready!(self.read_by.as_mut().poll(cx));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
            match self.stream.try_read(buf.initialize_unfilled()) {
                Ok(count) => {
                    buf.advance(count);
                    if count > 0 && matches!(self.phase.get(), Phase::Idle | Phase::Answered) {
                        self.phase.set(Phase::Head);
                        self.read_by(PEER_PATIENCE);
                    }
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for BoundedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.stream.poll_write_ready(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => return self.blocked(cx),
            }
            match self.stream.try_write(buf) {
                Ok(count) => {
                    self.write_by = None;
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(rustix::net::shutdown(&*self.stream, rustix::net::Shutdown::Write).map_err(io::Error::from))
    }
}
