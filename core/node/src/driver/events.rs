//! The flight recorder: every change of rule, role and reachability with its reason, the newest few hundred.

use crate::clock;
use std::collections::VecDeque;

/// Events kept.
pub const KEPT_MAX: usize = 512;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Grows by one with each event of this process.
    pub number: u64,
    /// Wall clock, milliseconds since 1970.
    pub unix_ms: u64,
    /// What kind of change.
    pub kind: EventKind,
    /// A rule's code, a role, or a word for the kind.
    pub code: String,
    /// One plain sentence.
    pub text: String,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The reason for what is done has changed.
    Rule,
    /// The role of this node has changed.
    Role,
    /// Something was done.
    Effect,
    /// Something failed, or was refused.
    Failure,
    /// The store was lost or came back.
    Store,
    /// The configuration has changed.
    Config,
    /// The seat came to this side.
    Seat,
}

impl EventKind {
    /// One word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            EventKind::Rule => "rule",
            EventKind::Role => "role",
            EventKind::Effect => "effect",
            EventKind::Failure => "failure",
            EventKind::Store => "store",
            EventKind::Config => "config",
            EventKind::Seat => "seat",
        }
    }
}

/// A bounded ring of events.
#[derive(Debug, Default)]
pub struct Events {
    ring: VecDeque<Event>,
    next: u64,
}

impl Events {
    pub(super) fn record(&mut self, kind: EventKind, code: impl Into<String>, text: impl Into<String>) {
        if self.ring.len() == KEPT_MAX {
            self.ring.pop_front();
        }
        let event = Event { number: self.next, unix_ms: clock::wall_ms(), kind, code: code.into(), text: text.into() };
        self.next += 1;
        self.ring.push_back(event);
    }

    /// Events from `number` on, oldest first.
    pub fn since(&self, number: u64) -> impl Iterator<Item = &Event> {
        self.ring.iter().filter(move |event| event.number >= number)
    }

    /// The number that the next event will have.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_bounded_and_numbers_go_on() {
        let mut events = Events::default();
        for n in 0..KEPT_MAX + 10 {
            events.record(EventKind::Rule, "a.b", n.to_string());
        }
        assert_eq!(events.since(0).count(), KEPT_MAX);
        assert_eq!(events.since(0).next().map(|event| event.number), Some(10));
        let newest = events.next_number() - 1;
        assert_eq!(events.since(newest).map(|event| event.text.as_str()).collect::<Vec<_>>(), ["521"]);
    }
}
