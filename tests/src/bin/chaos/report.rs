//! What a run showed, all rounds together.

use crate::faults::World;
use crate::judge::Verdict;
use crate::round::Outcome;
use ha_tests::census::Census;
use ha_tests::cluster::Cluster;
use std::fmt::Write;
use std::time::Duration;

/// One mistake has many consequences: no more of them are told of a round.
const MOST: usize = 20;

/// The sums.
#[derive(Debug, Default)]
pub struct Report {
    rounds: usize,
    acked: usize,
    unknown: usize,
    reads: usize,
    lost: usize,
    lost_bytes: u64,
    saw_lost: usize,
    planned_ms: Vec<u64>,
    unplanned_ms: Vec<u64>,
    gap: Duration,
    healed_in: Duration,
    before: Census,
    /// Violations.
    pub violations: usize,
}

impl Report {
    /// Nothing yet.
    pub fn since(cluster: &Cluster) -> Self {
        Self { before: Census::take(cluster), ..Self::default() }
    }

    /// One more round.
    pub fn add(&mut self, round: u64, outcome: Outcome) {
        let Outcome { verdict, healed_in } = outcome;
        let Verdict { findings, acked, unknown, reads, lost, lost_bytes, saw_lost, changes, gap } = verdict;
        self.rounds += 1;
        self.acked += acked;
        self.unknown += unknown;
        self.reads += reads;
        self.lost += lost;
        self.lost_bytes = self.lost_bytes.max(lost_bytes);
        self.saw_lost += saw_lost;
        for change in &changes {
            let gap_ms = change.first.saturating_sub(change.last) / 1000;
            if change.planned { self.planned_ms.push(gap_ms) } else { self.unplanned_ms.push(gap_ms) }
        }
        self.gap = self.gap.max(gap);
        self.healed_in = self.healed_in.max(healed_in);
        println!(
            "round {round}: {acked} appends, {unknown} unknown, {lost} lost in unplanned failovers, {reads} reads, {} changes of leader, \
             longest gap {} ms, healthy {} ms after the last fault, {} violations",
            changes.len(),
            gap.as_millis(),
            healed_in.as_millis(),
            findings.len()
        );
        for finding in findings.iter().take(MOST) {
            println!("VIOLATION in round {round}: {:?}: {}", finding.fault, finding.text);
        }
        self.violations += findings.len();
    }

    /// Everything in words.
    pub fn describe(&mut self, world: &World) -> String {
        let mut text = String::new();
        let mut line = |words: String| {
            let _ = writeln!(text, "{words}");
        };
        line(format!("rounds: {}", self.rounds));
        let faults: Vec<String> = world.counts.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        line(format!("faults: {} in all: {}", world.counts.values().sum::<usize>(), faults.join(", ")));
        line(format!(
            "planned switchovers: {}, write gap {}",
            self.planned_ms.len(),
            percentiles(&mut self.planned_ms)
        ));
        line(format!(
            "other changes of leader: {}, write gap {}",
            self.unplanned_ms.len(),
            percentiles(&mut self.unplanned_ms)
        ));
        line(format!(
            "appends: {} acknowledged, {} with an unknown outcome; reads: {}",
            self.acked, self.unknown, self.reads
        ));
        line(format!(
            "lost as asynchronous replication allows: {} appends, at most {} bytes behind a fork; {} reads had seen such",
            self.lost, self.lost_bytes, self.saw_lost
        ));
        line(format!("longest time without a write: {} ms", self.gap.as_millis()));
        line(format!("healthy at the latest {} ms after the last fault of a round", self.healed_in.as_millis()));
        line(format!("needed: {}", Census::take(&world.cluster) - self.before));
        for (note, count) in &world.notes {
            line(format!("{note}: {count}"));
        }
        line(format!("violations: {}", self.violations));
        text
    }
}

fn percentiles(times_ms: &mut [u64]) -> String {
    times_ms.sort_unstable();
    let at = |percent: usize| times_ms.get((times_ms.len() * percent / 100).min(times_ms.len().saturating_sub(1)));
    match (at(50), at(90), times_ms.last()) {
        (Some(half), Some(most), Some(worst)) => format!("50 % {half} ms, 90 % {most} ms, longest {worst} ms"),
        _ => "-".into(),
    }
}
