//! Collecting numbers and printing them as a table.

use crate::{OURS, PATRONI, RESTART, machine};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// All numbers of one run of the benchmark.
pub struct Report {
    runs: usize,
    load_at_start: String,
    /// In the order in which they were first seen.
    measures: Vec<(String, &'static str)>,
    values: BTreeMap<(String, String), Vec<f64>>,
    /// What repeated faults cost, by fault and system: all together, in how many runs.
    tallies: BTreeMap<(String, String), (usize, usize)>,
}

impl Report {
    pub fn new(runs: usize) -> Self {
        Self {
            runs,
            load_at_start: machine::load(),
            measures: Vec::new(),
            values: BTreeMap::new(),
            tallies: BTreeMap::new(),
        }
    }

    /// Adds one measured value.
    pub fn add(&mut self, measure: &str, unit: &'static str, system: &str, value: f64) {
        eprintln!("          {measure}: {system}: {value:.3} {unit}");
        if !self.measures.iter().any(|(known, _)| known == measure) {
            self.measures.push((measure.to_owned(), unit));
        }
        self.values.entry((measure.to_owned(), system.to_owned())).or_default().push(value);
    }

    /// Adds what one of many runs cost.
    pub fn tally(&mut self, fault: &str, system: &str, count: usize) {
        eprintln!("          {fault}: {system}: {count}");
        let (sum, runs) = self.tallies.entry((fault.to_owned(), system.to_owned())).or_default();
        *sum += count;
        *runs += 1;
    }

    /// The page: minimum / median / maximum where there are several values.
    pub fn markdown(&self) -> String {
        let mut text = String::from("# Benchmarks\n\nMeasured by `make bench`, which rewrites this file.\n\n");
        let _ = writeln!(text, "* Machine: {}", machine::description());
        let _ = writeln!(
            text,
            "* Load average at the start {}, at the end {}; {} runs of each switchover, fewer of other faults, the systems in turns",
            self.load_at_start,
            machine::load(),
            self.runs
        );
        text += "* All systems: three nodes each on loopback, one etcd for all, asynchronous replication, no watchdog, the same \
                 YAML file (`ttl` 30, `loop_wait` 10, `retry_timeout` 10 unless a line says otherwise)\n\
                 * Write gap: the longest time between two acknowledged commits of one client that writes every 5 ms and reconnects \
                 like libpq with `target_session_attrs=read-write`\n\
                 * Each cell: minimum / **median** / maximum, or the one value\n\
                 * Faults are spread evenly over the period of the agents' loop\n\
                 * The machinery: Patroni's process; for ha_ext the supervisor and both background workers\n\
                 * The last column: how many times better our median is\n\n";
        self.table(
            &mut text,
            "Planned switchover",
            |label| label.starts_with("switchover, "),
            &[OURS, RESTART, PATRONI],
        );
        self.table(&mut text, "Faults and costs", |label| !label.starts_with("switchover, "), &[OURS, PATRONI]);
        self.fence(&mut text);
        self.totals(&mut text);
        text.truncate(text.trim_end().len());
        text.push('\n');
        text
    }

    fn table(&self, text: &mut String, title: &str, belongs: impl Fn(&str) -> bool, systems: &[&str]) {
        let rows: Vec<_> = self.measures.iter().filter(|(measure, _)| belongs(measure)).collect();
        if rows.is_empty() {
            return;
        }
        let rule = "---|".repeat(systems.len());
        let _ = writeln!(text, "## {title}\n\n| measure | {} | times |\n|---|{rule}---|", systems.join(" | "));
        for (measure, unit) in rows {
            let cells: Vec<String> = systems.iter().map(|system| self.cell(measure, system)).collect();
            let _ = writeln!(text, "| {measure}, {unit} | {} | {} |", cells.join(" | "), self.ratio(measure, unit));
        }
        text.push('\n');
    }

