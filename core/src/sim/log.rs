//! The event log: plain text, equal to the byte for equal seeds.

use std::fmt::Write;

#[derive(Debug)]
pub(super) struct Log {
    text: String,
    /// Nobody reads the log of a run in which nothing broke: it is written when that is run again.
    pub(super) on: bool,
}

impl Log {
    pub(super) fn new(on: bool) -> Self {
        Self { text: String::new(), on }
    }

    pub(super) fn line(&mut self, now: u64, place: &str, text: &str) {
        if !self.on {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "{:>5}.{:03} {place:<5} {text}", now / 1000, now % 1000);
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

/// The last `count` lines of a log.
#[must_use]
pub(super) fn tail(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}
