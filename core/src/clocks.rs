//! The other clocks of a machine, beside the one everything is decided by: when they move against it, time was set, or time has
//! passed that it does not know of.

use crate::clock::{Millis, Tick};
use serde::{Deserialize, Serialize};

/// What is smaller is not called a jump: time daemons set less than this right without a jump, and it is a fraction of what every
/// renewal leaves of a lease.
const JUMP: i64 = 500;
/// The same for the hardware clock, which tells whole seconds: one that runs evenly seems to move by up to one of them.
const HARDWARE_JUMP: i64 = 2000;
/// What a whole second may hide.
const HARDWARE_STEP: u64 = 1000;

/// How far the other clocks are ahead of `CLOCK_BOOTTIME`, read at one moment. That stays as it is for as long as nobody sets a
/// clock, the machine is not suspended, and its hypervisor does not pause it. (Clocks that are set right by running faster or
/// slower do so together.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clocks {
    /// The time of day, `CLOCK_REALTIME`.
    pub wall_ms: i64,
    /// `CLOCK_MONOTONIC`, which stands still while the machine is suspended: zero or less.
    pub awake_ms: i64,
    /// The hardware clock, if there is one, in whole seconds. It goes on while a hypervisor pauses the machine and with it every
    /// clock of its kernel.
    pub hardware_ms: Option<i64>,
}

/// How far which clock has moved against `CLOCK_BOOTTIME` between two looks; zero for those that have not jumped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Jumps {
    /// The time of day was set, forward or back.
    pub wall_ms: i64,
    /// The machine was suspended for so long.
    pub suspended_ms: i64,
    /// The hardware clock went on alone for so long, or was set.
    pub hardware_ms: i64,
    /// It was there both times.
    hardware_known: bool,
}

/// The least that the clocks have shown since a moment. What they are ahead of that now has passed since then, in one pause or in several
/// that are each too short to be told from a clock that runs evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lowest {
    /// Since when.
    pub since: Tick,
    /// The least of each.
    pub clocks: Clocks,
}

impl Clocks {
    /// What has jumped since `earlier`, if anything has.
    #[must_use]
    pub fn jumps_since(&self, earlier: &Clocks) -> Option<Jumps> {
        self.jumps(earlier, earlier)
    }

    /// What has jumped: back since `before`, or ahead of the `lowest` that was shown.
    #[must_use]
    pub fn jumps(&self, before: &Clocks, lowest: &Clocks) -> Option<Jumps> {
        let moved = |now: i64, before: i64, lowest: i64, least: i64| {
            let (ahead, by) = (now.saturating_sub(lowest), now.saturating_sub(before));
            if ahead >= least {
                ahead
            } else if by <= -least {
                by
            } else {
                0
            }
        };
        let hardware = self.hardware_ms.zip(lowest.hardware_ms);
        let jumps = Jumps {
            wall_ms: moved(self.wall_ms, before.wall_ms, lowest.wall_ms, JUMP),
            suspended_ms: moved(before.awake_ms, self.awake_ms, self.awake_ms, JUMP),
            hardware_ms: hardware
                .map_or(0, |(now, least)| moved(now, before.hardware_ms.unwrap_or(least), least, HARDWARE_JUMP)),
            hardware_known: hardware.is_some(),
        };
        (jumps != Jumps { hardware_known: jumps.hardware_known, ..Jumps::default() }).then_some(jumps)
    }

    /// From which reading on the hardware clock is ahead of this one by a jump.
    #[must_use]
    pub fn hardware_alarm_ms(&self) -> Option<i64> {
        self.hardware_ms.map(|ms| ms.saturating_add(HARDWARE_JUMP))
    }

    /// The least of each, after one more look in which `jumps` were seen. A clock that has jumped ahead is counted anew from where it is.
    #[must_use]
    pub fn lowest(&self, now: &Clocks, jumps: Option<&Jumps>) -> Clocks {
        let least = |lowest: i64, now: i64, jumped: i64| if jumped > 0 { now } else { lowest.min(now) };
        let (wall, hardware) = jumps.map_or((0, 0), |jumps| (jumps.wall_ms, jumps.hardware_ms));
        Clocks {
            wall_ms: least(self.wall_ms, now.wall_ms, wall),
            awake_ms: self.awake_ms.min(now.awake_ms),
            hardware_ms: match (self.hardware_ms, now.hardware_ms) {
                (Some(lowest), Some(now)) => Some(least(lowest, now, hardware)),
                // Not read this time, as whoever has just got the seat has not.
                (one, other) => one.or(other),
            },
        }
    }
}

impl Jumps {
    /// How much more time may have passed than `CLOCK_BOOTTIME` knows of. The hardware clock tells if there is one: a time of day
    /// that is set while it runs evenly was wrong before, or is now. Without one the time of day has to be believed.
    #[must_use]
    pub fn unseen(&self) -> Millis {
        let ahead = |by: i64| u64::try_from(by).unwrap_or(0);
        if self.hardware_ms > 0 {
            Millis(ahead(self.hardware_ms) + HARDWARE_STEP)
        } else if self.hardware_known {
            Millis(0)
        } else {
            Millis(ahead(self.wall_ms))
        }
    }

    /// Each of them: a code and one plain sentence.
    #[must_use]
    pub fn told(&self) -> Vec<(&'static str, String)> {
        let mut told = Vec::new();
        if self.hardware_ms != 0 {
            told.push(("clock.hardware", sentence_of_hardware(self.hardware_ms)));
        }
        if self.suspended_ms != 0 {
            let by = seconds(self.suspended_ms);
            told.push(("clock.suspended", format!("This machine was suspended for {by} s.")));
        }
        if self.wall_ms != 0 {
            let way = if self.wall_ms > 0 { "forward" } else { "back" };
            told.push(("clock.wall", format!("The time of day was set {way} by {} s.", seconds(self.wall_ms))));
        }
        told
    }
}

