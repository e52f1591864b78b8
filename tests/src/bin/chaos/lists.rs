//! The checker: is the history of one list linearizable?
//!
//! Items are unique and are only appended, so the list itself tells in which order the appends took effect, and a read tells by its
//! length between which two of them. Nothing has to be searched: with the order given, a history is linearizable exactly if
//! nobody who comes later in that order had ended before somebody earlier began (docs/adr/0041).

use crate::history::{At, Item, Op, Outcome, What};
use std::collections::{BTreeMap, BTreeSet};

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A read lacks an append that was acknowledged, or read, before it began.
    StaleRead,
    /// Items are not in the order in which they were appended, or reads disagree about it.
    Reordered,
    /// An item that nobody appended, or twice, or that was refused.
    Phantom,
    /// An acknowledged append is gone though it must not be.
    Lost,
    /// Two servers acknowledged at the same time, or one without a lease.
    TwoLeaders,
    /// The cluster did not come back.
    NotHealed,
}

/// A violation in words.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Its kind.
    pub fault: Fault,
    /// The story.
    pub text: String,
}

/// What the history of one list showed.
#[derive(Debug, Default)]
pub struct Checked<'a> {
    /// What is wrong whatever may be lost.
    pub findings: Vec<Finding>,
    /// Acknowledged appends that the final list lacks.
    pub lost: Vec<&'a Op>,
    /// Reads that showed items which the final list lacks.
    pub saw_lost: Vec<&'a Op>,
}

/// No list yields more findings: one mistake has many consequences.
const MOST: usize = 5;

/// Judges the operations of one key against the list that is there in the end.
pub fn check<'a>(ops: &[&'a Op], last: &[Item]) -> Checked<'a> {
    let mut checked = Checked::default();
    let known = appends(ops);
    phantoms(ops, last, &known, &mut checked.findings);
    let places: BTreeMap<Item, usize> = last.iter().enumerate().map(|(place, item)| (*item, place)).collect();
    survivors(ops, last, &places, &mut checked);
    for timeline in ops.iter().filter_map(|op| op.timeline()).collect::<BTreeSet<u32>>() {
        branch(ops, timeline, &mut checked.findings);
    }
    checked.findings.truncate(MOST);
    checked
}

fn appends<'a>(ops: &[&'a Op]) -> BTreeMap<Item, (&'a Op, Outcome)> {
    let append = |op: &'a Op| match op.what {
        What::Append { item, outcome } => Some((item, (op, outcome))),
        What::Read { .. } => None,
    };
    ops.iter().filter_map(|op| append(op)).collect()
}

fn phantoms(ops: &[&Op], last: &[Item], known: &BTreeMap<Item, (&Op, Outcome)>, findings: &mut Vec<Finding>) {
    let reads = ops.iter().filter_map(|op| match &op.what {
        What::Read { list, .. } => Some((op.describe(), list.as_slice(), op.ended)),
        What::Append { .. } => None,
    });
    let mut blame = |text: String| findings.push(Finding { fault: Fault::Phantom, text });
    for (who, list, ended) in reads.chain([("the final list".to_owned(), last, At::MAX)]) {
        let mut seen = BTreeSet::new();
        for item in list {
            match known.get(item) {
                _ if !seen.insert(item) => blame(format!("item {item} is twice in {who}")),
                None => blame(format!("nobody appended item {item} in {who}")),
                Some((op, Outcome::Refused)) => blame(format!("{who} has an item that was refused: {}", op.describe())),
                Some((op, _)) if op.sent > ended => blame(format!("{who} has an item of later: {}", op.describe())),
                Some(_) => {}
            }
        }
    }
}

