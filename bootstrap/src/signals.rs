//! Signals, as something the main loop can wait on.

use crate::error::{Error, Result};
use rustix::fd::{AsFd, BorrowedFd};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What has arrived since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// SIGTERM or SIGINT: stop the node.
    pub stop: bool,
    /// SIGHUP: read the configuration again.
    pub reload: bool,
    /// SIGCHLD: somebody may have to be reaped.
    pub child: bool,
}

/// Registered for the life of the process.
pub struct Signals {
    pipe: UnixStream,
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
    child: Arc<AtomicBool>,
}

impl Signals {
    /// Takes the signals over.
    pub fn register() -> Result<Self> {
        let wrong = || Error::io(|| "taking over signals".to_owned());
        let (pipe, write) = UnixStream::pair().map_err(wrong())?;
        pipe.set_nonblocking(true).map_err(wrong())?;
        let signals = Self { pipe, stop: Arc::default(), reload: Arc::default(), child: Arc::default() };
        for (signal, flag) in
            [(SIGTERM, &signals.stop), (SIGINT, &signals.stop), (SIGHUP, &signals.reload), (SIGCHLD, &signals.child)]
        {
            // The flag first: whoever is woken by the pipe must find it set.
            signal_hook::flag::register(signal, Arc::clone(flag)).map_err(wrong())?;
            let write = write.try_clone().map_err(wrong())?;
            signal_hook::low_level::pipe::register(signal, write).map_err(wrong())?;
        }
        Ok(signals)
    }

    /// What has arrived.
    pub fn take(&mut self) -> Arrived {
        let mut rest = [0; 64];
        while self.pipe.read(&mut rest).is_ok_and(|length| length > 0) {}
        let take = |flag: &AtomicBool| flag.swap(false, Ordering::AcqRel);
        Arrived { stop: take(&self.stop), reload: take(&self.reload), child: take(&self.child) }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}
