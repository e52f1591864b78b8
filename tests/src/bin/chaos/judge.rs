//! What a round showed: which appends are gone and whether that may be, whether two servers led, what a change of leader cost.

use crate::history::{At, Lists, Op, Outcome, What};
use crate::lists::{Fault, Finding, check};
use ha_tests::oracle::overlaps;
use ha_tests::terms::Terms;
use ha_tests::writer::Ack;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What the leader may have written since it last published its position, beyond `maximum_lag_on_failover`: a `ttl` at this load.
const UNPUBLISHED_BYTES: u64 = 4 << 20;
/// A standby that nothing has touched for so long streams.
const SETTLED: At = 8_000_000;
/// What a standby that streams may lack on a loaded machine.
const WINDOW: At = 2_000_000;

/// A position that a standby was seen to have flushed.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Which node.
    pub node: usize,
    /// On which timeline.
    pub timeline: u32,
    /// How far.
    pub lsn: u64,
    /// When that was seen.
    pub at: At,
}

/// A stretch of time in which something was wrong with a node, or with all.
#[derive(Clone, Copy, Debug)]
pub struct Trouble {
    /// Which node; `None`: the store, that is everybody.
    pub node: Option<usize>,
    /// Its data was lost.
    pub wiped: bool,
    /// Since when.
    pub from: At,
    /// Until when.
    pub until: At,
}

/// A request for another leader, and what was answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// A switchover; otherwise a failover to somebody.
    pub switchover: bool,
    /// When it was sent.
    pub asked: At,
    /// When the answer came.
    pub answered: At,
    /// Status of the answer; 0 when there was none.
    pub status: u16,
}

/// Everything that was seen in a round.
#[derive(Debug)]
pub struct Facts {
    /// When it began.
    pub origin: Instant,
    /// What the clients did.
    pub ops: Vec<Op>,
    /// The lists in the end.
    pub last: Lists,
    /// `host:port` of each node's server.
    pub servers: Vec<String>,
    /// The timelines that led to the last one, and where each ends.
    pub chain: BTreeMap<u32, u64>,
    /// The last one.
    pub timeline: u32,
    /// What the standbys had flushed.
    pub flushed: Vec<Sample>,
    /// Who held the leader key.
    pub terms: Terms,
    /// What was wrong.
    pub troubles: Vec<Trouble>,
    /// What was asked for.
    pub requests: Vec<Request>,
    /// `maximum_lag_on_failover`.
    pub lag_bytes_max: u64,
}

/// From one timeline that acknowledged to the next.
#[derive(Clone, Debug)]
pub struct Change {
    /// The next timeline.
    pub to: u32,
    /// The last acknowledgement before.
    pub last: At,
    /// The first one after.
    pub first: At,
    /// It was asked for, was answered with success, and nothing else was wrong: nothing may be lost.
    pub planned: bool,
    /// A failover to a member by name: that one may be behind.
    pub named: bool,
}

/// The outcome.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Violations.
    pub findings: Vec<Finding>,
    /// Appends acknowledged, unknown, and acknowledged reads.
    pub acked: usize,
    /// Appends of which nobody knows.
    pub unknown: usize,
    /// Reads.
    pub reads: usize,
    /// Acknowledged appends gone in unplanned changes, as asynchronous replication allows.
    pub lost: usize,
    /// How many bytes of WAL the furthest of them was behind the fork.
    pub lost_bytes: u64,
    /// Reads that showed such an append.
    pub saw_lost: usize,
    /// Changes of leader.
    pub changes: Vec<Change>,
    /// The longest time in which nobody was acknowledged.
    pub gap: Duration,
}