/// The part of the history that is still there must be linearizable by itself.
fn survivors<'a>(ops: &[&'a Op], last: &[Item], places: &BTreeMap<Item, usize>, checked: &mut Checked<'a>) {
    let mut order = Order::new(last.len());
    for op in ops {
        match &op.what {
            What::Append { item, outcome } => match (places.get(item), outcome) {
                (Some(place), Outcome::Acked { position, .. }) => {
                    if place != position {
                        let text =
                            format!("item {} of the final list was told another place: {}", place, op.describe());
                        checked.findings.push(Finding { fault: Fault::Reordered, text });
                    }
                    order.append(*place, op, op.ended);
                }
                // It took effect, perhaps after the client had given up.
                (Some(place), _) => order.append(*place, op, At::MAX),
                (None, Outcome::Acked { .. }) => checked.lost.push(op),
                (None, _) => {}
            },
            What::Read { list, .. } => {
                let common = list.iter().zip(last).take_while(|(seen, kept)| seen == kept).count();
                let rest = &list[common..];
                if rest.iter().any(|item| places.contains_key(item)) {
                    let text = format!("another order than that of the final list: {}", op.describe());
                    checked.findings.push(Finding { fault: Fault::Reordered, text });
                } else if !rest.is_empty() {
                    checked.saw_lost.push(op);
                }
                order.read(common, op);
            }
        }
    }
    order.judge(&mut checked.findings);
}

/// So must what happened on each timeline, lost later or not.
fn branch(ops: &[&Op], timeline: u32, findings: &mut Vec<Finding>) {
    let here = || ops.iter().filter(|op| op.timeline() == Some(timeline));
    let mut places: BTreeMap<usize, Item> = BTreeMap::new();
    let mut length = 0;
    for op in here() {
        let (first, items) = match &op.what {
            What::Append { item, outcome: Outcome::Acked { position, .. } } => (*position, std::slice::from_ref(item)),
            What::Append { .. } => continue,
            What::Read { list, .. } => (0, list.as_slice()),
        };
        for (place, item) in (first..).zip(items) {
            if *places.entry(place).or_insert(*item) != *item {
                let text = format!("two items at place {place} of timeline {timeline}: {}", op.describe());
                findings.push(Finding { fault: Fault::Reordered, text });
                return;
            }
        }
        length = length.max(first + items.len());
    }
    let mut order = Order::new(length);
    for op in here() {
        match &op.what {
            What::Append { outcome: Outcome::Acked { position, .. }, .. } => order.append(*position, op, op.ended),
            What::Append { .. } => {}
            What::Read { list, .. } => order.read(list.len(), op),
        }
    }
    order.judge(findings);
}

/// Operations in the order in which they took effect: reads of no item, first append, reads of one item, second append, ...
struct Order<'a> {
    appends: Vec<Option<(&'a Op, At)>>,
    reads: Vec<Vec<&'a Op>>,
}

impl<'a> Order<'a> {
    fn new(length: usize) -> Self {
        Self { appends: vec![None; length], reads: vec![Vec::new(); length + 1] }
    }

    fn append(&mut self, place: usize, op: &'a Op, ended: At) {
        self.appends[place] = Some((op, ended));
    }

    fn read(&mut self, length: usize, op: &'a Op) {
        self.reads[length].push(op);
    }

    /// Each operation takes effect as early as it can: not before it was sent, and not before those it follows.
    fn judge(&self, findings: &mut Vec<Finding>) {
        // The latest start of all that come before.
        let mut latest: Option<&Op> = None;
        for (length, reads) in self.reads.iter().enumerate() {
            for read in reads {
                blame(latest, read, read.ended, findings);
            }
            latest = reads.iter().copied().chain(latest).max_by_key(|op| op.sent);
            if let Some((append, ended)) = self.appends.get(length).copied().flatten() {
                blame(latest, append, ended, findings);
                latest = latest.into_iter().chain([append]).max_by_key(|op| op.sent);
            }
        }
    }
}

/// Somebody that began after `op` had ended must not be before it in the order.
fn blame(before: Option<&Op>, op: &Op, ended: At, findings: &mut Vec<Finding>) {
    let Some(before) = before.filter(|before| before.sent > ended) else { return };
    let (fault, what) = match before.what {
        What::Read { .. } => (Fault::StaleRead, "does not know"),
        What::Append { .. } => (Fault::Reordered, "is ordered before"),
    };
    let late_ms = (before.sent - ended) / 1000;
    let text = format!("{} {what} what had ended {late_ms} ms before it began: {}", before.describe(), op.describe());
    findings.push(Finding { fault, text });
}

#[cfg(test)]
mod tests;
