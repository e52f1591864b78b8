//! Settings that the server would not start with: they stay in `postgresql.conf` as comments, so that whoever reads the file
//! finds them, and the next start knows them.

use super::{LIBRARIES, OUR_LIBRARY, quoted, set, settings};
use crate::config::Config;
use std::collections::{BTreeMap, BTreeSet};

/// Begins the comment of a setting that the server refuses by itself.
const REFUSED: &str = "# refused by the server: ";
/// Begins the comment of a setting that only a failed start has shown to be wrong.
const FAILED: &str = "# the server did not start with: ";

/// What an acknowledgement is worth depends on these, and a server can be started with any value of theirs that it can read.
pub const DURABILITY: [&str; 6] = [
    "synchronous_standby_names",
    "synchronous_commit",
    "fsync",
    "full_page_writes",
    "wal_sync_method",
    "data_sync_retry",
];

/// What a refused setting is replaced by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// The value that the server had before; `None` leaves it to the server.
    pub instead: Option<String>,
    /// Found by a start that failed: a running server cannot judge it, so it stands until the value changes.
    pub by_start: bool,
}

/// Refused settings by name.
pub type Refusals = BTreeMap<String, Refusal>;

impl Refusal {
    pub(super) fn write(&self, out: &mut String, name: &str, value: &str) {
        out.push_str(if self.by_start { FAILED } else { REFUSED });
        set(out, name, value);
        if let Some(instead) = self.instead_of(name) {
            set(out, name, &instead);
        }
    }

    pub(super) fn instead_of(&self, name: &str) -> Option<String> {
        self.instead.clone().or_else(|| (name == LIBRARIES).then(|| OUR_LIBRARY.to_owned()))
    }
}

/// Settings that were refused when `postgresql.conf` was written with this text, if their values are still the same. Of those
/// that a failed start has shown to be wrong nobody knows which it was: one that changes clears them all.
#[must_use]
pub fn still_refused(config: &Config, text: &str) -> Refusals {
    let lines = |kind: &'static str| text.lines().filter_map(move |line| line.strip_prefix(kind)).collect();
    let refused: BTreeSet<&str> = lines(REFUSED);
    let failed: BTreeSet<&str> = lines(FAILED);
    let settings: Vec<(String, String)> =
        settings(config).into_iter().map(|(name, value)| (format!("{name} = {}", quoted(&value)), name)).collect();
    let all_there = failed.iter().all(|line| settings.iter().any(|(setting, _)| setting == line));
    let instead = parameters_in(text);
    let mut out = Refusals::new();
    for (setting, name) in settings {
        let by_start = all_there && failed.contains(setting.as_str());
        if by_start || refused.contains(setting.as_str()) {
            let instead = instead.get(&name).cloned();
            out.insert(name, Refusal { instead, by_start });
        }
    }
    out
}

/// The settings in force in a `postgresql.conf` that we have written.
#[must_use]
pub fn parameters_in(text: &str) -> BTreeMap<String, String> {
    let setting = |line: &str| {
        let (name, value) = line.split_once(" = ")?;
        let value = value.strip_prefix('\'')?.strip_suffix('\'')?;
        let plain = !name.contains(|c: char| c.is_whitespace() || c == '#');
        plain.then(|| (name.to_owned(), value.replace("''", "'").replace("\\\\", "\\")))
    };
    text.lines().filter_map(setting).collect()
}

/// Names and values of settings that a server with this `postgresql.conf` did not have yet. Where it listens and what it is called
/// is not among them: without those nobody could use it.
#[must_use]
pub fn changed_since(config: &Config, text: &str) -> Vec<(String, String)> {
    let before = parameters_in(text);
    let mut out = settings(config);
    out.retain(|(name, value)| {
        let ours = name == LIBRARIES || config.postgresql.parameters.contains_key(name);
        ours && before.get(name) != Some(value)
    });
    out
}
