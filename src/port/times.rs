//! How long the steps of a change of role took, for people and for benchmarks.

use std::fmt::Write;

/// ` name=milliseconds` from `begun_ns` to each step; those that were not done have no time.
pub(super) fn since(begun_ns: u64, steps: &[(&str, u64)]) -> String {
    let mut text = String::new();
    for (name, at_ns) in steps {
        if let Some(us) = at_ns.checked_sub(begun_ns).map(|ns| ns / 1000) {
            let _ = write!(text, " {name}={}.{:03}", us / 1000, us % 1000);
        }
    }
    text
}
