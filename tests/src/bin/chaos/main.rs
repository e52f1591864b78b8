//! Chaos on real processes: faults drawn from a seed against real servers and a real etcd of three members, clients that append to
//! lists and read them back, and a judge who says whether what they saw is linearizable.
//!
//! `chaos [--minutes N] [--seed N] [--round N] [--rounds N] [--nodes N] [--only TEXT]`
//!
//! Rounds begin and end with a healthy cluster. No round begins after so many minutes; with `--rounds` it is so many instead. `--only`
//! leaves the faults whose names contain this text. `HA_TESTS_WITHOUT` names guards of the fence that the servers do without.

mod clients;
mod faults;
mod history;
mod judge;
mod lists;
mod packets;
mod report;
mod requests;
mod round;
mod schedule;
mod watch;

use faults::{STORE_MEMBERS, World};
use ha_tests::cluster::Cluster;
use ha_tests::plan::Plan;
use ha_tests::scratch::keep_logs;
use report::Report;
use schedule::Schedule;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What the command line asks for.
#[derive(Clone, Debug)]
struct Wish {
    minutes: u64,
    seed: u64,
    round: u64,
    rounds: Option<u64>,
    nodes: usize,
    only: String,
    without: String,
}

impl Wish {
    fn from_arguments() -> Result<Self, String> {
        let clock = std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs());
        let without = std::env::var("HA_TESTS_WITHOUT").unwrap_or_default();
        let mut wish = Self { minutes: 5, seed: clock, round: 0, rounds: None, nodes: 3, only: String::new(), without };
        let mut words = std::env::args().skip(1);
        while let Some(flag) = words.next() {
            let value = words.next().ok_or_else(|| format!("{flag} needs a value"))?;
            let number = || value.parse::<u64>().map_err(|error| format!("{flag} {value}: {error}"));
            match flag.as_str() {
                "--minutes" => wish.minutes = number()?,
                "--seed" => wish.seed = number()?,
                "--round" => wish.round = number()?,
                "--rounds" => wish.rounds = Some(number()?),
                "--nodes" => wish.nodes = usize::try_from(number()?).unwrap_or(0),
                "--only" if schedule::ALL.iter().any(|kind| kind.to_string().contains(&value)) => wish.only = value,
                _ => return Err(format!("what is {flag} {value}?")),
            }
        }
        if !(3..=5).contains(&wish.nodes) {
            return Err("--nodes must be 3, 4 or 5".into());
        }
        Ok(wish)
    }
}

fn main() -> ExitCode {
    let wish = match Wish::from_arguments() {
        Ok(wish) => wish,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    // Logs that are kept bear the name of the thread.
    let thread = std::thread::Builder::new().name(format!("chaos.{}", wish.seed));
    let run = thread.spawn(move || run(&wish)).expect("a thread can be started");
    match run.join() {
        Ok(true) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Whether there was no violation.
fn run(wish: &Wish) -> bool {
    let begun = Instant::now();
    println!("make chaos MINUTES={} SEED={} NODES={}", wish.minutes, wish.seed, wish.nodes);
    let mut world = World::around(Cluster::running(plan(wish)));
    let mut report = Report::since(&world.cluster);
    let mut round = wish.round;
    let last = wish.rounds.map(|rounds| wish.round + rounds);
    while last.map_or_else(|| begun.elapsed() < Duration::from_mins(wish.minutes), |last| round < last) {
        println!("--- round {round}, {} s", begun.elapsed().as_secs());
        let schedule = Schedule::of(wish.seed, round, &wish.only);
        // Whatever ends a round early is a violation too, and its logs are wanted.
        match catch_unwind(AssertUnwindSafe(|| round::run(&mut world, &schedule))) {
            Ok(outcome) => report.add(round, outcome),
            Err(_) => report.violations += 1,
        }
        if report.violations > 0 {
            break;
        }
        round += 1;
    }
    println!("\n{}", report.describe(&world));
    if report.violations == 0 {
        return true;
    }
    keep_logs(world.cluster.scratch.path());
    let Wish { seed, nodes, only, .. } = wish;
    let only = if only.is_empty() { String::new() } else { format!(" ONLY='{only}'") };
    println!("repeat with: make chaos SEED={seed} NODES={nodes} ROUND={round}{only}");
    false
}

fn plan(wish: &Wish) -> Plan {
    // A small disk for each node, which can be filled; and the next segment is always a new file.
    let mut parameters = vec!["max_wal_size: 128MB".into(), "wal_recycle: off".into()];
    if !wish.without.is_empty() {
        parameters.push(format!("ha_ext.debug_without: '{}'", wish.without));
    }
    Plan {
        nodes: wish.nodes,
        etcd_members: STORE_MEMBERS,
        disk_mib: Some(600),
        parameters,
        // One that is cut off among the files leaves nothing to start; without this an operator has to remove it.
        postgresql: vec!["remove_data_directory_on_rewind_failure: true".into()],
        ..Plan::short().in_network()
    }
}
