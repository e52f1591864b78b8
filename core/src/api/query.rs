//! The query of a URL.

/// The first value of `name`, decoded; empty values count as absent, as in Python's `parse_qs`.
pub(super) fn value(query: &str, name: &str) -> Option<String> {
    pairs(query).find(|(given, _)| given == name).map(|(_, value)| value)
}

/// All pairs in order, decoded.
pub(super) fn pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query.split('&').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        (!value.is_empty()).then(|| (decoded(name), decoded(value)))
    })
}

fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = || u8::from_str_radix(std::str::from_utf8(bytes.get(at + 1..at + 3)?).ok()?, 16).ok();
        match byte {
            b'+' => out.push(b' '),
            b'%' => match hex() {
                Some(decoded) => {
                    out.push(decoded);
                    at += 2;
                }
                None => out.push(byte),
            },
            other => out.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let query = "lag=1%4D%42&tag_a=x+y&empty=&lag=2&broken=%zz&cut=%4";
        assert_eq!(value(query, "lag").as_deref(), Some("1MB"));
        assert_eq!(value(query, "tag_a").as_deref(), Some("x y"));
        assert_eq!(value(query, "broken").as_deref(), Some("%zz"));
        assert_eq!(value(query, "cut").as_deref(), Some("%4"));
        assert_eq!(value(query, "empty"), None);
        assert_eq!(value("", "lag"), None);
    }
}
