//! From a JSON or YAML value to the type its key wants.

use super::keys::Kind;
use super::sections::CommandOption;
use super::units;
use crate::cluster::Address;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A value of the right type.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Typed {
    Bool(bool),
    Number(i64),
    Millis(u64),
    Bytes(u64),
    Text(String),
    Address(Address),
    Addresses(Vec<Address>),
    Lines(Vec<String>),
    Options(Vec<CommandOption>),
    Map(Map<String, Value>),
}

/// What was found instead, for `expected ..., found ...`. Never shows a secret.
pub(super) fn found(value: &Value, secret: bool) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(set) => format!("{set}"),
        Value::Number(_) | Value::String(_) if secret => "a value that is not text".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if text.is_empty() => "empty text".to_owned(),
        Value::String(text) => format!("\"{text}\""),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a mapping".to_owned(),
    }
}

/// Reads `value` as `kind`. The error says what was expected when that is not simply the kind.
pub(super) fn typed(kind: Kind, value: &Value) -> Result<Typed, Option<String>> {
    let typed = match kind {
        Kind::Bool => crate::parse::boolean(value).map(Typed::Bool),
        Kind::Count { min, max } => {
            scalar(value).and_then(|text| units::whole(&text)).filter(|n| (min..=max).contains(n)).map(Typed::Number)
        }
        Kind::Time(unit) => scalar(value).and_then(|text| units::milliseconds(&text, unit)).map(Typed::Millis),
        Kind::Size => scalar(value).and_then(|text| units::bytes(&text)).map(Typed::Bytes),
        Kind::Text | Kind::Path | Kind::Secret => plain_text(value)?.map(Typed::Text),
        Kind::Address(port) => scalar(value).and_then(|text| address(&text, port)).map(Typed::Address),
        Kind::Addresses(port) => addresses(value, port).map(Typed::Addresses),
        Kind::Lines => lines(value).map(Typed::Lines),
        Kind::Options => options(value).map(Typed::Options),
        Kind::Choice(words) => scalar(value)
            .and_then(|text| words.iter().find(|word| word.eq_ignore_ascii_case(text.trim())))
            .map(|word| Typed::Text((*word).to_owned())),
        Kind::Map => value.as_object().filter(|map| map.values().all(is_scalar)).cloned().map(Typed::Map),
        Kind::Parameters | Kind::Dynamic => value.as_object().cloned().map(Typed::Map),
    };
    typed.ok_or(None)
}

fn is_scalar(value: &Value) -> bool {
    !value.is_array() && !value.is_object()
}

/// A plain value as text; `on` and `off` for a boolean, as server parameters want it.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(true) => Some("on".to_owned()),
        Value::Bool(false) => Some("off".to_owned()),
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.clone()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Text for which a boolean would be a surprise: YAML reads a bare `no` or `on` as one.
fn plain_text(value: &Value) -> Result<Option<String>, Option<String>> {
    match value {
        Value::Bool(_) => Err(Some("text (quote it: YAML reads a bare yes, no, on, off as a boolean)".to_owned())),
        Value::String(text) if text.contains('\0') || text.contains('\n') => Err(Some("text of one line".to_owned())),
        other => Ok(scalar(other)),
    }
}

/// `HOST:PORT`, `HOST`, `[IPV6]:PORT`, `[IPV6]`.
pub(super) fn address(text: &str, default_port: u16) -> Option<Address> {
    let text = text.trim();
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        if tail.is_empty() { (host, None) } else { (host, Some(tail.strip_prefix(':')?)) }
    } else {
        match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = match port {
        Some(port) => port.parse().ok().filter(|port| *port > 0)?,
        None => default_port,
    };
    let strange = |c: char| c.is_whitespace() || c == '/' || c == '@' || c.is_control();
    (!host.is_empty() && !host.contains(strange)).then(|| Address { host: host.to_owned(), port })
}

fn addresses(value: &Value, default_port: u16) -> Option<Vec<Address>> {
    let texts = match value {
        Value::Array(items) => items.iter().map(scalar).collect::<Option<Vec<_>>>()?,
        other => list(&scalar(other)?)?,
    };
    let found = texts.iter().map(|text| address(text, default_port)).collect::<Option<Vec<_>>>()?;
    (!found.is_empty()).then_some(found)
}

fn lines(value: &Value) -> Option<Vec<String>> {
    let one = |value: &Value| match value {
        Value::String(text) if !text.contains(['\n', '\0']) => Some(text.clone()),
        _ => None,
    };
    value.as_array()?.iter().map(one).collect()
}

