//! Lines that other programs look for in the log.

use ha_node::{clock, log};
use std::io::Write;

/// A line of level CRITICAL, which `tracing` does not have (wire.md 11). Written at once: the process is about to end.
pub fn critical(message: &str) {
    let record = log::Record {
        at_ms: clock::wall_ms(),
        level: tracing::Level::ERROR,
        target: "ha_bootstrap",
        message: message.to_owned(),
    };
    let line = log::line(&record).replacen(" ERROR: ", " CRITICAL: ", 1);
    let _ = std::io::stderr().write_all(line.as_bytes());
}
