//! What the machinery costs while nothing happens, and under load.

use crate::report::Report;
use crate::{Subject, in_turns};
use ha_tests::daemon::run;
use ha_tests::load::{self, Load};
use ha_tests::plan::System;
use ha_tests::process::Proc;
use ha_tests::wait::secs;
use std::collections::BTreeSet;
use std::time::Instant;

/// How long the quiet cluster is watched.
const QUIET_S: u32 = 60;
/// How long each run of pgbench or wrk takes.
const LOAD_S: u32 = 5;
/// The same for pgbench: many short runs show more than a few long ones, because the best of them was disturbed by nobody.
const PGBENCH_S: u32 = 2;
const PGBENCH_ROUNDS: usize = 11;
/// Until what a run has left behind is done: the standbys replay, the store is written.
const SETTLE_S: u64 = 1;

/// The processes of one node that are the machinery and not the server.
fn agents(subject: &Subject, node: usize) -> Vec<Proc> {
    let node = &subject.cluster.nodes[node];
    let mut found: Vec<Proc> = node.supervisor().into_iter().collect();
    if subject.system == System::HaExt {
        found.extend(node.worker());
        found.extend(node.child("ha_ext sql"));
    }
    found
}

/// Memory, CPU and requests to etcd while nothing happens.
pub fn steady(subjects: &mut [Subject], report: &mut Report) {
    for subject in &*subjects {
        subject.cluster.wait_healthy(secs(120));
        for node in 0..subject.cluster.nodes.len() {
            let memory: Vec<(u64, u64)> = agents(subject, node).into_iter().map(Proc::memory_kib).collect();
            let mib = |kib: u64| f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0;
            let private = mib(memory.iter().map(|(_, private)| private).sum());
            report.add("memory of the machinery per node, private", "MiB", subject.name, private);
            let shared = mib(memory.iter().map(|(pss, _)| pss).sum());
            report.add("memory of the machinery per node, PSS", "MiB", subject.name, shared);
        }
    }
    // One system at a time has the store for itself: the other is frozen.
    for measured in 0..subjects.len() {
        for (_, subject) in subjects.iter().enumerate().filter(|(index, _)| *index != measured) {
            (0..subject.cluster.nodes.len()).for_each(|node| pause(subject, node, true));
        }
        watch_quiet(&subjects[measured], report);
        for subject in &*subjects {
            (0..subject.cluster.nodes.len()).for_each(|node| pause(subject, node, false));
        }
        for subject in &*subjects {
            subject.cluster.wait_healthy(secs(120));
        }
    }
}

/// Stops a node from talking to the store.
fn pause(subject: &Subject, node: usize, frozen: bool) {
    if frozen { subject.cluster.nodes[node].freeze() } else { subject.cluster.nodes[node].thaw() }
}

fn watch_quiet(subject: &Subject, report: &mut Report) {
    let nodes = u32::try_from(subject.cluster.nodes.len()).expect("a few nodes");
    let everybody: Vec<Proc> = (0..subject.cluster.nodes.len()).flat_map(|node| agents(subject, node)).collect();
    let cpu = |agents: &[Proc]| agents.iter().map(|agent| agent.cpu_ticks()).sum::<u64>();
    let (ticks, requests) = (cpu(&everybody), subject.cluster.etcd.requests());
    std::thread::sleep(secs(QUIET_S.into()));
    let ticks = u32::try_from(cpu(&everybody) - ticks).expect("few ticks");
    let requests = u32::try_from(subject.cluster.etcd.requests() - requests).expect("few requests");
    // A tick is 10 ms.
    let cpu_ms = f64::from(ticks) * 10.0 / f64::from(nodes) * 60.0 / f64::from(QUIET_S);
    report.add("CPU of the machinery per node and minute", "ms", subject.name, cpu_ms);
    let per_minute = f64::from(requests) / f64::from(nodes) * 60.0 / f64::from(QUIET_S);
    report.add("requests to etcd per node and minute", "requests", subject.name, per_minute);
}

/// `GET /primary` of the leader by wrk.
pub fn health_checks(subjects: &mut [Subject], report: &mut Report) {
    for connections in [1_u32, 16, 64] {
        for keep_alive in [false, true] {
            for subject in &*subjects {
                let leader = subject.cluster.wait_healthy(secs(120));
                let url = format!("{}/primary", subject.cluster.nodes[leader].rest);
                let (rate, p99_ms) = wrk(&url, connections, keep_alive);
                let kind = if keep_alive { "keep-alive offered" } else { "new connection each" };
                let label = format!("GET /primary, {connections} clients, {kind}");
                report.add(&label, "requests/s", subject.name, rate);
                report.add(&format!("{label}, p99"), "ms", subject.name, p99_ms);
            }
        }
    }
}

