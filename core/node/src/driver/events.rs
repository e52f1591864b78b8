//! The flight recorder: every change of rule, role and reachability with its reason, the newest few hundred.

use crate::clock;
use serde_json::json;
use std::collections::VecDeque;

/// Events kept.
pub const KEPT_MAX: usize = 512;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Grows by one with each event.
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
    /// A clock of this machine has jumped.
    Clock,
}

impl Event {
    /// The event as one line of at most `bytes_max`; a long text is cut.
    #[must_use]
    pub fn packed(&self, bytes_max: usize) -> String {
        let line = |text: &str| json!([self.unix_ms, self.kind.as_str(), self.code, text]).to_string();
        let bare = line("").len();
        let mut text = self.text.as_str();
        loop {
            let whole = line(text);
            if whole.len() <= bytes_max || text.is_empty() {
                return whole;
            }
            // What is quoted may be longer than the text: cut in proportion, and again if that was not enough.
            let fits = text.len() * bytes_max.saturating_sub(bare) / (whole.len() - bare).max(1);
            text = &text[..text.floor_char_boundary(fits.min(text.len() - 1))];
        }
    }

    /// Reads it back.
    #[must_use]
    pub fn unpacked(number: u64, line: &str) -> Option<Self> {
        let (unix_ms, kind, code, text): (u64, String, String, String) = serde_json::from_str(line).ok()?;
        Some(Self { number, unix_ms, kind: EventKind::of(&kind)?, code, text })
    }
}

impl EventKind {
    const ALL: [Self; 8] =
        [Self::Rule, Self::Role, Self::Effect, Self::Failure, Self::Store, Self::Config, Self::Seat, Self::Clock];

    fn of(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

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
            EventKind::Clock => "clock",
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

    /// Goes on from events that somebody before us has recorded, oldest first.
    pub(super) fn resume(&mut self, earlier: Vec<Event>) {
        self.next = earlier.last().map_or(0, |event| event.number + 1);
        let skip = earlier.len().saturating_sub(KEPT_MAX);
        self.ring = earlier.into_iter().skip(skip).collect();
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
    fn events_are_handed_on_and_numbers_with_them() {
        let mut events = Events::default();
        for kind in EventKind::ALL {
            events.record(kind, "a.b", "What \"happened\".");
        }
        let lines: Vec<(u64, String)> = events.since(0).map(|event| (event.number, event.packed(512))).collect();
        let unpacked = |(number, line): &(u64, String)| Event::unpacked(*number, line);
        let mut next = Events::default();
        next.resume(lines.iter().filter_map(unpacked).collect());
        assert!(next.since(0).eq(events.since(0)));
        next.record(EventKind::Seat, "seat.taken", "Again.");
        assert_eq!(next.next_number(), 9);

        next.record(EventKind::Failure, "failure", "\u{e4}\"".repeat(1000));
        let last = next.since(9).next().expect("recorded");
        let line = last.packed(512);
        assert!(line.len() <= 512 && line.len() > 400, "{}", line.len());
        assert!(last.text.starts_with(&Event::unpacked(9, &line).expect("whole").text));
        assert_eq!(Event::unpacked(9, "[1,\"rule\""), None);
    }

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
