//! Sees that a clock of this machine has jumped, at once where the kernel says so, and reads the hardware clock where there is one.
//!
//! The kernel tells a timer when the time of day is set or the machine wakes up from suspend. That a hypervisor paused it, it does
//! not know: only a clock that went on meanwhile shows that, and asking the hardware clock takes too long for the main thread.

use crate::clock::{self, millis};
use crate::net::Wake;
use crate::runtime::{self, Died};
use ha_core::clocks::Clocks;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::{read, write};
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime, timerfd_create,
    timerfd_settime,
};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Seconds since 1970 by the first hardware clock.
pub(crate) const HARDWARE_CLOCK: &str = "/sys/class/rtc/rtc0/since_epoch";
/// How often it is read: for so long a machine that was paused may not know it.
const READ_EVERY_MS: i64 = 500;
/// How often a thread that has nothing to read looks whether it is needed.
const LOOK_EVERY_MS: i64 = 10_000;
/// A reading that took longer is of no use.
const READ_MAX_MS: i64 = 100;
/// A thread that cannot wait must not keep the machine busy.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// Not read yet, or not there.
const UNKNOWN: i64 = i64::MIN;
/// No reading is as late.
const NEVER: i64 = i64::MAX;

/// See the module.
pub(crate) struct ClockWatch {
    /// How far the hardware clock is ahead of `CLOCK_BOOTTIME`.
    hardware_ms: Arc<AtomicI64>,
    /// From where on it has jumped.
    alarm_ms: Arc<AtomicI64>,
    /// This side acts for the node.
    acting: Arc<AtomicBool>,
    /// Rings when it begins to.
    bell: Arc<OwnedFd>,
}

impl ClockWatch {
    /// Starts the thread; it ends some time after the value is dropped.
    pub fn start(hardware_clock: &Path, wake: Wake, died: Died) -> std::io::Result<Self> {
        let hardware_ms = Arc::new(AtomicI64::new(UNKNOWN));
        let alarm_ms = Arc::new(AtomicI64::new(NEVER));
        let acting = Arc::new(AtomicBool::new(false));
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let watch = Thread {
            hardware_ms: Arc::downgrade(&hardware_ms),
            alarm_ms: alarm_ms.clone(),
            acting: acting.clone(),
            bell: bell.clone(),
            path: hardware_clock.to_owned(),
            timer: timer(),
            seen: None,
            wake,
        };
        runtime::spawn("ha_clock", died, move || watch.run())?;
        Ok(Self { hardware_ms, alarm_ms, acting, bell })
    }

    /// Whether this side acts for the node. One that does not has no lease to judge: its hardware clock is not read.
    pub fn set_acting(&self, acts: bool) {
        if self.acting.swap(acts, Ordering::Relaxed) != acts && acts {
            // Full means it rings already.
            let _ = write(&*self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Wakes the loop when the hardware clock is ahead of these by a jump, be it by several pauses.
    pub fn set_lowest(&self, lowest: Option<Clocks>) {
        let alarm_ms = lowest.and_then(|clocks| clocks.hardware_alarm_ms()).unwrap_or(NEVER);
        self.alarm_ms.store(alarm_ms, Ordering::Relaxed);
    }

    /// What the other side of the seat has read may be newer than what was read here last: until the next reading there is none.
    pub fn forget(&self) {
        self.hardware_ms.store(UNKNOWN, Ordering::Relaxed);
    }

    /// Where the clocks stand now, the hardware clock as it was read last.
    pub fn read(&self) -> Option<Clocks> {
        let hardware_ms = Some(self.hardware_ms.load(Ordering::Relaxed)).filter(|ms| *ms != UNKNOWN);
        Some(Clocks { hardware_ms, ..clock::others()? })
    }
}

struct Thread {
    hardware_ms: Weak<AtomicI64>,
    alarm_ms: Arc<AtomicI64>,
    acting: Arc<AtomicBool>,
    bell: Arc<OwnedFd>,
    path: PathBuf,
    timer: Option<OwnedFd>,
    /// What was read last.
    seen: Option<Clocks>,
    wake: Wake,
}

impl Thread {
    fn run(mut self) {
        while let Some(place) = self.hardware_ms.upgrade() {
            let acts = self.acting.load(Ordering::Relaxed);
            let hardware_ms = if acts { hardware_ms(&self.path) } else { None };
            place.store(hardware_ms.unwrap_or(UNKNOWN), Ordering::Relaxed);
            drop(place);
            if let Some(clocks) = clock::others().map(|clocks| Clocks { hardware_ms, ..clocks }) {
                let alarm = hardware_ms >= Some(self.alarm_ms.load(Ordering::Relaxed));
                if alarm || self.seen.is_some_and(|seen| clocks.jumps_since(&seen).is_some()) {
                    (self.wake)();
                }
                self.seen = Some(clocks);
            }
            self.wait(if hardware_ms.is_some() { READ_EVERY_MS } else { LOOK_EVERY_MS });
        }
    }

    /// Until somebody sets the time of day or this side begins to act, at most for so long.
    fn wait(&self, at_most_ms: i64) {
        let timeout = Timespec { tv_sec: at_most_ms / 1000, tv_nsec: at_most_ms % 1000 * 1_000_000 };
        let Some(timer) = &self.timer else {
            // Nobody rings here.
            std::thread::sleep(Duration::from_millis(at_most_ms.min(READ_EVERY_MS).unsigned_abs()));
            return;
        };
        let bell = &*self.bell;
        match poll(&mut [PollFd::new(timer, PollFlags::IN), PollFd::new(bell, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => {}
            // The timer was cancelled, which is all it is for; reading makes it ready to be cancelled again. Neither read waits.
            Ok(_) => {
                let _ = read(timer, &mut [0_u8; 8]);
                let _ = read(bell, &mut [0_u8; 8]);
            }
            Err(_) => std::thread::sleep(AFTER_FAILURE),
        }
    }
}

/// A timer that never ends, but is cancelled whenever the time of day is set.
fn timer() -> Option<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK).ok()?;
    let never = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec { tv_sec: 1 << 33, tv_nsec: 0 },
    };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &never).ok()?;
    Some(timer)
}

fn hardware_ms(path: &Path) -> Option<i64> {
    let boottime = || millis(clock_gettime(ClockId::Boottime));
    let before = boottime();
    let seconds: i64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    let after = boottime();
    (after - before <= READ_MAX_MS).then(|| seconds.saturating_mul(1000) - after)
}
