//! The numbers of `docs/benchmarks.md`: `ha_ext` and Patroni on one etcd, hurt in turns, watched by the same client.
//!
//! `bench [--runs N] [--only MEASURE,...] [--system ha_ext|patroni] [--out FILE]`

mod cost;
mod gaps;
mod machine;
mod report;

use ha_tests::cluster::Cluster;
use ha_tests::plan::{Plan, System};
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
        let mut wish = Self { runs: 10, only: Vec::new(), systems: vec![System::HaExt, System::Patroni], out: None };
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

/// One of the two clusters.
struct Subject {
    name: &'static str,
    system: System,
    cluster: Cluster,
}

fn main() -> std::process::ExitCode {
    match Wish::from_arguments() {
        Ok(wish) => {
            measure(&wish);
            std::process::ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            std::process::ExitCode::FAILURE
        }
    }
}

fn measure(wish: &Wish) {
    let begun = Instant::now();
    let mut subjects: Vec<Subject> = Vec::new();
    let mut report = Report::new(wish.runs);
    for system in &wish.systems {
        let (name, scope) = match system {
            System::HaExt => ("ha_ext", "bench_ha_ext"),
            System::Patroni => ("Patroni 4.1.5", "bench_patroni"),
        };
        say(begun, &format!("starting three nodes of {name}"));
        let plan = Plan { scope, system: *system, ..Plan::default() }.default_timing();
        let mut cluster = match subjects.first() {
            Some(first) => first.cluster.beside(plan),
            None => Cluster::prepare(plan),
        };
        for node in &mut cluster.nodes {
            node.start();
        }
        cluster.wait_healthy(secs(120));
        cluster.create_table();
        subjects.push(Subject { name, system: *system, cluster });
    }
    let mut step = |measure: &str, run: &mut dyn FnMut(&mut [Subject], &mut Report)| {
        if wish.wants(measure) {
            say(begun, measure);
            run(&mut subjects, &mut report);
        }
    };
    step("steady", &mut cost::steady);
    step("wrk", &mut cost::health_checks);
    step("pgbench", &mut cost::pgbench);
    step("switchover", &mut |subjects, report| gaps::switchover(subjects, report, wish.runs));
    step("restart", &mut |subjects, report| gaps::postmaster_killed(subjects, report, wish.runs, 300));
    step("crash_failover", &mut |subjects, report| gaps::postmaster_killed(subjects, report, wish.runs, 0));
    step("host_lost", &mut |subjects, report| gaps::host_lost(subjects, report, wish.runs));
    step("host_lost_ttl5", &mut |subjects, report| gaps::host_lost_short(subjects, report, wish.runs));
    let text = report.markdown();
    println!("{text}");
    if let Some(out) = &wish.out
        && let Err(error) = std::fs::write(out, &text)
    {
        eprintln!("cannot write {out}: {error}");
    }
    say(begun, "done");
}

/// Progress, with the time since the start.
fn say(begun: Instant, what: &str) {
    eprintln!("[{:>5} s] {what}", begun.elapsed().as_secs());
}
