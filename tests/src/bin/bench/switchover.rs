//! Planned switchovers: the write gap, idle and under load, and what it is made of.

use crate::Subject;
use crate::gaps::{assess, client, set_timing};
use crate::report::Report;
use ha_tests::cluster::Cluster;
use ha_tests::daemon::run;
use ha_tests::load::Load;
use ha_tests::plan::System;
use ha_tests::wait::secs;
use ha_tests::writer::Ack;
use std::time::{Instant, SystemTime};

/// What runs beside the measuring client.
#[derive(Clone, Copy)]
pub struct Setting {
    /// How the report calls it.
    pub label: &'static str,
    /// Clients of pgbench.
    pub clients: usize,
    /// How long they run before each switchover.
    pub warm_up_s: u64,
}

/// Nothing else.
pub const IDLE: Setting = Setting { label: "switchover, idle", clients: 0, warm_up_s: 0 };
/// pgbench on small buffers.
pub const BUSY: Setting = Setting { label: "switchover, pgbench -N -c 8", clients: 8, warm_up_s: 2 };
/// pgbench on large ones.
pub const LARGE: Setting =
    Setting { label: "switchover, shared_buffers 6GB, pgbench -N -c 16", clients: 16, warm_up_s: 3 };

/// All runs in one setting, every system in turns.
pub fn measure(subjects: &[Subject], report: &mut Report, runs: usize, setting: Setting) {
    set_timing(subjects, 30, 10, 10, 300);
    for subject in subjects.iter().filter(|_| setting.clients > 0) {
        if !has_tables(&subject.cluster) {
            Load::tables(&subject.cluster, if setting.clients > 8 { 20 } else { 10 });
        }
    }
    for _ in 0..runs {
        for subject in subjects {
            once(subject, report, setting);
        }
    }
}

fn has_tables(cluster: &Cluster) -> bool {
    let leader = cluster.wait_healthy(secs(120));
    let found = cluster.nodes[leader].value("SELECT to_regclass('pgbench_history')::text");
    found.is_ok_and(|name| name.is_some())
}

fn once(subject: &Subject, report: &mut Report, setting: Setting) {
    let cluster = &subject.cluster;
    let from = cluster.wait_ready_to_switch();
    let to = cluster.other_than(from);
    let load = (setting.clients > 0).then(|| Load::start(cluster, setting.clients));
    std::thread::sleep(secs(setting.warm_up_s));
    let writers = client(cluster);
    let logs = [cluster.nodes[from].server_log().len(), cluster.nodes[to].server_log().len()];
    let (fault, wall) = (Instant::now(), SystemTime::now());
    cluster.switch_over(from, to);
    let damage = assess(cluster, writers, fault, load);
    report.add(&format!("{}: write gap", setting.label), "s", subject.name, damage.gap.as_secs_f64());
    report.add(&format!("{}: rows lost", setting.label), "rows", subject.name, crate::gaps::count(damage.lost));
    if subject.system == System::HaExt {
        let since =
            |node: usize, offset: usize| cluster.nodes[node].server_log().get(offset..).unwrap_or_default().to_owned();
        let story = Story {
            old: Line::last(&since(from, logs[0]), "handed over:"),
            new: Line::last(&since(to, logs[1]), "promoted:"),
            first_ack_ms: first_ack(&damage.acks, fault).map(|at| wall_ms(wall + at.duration_since(fault))),
        };
        for (part, ms) in story.parts() {
            report.add(&format!("{}: {part}", setting.label), "ms", subject.name, ms);
        }
    }
}

/// The first acknowledgement of the new leader.
fn first_ack(acks: &[Ack], fault: Instant) -> Option<Instant> {
    let newest = acks.iter().map(|ack| ack.timeline).max()?;
    let new = acks.iter().filter(|ack| ack.timeline == newest && ack.acked_at > fault);
    new.map(|ack| ack.acked_at).min()
}

fn wall_ms(at: SystemTime) -> f64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}

/// A line of a server's log about the steps of a change of role: `name=milliseconds` since it began.
#[derive(Debug, Default)]
struct Line {
    /// When it was written, milliseconds since 1970.
    at_ms: f64,
    steps: Vec<(String, f64)>,
}

impl Line {
    fn last(log: &str, label: &str) -> Option<Self> {
        let line = log.lines().rev().find(|line| line.contains(label))?;
        let steps = line.split_once(label)?.1.split_whitespace().filter_map(|word| {
            let (name, value) = word.split_once('=')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        let mut words = line.split(' ');
        let stamp = format!("{} {} UTC", words.next()?, words.next()?);
        let text = run(&["date", "-u", "-d", &stamp, "+%s%3N"]).ok()?;
        Some(Self { at_ms: text.trim().parse().ok()?, steps: steps.collect() })
    }

    fn step(&self, name: &str) -> Option<f64> {
        self.steps.iter().find(|(known, _)| known == name).map(|(_, ms)| *ms)
    }
}

/// One switchover in place, as both servers and the client saw it.
#[derive(Debug, Default)]
struct Story {
    old: Option<Line>,
    new: Option<Line>,
    first_ack_ms: Option<f64>,
}

impl Story {
    /// The steps in their order, each without those before it. Only the servers' own times are exact; what lies between two
    /// processes is as exact as the time stamps of their logs, a millisecond.
    fn parts(&self) -> Vec<(&'static str, f64)> {
        let mut parts = Vec::new();
        let (Some(old), Some(new)) = (&self.old, &self.new) else { return parts };
        let mut before = 0.0;
        let names = [
            ("seal", "seal: commits in flight end"),
            ("drain", "drain: the log is flushed and frozen"),
            ("confirm", "confirm: the candidate has all of it"),
            ("release", "release: the key is given back"),
        ];
        for (step, label) in names {
            if let Some(ms) = old.step(step) {
                parts.push((label, ms - before));
                before = ms;
            }
        }
        let begun = old.at_ms - old.step("total").unwrap_or(0.0);
        let open = new.step("open").or_else(|| new.step("primary")).unwrap_or(0.0);
        let asked = new.at_ms - open;
        parts.push((
            "hand-over: the candidate takes the key and claims its timeline",
            (asked - begun - before).max(0.0),
        ));
        parts.push(("promotion", open));
        if let Some(first) = self.first_ack_ms {
            parts.push(("reconnect: until the client's first commit", (first - new.at_ms).max(0.0)));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "2026-11-21 14:37:32.270 UTC [7] LOG:  handed over: seal=0.400 drain=1.200 confirm=2.000 release=3.000 total=4.000 ms";
    const NEW: &str = "2026-11-21 14:37:32.300 UTC [8] LOG:  promoted: signal=1.000 primary=20.000 open=22.000 ms";

    #[test]
    fn the_parts_of_a_switchover_follow_each_other() {
        let old = Line::last(OLD, "handed over:").expect("the line is there");
        let story = Story { first_ack_ms: Some(old.at_ms + 35.0), old: Some(old), new: Line::last(NEW, "promoted:") };
        let parts: Vec<f64> = story.parts().into_iter().map(|(_, ms)| (ms * 10.0).round() / 10.0).collect();
        // Sealed at 266, released at 269, asked to promote at 278, open at 300, first commit at 305.
        assert_eq!(parts, [0.4, 0.8, 0.8, 1.0, 9.0, 22.0, 5.0]);
        assert!(Story::default().parts().is_empty());
    }
}
