//! The clocks: `CLOCK_BOOTTIME`, which runs on while the machine is suspended, for everything that is decided; and the others,
//! because a jump of one of them says that time may have passed unseen.

use ha_core::clock::Tick;
use ha_core::clocks::Clocks;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Nanoseconds since the machine booted, suspend included.
#[must_use]
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let secs = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    secs.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// Milliseconds since the machine booted, rounded down.
#[must_use]
pub fn now() -> Tick {
    Tick(now_ns() / 1_000_000)
}

/// Milliseconds since 1970 by the wall clock: for people and logs, never for decisions.
#[must_use]
pub fn wall_ms() -> u64 {
    u64::try_from(millis(clock_gettime(ClockId::Realtime))).unwrap_or(0)
}

/// Between two looks at the one clock there is time for a look at the others, unless the process stood still meanwhile.
const AT_ONCE_MS: i64 = 20;

/// Where the other clocks of the kernel stand, all read at one moment; `hardware_ms` is for the caller to add. `None` if there was
/// no such moment.
#[must_use]
pub fn others() -> Option<Clocks> {
    for _ in 0..3 {
        let before = millis(clock_gettime(ClockId::Boottime));
        let (wall, awake) = (millis(clock_gettime(ClockId::Realtime)), millis(clock_gettime(ClockId::Monotonic)));
        if millis(clock_gettime(ClockId::Boottime)) - before <= AT_ONCE_MS {
            return Some(Clocks { wall_ms: wall - before, awake_ms: awake - before, hardware_ms: None });
        }
    }
    None
}

pub(crate) fn millis(time: Timespec) -> i64 {
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_core::clock::Millis;
    use std::process::Command;

    #[test]
    fn milliseconds_and_nanoseconds_are_of_one_clock() {
        let before = now_ns() / 1_000_000;
        let tick = now();
        let after = now_ns() / 1_000_000;
        assert!((before..=after).contains(&tick.0), "{before} <= {} <= {after}", tick.0);
    }

    #[test]
    fn clocks_that_nobody_touches_stay_together() {
        let first = others().expect("a moment to read clocks in");
        std::thread::sleep(std::time::Duration::from_millis(300));
        let second = others().expect("a moment to read clocks in");
        assert_eq!(second.jumps_since(&first), None, "{first:?} {second:?}");
        assert!((second.wall_ms - first.wall_ms).abs() <= AT_ONCE_MS, "{first:?} {second:?}");
    }

    /// Not a test of its own: [`real_clocks_that_are_moved_are_seen`] runs it where the clocks stand elsewhere.
    #[test]
    #[ignore = "prints what the clocks say"]
    fn told() {
        println!("clocks {}", serde_json::to_string(&others()).expect("numbers"));
    }

    /// What the clocks say in a time namespace: `boottime` and `monotonic` are ahead by so many seconds there.
    fn elsewhere(boottime: i64, monotonic: i64) -> Clocks {
        let program = std::env::current_exe().expect("this test has a program");
        let output = Command::new("unshare")
            .args(["--time", "--fork", "--boottime", &boottime.to_string(), "--monotonic", &monotonic.to_string()])
            .arg(program)
            .args(["--exact", "clock::tests::told", "--ignored", "--nocapture"])
            .output()
            .expect("unshare of util-linux");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text.lines().find_map(|line| line.split_once("clocks ").map(|(_, json)| json.to_owned()));
        let line = line.unwrap_or_else(|| panic!("{text}{}", String::from_utf8_lossy(&output.stderr)));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// The kernel's own clocks, moved as a suspended machine and one whose time was set would show them.
    #[test]
    fn real_clocks_that_are_moved_are_seen() {
        let here = others().expect("a moment to read clocks in");
        assert_eq!(elsewhere(1000, 1000).jumps_since(&here).map(|jumps| jumps.suspended_ms), Some(0));
        let suspended = elsewhere(1_000_000, 990_000).jumps_since(&here).expect("both clocks have moved");
        assert!((suspended.suspended_ms - 10_000_000).abs() <= AT_ONCE_MS, "{suspended:?}");
        // Nobody set the time of day: seen from a clock that went 1,000,000 s ahead it lies behind.
        assert!((suspended.wall_ms + 1_000_000_000).abs() <= AT_ONCE_MS, "{suspended:?}");
        assert_eq!(suspended.unseen(), Millis(0));
        let forward = here.jumps_since(&elsewhere(1000, 1000)).expect("the time of day is ahead here");
        assert!(forward.unseen().0.abs_diff(1_000_000) <= AT_ONCE_MS.unsigned_abs(), "{forward:?}");
    }
}