fn sentence_of_hardware(by: i64) -> String {
    let by_s = seconds(by);
    if by > 0 {
        format!(
            "The hardware clock is {by_s} s ahead of where it was: this machine was paused from outside, or it was set."
        )
    } else {
        format!("The hardware clock is {by_s} s behind where it was: it was set.")
    }
}

fn seconds(ms: i64) -> String {
    let ms = ms.unsigned_abs();
    format!("{}.{:03}", ms / 1000, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Clocks = Clocks { wall_ms: 1_700_000_000_000, awake_ms: 0, hardware_ms: Some(1_700_000_000_100) };
    const BARE: Clocks = Clocks { hardware_ms: None, ..BEFORE };

    fn codes(jumps: Option<Jumps>) -> Vec<&'static str> {
        jumps.iter().flat_map(Jumps::told).map(|(code, _)| code).collect()
    }

    #[test]
    fn clocks_that_run_evenly_have_not_jumped() {
        let later = Clocks { wall_ms: BEFORE.wall_ms + 499, awake_ms: -499, hardware_ms: Some(1_700_000_002_099) };
        assert_eq!(later.jumps_since(&BEFORE), None);
        assert_eq!(BEFORE.jumps_since(&later), None);
    }

    #[test]
    fn a_pause_shows_on_the_hardware_clock_and_hides_up_to_a_second_more() {
        let later = Clocks { hardware_ms: Some(1_700_000_012_100), ..BEFORE };
        let jumps = later.jumps_since(&BEFORE);
        assert_eq!(codes(jumps), ["clock.hardware"]);
        assert_eq!(jumps.map(|jumps| jumps.unseen()), Some(Millis(13_000)));
        let text = jumps.map(|jumps| jumps.told()[0].1.clone()).unwrap_or_default();
        assert!(text.starts_with("The hardware clock is 12.000 s ahead"), "{text}");
    }

    #[test]
    fn a_time_of_day_that_is_set_counts_only_where_no_hardware_clock_knows_better() {
        let hour = 3_600_000;
        let set = |base: Clocks, by: i64| Clocks { wall_ms: base.wall_ms + by, ..base };
        let unseen = |base: Clocks, by: i64| set(base, by).jumps_since(&base).map(|jumps| jumps.unseen());
        assert_eq!(unseen(BARE, hour), Some(Millis(3_600_000)));
        assert_eq!(unseen(BARE, -hour), Some(Millis(0)));
        assert_eq!(unseen(BEFORE, hour), Some(Millis(0)));
        // The hardware clock has just been found: nothing is known of it yet.
        let found = Clocks { hardware_ms: BEFORE.hardware_ms, ..set(BARE, 700) };
        assert_eq!(found.jumps_since(&BARE).map(|jumps| jumps.unseen()), Some(Millis(700)));
        assert_eq!(found.jumps_since(&set(BARE, 700)), None);
        assert_eq!(codes(set(BARE, -500).jumps_since(&BARE)), ["clock.wall"]);
    }

    #[test]
    fn pauses_that_are_too_short_by_themselves_add_up() {
        let ahead = |by: i64| Clocks { hardware_ms: BEFORE.hardware_ms.map(|ms| ms + by), ..BEFORE };
        let (one, two) = (ahead(1900), ahead(3800));
        assert_eq!(one.jumps(&BEFORE, &BEFORE), None);
        assert_eq!(two.jumps_since(&one), None);
        let lowest = BEFORE.lowest(&one, None);
        assert_eq!(lowest, BEFORE);
        let jumps = two.jumps(&one, &lowest);
        assert_eq!(jumps.map(|jumps| jumps.unseen()), Some(Millis(4800)));
        assert!(two.hardware_ms >= lowest.hardware_alarm_ms());
        // What was told is not told again; what comes then adds up to it.
        let lowest = lowest.lowest(&two, jumps.as_ref());
        assert_eq!(two.jumps(&two, &lowest), None);
        assert_eq!(ahead(5700).jumps(&two, &lowest), None);
        assert_eq!(ahead(5800).jumps(&two, &lowest).map(|jumps| jumps.unseen()), Some(Millis(3000)));
    }

    #[test]
    fn a_clock_that_is_set_back_hides_nothing_of_what_comes_after() {
        let at = |by: i64| Clocks { wall_ms: BARE.wall_ms + by, ..BARE };
        let lowest = BARE.lowest(&at(-400), None).lowest(&at(-100), None);
        assert_eq!(at(99).jumps(&at(-100), &lowest), None);
        assert_eq!(at(100).jumps(&at(-100), &lowest).map(|jumps| jumps.unseen()), Some(Millis(500)));
        assert_eq!(codes(at(-500).jumps(&BARE, &BARE)), ["clock.wall"]);
        // The time of day was set: the hardware clock is still counted from where it was.
        let (set, paused) = (Clocks { wall_ms: BEFORE.wall_ms + 1900, ..BEFORE }, Some(1_700_000_002_100));
        let lowest = BEFORE.lowest(&set, set.jumps_since(&BEFORE).as_ref());
        let later = Clocks { hardware_ms: paused, ..set };
        assert_eq!(codes(later.jumps(&set, &lowest)), ["clock.hardware"]);
    }

    #[test]
    fn a_suspended_machine_needs_no_doubt_since_its_clock_went_on() {
        let later = Clocks { awake_ms: -60_000, ..BEFORE };
        let jumps = later.jumps_since(&BEFORE);
        assert_eq!(codes(jumps), ["clock.suspended"]);
        assert_eq!(jumps.map(|jumps| jumps.unseen()), Some(Millis(0)));
    }
}