    /// What was counted to the nanosecond, less the same of a plain server: the fence. The least values were disturbed by nobody.
    fn fence(&self, text: &mut String) {
        let rows: Vec<String> =
            self.measures.iter().filter(|(_, unit)| *unit == "ns").filter_map(|(label, _)| self.added(label)).collect();
        if rows.is_empty() {
            return;
        }
        let _ = writeln!(
            text,
            "## What the fence adds\n\n| ha_ext less a plain server | of the least values, ns | of the medians, ns | of the whole |\n|---|---|---|---|"
        );
        *text += &rows.concat();
        text.push('\n');
    }

    fn added(&self, measure: &str) -> Option<String> {
        let (ours, plain) = (self.sorted(measure, OURS), self.sorted(measure, PATRONI));
        let least = ours.first()? - plain.first()?;
        let percent = least / plain.first()? * 100.0;
        Some(format!("| {measure} | {least:.0} | {:.0} | {percent:.1} % |\n", median(&ours) - median(&plain)))
    }

    fn totals(&self, text: &mut String) {
        let faults: BTreeSet<&str> = self.tallies.keys().map(|(fault, _)| fault.as_str()).collect();
        if faults.is_empty() {
            return;
        }
        let _ =
            writeln!(text, "## Repeated faults\n\nAll runs together.\n\n| fault | {OURS} | {PATRONI} |\n|---|---|---|");
        for fault in faults {
            let cell = |system: &str| {
                let found = self.tallies.get(&(fault.to_owned(), system.to_owned()));
                found.map_or_else(|| "-".to_owned(), |(sum, runs)| format!("**{sum}** in {runs} runs"))
            };
            let _ = writeln!(text, "| {fault} | {} | {} |", cell(OURS), cell(PATRONI));
        }
        text.push('\n');
    }

    fn sorted(&self, measure: &str, system: &str) -> Vec<f64> {
        let mut values = self.values.get(&(measure.to_owned(), system.to_owned())).cloned().unwrap_or_default();
        values.sort_by(f64::total_cmp);
        values
    }

    /// How many times better our median is: smaller, or larger for a rate.
    fn ratio(&self, measure: &str, unit: &str) -> String {
        let (ours, theirs) = (self.sorted(measure, OURS), self.sorted(measure, PATRONI));
        if ours.is_empty() || theirs.is_empty() || median(&ours) <= 0.0 {
            return String::new();
        }
        let smaller = median(&theirs) / median(&ours);
        format!("{:.2}", if matches!(unit, "tps" | "requests/s") { 1.0 / smaller } else { smaller })
    }

    fn cell(&self, measure: &str, system: &str) -> String {
        let sorted = self.sorted(measure, system);
        match sorted.as_slice() {
            [] => "-".into(),
            [one] => number(*one),
            [first, .., last] => format!("{} / **{}** / {}", number(*first), number(median(&sorted)), number(*last)),
        }
    }
}

/// The middle of sorted values; of two middle ones their mean.
fn median(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) }
}

fn number(value: f64) -> String {
    let text = if value.abs() >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fence_adds_is_the_difference_of_the_least_and_of_the_medians() {
        let mut report = Report::new(1);
        for (system, values) in [(OURS, [450.0, 900.0, 440.0]), (PATRONI, [400.0, 430.0, 700.0])] {
            for value in values {
                report.add("CPU per commit", "ns", system, value);
            }
        }
        report.add("throughput", "tps", OURS, 1.0);
        assert!(report.markdown().contains("| CPU per commit | 40 | 20 | 10.0 % |"), "{}", report.markdown());
    }

    #[test]
    fn medians_and_numbers() {
        assert!((median(&[1.0, 2.0, 9.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[1.0, 2.0, 4.0, 9.0]) - 3.0).abs() < f64::EPSILON);
        assert_eq!(number(0.0), "0");
        assert_eq!(number(1.5), "1.5");
        assert_eq!(number(1200.4), "1200");
    }
}
