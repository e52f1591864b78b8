//! Server parameters: which of them only the dynamic configuration may set, which are ours, what the others are.

use super::layers::{Merged, Reading};
use super::value;
use super::{Origin, units};
use serde_json::{Map, Value};

/// A parameter that must be equal on all members, so only the store can set it (wire.md 8.3).
#[derive(Clone, Copy, Debug)]
pub struct Shared {
    /// Its name.
    pub name: &'static str,
    /// Its default.
    pub default: &'static str,
    /// Which values are accepted.
    pub accepts: Accepts,
    /// Passed on the command line of the postmaster, where nothing can override it.
    pub on_command_line: bool,
}

/// Which values a [`Shared`] parameter accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepts {
    /// A number of at least this.
    AtLeast(i64),
    /// Megabytes of at least this.
    MegabytesAtLeast(u64),
    /// One of these words.
    Word(&'static [&'static str]),
}

const fn shared(name: &'static str, default: &'static str, accepts: Accepts) -> Shared {
    Shared { name, default, accepts, on_command_line: true }
}

const SWITCH: Accepts = Accepts::Word(&["on", "off"]);

/// The parameters that only the dynamic configuration can set.
pub const SHARED: &[Shared] = &[
    shared("wal_level", "replica", Accepts::Word(&["replica", "logical"])),
    shared("hot_standby", "on", Accepts::Word(&["on"])),
    shared("max_connections", "100", Accepts::AtLeast(25)),
    shared("max_wal_senders", "10", Accepts::AtLeast(3)),
    Shared { name: "wal_keep_size", default: "128MB", accepts: Accepts::MegabytesAtLeast(16), on_command_line: false },
    shared("max_prepared_transactions", "0", Accepts::AtLeast(0)),
    shared("max_locks_per_transaction", "64", Accepts::AtLeast(32)),
    shared("track_commit_timestamp", "off", SWITCH),
    shared("max_replication_slots", "10", Accepts::AtLeast(4)),
    shared("max_worker_processes", "8", Accepts::AtLeast(2)),
    shared("wal_log_hints", "on", SWITCH),
];

/// Defaults of ours that any layer may change.
pub const OUR_DEFAULTS: &[(&str, &str)] = &[
    // A start after a crash must not walk over every file of the data directory first.
    ("recovery_init_sync_method", "syncfs"),
    // A standby whose leader was away for a moment streams again at once, not after five seconds.
    ("wal_retrieve_retry_interval", "500ms"),
    // A crash of one backend must not end the postmaster.
    ("restart_after_crash", "on"),
];

/// Computed from other keys, or written to `ha_ext.conf`: never taken from the user.
pub(super) const OURS: &[(&str, &str)] = &[
    ("listen_addresses", "is computed from postgresql.listen"),
    ("port", "is computed from postgresql.listen"),
    ("cluster_name", "is the scope"),
    ("primary_conninfo", "is set from the leader"),
    ("primary_slot_name", "is set from the leader"),
    ("recovery_target_timeline", "is always latest"),
    ("recovery_target", "would end recovery"),
    ("recovery_target_name", "would end recovery"),
    ("recovery_target_time", "would end recovery"),
    ("recovery_target_xid", "would end recovery"),
    ("recovery_target_lsn", "would end recovery"),
    ("promote_trigger_file", "would promote behind our back"),
    ("data_directory", "is postgresql.data_dir"),
    ("config_file", "is in the data directory"),
    ("hba_file", "is in the data directory"),
    ("ident_file", "is in the data directory"),
    ("wal_keep_segments", "is gone since PostgreSQL 13; use wal_keep_size"),
    ("ha_ext.config_file", "is set by whoever starts the server"),
];

/// Reads one layer's `postgresql.parameters`.
pub(super) fn read(merged: &mut Merged, reading: Reading<'_>, map: &Map<String, Value>) {
    for (given, value) in map {
        if value.is_null() {
            continue;
        }
        let name = given.to_ascii_lowercase();
        let path = format!("{}postgresql.parameters.{given}", reading.prefix);
        if !is_name(&name) {
            merged.problem(path, "is not the name of a server parameter", "names are letters, digits, _ and one dot");
            continue;
        }
        let Some(text) = value::scalar(value).filter(|text| !text.contains(['\n', '\r', '\0'])) else {
            let found = if value.is_string() { "text of several lines".to_owned() } else { value::found(value, false) };
            merged.problem(path, format!("expected a plain value, found {found}"), "write it as text");
            continue;
        };
        if let Some((_, why)) = OURS.iter().find(|(ours, _)| *ours == name) {
            merged.warn(path, format!("{why}; the value is ignored"));
        } else if let Some(shared) = SHARED.iter().find(|shared| shared.name == name) {
            read_shared(merged, reading, shared, path, &text);
        } else {
            merged.parameters.insert(name, (text, reading.origin));
        }
    }
}

fn read_shared(merged: &mut Merged, reading: Reading<'_>, shared: &Shared, path: String, text: &str) {
    if reading.origin != Origin::Store {
        let message =
            "must be equal on all members, so it is read from the dynamic configuration alone, and is ignored here";
        merged.warn(path, message);
        return;
    }
    if let Some(text) = accepted(shared, text) {
        merged.parameters.insert(shared.name.to_owned(), (text, reading.origin));
        return;
    }
    let expected = match shared.accepts {
        Accepts::AtLeast(min) => format!("at least {min}"),
        Accepts::MegabytesAtLeast(min) => format!("at least {min}MB"),
        Accepts::Word(words) => words.join(" or "),
    };
    merged.warn(path, format!("expected {expected}, found \"{text}\"; {} is used", shared.default));
}

fn accepted(shared: &Shared, text: &str) -> Option<String> {
    let text = text.trim();
    match shared.accepts {
        Accepts::AtLeast(min) => units::whole(text).filter(|n| *n >= min).map(|n| n.to_string()),
        // A bare number of this parameter is in megabytes.
        Accepts::MegabytesAtLeast(min) => {
            let bare = text.bytes().all(|b| b.is_ascii_digit());
            let megabytes = if bare { text.parse().ok() } else { units::bytes(text).map(|bytes| bytes >> 20) };
            megabytes.filter(|n| *n >= min).map(|n| format!("{n}MB"))
        }
        Accepts::Word(words) => {
            let text = text.to_ascii_lowercase();
            let text = match text.as_str() {
                "true" | "yes" | "1" if words.contains(&"on") => "on",
                "false" | "no" | "0" if words.contains(&"off") => "off",
                // What releases before 9.6 called it.
                "hot_standby" | "archive" if words.contains(&"replica") => "replica",
                other => other,
            };
            words.contains(&text).then(|| text.to_owned())
        }
    }
}

fn is_name(name: &str) -> bool {
    let part = |part: &str| {
        part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$')
    };
    name.split('.').count() <= 2 && name.split('.').all(part)
}
