//! What the clients did and saw, in microseconds since the round began.

use std::collections::BTreeMap;
use std::fmt::Write;

/// A moment of a round, in microseconds.
pub type At = u64;

/// A number that is appended once.
pub type Item = u32;

/// One operation of one client.
#[derive(Clone, Debug)]
pub struct Op {
    /// Whose.
    pub client: u32,
    /// Its client goes to whoever is read-write.
    pub roaming: bool,
    /// The node that was asked.
    pub node: usize,
    /// The list.
    pub key: u32,
    /// When it was sent.
    pub sent: At,
    /// When the answer had arrived, or when the client gave up.
    pub ended: At,
    /// What it was.
    pub what: What,
}

/// Kinds of operations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// One item at the end of the list.
    Append {
        /// The item.
        item: Item,
        /// What became of it.
        outcome: Outcome,
    },
    /// The whole list, read on a primary.
    Read {
        /// That primary's timeline.
        timeline: u32,
        /// The list.
        list: Vec<Item>,
    },
}

/// What the client of an append knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was acknowledged.
    Acked {
        /// Timeline of the primary.
        timeline: u32,
        /// Insert position before the commit record.
        lsn: u64,
        /// How many items were before it.
        position: usize,
    },
    /// Perhaps it happened, or will.
    Unknown,
    /// It never happens: the server was read-only.
    Refused,
}

impl Op {
    /// The timeline of the primary that answered.
    pub fn timeline(&self) -> Option<u32> {
        match &self.what {
            What::Append { outcome: Outcome::Acked { timeline, .. }, .. } | What::Read { timeline, .. } => {
                Some(*timeline)
            }
            What::Append { .. } => None,
        }
    }

    /// The append's timeline and insert position, if it was acknowledged.
    pub fn acked(&self) -> Option<(u32, u64)> {
        match self.what {
            What::Append { outcome: Outcome::Acked { timeline, lsn, .. }, .. } => Some((timeline, lsn)),
            _ => None,
        }
    }

    /// In words.
    pub fn describe(&self) -> String {
        let Self { client, node, key, sent, ended, .. } = self;
        let what = match &self.what {
            What::Append { item, outcome } => format!("append {item} {outcome:?}"),
            What::Read { timeline, list } => {
                let last: Vec<String> = list.iter().rev().take(3).rev().map(ToString::to_string).collect();
                format!("read of {} items (..{}) on timeline {timeline}", list.len(), last.join(" "))
            }
        };
        format!("client {client} on n{} key {key} {}..{} ms: {what}", node + 1, sent / 1000, ended / 1000)
    }
}

/// The lists as one server shows them.
pub type Lists = BTreeMap<u32, Vec<Item>>;

/// Everything as text, for a run that failed.
pub fn dump(ops: &[Op]) -> String {
    ops.iter().fold(String::new(), |mut text, op| {
        let _ = writeln!(text, "{}", op.describe());
        text
    })
}
