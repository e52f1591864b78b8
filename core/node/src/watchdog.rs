//! This machine's watchdog, as one side of the seat has it: open or not, and what became of the last attempt.
//!
//! Both sides have the descriptor of one that runs, so that neither's end closes it; only the side that acts does anything with it.

use crate::clock;
use ha_core::clock::{Millis, Tick};
use ha_core::config;
use ha_core::effect::Effect;
use ha_core::watchdog::{Mode, Running, WatchdogView};
use ha_watchdog::{Device, Driver, probe};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// For how long one that has failed is not tried again.
const FAILED_FOR: Millis = Millis(60_000);
/// The same for one that somebody has open: the other side of the seat closes its copy a moment after this one.
const BUSY_FOR: Millis = Millis(1000);

/// See the module.
pub struct Watchdog {
    path: PathBuf,
    driver: Driver,
    off: bool,
    open: Option<(Device, Running)>,
    /// What went wrong last, and until when that counts.
    failed: Option<(String, Tick)>,
}

impl Watchdog {
    /// Nothing is open yet.
    #[must_use]
    pub fn new(config: &config::Watchdog) -> Self {
        let mut new = Self { path: PathBuf::new(), driver: Driver::Linux, off: true, open: None, failed: None };
        new.configure(config);
        new
    }

    /// The configuration has changed; one that runs is the one that it was.
    pub fn configure(&mut self, config: &config::Watchdog) {
        let driver = if config.testing { Driver::Testing } else { Driver::Linux };
        if config.device != self.path || driver != self.driver {
            self.failed = None;
        }
        (self.path, self.driver) = (config.device.clone(), driver);
        self.off = config.settings.mode == Mode::Off;
    }

    /// What is known of it.
    #[must_use]
    pub fn view(&self) -> WatchdogView {
        let now = clock::now();
        let failed = self.failed.as_ref().filter(|(_, until)| now < *until).map(|(why, _)| why.clone());
        let running = self.open.as_ref().map(|(_, running)| *running);
        let obstacle = failed.or_else(|| {
            let look = running.is_none() && !self.off;
            if look { probe(&self.path, self.driver).err() } else { None }
        });
        WatchdogView { obstacle, running }
    }

    /// Does what `effect` asks of it. What goes wrong shows in [`Watchdog::view`] and in the log. `false` if it asks nothing of it.
    pub fn execute(&mut self, effect: &Effect) -> bool {
        match effect {
            Effect::ArmWatchdog { timeout_ms, by } => {
                let done = self.arm(*timeout_ms, *by);
                self.note("armed", done);
            }
            Effect::FeedWatchdog { by } => {
                let done = self.feed(*by);
                self.note("fed", done);
            }
            Effect::DisarmWatchdog => self.stop(),
            _ => return false,
        }
        true
    }

    fn arm(&mut self, asked_ms: Millis, by: Tick) -> io::Result<()> {
        let fed_at = clock::now();
        if fed_at >= by {
            return Ok(());
        }
        let device = match self.open.take() {
            Some((device, _)) => device,
            None => Device::open(&self.path, self.driver)?,
        };
        let (name, set_to) = match set_up(&device, asked_ms) {
            Ok(set) => set,
            Err(error) => {
                // It runs since it was opened.
                let _ = device.stop();
                return Err(error);
            }
        };
        let timeout_ms = Millis::from_secs(set_to.into());
        let running = Running { asked_ms, timeout_ms, fed_at };
        tracing::info!(
            "the watchdog {} ({name}) resets this machine unless it is fed for {timeout_ms}",
            self.path.display()
        );
        if timeout_ms > asked_ms {
            tracing::warn!("it was asked to do so after {asked_ms}: the lease may be over by then");
        }
        let fed = device.feed();
        self.open = Some((device, running));
        fed
    }

    fn feed(&mut self, by: Tick) -> io::Result<()> {
        let now = clock::now();
        let Some((device, running)) = self.open.as_mut().filter(|_| now < by) else { return Ok(()) };
        device.feed()?;
        running.fed_at = now;
        Ok(())
    }

    /// One that is not open here may still run from an earlier life of this node: it is opened to be stopped.
    fn stop(&mut self) {
        let device = match self.open.take() {
            Some((device, _)) => Ok(device),
            None => Device::open(&self.path, self.driver),
        };
        match device.and_then(|device| device.stop()) {
            Ok(()) => tracing::info!("the watchdog is stopped"),
            Err(error) => tracing::warn!("the watchdog cannot be stopped: if it runs it resets this machine: {error}"),
        }
    }

    fn note(&mut self, what: &str, done: io::Result<()>) {
        let Err(error) = done else {
            self.failed = None;
            return;
        };
        let lasts = if error.kind() == io::ErrorKind::ResourceBusy { BUSY_FOR } else { FAILED_FOR };
        let text = format!("{} cannot be {what}: {error}", self.path.display());
        tracing::warn!("the watchdog {text}");
        self.failed = Some((text, clock::now() + lasts));
    }

    /// What the other side is given of one that runs.
    #[must_use]
    pub fn lent(&self) -> Option<(BorrowedFd<'_>, Running)> {
        self.open.as_ref().map(|(device, running)| (device.as_fd(), *running))
    }

    /// The other side has one that runs, or none. Its descriptor comes along once.
    pub fn follow(&mut self, running: Option<Running>, fd: Option<OwnedFd>) {
        let device =
            fd.map(|fd| Device::from_fd(fd, self.driver)).or_else(|| self.open.take().map(|(device, _)| device));
        self.open = device.zip(running);
    }
}

fn set_up(device: &Device, asked_ms: Millis) -> io::Result<(String, u32)> {
    let identity = device.identity()?;
    if !identity.magic_close {
        tracing::warn!("the watchdog {} stops when the processes that have it open die", identity.name);
    }
    let seconds = u32::try_from(asked_ms.0 / 1000).unwrap_or(u32::MAX);
    Ok((identity.name, device.set_timeout(seconds)?))
}
