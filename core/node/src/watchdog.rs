//! This machine's watchdog, as one side of the seat has it: open or not, and what became of the last attempt.
//!
//! Both sides have the descriptor of one that runs, so that neither's end closes it; only the side that acts does anything with it. One
//! that runs is never let go of: whatever it refuses, it is kept open, since it can only be fed from here.

mod mark;

use crate::clock;
use ha_core::clock::{Millis, Tick};
use ha_core::config;
use ha_core::effect::Effect;
use ha_core::watchdog::{Mode, Running, TIMEOUT_MIN, WatchdogView};
use ha_watchdog::{Device, Driver, probe};
use mark::Mark;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// For how long one that has failed is not tried again.
const FAILED_FOR: Millis = Millis(60_000);
/// For how long one that somebody has open is tried again at once: the other side of the seat closes its copy a moment after this one.
const BUSY_GRACE: Millis = Millis(1000);
/// And for how long it is not, then.
const BUSY_FOR: Millis = Millis(10_000);

/// See the module.
pub struct Watchdog {
    path: PathBuf,
    driver: Driver,
    off: bool,
    mark: Mark,
    open: Option<(Device, Running)>,
    /// What went wrong last, and until when that counts.
    failed: Option<(String, Tick)>,
    /// Since when somebody else has had it open.
    busy_since: Option<Tick>,
    /// When one that runs from before is looked for next.
    left_at: Tick,
}

impl Watchdog {
    /// Nothing is open yet. `mark`: the file that says that one was started here.
    #[must_use]
    pub fn new(config: &config::Watchdog, mark: PathBuf) -> Self {
        let mut new = Self {
            path: PathBuf::new(),
            driver: Driver::Linux,
            off: true,
            mark: Mark::read(mark),
            open: None,
            failed: None,
            busy_since: None,
            left_at: Tick(0),
        };
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
        let left = running.is_none() && now >= self.left_at && self.mark.names(&self.path);
        WatchdogView { obstacle, running, left }
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
            Effect::DisarmWatchdog => {
                if let Err(error) = self.stop() {
                    self.left_at = clock::now() + BUSY_FOR;
                    tracing::warn!(
                        "one of before may run on, and then it resets this machine: {}: {error}",
                        self.path.display()
                    );
                }
            }
            _ => return false,
        }
        true
    }

    fn arm(&mut self, asked_ms: Millis, by: Tick) -> io::Result<()> {
        let fed_at = clock::now();
        if fed_at >= by {
            return Ok(());
        }
        let ran = self.open.take();
        let known = ran.as_ref().map(|(_, running)| *running);
        let device = match ran {
            Some((device, _)) => device,
            None => self.start()?,
        };
        let stays = known.is_some_and(|running| running.stays) || device.stays();
        let seconds = u32::try_from(asked_ms.0 / 1000).unwrap_or(u32::MAX);
        let set_to = match device.set_timeout(seconds) {
            Ok(set_to) => set_to,
            Err(error) => {
                match known {
                    // It goes on as it was.
                    Some(running) => self.open = Some((device, running)),
                    None => self.end(device),
                }
                return Err(error);
            }
        };
        let timeout_ms = Millis::from_secs(set_to.into());
        let running = Running { asked_ms, timeout_ms, fed_at, stays };
        tracing::info!("the watchdog {} resets this machine unless it is fed for {timeout_ms}", self.path.display());
        if timeout_ms != asked_ms {
            let beyond = if timeout_ms > asked_ms { ": the lease may be over by then" } else { "" };
            tracing::warn!("it was asked to do so after {asked_ms}{beyond}");
        }
        if stays && known.is_none_or(|running| !running.stays) {
            tracing::warn!("{}", cannot_be_stopped(timeout_ms));
        }
        let fed = device.feed();
        self.open = Some((device, running));
        fed
    }

    /// Opens it, which starts it. Whatever else is behind the path is closed as it was.
    fn start(&mut self) -> io::Result<Device> {
        let new = self.mark.make(&self.path);
        let device = Device::open(&self.path, self.driver).and_then(|device| Ok((device.identity()?, device)));
        let (identity, device) = match device {
            Ok(started) => started,
            Err(error) => {
                if new {
                    self.mark.remove();
                }
                return Err(error);
            }
        };
        self.busy_since = None;
        if !identity.magic_close {
            tracing::warn!("the watchdog {} stops when the processes that have it open die", identity.name);
        }
        tracing::info!("the watchdog {} ({}) is open", self.path.display(), identity.name);
        Ok(device)
    }

    fn feed(&mut self, by: Tick) -> io::Result<()> {
        let now = clock::now();
        let Some((device, running)) = self.open.as_mut().filter(|_| now < by) else { return Ok(()) };
        device.feed()?;
        running.fed_at = now;
        Ok(())
    }

    /// Feeds one that cannot be stopped, where nothing depends on it, should whoever acts not do so. When to come again.
    pub fn feed_on(&mut self, now: Tick) -> Option<Tick> {
        let (_, running) = self.open.as_ref().filter(|(_, running)| running.stays)?;
        let half = Millis(running.timeout_ms.0 / 2);
        let at = running.fed_at + half;
        if now < at {
            return Some(at);
        }
        let fed = self.feed(now + half);
        self.note("fed", fed);
        Some(now + Millis(half.0.min(1000)))
    }

    /// One that is not open here may still run from an earlier life of this node: it is opened to be stopped.
    fn stop(&mut self) -> io::Result<()> {
        match self.open.take() {
            Some((device, running)) if running.stays => self.open = Some((device, running)),
            Some((device, _)) => self.end(device),
            None if self.mark.still_names(&self.path) => {
                let device = self.start()?;
                self.end(device);
            }
            None => {}
        }
        Ok(())
    }

    /// Stops one that nobody needs, or keeps it.
    fn end(&mut self, device: Device) {
        let Err(error) = device.stop() else {
            tracing::info!("the watchdog is stopped");
            return self.mark.remove();
        };
        let timeout_ms = device.timeout().map_or(TIMEOUT_MIN, |seconds| Millis::from_secs(seconds.into()));
        tracing::warn!("{}: {error}", cannot_be_stopped(timeout_ms));
        // Nothing was asked of it that it goes by.
        let running = Running { asked_ms: Millis(0), timeout_ms, fed_at: clock::now(), stays: true };
        self.open = Some((device, running));
    }

    fn note(&mut self, what: &str, done: io::Result<()>) {
        let Err(error) = done else {
            self.failed = None;
            return;
        };
        let now = clock::now();
        let busy = error.kind() == io::ErrorKind::ResourceBusy;
        if busy && now.since(*self.busy_since.get_or_insert(now)) < BUSY_GRACE {
            return;
        }
        let text = format!("{} cannot be {what}: {error}", self.path.display());
        if self.failed.as_ref().is_none_or(|(known, until)| *known != text || now >= *until) {
            tracing::warn!("the watchdog {text}");
        }
        self.busy_since = None;
        self.failed = Some((text, now + if busy { BUSY_FOR } else { FAILED_FOR }));
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
        if self.open.is_some() {
            self.mark.was_made(&self.path);
        }
    }
}

fn cannot_be_stopped(timeout: Millis) -> String {
    format!(
        "the watchdog cannot be stopped (nowayout): it is fed on as long as this node runs, and {timeout} after that it resets this machine"
    )
}
