//! The numbers of `docs/benchmarks.md`: `ha_ext` and Patroni on one etcd, hurt in turns, watched by the same client.
//!
//! `bench [--runs N] [--only MEASURE,...] [--system ha_ext|patroni] [--out FILE]`
//!
//! `--runs` is how often each switchover is measured. Measures: `steady`, `wrk`, `pgbench`, `commits`, `switchover`,
//! `switchover_pgbench`, `switchover_large`, `restart`, `crash_failover`, `store_back`, `host_lost`, `host_lost_ttl5`, `counts`.

mod commits;
mod cost;
mod counts;
mod gaps;
mod machine;
mod report;
mod switchover;

use ha_tests::cluster::Cluster;
use ha_tests::plan::{Plan, System};
use ha_tests::program;
use ha_tests::wait::secs;
use report::Report;
use std::time::Instant;

/// What the command line asks for.
struct Wish {
    runs: usize,
    only: Vec<String>,
    systems: Vec<System>,
    out: Option<String>,
}

impl Wish {
    fn from_arguments() -> Result<Self, String> {
        let mut wish = Self { runs: 20, only: Vec::new(), systems: vec![System::HaExt, System::Patroni], out: None };
        let mut words = std::env::args().skip(1);
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--runs" => wish.runs = value.parse().map_err(|error| format!("--runs {value}: {error}"))?,
                "--only" => wish.only = value.split(',').map(str::to_owned).collect(),
                "--system" if value == "ha_ext" => wish.systems = vec![System::HaExt],
                "--system" if value == "patroni" => wish.systems = vec![System::Patroni],
                "--out" => wish.out = Some(value),
                _ => return Err(format!("what is {flag} {value}?")),
            }
        }
        Ok(wish)
    }

    fn wants(&self, measure: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == measure)
    }
}

/// What the report calls the systems.
pub const OURS: &str = "ha_ext";
/// The same, with the orthodox order for changes of role.
pub const RESTART: &str = "ha_ext, `demote_method: restart`";
/// For comparison.
pub const PATRONI: &str = "Patroni 4.1.5";

/// One of the clusters.
struct Subject {
    name: &'static str,
    system: System,
    cluster: Cluster,
}

/// The systems in an order that changes from round to round: what one leaves behind (standbys that replay, files that are written)
/// must not always fall to the same one.
fn in_turns(subjects: &[Subject], round: usize) -> Vec<&Subject> {
    let mut order: Vec<&Subject> = subjects.iter().collect();
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

fn main() -> std::process::ExitCode {
    program::run(Wish::from_arguments(), measure)
}

fn measure(wish: &Wish) {
    let begun = Instant::now();
    let mut report = Report::new(wish.runs);
    let runs = wish.runs;
    let (half, quarter) = (runs.div_ceil(2), runs.div_ceil(4));
    let mut subjects = start(begun, wish, &[]);
    let mut step = |measure: &str, run: &mut dyn FnMut(&mut [Subject], &mut Report)| {
        if wish.wants(measure) {
            say(begun, measure);
            run(&mut subjects, &mut report);
        }
    };
    step("steady", &mut cost::steady);
    step("wrk", &mut cost::health_checks);
    step("pgbench", &mut cost::pgbench);
    step("commits", &mut commits::measure);
    step("restart", &mut |subjects, report| gaps::postmaster_killed(subjects, report, quarter, 300));
    step("crash_failover", &mut |subjects, report| gaps::postmaster_killed(subjects, report, half, 0));
    step("store_back", &mut |subjects, report| gaps::store_back(subjects, report, quarter));
    step("host_lost", &mut |subjects, report| gaps::host_lost(subjects, report, quarter));
    step("host_lost_ttl5", &mut |subjects, report| gaps::host_lost_short(subjects, report, quarter));
    if wish.wants("switchover") || wish.wants("switchover_pgbench") {
        with_orthodox_order(begun, wish, &mut subjects, &[]);
        for (measure, setting) in [("switchover", switchover::IDLE), ("switchover_pgbench", switchover::BUSY)] {
            if wish.wants(measure) {
                say(begun, measure);
                switchover::measure(&subjects, &mut report, runs, setting);
            }
        }
    }
    drop(subjects);
    if wish.wants("switchover_large") {
        // What a checkpoint or a stop has to write is what is dirty: as much as possible, and nothing written before.
        let large = ["shared_buffers: 6GB", "max_wal_size: 8GB", "checkpoint_timeout: 30min"];
        let mut subjects = start(begun, wish, &large);
        with_orthodox_order(begun, wish, &mut subjects, &large);
        say(begun, "switchover_large");
        switchover::measure(&subjects, &mut report, runs, switchover::LARGE);
    }
    if wish.wants("counts") {
        say(begun, "counts");
        counts::measure(&mut report, &wish.systems, runs * 5 / 2);
    }
    let text = report.markdown();
    println!("{text}");
    if let Some(out) = &wish.out
        && let Err(error) = std::fs::write(out, &text)
    {
        eprintln!("cannot write {out}: {error}");
    }
    say(begun, "done");
}

/// One cluster of each system.
fn start(begun: Instant, wish: &Wish, parameters: &[&str]) -> Vec<Subject> {
    let mut subjects: Vec<Subject> = Vec::new();
    for system in &wish.systems {
        let (name, scope) = match system {
            System::HaExt => (OURS, "bench_ha_ext"),
            System::Patroni => (PATRONI, "bench_patroni"),
        };
        let plan = Plan { scope, system: *system, ..Plan::default() };
        add(begun, &mut subjects, name, with_parameters(plan, parameters));
    }
    subjects
}

/// Our second cluster.
fn with_orthodox_order(begun: Instant, wish: &Wish, subjects: &mut Vec<Subject>, parameters: &[&str]) {
    if wish.systems.contains(&System::HaExt) {
        let plan =
            Plan { scope: "bench_restart", postgresql: vec!["demote_method: restart".into()], ..Plan::default() };
        add(begun, subjects, RESTART, with_parameters(plan, parameters));
    }
}

fn with_parameters(plan: Plan, parameters: &[&str]) -> Plan {
    Plan { parameters: parameters.iter().map(|line| (*line).to_owned()).collect(), ..plan }
}

fn add(begun: Instant, subjects: &mut Vec<Subject>, name: &'static str, plan: Plan) {
    say(begun, &format!("starting three nodes of {name}"));
    let (system, plan) = (plan.system, plan.default_timing());
    // The first one's etcd serves them all.
    let mut cluster = match subjects.first() {
        Some(first) => first.cluster.beside(plan),
        None => Cluster::prepare(plan),
    };
    for node in &mut cluster.nodes {
        node.start();
    }
    cluster.wait_healthy(secs(120));
    cluster.create_table();
    subjects.push(Subject { name, system, cluster });
}

/// Progress, with the time since the start.
fn say(begun: Instant, what: &str) {
    eprintln!("[{:>5} s] {what}", begun.elapsed().as_secs());
}