/// Judges a round.
pub fn judge(facts: &Facts) -> Verdict {
    let mut verdict = Verdict { changes: facts.changes(), gap: facts.gap(), ..Verdict::default() };
    let mut keys: BTreeMap<u32, Vec<&Op>> = BTreeMap::new();
    for op in &facts.ops {
        keys.entry(op.key).or_default().push(op);
        match op.what {
            What::Append { outcome: Outcome::Acked { .. }, .. } => verdict.acked += 1,
            What::Append { outcome: Outcome::Unknown, .. } => verdict.unknown += 1,
            What::Append { .. } => {}
            What::Read { .. } => verdict.reads += 1,
        }
    }
    for (key, ops) in &keys {
        let checked = check(ops, facts.last.get(key).map_or(&[], Vec::as_slice));
        verdict.findings.extend(checked.findings);
        for op in checked.lost {
            match facts.loss(op, &verdict.changes) {
                Ok(bytes) => {
                    verdict.lost += 1;
                    verdict.lost_bytes = verdict.lost_bytes.max(bytes);
                }
                Err(why) => verdict.blame(Fault::Lost, format!("{why}: {}", op.describe())),
            }
        }
        for op in checked.saw_lost {
            match facts.change_after(op, &verdict.changes) {
                Some(change) if !change.planned => verdict.saw_lost += 1,
                _ => verdict.blame(Fault::Lost, format!("what was read is gone without a reason: {}", op.describe())),
            }
        }
    }
    let acks = facts.acks(false);
    for text in overlaps(&acks).into_iter().chain(facts.terms.late(&facts.acks(true))) {
        verdict.blame(Fault::TwoLeaders, text);
    }
    verdict
}

impl Verdict {
    /// One more violation.
    pub fn blame(&mut self, fault: Fault, text: String) {
        self.findings.push(Finding { fault, text });
    }
}

impl Facts {
    /// As the judge of the scenarios knows them; reads of primaries too, if they are wanted.
    fn acks(&self, with_reads: bool) -> Vec<Ack> {
        let time = |at: At| self.origin + Duration::from_micros(at);
        let answered = self.ops.iter().filter(|op| op.acked().is_some() || with_reads);
        answered
            .filter_map(|op| {
                let seq = if let What::Append { item, .. } = op.what { u64::from(item) } else { 0 };
                Some(Ack {
                    writer: op.client,
                    roaming: op.roaming,
                    seq,
                    connected_at: self.origin,
                    sent_at: time(op.sent),
                    acked_at: time(op.ended),
                    server: self.servers[op.node].clone(),
                    timeline: op.timeline()?,
                    lsn_before: op.acked().map_or(0, |(_, lsn)| lsn),
                })
            })
            .collect()
    }

    fn changes(&self) -> Vec<Change> {
        let mut spans: BTreeMap<u32, (At, At)> = BTreeMap::new();
        for op in &self.ops {
            if let Some((timeline, _)) = op.acked() {
                let span = spans.entry(timeline).or_insert((op.ended, op.ended));
                *span = (span.0.min(op.ended), span.1.max(op.ended));
            }
        }
        let spans: Vec<(u32, (At, At))> = spans.into_iter().collect();
        let change = |pair: &[(u32, (At, At))]| {
            let ((_, (_, last)), (to, (first, _))) = (pair[0], pair[1]);
            let asked = |request: &&Request| request.asked <= first && request.answered >= last;
            let planned = self.requests.iter().filter(asked).any(|request| {
                let calm = !self.troubled(None, request.asked.saturating_sub(SETTLED), first);
                request.switchover && request.status == 200 && request.asked <= last && calm
            });
            let named = self.requests.iter().filter(asked).any(|request| !request.switchover);
            Change { to, last, first, planned, named }
        };
        spans.windows(2).map(change).collect()
    }