fn options(value: &Value) -> Option<Vec<CommandOption>> {
    let option = |name: &str, value: &Value| {
        let name = name.trim().trim_start_matches('-');
        let well_named = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        let value = match value {
            // `data-checksums: true` means the bare option.
            Value::Bool(true) | Value::Null => None,
            other => Some(scalar(other)?),
        };
        well_named.then(|| CommandOption { name: name.to_owned(), value })
    };
    match value {
        Value::Object(map) => {
            map.iter().filter(|(_, v)| **v != Value::Bool(false)).map(|(k, v)| option(k, v)).collect()
        }
        Value::Array(items) => items
            .iter()
            .map(|item| match item {
                Value::String(text) => match text.split_once('=') {
                    Some((name, value)) => option(name, &Value::from(value)),
                    None => option(text, &Value::Null),
                },
                Value::Object(map) if map.len() == 1 => {
                    let (name, value) = map.iter().next()?;
                    option(name, value)
                }
                _ => None,
            })
            .collect(),
        _ => None,
    }
}

/// A list in an environment variable: `a,b`, `[a, b]`, `["a", "b"]`, or YAML dashes.
pub(super) fn list(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    if text.starts_with('-') {
        let items = text.lines().map(|line| Some(unquoted(line.trim().strip_prefix('-')?.trim())));
        return items.collect();
    }
    let inner = match text.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None => text,
    };
    Some(parts(inner).into_iter().map(|part| unquoted(part.trim())).filter(|part| !part.is_empty()).collect())
}

/// A mapping in an environment variable: `k: v, k2: v2` or `{...}`.
pub(super) fn mapping(text: &str) -> Option<BTreeMap<String, String>> {
    let text = text.trim();
    let inner = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    parts(inner)
        .into_iter()
        .filter(|part| !part.trim().is_empty())
        .map(|part| {
            let (name, value) = part.split_once(':')?;
            Some((unquoted(name.trim()), unquoted(value.trim())))
        })
        .collect()
}

/// Splits at commas and line ends that are not within quotes.
fn parts(text: &str) -> Vec<&str> {
    let mut out = Vec::new();
    let (mut quote, mut start) = (None, 0);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            ('"' | '\'', None) => quote = Some(c),
            (_, Some(open)) if c == open => quote = None,
            (',' | '\n', None) => {
                out.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    out.push(&text[start..]);
    out
}

fn unquoted(text: &str) -> String {
    for quote in ['"', '\''] {
        if text.len() >= 2 && text.starts_with(quote) && text.ends_with(quote) {
            return text[1..text.len() - 1].to_owned();
        }
    }
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_of_every_form() {
        let read = |text| address(text, 1).map(|a| (a.host, a.port));
        assert_eq!(read("db1:5432"), Some(("db1".to_owned(), 5432)));
        assert_eq!(read("db1"), Some(("db1".to_owned(), 1)));
        assert_eq!(read("[fd00::1]:99"), Some(("fd00::1".to_owned(), 99)));
        assert_eq!(read("[fd00::1]"), Some(("fd00::1".to_owned(), 1)));
        for wrong in ["", ":1", "h:0", "h:x", "h:99999", "http://h:1", "a b:1", "[::1]x"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn lists_and_mappings_of_the_environment() {
        for text in ["a:1,b:2", "[a:1, b:2]", r#"["a:1", 'b:2']"#, "- a:1\n- b:2"] {
            assert_eq!(list(text), Some(vec!["a:1".to_owned(), "b:2".to_owned()]), "{text}");
        }
        let headers = mapping(r#"{X-A: "1, 2", 'X-B': y}"#).expect("a mapping");
        assert_eq!((headers["X-A"].as_str(), headers["X-B"].as_str()), ("1, 2", "y"));
        assert_eq!(mapping("novalue"), None);
    }

    #[test]
    fn options_of_every_form() {
        let arguments = |value: &Value| {
            let found = options(value).expect("options");
            found.iter().map(CommandOption::argument).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(arguments(&json!([{"encoding": "UTF8"}, "data-checksums"])), "--encoding=UTF8 --data-checksums");
        assert_eq!(
            arguments(&json!({"max-rate": "100M", "verbose": true, "no-sync": false})),
            "--max-rate=100M --verbose"
        );
        assert_eq!(arguments(&json!(["--locale=C"])), "--locale=C");
        assert_eq!(options(&json!([{"a": 1, "b": 2}])), None);
        assert_eq!(options(&json!(["rm -rf /"])), None);
    }
}
