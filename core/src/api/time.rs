//! Wall-clock times as text, in UTC.

/// `2024-08-28 19:39:26.352526+00:00` from microseconds since 1970.
#[must_use]
pub fn text(unix_us: i64) -> String {
    let (seconds, micros) = (unix_us.div_euclid(1_000_000), unix_us.rem_euclid(1_000_000));
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, date) = civil(day);
    // Python leaves the fraction out when it is zero.
    let fraction = if micros == 0 { String::new() } else { format!(".{micros:06}") };
    format!(
        "{year:04}-{month:02}-{date:02} {:02}:{:02}:{:02}{fraction}+00:00",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// `2026-01-01T12:00:00.123456+00:00` from microseconds since 1970.
#[must_use]
pub fn iso(unix_us: i64) -> String {
    text(unix_us).replacen(' ', "T", 1)
}

/// A moment as a text tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub unix_us: i64,
    /// The text says in which zone; otherwise it was taken for UTC.
    pub zoned: bool,
}

/// Reads `YYYY-MM-DD HH:MM[:SS[.ffffff]][+HH[[:]MM]|Z]`, with a blank or a `T`; `None` if it is something else.
pub(crate) fn parse(text: &str) -> Option<Moment> {
    let text = text.trim();
    let (date, rest) = text.split_at_checked(10)?;
    let rest = rest.strip_prefix([' ', 'T'])?;
    let zone_at = rest.find(['+', '-', 'Z']).unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(zone_at);
    let mut date = date.splitn(3, '-').map(digits);
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut clock = clock.trim_end().splitn(3, ':');
    let (hour, minute) = (digits(clock.next()?)?, digits(clock.next()?)?);
    let (second, fraction) = clock.next().map_or(("0", ""), |second| second.split_once('.').unwrap_or((second, "")));
    let second = digits(second)?;
    let micros = if fraction.is_empty() { 0 } else { digits(format!("{fraction:0<6}").get(..6)?)? };
    let day_of = days(year, month, day);
    let valid = civil(day_of) == (year, month, day) && hour < 24 && minute < 60 && second <= 60;
    let seconds = day_of * 86_400 + hour * 3600 + minute * 60 + second - offset_s(zone)?;
    valid.then_some(Moment { unix_us: seconds * 1_000_000 + micros, zoned: !zone.is_empty() })
}

/// A number of at most six digits, and nothing else.
fn digits(text: &str) -> Option<i64> {
    let plain = (1..=6).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn offset_s(zone: &str) -> Option<i64> {
    if zone.is_empty() || zone == "Z" {
        return Some(0);
    }
    let (sign, zone) = (if zone.starts_with('-') { -1 } else { 1 }, zone.get(1..)?);
    let (hours, minutes) = match zone.split_once(':') {
        Some(parts) => parts,
        None if zone.len() == 4 => zone.split_at_checked(2)?,
        None => (zone, "0"),
    };
    let (hours, minutes) = (digits(hours)?, digits(minutes)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

/// Year, month and day of a day counted from 1970-01-01 (proleptic Gregorian calendar, years beginning in March).
fn civil(day: i64) -> (i64, i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, of_year - (153 * march_month + 2) / 5 + 1)
}

/// The inverse of [`civil`].
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let march_month = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * march_month + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Seconds since 1970 as Python prints a float; `0` for none.
pub(super) fn epoch(unix_us: Option<i64>) -> String {
    let Some(unix_us) = unix_us else { return "0".to_owned() };
    let (seconds, micros) = (unix_us.div_euclid(1_000_000), unix_us.rem_euclid(1_000_000));
    let fraction = format!("{micros:06}");
    let fraction = fraction.trim_end_matches('0');
    format!("{seconds}.{}", if fraction.is_empty() { "0" } else { fraction })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for (unix_us, shown) in [
            (0, "1970-01-01 00:00:00+00:00"),
            (1_724_873_966_352_526, "2024-08-28 19:39:26.352526+00:00"),
            (951_782_400_000_000, "2000-02-29 00:00:00+00:00"),
            (4_107_542_399_999_999, "2100-02-28 23:59:59.999999+00:00"),
        ] {
            assert_eq!(text(unix_us), shown);
            assert_eq!(parse(shown), Some(Moment { unix_us, zoned: true }), "{shown}");
        }
        for zone in
            ["2024-08-28T21:39:26.352526+02", "2024-08-28 14:09:26.352526-05:30", "2024-08-29T01:39:26.352526+0600"]
        {
            assert_eq!(parse(zone).map(|moment| moment.unix_us), Some(1_724_873_966_352_526), "{zone}");
        }
        assert_eq!(parse("2024-08-28 19:39").map(|moment| moment.zoned), Some(false));
        for wrong in [
            "",
            "yesterday",
            "2024-13-01 00:00:00",
            "2023-02-29 00:00:00",
            "2024-08-28",
            "2024-08-28 1",
            "2024-08-28 24:00",
            "2024-08-28 10:00:00+999999999999999999",
            "2024-08-28 10:00:00+24",
            "2024-08-28 10:00:00.-1.",
            "20\u{e9}4-08-28 10:00",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn epochs() {
        assert_eq!(epoch(None), "0");
        assert_eq!(epoch(Some(1_724_873_966_352_520)), "1724873966.35252");
        assert_eq!(epoch(Some(7_000_000)), "7.0");
    }
}
