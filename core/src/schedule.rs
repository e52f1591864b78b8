//! The time in a request that is scheduled.

use crate::api::time;
use std::fmt;

/// Why a text is no time to schedule anything for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    /// It is not a date and a time.
    Unreadable,
    /// It does not say in which zone.
    NoZone,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unusable::Unreadable => "is not a time such as 2027-01-31T04:00:00+00:00",
            Unusable::NoZone => "has no time zone, as in 2027-01-31T04:00:00+00:00",
        })
    }
}

/// Milliseconds since 1970 of an ISO 8601 time with a zone, rounded up: nothing may happen before it.
pub fn unix_ms(text: &str) -> Result<i64, Unusable> {
    let moment = time::parse(text).ok_or(Unusable::Unreadable)?;
    if !moment.zoned {
        return Err(Unusable::NoZone);
    }
    let whole = moment.unix_us.div_euclid(1000);
    Ok(if moment.unix_us.rem_euclid(1000) == 0 { whole } else { whole + 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_needs_a_zone() {
        for text in ["2024-08-28T19:39:26.352+00:00", "2024-08-28 19:39:26.351001Z", "2024-08-28T21:39:26.352+02"] {
            assert_eq!(unix_ms(text), Ok(1_724_873_966_352), "{text}");
        }
        assert_eq!(unix_ms("2019-09-24T12:00+00"), Ok(1_569_326_400_000), "seconds may be left out");
        assert_eq!(unix_ms("2024-08-28T19:39:26"), Err(Unusable::NoZone));
        for text in ["", "tomorrow", "12345", "2024-08-28", "2024-02-30T00:00:00Z", "2024-08-28T19:39:26+25:00", "é"] {
            assert_eq!(unix_ms(text), Err(Unusable::Unreadable), "{text}");
        }
    }
}
