//! Runs the simulator for hours: `soak HOURS [FIRST_SEED [THREADS]]`. It ends when the time is over, prints what came of it once a minute, and
//! writes the schedule of whatever breaks, cut down, into `core/tests/regressions`. It fails if anything broke, or if 10,000 seeds
//! have not reached some rule.

use ha_core::sim::{Campaign, record};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Seeds between two looks at the clock.
const AT_ONCE: u64 = 2000;
/// After so many every rule must have been reached.
const COVERED_AFTER: u64 = 10_000;
/// Schedules that are cut down; more would be the same few.
const RECORDED_MAX: usize = 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let hours = arguments.first().and_then(|hours| hours.parse::<f64>().ok()).unwrap_or(1.0);
    let first = arguments.get(1).and_then(|first| first.parse().ok()).unwrap_or(1_000_000);
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = arguments.get(2).and_then(|threads| threads.parse().ok()).unwrap_or(all);
    let end = Instant::now() + Duration::from_secs_f64(hours * 3600.0);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/regressions");
    let (mut campaign, mut told_at, mut recorded) = (Campaign::default(), Instant::now(), 0);
    while Instant::now() < end {
        campaign.add(Campaign::run(first + campaign.runs, AT_ONCE, threads, || Instant::now() < end));
        while recorded < campaign.broken.len().min(RECORDED_MAX) {
            match record(&campaign.broken[recorded], &folder) {
                Ok(told) => println!("{told}"),
                Err(error) => println!("seed {}: {error}", campaign.broken[recorded].seed),
            }
            recorded += 1;
        }
        if told_at.elapsed() >= Duration::from_mins(1) {
            println!("{campaign}\n");
            told_at = Instant::now();
        }
    }
    println!("{campaign}");
    for (rule, count) in &campaign.rules {
        println!("{count:>12} {}", rule.code());
    }
    for report in &campaign.broken {
        println!("broken: seed {}: {:?}", report.seed, report.broken);
    }
    let missing = campaign.missing();
    if !missing.is_empty() {
        println!("rules that no seed reached: {missing:?}");
    }
    let covered = campaign.runs < COVERED_AFTER || missing.is_empty();
    if campaign.broken.is_empty() && covered { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
