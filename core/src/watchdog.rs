//! The watchdog: a device that resets this machine unless it is fed. What is configured, what is known of it, and the times that follow.

use crate::clock::{Millis, Tick};
use crate::lease::margin;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Devices count in seconds: one that needs to be fed more often than this cannot be fed in time by somebody who waits for the store first.
pub const TIMEOUT_MIN: Millis = Millis(5000);
/// The shortest `ttl` with which a device can be used.
pub const TTL_MIN: Millis = Millis(6000);
/// What a leader is to be left for one request to the store, beside `retry_timeout`: the next one.
const RENEWAL: Millis = Millis(1000);
/// How long after a confirmation was asked for it may be told to the device at least, whatever the safety margin.
const DELAY_MIN: Millis = Millis(500);

/// `watchdog.mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// None is used.
    Off,
    /// One that can be used is used.
    #[default]
    Automatic,
    /// Without one this node does not lead.
    Required,
}

/// `watchdog`, as far as decisions depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchdogSettings {
    /// `mode`.
    pub mode: Mode,
    /// `safety_margin`, seconds: how long before the end of the lease the machine is reset; -1 stands for half of `ttl`.
    pub safety_margin_s: i64,
}

impl Default for WatchdogSettings {
    fn default() -> Self {
        Self { mode: Mode::Automatic, safety_margin_s: 5 }
    }
}

impl WatchdogSettings {
    /// What the device is to be set to for a lease of `ttl`, in whole seconds. The error says why there is no such time.
    pub fn timeout(&self, ttl: Millis) -> Result<Millis, Useless> {
        let ttl_s = ttl.0 / 1000;
        let timeout_s = match u64::try_from(self.safety_margin_s) {
            Ok(margin_s) => ttl_s.saturating_sub(margin_s),
            Err(_) => ttl_s / 2,
        };
        let timeout = Millis::from_secs(timeout_s);
        if timeout >= TIMEOUT_MIN { Ok(timeout) } else { Err(Useless::Ttl { ttl_s, timeout_s }) }
    }

    /// Why a device that is set to `timeout` costs more than it is worth: a leader would give up before one request to the store has
    /// failed and the next one could be answered. One that is required has to be left [`TIMEOUT_MIN`], no more.
    #[must_use]
    pub fn too_short(&self, timeout: Millis, retry_timeout: Millis) -> Option<Useless> {
        let (least, requests) = match self.mode {
            Mode::Required => (window_of_least(), None),
            Mode::Off | Mode::Automatic => {
                let least = Millis(retry_timeout.0.saturating_add(RENEWAL.0));
                (least, Some(least))
            }
        };
        (window(timeout) < least).then_some(Useless::Timeout { timeout, requests })
    }

    /// The margin that is used with `ttl`: with one that leaves the device less than it needs no member could lead where one is required,
    /// so that is lowered as far as `ttl` allows, with a word about it. `Err`: there is none.
    pub fn corrected(self, ttl: Millis) -> Result<(Self, Option<String>), String> {
        let Err(why) = self.timeout(ttl) else { return Ok((self, None)) };
        let margin_s = (ttl.0.saturating_sub(TIMEOUT_MIN.0)) / 1000;
        if Millis::from_secs(margin_s) < margin(ttl) {
            let least_s = (TTL_MIN.0) / 1000;
            return Err(format!(
                "a device has to be left {} s before the lease ends: ttl has to be {least_s} s at least",
                TIMEOUT_MIN.0 / 1000
            ));
        }
        let safety_margin_s = i64::try_from(margin_s).unwrap_or(i64::MAX);
        Ok((Self { safety_margin_s, ..self }, Some(format!("{why}; a margin of {margin_s} s is used"))))
    }
}

/// Why a device is of no use with some settings. It is asked for all the time, and read when something comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Useless {
    /// A lease of that `ttl` leaves it less than it needs.
    Ttl {
        /// Seconds of the lease.
        ttl_s: u64,
        /// Seconds that are left for the device.
        timeout_s: u64,
    },
    /// A leader with one that is set to that would give up too early.
    Timeout {
        /// What it is set to.
        timeout: Millis,
        /// What the next requests to the store may take; `None` where it cannot even be fed in time.
        requests: Option<Millis>,
    },
}

impl fmt::Display for Useless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Useless::Ttl { ttl_s, timeout_s } => {
                let least_s = TIMEOUT_MIN.0 / 1000;
                write!(f, "ttl ({ttl_s} s) leaves it {timeout_s} s, and it needs {least_s} s: ")?;
                f.write_str("raise ttl or lower watchdog.safety_margin")
            }
            Useless::Timeout { timeout, requests } => {
                let window = window(*timeout);
                write!(f, "with {timeout} a leader would give up {window} after its last renewal, ")?;
                match requests {
                    None => f.write_str("that is too short to be fed in time"),
                    Some(least) => {
                        write!(f, "less than retry_timeout and a renewal ({least}): raise ttl or lower retry_timeout")
                    }
                }
            }
        }
    }
}

/// A watchdog that runs: fed, or it resets the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// What it was asked to be set to.
    pub asked_ms: Millis,
    /// What it is set to, as it says itself.
    pub timeout_ms: Millis,
    /// Just before it was fed last.
    pub fed_at: Tick,
    /// It cannot be stopped (`nowayout`): whoever has it open feeds it on for as long as it lives.
    #[serde(default)]
    pub stays: bool,
}

impl Running {
    /// Whoever leads and could not feed it gives up at this moment: what is left is for the server to become one that cannot write.
    #[must_use]
    pub fn give_up_at(&self) -> Tick {
        self.fed_at + self.window()
    }

