//! Who may change something: HTTP Basic authentication (wire.md 3.3).

use super::Reply;
use crate::config::BasicAuth;

/// `None` lets the request through.
pub(super) fn refusal(wanted: Option<&BasicAuth>, authorization: Option<&str>) -> Option<Reply> {
    let wanted = wanted?;
    let refuse = |body: &str| {
        let mut reply = Reply::text(401, body);
        reply.headers.push(("WWW-Authenticate".to_owned(), "Basic realm=\"Patroni\"".to_owned()));
        Some(reply)
    };
    let Some(given) = authorization else { return refuse("no auth header received") };
    let expected = format!("{}:{}", wanted.username, wanted.password.expose());
    match given.strip_prefix("Basic ").and_then(decoded) {
        Some(given) if same(&given, expected.as_bytes()) => None,
        _ => refuse("not authenticated"),
    }
}

/// Compares without telling by the time it takes where the first difference is.
fn same(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = given.len() ^ expected.len();
    for (at, byte) in given.iter().enumerate() {
        difference |= usize::from(byte ^ expected[at % expected.len()]);
    }
    std::hint::black_box(difference) == 0
}

/// Base64 with or without padding.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let text = text.trim().trim_end_matches('=');
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.bytes() {
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(six)) & 0x00FF_FFFF;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xFF).unwrap_or(0));
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn only_the_right_name_and_password_pass() {
        let wanted = BasicAuth { username: "Aladdin".to_owned(), password: Secret::new("open sesame") };
        let body = |authorization| refusal(Some(&wanted), authorization).map(|reply| (reply.status, reply.body));
        assert_eq!(body(Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")), None);
        assert_eq!(body(Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ")), None);
        assert_eq!(body(None), Some((401, "no auth header received".to_owned())));
        for wrong in [
            "Basic QWxhZGRpbjpvcGVuIHNlc2FtZA==",
            "Basic QWxhZGRpbg==",
            "Basic ",
            "Basic *",
            "Bearer x",
            "",
            "basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
        ] {
            assert_eq!(body(Some(wrong)), Some((401, "not authenticated".to_owned())), "{wrong}");
        }
        assert_eq!(refusal(None, None), None);
    }
}
