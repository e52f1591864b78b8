//! The watchdog: a device that resets this machine unless it is fed. What is configured, what is known of it, and the times that follow.

use crate::clock::{Millis, Tick};
use crate::lease::margin;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Devices count in seconds: one that needs to be fed more often than this cannot be fed in time by somebody who waits for the store first.
pub const TIMEOUT_MIN: Millis = Millis(5000);
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
    pub fn timeout(&self, ttl: Millis) -> Result<Millis, String> {
        let ttl_s = ttl.0 / 1000;
        let timeout_s = match u64::try_from(self.safety_margin_s) {
            Ok(margin_s) => ttl_s.saturating_sub(margin_s),
            Err(_) => ttl_s / 2,
        };
        let timeout = Millis::from_secs(timeout_s);
        if timeout >= TIMEOUT_MIN {
            return Ok(timeout);
        }
        let text = format!(
            "ttl ({ttl_s} s) leaves it {timeout_s} s, and it needs {} s: raise ttl or lower watchdog.safety_margin",
            TIMEOUT_MIN.0 / 1000
        );
        Err(text)
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
}

impl Running {
    /// Whoever leads and could not feed it gives up at this moment: what is left is for the server to become one that cannot write.
    #[must_use]
    pub fn give_up_at(&self) -> Tick {
        let lead = Millis((self.timeout_ms.0 / 4).clamp(2000, 5000));
        (self.fed_at + self.timeout_ms) - lead
    }

    /// How long a leader can do without feeding it.
    #[must_use]
    pub fn window(&self) -> Millis {
        self.give_up_at().since(self.fed_at)
    }

    /// Until when a confirmation that was asked for at `confirmed`, of a right to lead that lasts for `ttl`, may be told to it: fed later,
    /// it might reset this machine after another has begun to lead.
    #[must_use]
    pub fn feed_by(&self, confirmed: Tick, ttl: Millis) -> Tick {
        feed_by(self.timeout_ms, confirmed, ttl)
    }
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
}

impl WatchdogView {
    /// Why a node with these settings may not lead, as far as the device goes: `watchdog_failed` of the REST API.
    #[must_use]
    pub fn failed(&self, settings: &WatchdogSettings, ttl: Millis) -> Option<String> {
        if settings.mode != Mode::Required {
            return None;
        }
        self.obstacle.clone().or_else(|| settings.timeout(ttl).err())
    }
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
        let running = |timeout_ms| Running { asked_ms: timeout_ms, timeout_ms, fed_at: Tick(1000) };
        let (ttl, short) = (Millis(30_000), running(Millis(15_000)));
        assert_eq!(running(Millis(25_000)).feed_by(Tick(10_000), ttl), Tick(13_500));
        assert_eq!(short.feed_by(Tick(10_000), ttl), Tick(23_500));
        assert_eq!(running(Millis(30_000)).feed_by(Tick(10_000), ttl), Tick(10_500), "no margin was asked for");
    }

    #[test]
    fn a_leader_gives_up_in_time() {
        let at = |timeout_ms| Running { asked_ms: timeout_ms, timeout_ms, fed_at: Tick(1000) }.give_up_at();
        assert_eq!(at(Millis(25_000)), Tick(21_000));
        assert_eq!(at(Millis(5000)), Tick(4000));
        assert_eq!(at(Millis(60_000)), Tick(56_000));
    }

    #[test]
    fn only_who_needs_one_fails_without() {
        let view = WatchdogView { obstacle: Some("no device".to_owned()), running: None };
        let failed = |mode| view.failed(&WatchdogSettings { mode, safety_margin_s: 5 }, Millis(30_000));
        assert_eq!(failed(Mode::Required), Some("no device".to_owned()));
        assert_eq!((failed(Mode::Automatic), failed(Mode::Off)), (None, None));
        let settings = WatchdogSettings { mode: Mode::Required, safety_margin_s: 5 };
        assert!(WatchdogView::default().failed(&settings, Millis(5000)).is_some(), "ttl is too short");
    }
}