    /// How long a leader can do without feeding it.
    #[must_use]
    pub fn window(&self) -> Millis {
        window(self.timeout_ms)
    }

    /// When one that cannot be stopped is fed next while nothing can write.
    #[must_use]
    pub fn feed_on_at(&self) -> Tick {
        self.fed_at + Millis((self.timeout_ms.0 / 3).min(10_000))
    }

    /// Until when a confirmation that was asked for at `confirmed`, of a right to lead that lasts for `ttl`, may be told to it: fed later,
    /// it might reset this machine after another has begun to lead.
    #[must_use]
    pub fn feed_by(&self, confirmed: Tick, ttl: Millis) -> Tick {
        feed_by(self.timeout_ms, confirmed, ttl)
    }
}

/// How long a leader can do without feeding a device that is set to `timeout`; the rest is left for its server to become one that cannot write.
fn window(timeout: Millis) -> Millis {
    Millis(timeout.0.saturating_sub((timeout.0 / 4).clamp(2000, 5000)))
}

/// What the shortest timeout leaves.
fn window_of_least() -> Millis {
    window(TIMEOUT_MIN)
}

/// The same for one that is set to `timeout`.
#[must_use]
pub fn feed_by(timeout: Millis, confirmed: Tick, ttl: Millis) -> Tick {
    let spare = ttl.0.saturating_sub(timeout.0).saturating_sub(margin(ttl).0);
    confirmed + Millis(spare).max(DELAY_MIN)
}

/// What is known of this machine's watchdog.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchdogView {
    /// Why it cannot be used, or what went wrong with it last.
    pub obstacle: Option<String>,
    /// It runs, and whoever holds the seat has it open.
    pub running: Option<Running>,
    /// This node has started one that was not stopped since, and does not have it open.
    pub left: bool,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Off => "off",
            Mode::Automatic => "automatic",
            Mode::Required => "required",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout_s(ttl_s: u64, safety_margin_s: i64) -> Option<u64> {
        let settings = WatchdogSettings { mode: Mode::Automatic, safety_margin_s };
        settings.timeout(Millis::from_secs(ttl_s)).ok().map(|timeout| timeout.0 / 1000)
    }

    #[test]
    fn the_machine_is_reset_before_the_lease_ends() {
        assert_eq!(timeout_s(30, 5), Some(25));
        assert_eq!(timeout_s(30, -1), Some(15));
        assert_eq!(timeout_s(31, -1), Some(15));
        assert_eq!(timeout_s(30, 0), Some(30));
        assert_eq!(timeout_s(10, 5), Some(5));
        assert_eq!(timeout_s(9, 5), None);
        assert_eq!(timeout_s(9, -1), None);
        assert_eq!(timeout_s(5, 60), None);
    }

    #[test]
    fn what_was_confirmed_too_long_ago_is_not_told() {
        let running = |timeout_ms| Running { asked_ms: timeout_ms, timeout_ms, fed_at: Tick(1000), stays: false };
        let (ttl, short) = (Millis(30_000), running(Millis(15_000)));
        assert_eq!(running(Millis(25_000)).feed_by(Tick(10_000), ttl), Tick(13_500));
        assert_eq!(short.feed_by(Tick(10_000), ttl), Tick(23_500));
        assert_eq!(running(Millis(30_000)).feed_by(Tick(10_000), ttl), Tick(10_500), "no margin was asked for");
    }

    #[test]
    fn a_leader_gives_up_in_time() {
        let at =
            |timeout_ms| Running { asked_ms: timeout_ms, timeout_ms, fed_at: Tick(1000), stays: false }.give_up_at();
        assert_eq!(at(Millis(25_000)), Tick(21_000));
        assert_eq!(at(Millis(5000)), Tick(4000));
        assert_eq!(at(Millis(60_000)), Tick(56_000));
    }

    #[test]
    fn a_margin_that_leaves_too_little_is_lowered() {
        let corrected = |ttl_s, safety_margin_s| {
            let settings = WatchdogSettings { mode: Mode::Required, safety_margin_s };
            settings.corrected(Millis::from_secs(ttl_s)).map(|(used, why)| (used.safety_margin_s, why.is_some()))
        };
        assert_eq!(corrected(30, 5), Ok((5, false)));
        assert_eq!(corrected(10, 5), Ok((5, false)));
        assert_eq!(corrected(9, 5), Ok((4, true)));
        assert_eq!(corrected(9, -1), Ok((4, true)));
        assert_eq!(corrected(30, 28), Ok((25, true)));
        assert_eq!(corrected(6, 5), Ok((1, true)));
        assert!(corrected(5, 5).expect_err("too short").contains("ttl has to be 6 s at least"));
        assert_eq!(Millis(TTL_MIN.0 - TIMEOUT_MIN.0).max(margin(TTL_MIN)), Millis(1000), "the two agree");
    }

    #[test]
    fn a_leader_that_would_give_up_too_early_does_without() {
        let too_short = |mode, timeout_s, retry_s| {
            let settings = WatchdogSettings { mode, safety_margin_s: 5 };
            settings.too_short(Millis::from_secs(timeout_s), Millis::from_secs(retry_s)).is_some()
        };
        assert!(!too_short(Mode::Automatic, 25, 10) && !too_short(Mode::Automatic, 15, 10));
        assert!(too_short(Mode::Automatic, 5, 3) && too_short(Mode::Automatic, 10, 9));
        assert!(!too_short(Mode::Required, 5, 3) && too_short(Mode::Required, 4, 3));
    }
}
