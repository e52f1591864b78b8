//! Tags: what a member says of itself.

use super::Warning;
use super::layers::Merged;
use crate::tags::Tags;
use serde_json::{Map, Value};

/// The tags in force, and a warning for each contradiction among them.
pub(super) fn tags(merged: &mut Merged) -> Tags {
    let mut all = merged.map("tags");
    // Falsy known tags say nothing, except one that contradicts a priority (wire.md 1.1).
    let (failover, sync) = (all.contains_key("failover_priority"), all.contains_key("sync_priority"));
    all.retain(|name, value| {
        let says_nothing = crate::parse::boolean(value) == Some(false) || value.is_null();
        let contradicts = (name == "nofailover" && failover) || (name == "nosync" && sync);
        let known = matches!(name.as_str(), "clonefrom" | "noloadbalance" | "nosync" | "nostream" | "nofailover");
        !known || !says_nothing || contradicts
    });
    warn_of_conflict(merged, &all, "nofailover", "failover_priority");
    warn_of_conflict(merged, &all, "nosync", "sync_priority");
    Tags { all }
}

/// In Patroni's words, for whoever looks for them in logs (wire.md 11).
fn warn_of_conflict(merged: &mut Merged, tags: &Map<String, Value>, never: &str, priority: &str) {
    let Some(set) = tags.get(never).and_then(crate::parse::boolean) else { return };
    let Some(number) = tags.get(priority).and_then(crate::tags::integer) else { return };
    if set == (number <= 0) {
        return;
    }
    let set = if set { "True" } else { "False" };
    let message = format!(
        "Conflicting configuration between {never}: {set} and {priority}: {number}. Defaulting to {never}: {set}"
    );
    merged.warnings.push(Warning { path: "tags".to_owned(), message });
}
