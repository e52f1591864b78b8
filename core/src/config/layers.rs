//! Merges the layers: each value checked against its key, the origin of every value kept.

use super::Origin;
use super::keys::{self, Key, Kind, Layer};
use super::parameters;
use super::problem::{Problem, Warning};
use super::value::{self, Typed};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// What was read so far.
#[derive(Default)]
pub(super) struct Merged {
    values: BTreeMap<&'static str, (Typed, Origin)>,
    /// Server parameters by name, lower case.
    pub(super) parameters: BTreeMap<String, (String, Origin)>,
    /// Connection options of `postgresql.authentication.<role>`: `<role>.<option>`.
    pub(super) connection_options: BTreeMap<String, (String, Origin)>,
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Warning>,
}

/// Where a layer is being read.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) origin: Origin,
    /// What paths in messages begin with: `bootstrap.dcs.` for the dynamic configuration inside the local file.
    pub(super) prefix: &'a str,
    /// An unknown key is a mistake (false: it is ignored with a warning).
    pub(super) strict: bool,
    /// Names of the user's own methods, whose sections may stand in the file.
    pub(super) methods: &'a [String],
}

impl Merged {
    pub(super) fn problem(&mut self, path: String, message: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem { path, message: message.into(), remedy: remedy.into() });
    }

    pub(super) fn warn(&mut self, path: String, message: impl Into<String>) {
        self.warnings.push(Warning { path, message: message.into() });
    }

    pub(super) fn set(&mut self, path: &'static str, value: Typed, origin: Origin) {
        self.values.insert(path, (value, origin));
    }

    pub(super) fn get(&self, path: &str) -> Option<&Typed> {
        self.values.get(path).map(|(value, _)| value)
    }

    pub(super) fn origin(&self, path: &str) -> Origin {
        self.values.get(path).map_or(Origin::Default, |(_, origin)| *origin)
    }

    /// Reads one layer over what is there.
    pub(super) fn read(&mut self, reading: Reading<'_>, map: &Map<String, Value>) {
        self.section(reading, "", map);
    }

    fn section(&mut self, reading: Reading<'_>, above: &str, map: &Map<String, Value>) {
        for (name, value) in map {
            let path = if above.is_empty() { name.clone() } else { format!("{above}.{name}") };
            // `key:` without a value says nothing.
            if !value.is_null() {
                self.entry(reading, keys::current_name(&path), value);
            }
        }
    }

    fn entry(&mut self, reading: Reading<'_>, path: &str, value: &Value) {
        let shown = format!("{}{path}", reading.prefix);
        if let Some(key) = keys::find(path) {
            self.known(reading, key, shown, value);
        } else if let Some(option) = connection_option(path) {
            self.connection_option(reading, option, shown, value);
        } else if let (Some(entry), false) = (keys::find_not_built(path), keys::is_section(path)) {
            if !entry.silent && !is_inert(value) {
                let instead = if entry.instead.is_empty() { String::new() } else { format!("; {}", entry.instead) };
                self.warn(shown, format!("is known, but not built yet, and is ignored{instead}"));
            }
        } else if keys::is_section(path) {
            match value {
                Value::Object(map) => self.section(reading, path, map),
                other => {
                    let message = format!("expected a mapping, found {}", value::found(other, false));
                    self.problem(shown, message, "indent its keys below it");
                }
            }
        } else if let Some(entry) = path.rsplit_once('.').and_then(|(section, _)| keys::find_not_built(section)) {
            // `log` has one key that is built; the others end up here.
            self.warn(shown, format!("is known, but not built yet, and is ignored; {}", entry.instead));
        } else if is_method(reading, path) {
            self.warn(shown, "belongs to a method that is not built yet, and is ignored");
        } else {
            self.unknown(reading, path, shown);
        }
    }

    fn unknown(&mut self, reading: Reading<'_>, path: &str, shown: String) {
        if !reading.strict {
            // Whoever wrote it to the store may be newer than us; the rest of it must still take effect.
            self.warn(shown, "is unknown and is ignored");
            return;
        }
        let remedy = match nearest(path) {
            Some(near) => format!("did you mean {}{near}?", reading.prefix),
            None => "remove it".to_owned(),
        };
        self.problem(shown, "unknown key", remedy);
    }

    fn known(&mut self, reading: Reading<'_>, key: &'static Key, shown: String, value: &Value) {
        let from_store = reading.origin == Origin::Store;
        if key.layer == Layer::Local && from_store {
            self.warn(shown, "is read from the local file alone, and is ignored here");
            return;
        }
        if key.layer == Layer::Store && !from_store {
            self.warn(shown, "is read from the dynamic configuration alone, and is ignored here");
            return;
        }
        match value::typed(key.kind, value) {
            Ok(Typed::Map(map)) if key.kind == Kind::Parameters => parameters::read(self, reading, &map),
            Ok(typed) => self.set(key.path, typed, reading.origin),
            Err(expected) => {
                let expected = expected.unwrap_or_else(|| key.kind.expected());
                let found = value::found(value, key.kind == Kind::Secret);
                let remedy = if key.default.is_empty() {
                    "correct it".to_owned()
                } else {
                    format!("correct it, or remove it: the default is {}", key.default)
                };
                self.problem(shown, format!("expected {expected}, found {found}"), remedy);
            }
        }
    }

    fn connection_option(&mut self, reading: Reading<'_>, option: &str, shown: String, value: &Value) {
        if reading.origin == Origin::Store {
            self.warn(shown, "is read from the local file alone, and is ignored here");
            return;
        }
        match value::typed(Kind::Text, value) {
            Ok(Typed::Text(text)) => {
                self.connection_options.insert(option.to_owned(), (text, reading.origin));
            }
            _ => self.problem(shown, "expected text, found something else", "quote it"),
        }
    }
}

/// `<role>.<option>` of `postgresql.authentication.<role>.<option>`, if it is one.
pub(super) fn connection_option(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("postgresql.authentication.")?;
    let (role, option) = rest.split_once('.')?;
    let known = matches!(role, "superuser" | "replication" | "rewind") && keys::CONNECTION_OPTIONS.contains(&option);
    known.then_some(rest)
}

/// Whether a key that is not built asks for nothing: `off`, `false`, `none`, empty.
fn is_inert(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) | Value::Number(_) => false,
        Value::String(text) => matches!(text.as_str(), "" | "off" | "no" | "false" | "none"),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_inert),
    }
}

fn is_method(reading: Reading<'_>, path: &str) -> bool {
    let named = |prefix: &str| path.strip_prefix(prefix).is_some_and(|name| reading.methods.iter().any(|m| m == name));
    named("postgresql.") || named("bootstrap.")
}

/// The known key that was probably meant.
fn nearest(path: &str) -> Option<&'static str> {
    let known = keys::KEYS.iter().map(|key| key.path).chain(keys::NOT_BUILT.iter().map(|entry| entry.path));
    let near = known.map(|known| (distance(path, known), known)).min()?;
    (near.0 <= 2).then_some(near.1)
}

/// Edits between two words (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(from != to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