fn wrk(url: &str, connections: u32, keep_alive: bool) -> (f64, f64) {
    let (c, d) = (format!("-c{connections}"), format!("-d{LOAD_S}s"));
    let header = if keep_alive { "Connection: keep-alive" } else { "Connection: close" };
    let text = run(&["wrk", "-t1", &c, &d, "--latency", "-H", header, url]).unwrap_or_else(|error| panic!("{error}"));
    let field = |name: &str| {
        text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim).unwrap_or_default().to_owned()
    };
    (field("Requests/sec:").parse().unwrap_or(0.0), duration_ms(&field("99%")))
}

/// `1.25ms`, `890.00us` or `1.10s` in milliseconds.
fn duration_ms(text: &str) -> f64 {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1000.0)] {
        if let Some(number) = text.strip_suffix(unit).and_then(|number| number.parse::<f64>().ok()) {
            return number * factor;
        }
    }
    f64::NAN
}

/// Throughput and CPU per transaction with and without the fence, in turns. Patroni's leader is a plain server.
pub fn pgbench(subjects: &mut [Subject], report: &mut Report) {
    for subject in &*subjects {
        let leader = subject.cluster.wait_healthy(secs(120));
        Load::tables(&subject.cluster, 10);
        // Its workers are children of the server too, and come when they like.
        for table in ["accounts", "branches", "history", "tellers"] {
            let statement = format!("ALTER TABLE pgbench_{table} SET (autovacuum_enabled = off)");
            subject.cluster.nodes[leader].sql(&statement).expect("a setting of a table");
        }
    }
    assert_alike(subjects);
    for (mode, clients) in [("-S", "4"), ("-N", "4"), ("-N", "16")] {
        for round in 0..PGBENCH_ROUNDS {
            for subject in in_turns(subjects, round) {
                run_pgbench(subject, mode, clients, report);
            }
        }
    }
}

/// Servers that are set otherwise are not to be compared. What has to do with files, clients, standbys and the start has no cost here.
fn assert_alike(subjects: &[Subject]) {
    const SETTINGS: &str = "SELECT name || '=' || setting FROM pg_settings \
         WHERE category !~ '^(Preset Options|File Locations|Connections and Authentication / Connection Settings)' \
         AND category !~ 'Reporting and Logging|Customized|Standby Servers|Recovery|Error Handling' \
         AND name NOT IN ('application_name', 'shared_preload_libraries', 'cluster_name') \
         UNION ALL SELECT count(*) || ' standbys' FROM pg_stat_replication WHERE state = 'streaming'";
    let of = |subject: &Subject| -> BTreeSet<String> {
        let leader = subject.cluster.wait_healthy(secs(120));
        let rows = subject.cluster.nodes[leader].sql(SETTINGS).expect("the views can be read");
        rows.into_iter().flatten().flatten().collect()
    };
    for pair in subjects.windows(2) {
        let (one, other) = (of(&pair[0]), of(&pair[1]));
        let differing: Vec<&String> = one.symmetric_difference(&other).collect();
        assert!(differing.is_empty(), "{} and {} differ: {differing:?}", pair[0].name, pair[1].name);
    }
}

fn run_pgbench(subject: &Subject, mode: &str, clients: &str, report: &mut Report) {
    let leader = subject.cluster.wait_healthy(secs(120));
    let node = &subject.cluster.nodes[leader];
    let postmaster = node.postmaster().expect("a leader has a postmaster");
    // Of processes that have ended: backends are counted when they are reaped, the machinery's workers are not among them.
    let before = postmaster.ended_children_ticks();
    let begun = Instant::now();
    let seconds = PGBENCH_S.to_string();
    let text = load::once(&node.server, &["-n", mode, "-c", clients, "-j", "1", "-T", &seconds])
        .unwrap_or_else(|error| panic!("{error}"));
    assert!(begun.elapsed().as_secs() >= u64::from(PGBENCH_S), "pgbench ended early: {text}");
    let transactions = number_after(&text, "number of transactions actually processed: ");
    std::thread::sleep(secs(SETTLE_S));
    let ticks = u32::try_from(postmaster.ended_children_ticks() - before).expect("few ticks");
    let cpu_us = f64::from(ticks) * 10_000.0 / transactions.max(1.0);
    let label = format!("pgbench {mode} -c {clients}");
    report.add(&format!("{label}, throughput"), "tps", subject.name, number_after(&text, "tps = "));
    report.add(&format!("{label}, CPU of the server per transaction"), "us", subject.name, cpu_us);
}

fn number_after(text: &str, label: &str) -> f64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_default();
    rest.split([' ', '/']).next().and_then(|number| number.parse().ok()).unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_and_pgbench_print_is_read() {
        assert!((duration_ms("890.00us") - 0.89).abs() < 1e-9);
        assert!((duration_ms("1.10s") - 1100.0).abs() < 1e-9);
        let text = "number of transactions actually processed: 2291\ntps = 458.2 (without initial connection time)";
        assert!((number_after(text, "tps = ") - 458.2).abs() < 1e-9);
        assert!((number_after(text, "number of transactions actually processed: ") - 2291.0).abs() < 1e-9);
    }
}
