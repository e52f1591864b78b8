//! Numbers with units, the way the server and Patroni write them.

/// The unit of a bare number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Seconds.
    Second,
    /// Milliseconds.
    Millisecond,
}

/// Splits `10 MB` into its number and its unit.
fn split(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    (text[..at].trim(), text[at..].trim())
}

/// A whole number of `scale` smaller units from a decimal text; `None` if it is no number, negative or too large.
fn scaled(number: &str, scale: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(scale);
    }
    let (whole, fraction) = number.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if fraction.is_empty() || fraction.len() > 9 || !digits(fraction) || !digits(whole) {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(scale)
        / 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_mul(scale)?.checked_add(u64::try_from(part).ok()?)
}

/// Milliseconds from `30`, `30s`, `500ms`, `5 min`, `1h`, `1d`.
#[must_use]
pub fn milliseconds(text: &str, bare: TimeUnit) -> Option<u64> {
    let (number, unit) = split(text);
    let scale = match (unit, bare) {
        ("s", _) | ("", TimeUnit::Second) => 1000,
        ("ms", _) | ("", TimeUnit::Millisecond) => 1,
        ("min", _) => 60_000,
        ("h", _) => 3_600_000,
        ("d", _) => 86_400_000,
        _ => return None,
    };
    scaled(number, scale)
}

/// Bytes from `1048576`, `1024kB`, `1 MB`, `16GB`, `1TB`; units as the server spells them, in any case.
#[must_use]
pub fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text);
    let scale = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        "t" | "tb" => 1 << 40,
        _ => return None,
    };
    scaled(number, scale)
}

/// A whole number, also when it was quoted or written as `10.0`.
#[must_use]
pub fn whole(text: &str) -> Option<i64> {
    let text = text.trim();
    text.parse().ok().or_else(|| text.strip_suffix(".0")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let seconds = |text| milliseconds(text, TimeUnit::Second);
        assert_eq!(seconds("30"), Some(30_000));
        assert_eq!(seconds(" 1.5 "), Some(1500));
        assert_eq!(seconds("500ms"), Some(500));
        assert_eq!(seconds("5 min"), Some(300_000));
        assert_eq!(seconds("1d"), Some(86_400_000));
        assert_eq!(milliseconds("7", TimeUnit::Millisecond), Some(7));
        for wrong in ["", "-1", "1 week", "x", "1.", "1e3", "s", "99999999999999999999"] {
            assert_eq!(seconds(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes("1048576"), Some(1 << 20));
        assert_eq!(bytes("1MB"), Some(1 << 20));
        assert_eq!(bytes("16 gb"), Some(16 << 30));
        assert_eq!(bytes("0.5kB"), Some(512));
        assert_eq!(bytes("18446744073709551615TB"), None);
        assert_eq!(bytes("1 furlong"), None);
    }

    #[test]
    fn whole_numbers() {
        assert_eq!(whole("\t42 "), Some(42));
        assert_eq!(whole("10.0"), Some(10));
        assert_eq!(whole("10.5"), None);
    }
}