    /// The change that ended this operation's timeline.
    fn change_after<'a>(&self, op: &Op, changes: &'a [Change]) -> Option<&'a Change> {
        let timeline = op.timeline().filter(|timeline| *timeline < self.timeline)?;
        changes.iter().find(|change| change.to > timeline)
    }

    /// Whether anything was wrong with this node, or with anybody, between two moments.
    fn troubled(&self, node: Option<usize>, from: At, until: At) -> bool {
        self.troubles.iter().any(|trouble| {
            let concerns = node.is_none() || trouble.node.is_none() || trouble.node == node;
            concerns && trouble.from <= until && trouble.until >= from
        })
    }

    /// An acknowledged append is gone: how far behind the fork it was, or why it must not be gone.
    fn loss(&self, op: &Op, changes: &[Change]) -> Result<u64, String> {
        let (timeline, lsn) = op.acked().ok_or("it was not acknowledged")?;
        let change = self.change_after(op, changes).ok_or("gone without a change of leader")?;
        if change.planned {
            return Err("gone in a planned switchover".into());
        }
        // Where its record ends is known only from whoever came later.
        let later = self.ops.iter().filter(|other| other.sent >= op.ended).filter_map(Op::acked);
        let end = later.filter(|(on, _)| *on == timeline).map(|(_, lsn)| lsn).min();
        let fork = self.chain.get(&timeline).copied();
        if let (Some(end), Some(fork)) = (end, fork)
            && end <= fork
        {
            return Err(format!("gone though it ends before the fork at {fork:X}"));
        }
        let elected = self.elected(timeline);
        if let Some(end) = end {
            self.nobody_better(timeline, end, change, elected)?;
        }
        self.recent(op, change, elected)?;
        let begun =
            || self.ops.iter().filter_map(Op::acked).filter(|(on, _)| *on == timeline).map(|(_, lsn)| lsn).min();
        let bytes = lsn.saturating_sub(fork.or_else(begun).unwrap_or(lsn));
        if bytes > self.lag_bytes_max + UNPUBLISHED_BYTES && !change.named {
            return Err(format!("gone with {bytes} bytes, more than a standby that is elected may lack"));
        }
        Ok(bytes)
    }

    /// Who led on the next timeline that counts.
    fn elected(&self, timeline: u32) -> Option<usize> {
        let heir = self.chain.keys().copied().chain([self.timeline]).find(|heir| *heir > timeline);
        let led = |op: &&Op| op.acked().is_some_and(|(on, _)| Some(on) == heir);
        self.ops.iter().find(led).map(|op| op.node)
    }

    /// Who was elected had not flushed it, nor anybody who could have been asked.
    fn nobody_better(&self, timeline: u32, end: u64, change: &Change, elected: Option<usize>) -> Result<(), String> {
        let had = |sample: &&Sample| sample.timeline == timeline && sample.lsn >= end && sample.at <= change.first;
        let lost_since = |sample: &Sample| {
            self.troubles
                .iter()
                .any(|trouble| trouble.wiped && trouble.node == Some(sample.node) && trouble.until > sample.at)
        };
        for sample in self.flushed.iter().filter(had).filter(|sample| !lost_since(sample)) {
            let name = sample.node + 1;
            if elected == Some(sample.node) {
                return Err(format!("gone though n{name}, which was elected, had flushed it"));
            }
            let from = sample.at.saturating_sub(SETTLED);
            if !change.named && !self.troubled(Some(sample.node), from, change.first) {
                return Err(format!("gone though n{name}, with which nothing was wrong, had flushed it"));
            }
        }
        Ok(())
    }

    /// Whoever is elected lacks the last moment at most, counted from when something went wrong with it, the leader or the store.
    fn recent(&self, op: &Op, change: &Change, elected: Option<usize>) -> Result<(), String> {
        let concerned = |trouble: &&Trouble| {
            let settled = trouble.until.saturating_add(SETTLED) < change.last;
            let node = trouble.node;
            !settled && trouble.from <= change.last && (node.is_none() || node == elected || node == Some(op.node))
        };
        let begun = self.troubles.iter().filter(concerned).map(|trouble| trouble.from).min();
        let since = begun.unwrap_or(change.last);
        if op.ended + WINDOW < since && !change.named {
            let early_ms = (since - op.ended) / 1000;
            return Err(format!("gone though it was acknowledged {early_ms} ms before anything went wrong"));
        }
        Ok(())
    }

    /// The longest time in which no client that goes anywhere was acknowledged.
    fn gap(&self) -> Duration {
        let acked = self.ops.iter().filter(|op| op.roaming && op.acked().is_some());
        let mut times: Vec<At> = acked.map(|op| op.ended).collect();
        times.sort_unstable();
        Duration::from_micros(times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests;
